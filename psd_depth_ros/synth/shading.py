"""Colour of hit surfaces: texture sampling, light, shadow, haze and sky, in linear RGB.

Works on flat pixel lists, deferred: only the nearest surface of each pixel is coloured. Finding
that surface is left to ``raycast``, camera response and weather to ``conditions``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from psd_depth_ros.synth.textures import SIZE

LEVELS = 9


@dataclass
class Surface:
    """What each of N pixels sees: everything shading needs to know about the nearest surface.

    depth (N,) metres, +inf for sky; position, normal, tint (3, N); layer (N,) int64; u, v (N,)
    in tiles; footprint (N,) tiles per pixel; gloss, lamp (N,).
    """

    depth: torch.Tensor
    position: torch.Tensor
    normal: torch.Tensor
    tint: torch.Tensor
    layer: torch.Tensor
    u: torch.Tensor
    v: torch.Tensor
    footprint: torch.Tensor
    gloss: torch.Tensor
    lamp: torch.Tensor


@dataclass(frozen=True)
class Light:
    """Sun and sky of one world, in linear RGB."""

    sun: npt.NDArray[np.float64]  # unit vector towards the sun
    sun_colour: npt.NDArray[np.float64]
    ambient: npt.NDArray[np.float64]
    zenith: npt.NDArray[np.float64]
    horizon: npt.NDArray[np.float64]
    cloud: float  # share of the sky under cloud, 0..1
    haze_per_m: float
    lamps: npt.NDArray[np.float64]  # (L, 3) positions of lamps at night or indoors
    lamp_colour: npt.NDArray[np.float64]
    headlight: float = 0.0


class Atlas:
    """Mip pyramid of a world's tiles on one device, as one flat list of texels."""

    def __init__(self, atlas: npt.NDArray[np.uint8], device: torch.device) -> None:
        tiles = torch.from_numpy(atlas).to(device)
        image = tiles.float().permute(0, 3, 1, 2)
        levels, starts = [tiles.reshape(-1, 4)], [0]
        for _ in range(LEVELS - 1):
            starts.append(starts[-1] + levels[-1].shape[0])
            image = torch.nn.functional.avg_pool2d(image, 2)
            flat = image.permute(0, 2, 3, 1).reshape(-1, 4)
            levels.append((flat + 0.5).to(torch.uint8))
        # Four bytes as one int32: gathering those is ten times faster than gathering rows.
        self._texels = torch.cat(levels).contiguous().view(torch.int32).view(-1)
        self._starts = torch.tensor(starts, device=device)

    def sample(
        self, layer: torch.Tensor, u: torch.Tensor, v: torch.Tensor, footprint: torch.Tensor
    ) -> torch.Tensor:
        """Sample tiles in the mip level of the footprint: (N, 4), linear RGB and glass."""
        level = torch.log2(torch.clamp(footprint * SIZE, min=1.0))
        level = torch.clamp((level + 0.3).to(torch.int64), 0, LEVELS - 1)
        size = SIZE >> level
        base = self._starts[level] + layer * size * size
        x, y = u * size - 0.5, v * size - 0.5
        x0, y0 = torch.floor(x), torch.floor(y)
        fx, fy = (x - x0).unsqueeze(1), (y - y0).unsqueeze(1)
        mask = size - 1
        left = x0.to(torch.int64) & mask
        right = (left + 1) & mask
        top = y0.to(torch.int64) & mask
        bottom = ((top + 1) & mask) * size + base
        top = top * size + base
        upper = torch.lerp(self._fetch(top + left), self._fetch(top + right), fx)
        lower = torch.lerp(self._fetch(bottom + left), self._fetch(bottom + right), fx)
        texel = torch.lerp(upper, lower, fy) / 255.0
        colour = texel[:, :3] * texel[:, :3]
        return torch.cat([colour, texel[:, 3:]], dim=1)

    def _fetch(self, index: torch.Tensor) -> torch.Tensor:
        texels = self._texels.index_select(0, index)
        return texels.view(torch.uint8).view(-1, 4).float()


def paint_sky(ray: torch.Tensor, light: Light, clouds: torch.Tensor) -> torch.Tensor:
    """Sky (N, 3) along unit rays (3, N): gradient, glow about the sun, drifting clouds."""
    device = ray.device
    up = torch.clamp(ray[2], min=0.0)
    share = torch.clamp(up * 2.2, max=1.0).sqrt().unsqueeze(1)
    colour = torch.lerp(_row(light.horizon, device), _row(light.zenith, device), share)
    toward = (ray * _column(light.sun, device)).sum(0).clamp(min=0.0).unsqueeze(1)
    glow = (toward * toward) ** 2
    colour = colour + _row(light.sun_colour, device) * (0.25 * glow**6 + 0.08 * glow)
    size = clouds.shape[0]
    scale = 0.12 * size / (up + 0.12)
    column = (ray[0] * scale).to(torch.int64) & (size - 1)
    row = (ray[1] * scale).to(torch.int64) & (size - 1)
    seen = clouds.view(-1).index_select(0, row * size + column)
    cover = torch.clamp(seen + 2.6 * light.cloud - 1.3, 0.0, 1.0)
    cover = (cover * torch.clamp(up * 6 + 0.2, max=1.0)).unsqueeze(1)
    white = _row(0.6 * light.horizon + 0.5 * light.horizon.mean(), device)
    return torch.lerp(colour, white, cover)


def shade(
    surface: Surface,
    texel: torch.Tensor,
    ray: torch.Tensor,
    shares: tuple[torch.Tensor, torch.Tensor],
    light: Light,
    clouds: torch.Tensor,
) -> torch.Tensor:
    """Light the surfaces: (N, 3) linear RGB.

    `ray` (3, N) is of unit length; `shares` (N,) are those of the sun or first lamp and of the
    sky that reach the surface.
    """
    device = ray.device
    normal = surface.normal
    facing = (normal * _column(light.sun, device)).sum(0).clamp(min=0.0) * shares[0]
    open_sky = (0.6 + 0.4 * normal[2]) * shares[1]
    energy = facing.unsqueeze(1) * _row(light.sun_colour, device)
    energy = energy + open_sky.unsqueeze(1) * _row(light.ambient, device)
    if light.headlight > 0:
        beam = light.headlight / (1 + (surface.depth * 0.12) ** 2)
        toward = (-(normal * ray)).sum(0).clamp(min=0.0)
        energy = energy + (beam * (0.2 + toward)).unsqueeze(1)
    energy = energy + _lamp_energy(surface, light, shares[0])
    albedo = texel[:, :3] * surface.tint.T
    colour = albedo * energy
    gloss = torch.maximum(surface.gloss, 0.7 * texel[:, 3])
    colour = colour + _reflect(normal, ray, gloss, light, clouds)
    colour = colour + surface.lamp.unsqueeze(1) * surface.tint.T
    veil = torch.exp(-light.haze_per_m * surface.depth).unsqueeze(1)
    return torch.lerp(_row(light.horizon, device), colour, veil)


def _reflect(
    normal: torch.Tensor,
    ray: torch.Tensor,
    gloss: torch.Tensor,
    light: Light,
    clouds: torch.Tensor,
) -> torch.Tensor:
    """Sky mirrored in what shines: (N, 3)."""
    colour = torch.zeros((gloss.shape[0], 3), device=gloss.device)
    shiny = torch.nonzero(gloss > 0.03).squeeze(1)
    normal, ray = normal.index_select(1, shiny), ray.index_select(1, shiny)
    facing = normal[0] * ray[0] + normal[1] * ray[1] + normal[2] * ray[2]
    mirrored = ray - 2 * facing * normal
    fresnel = 0.06 + 0.6 * (1 + facing).clamp(0, 1) ** 3
    below = torch.clamp(mirrored[2] * 6 + 0.6, 0.15, 1.0)
    share = (gloss.index_select(0, shiny) * fresnel * below).unsqueeze(1)
    colour[shiny] = paint_sky(mirrored, light, clouds) * share
    return colour


def _lamp_energy(surface: Surface, light: Light, first: torch.Tensor) -> torch.Tensor:
    energy = torch.zeros_like(surface.depth)
    for i, lamp in enumerate(light.lamps):
        offset = _column(lamp, surface.depth.device) - surface.position
        square = (offset * offset).sum(0) + 0.2
        facing = (offset * surface.normal).sum(0) * torch.rsqrt(square)
        direct = facing.clamp(min=0.0) * (first if i == 0 else 1.0)
        energy = energy + (0.25 + direct) / square
    return energy.unsqueeze(1) * _row(light.lamp_colour, surface.depth.device)


def measure(vectors: torch.Tensor) -> torch.Tensor:
    """Lengths (N,) of vectors (3, N); several times faster here than a norm over dim 0."""
    x, y, z = vectors
    return torch.sqrt(x * x + y * y + z * z)


def _row(vector: npt.NDArray[np.float64], device: torch.device) -> torch.Tensor:
    return torch.tensor(vector, dtype=torch.float32, device=device).reshape(1, 3)


def _column(vector: npt.NDArray[np.float64], device: torch.device) -> torch.Tensor:
    return torch.tensor(vector, dtype=torch.float32, device=device).reshape(3, 1)
