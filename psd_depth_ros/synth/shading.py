"""Colour of hit surfaces: texture sampling, light, shadow, haze and sky, in linear RGB.

Works on flat pixel lists, deferred: only the nearest surface of each pixel is coloured. Finding
that surface is left to ``raycast``, camera response and weather to ``render``.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt
import torch

from psd_depth_ros.synth import primitives as P
from psd_depth_ros.synth.raycast import cast, View
from psd_depth_ros.synth.textures import SIZE

SUN_DISTANCE_M = 800.0
_BIAS_M = 0.12

LEVELS = 9

Array = npt.NDArray[np.float64]
_DARK = np.zeros(3)


@dataclass(frozen=True)
class Blob:
    """Soft dark ellipse on the ground under something that moves."""

    x: float
    y: float
    yaw: float
    half_length: float
    half_width: float


@dataclass(frozen=True)
class LightMaps:
    """Maps (K, S, S) of one light over K neighbouring places of equal length along x.

    With `soft` false a map holds depth from the light, else the fraction of open sky at ground
    level.
    """

    maps: torch.Tensor
    views: tuple[View, ...]
    first: int = 0
    length: float = math.inf  # metres of x per map; inf for a single map
    soft: bool = False

    def visibility(self, position: torch.Tensor) -> torch.Tensor:
        """Share of the light (N,) that reaches points (3, N); 1 outside the maps."""
        size, view = self.maps.shape[-1], self.views[0]
        place, known = self._find_place(position)
        turn = torch.tensor(view.pose[:3, :3].T, dtype=torch.float32, device=position.device)
        x, y, z = turn @ position - self._eyes(position.device).index_select(1, place)
        inverse = view.fx / z.clamp(min=0.05)
        u, v = x * inverse + view.cx, y * inverse + view.cy
        known &= (u > 0) & (v > 0) & (u < size - 1) & (v < size - 1) & (z > 0.05)
        u, v = u.clamp(0, size - 1.01), v.clamp(0, size - 1.01)
        left, top = u.to(torch.int64), v.to(torch.int64)
        base = (place * size + top) * size + left
        maps = self.maps.view(-1)
        seen = [maps.index_select(0, base + step) for step in (0, 1, size, size + 1)]
        if not self.soft:
            limit = z - _BIAS_M * min(1.0, view.fx / 50) - 2.0 * z / view.fx
            seen = [(depth > limit).to(torch.float32) for depth in seen]
        upper = torch.lerp(seen[0], seen[1], u - left)
        lower = torch.lerp(seen[2], seen[3], u - left)
        return torch.where(known, torch.lerp(upper, lower, v - top), 1.0)

    def _find_place(self, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        place = torch.zeros_like(position[0], dtype=torch.int64)
        if math.isfinite(self.length):
            place = torch.floor(position[0] / self.length).to(torch.int64) - self.first
        count = self.maps.shape[0]
        return place.clamp(0, count - 1), (place >= 0) & (place < count)

    def _eyes(self, device: torch.device) -> torch.Tensor:
        """Where each map is seen from, in the axes of the light: (3, K)."""
        eyes = np.stack([v.pose[:3, :3].T @ v.pose[:3, 3] for v in self.views]).T
        return torch.tensor(eyes, dtype=torch.float32, device=device)


def look_along(
    toward_light: npt.NDArray[np.float64],
    centre: npt.NDArray[np.float64],
    half: npt.NDArray[np.float64],
    size: int,
    distance: float = SUN_DISTANCE_M,
) -> View:
    """View from a far light onto a box of half extents `half`, just wide enough."""
    forward = -toward_light / np.linalg.norm(toward_light)
    other = np.array([1.0, 0, 0]) if abs(forward[0]) < 0.9 else np.array([0, 1.0, 0])
    right = np.cross(other, forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = centre - distance * forward
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = (centre + signs * half - pose[:3, 3]) @ pose[:3, :3]
    reach = np.abs(corners[:, :2] / corners[:, 2:]).max()
    focal = (size / 2 - 1) / float(reach)
    middle = (size - 1) / 2
    return View(size, size, focal, focal, middle, middle, pose)


def look_down(position: npt.NDArray[np.float64], size: int) -> View:
    """Wide view of a lamp onto what is below it."""
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    pose[:3, 3] = position
    middle = (size - 1) / 2
    return View(size, size, 0.2 * size, 0.2 * size, middle, middle, pose)


def cast_depth_map(rows: P.Rows, view: View, cutout: torch.Tensor) -> torch.Tensor:
    """Depth map (S, S) of fixed things as the light sees them."""
    return cast(rows, view, cutout).depth.view(view.height, view.width)


def cast_open_map(rows: P.Rows, view: View, cutout: torch.Tensor) -> torch.Tensor:
    """Share of sky (S, S) that the ground sees, from a view from far above; 1 in the open."""
    height = view.pose[2, 3] - cast_depth_map(rows, view, cutout)
    covered = ((height > 0.25).to(torch.float32) * (height / 1.2).clamp(0.4, 1.0))[None, None]
    reach = max(1, round(0.5 * view.fx / view.pose[2, 3]))
    for down, across in ((reach, 0), (0, reach)) * 2:  # a mean over rows, then over columns
        covered = torch.nn.functional.avg_pool2d(
            covered, (2 * down + 1, 2 * across + 1), stride=1, padding=(down, across),
            count_include_pad=False,
        )  # fmt: skip
    return 1 - 0.75 * covered[0, 0]


def dim_under(blobs: tuple[Blob, ...], position: torch.Tensor) -> torch.Tensor:
    """Share of light (N,) left near the ground at points (3, N) around moving objects."""
    fraction = torch.ones_like(position[0])
    for blob in blobs:
        c, s = math.cos(blob.yaw), math.sin(blob.yaw)
        x, y = position[0] - blob.x, position[1] - blob.y
        along = (c * x + s * y) / (blob.half_length + 0.1)
        across = (c * y - s * x) / (blob.half_width + 0.1)
        reach = along * along
        width = across * across
        inside = 1.0 / (1.0 + reach * reach * reach + width * width * width)
        fraction = fraction * (1 - 0.75 * inside)
    return fraction


def fade_upward(position: torch.Tensor) -> torch.Tensor:
    """How much of what is known at ground level holds at points (3, N): 1 there, 0 far above."""
    return torch.exp(-6 * position[2].clamp(min=0))


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
    cloud: float  # fraction of the sky under cloud, 0..1
    haze_per_m: float
    lamps: npt.NDArray[np.float64]  # (L, 3) positions of lamps at night or indoors
    lamp_colour: npt.NDArray[np.float64]
    headlight: float = 0.0


class Atlas:
    """Mip pyramid of a world's tiles on one device, as one flat list of texels."""

    def __init__(self, atlas: npt.NDArray[np.uint8], device: torch.device) -> None:
        tiles = torch.from_numpy(atlas).to(device)
        levels, starts = [_interleave(tiles)], [0]
        image = tiles.float()
        for _ in range(LEVELS - 1):
            starts.append(starts[-1] + len(levels[-1]))
            upper, lower = image[..., ::2, :], image[..., 1::2, :]
            image = upper + lower
            image = 0.25 * (image[..., ::2] + image[..., 1::2])
            levels.append(_interleave((image + 0.5).to(torch.uint8)))
        self._texels = torch.cat(levels)
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


def _interleave(tiles: torch.Tensor) -> torch.Tensor:
    """Texels (N,) int32 of tiles (L, 4, S, S) uint8.

    Four bytes in one integer: gathering those is ten times faster than gathering rows.
    """
    return tiles.permute(0, 2, 3, 1).reshape(-1).view(torch.int32)


def paint_sky(ray: torch.Tensor, light: Light, clouds: torch.Tensor) -> torch.Tensor:
    """Sky (N, 3) along unit rays (3, N): gradient, glow about the sun, drifting clouds."""
    device = ray.device
    up = torch.clamp(ray[2], min=0.0)
    fraction = torch.clamp(up * 2.2, max=1.0).sqrt().unsqueeze(1)
    colour = torch.lerp(_row(light.horizon, device), _row(light.zenith, device), fraction)
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
    visible: tuple[torch.Tensor, torch.Tensor],
    light: Light,
    clouds: torch.Tensor,
) -> torch.Tensor:
    """Light the surfaces: (N, 3) linear RGB.

    `ray` (3, N) is of unit length; `visible` (N,) are the fractions of the light of the sun or
    first lamp, and of the sky, that reach the surface.
    """
    device = ray.device
    normal = surface.normal
    facing = (normal * _column(light.sun, device)).sum(0).clamp(min=0.0) * visible[0]
    open_sky = (0.6 + 0.4 * normal[2]) * visible[1]
    energy = facing.unsqueeze(1) * _row(light.sun_colour, device)
    energy = energy + open_sky.unsqueeze(1) * _row(light.ambient, device)
    if light.headlight > 0:
        beam = light.headlight / (1 + (surface.depth * 0.12) ** 2)
        toward = (-(normal * ray)).sum(0).clamp(min=0.0)
        energy = energy + (beam * (0.2 + toward)).unsqueeze(1)
    energy = energy + _lamp_energy(surface, light, visible[0])
    albedo = texel[:, :3] * surface.tint.T
    colour = albedo * energy
    gloss = torch.maximum(surface.gloss, 0.7 * texel[:, 3])
    colour = colour + _reflect(normal, ray, gloss, light, clouds)
    colour = colour + surface.lamp.unsqueeze(1) * albedo
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
    fraction = (gloss.index_select(0, shiny) * fresnel * below).unsqueeze(1)
    colour[shiny] = paint_sky(mirrored, light, clouds) * fraction
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


def sample_street_light(rng: np.random.Generator, condition: str) -> Light:
    """Sample daylight, fog or night outdoors."""
    azimuth, height = rng.uniform(0, 6.28), math.radians(rng.uniform(12, 65))
    bright = condition in ('clear', 'blur')
    dusk = bright and rng.random() < 0.1
    if dusk or rng.random() < 0.1:
        height = math.radians(rng.uniform(3, 12))
    flat = math.cos(height)
    sun = np.array([math.cos(azimuth) * flat, math.sin(azimuth) * flat, math.sin(height)])
    warm = np.array([1.0, 0.93, 0.82]) if rng.random() < 0.6 else np.array([1.0, 0.97, 0.93])
    cloud = float(rng.uniform(0, 0.75) if bright else rng.uniform(0.8, 1))
    overcast = cloud > 0.6
    strength = (rng.uniform(0.0, 0.4) if overcast else rng.uniform(1.2, 3.2)) * warm
    level = rng.uniform(0.7, 1.2) if overcast else rng.uniform(0.22, 0.5)
    ambient = np.array([0.5, 0.54, 0.6]) * level
    horizon = np.array([0.87, 0.91, 0.95]) * rng.uniform(0.9, 2.8)
    zenith = np.array([0.2, 0.36, 0.68]) * rng.uniform(0.8, 1.3)
    zenith = horizon * 0.8 if overcast else zenith
    haze, beam = float(10 ** rng.uniform(-4, -2.3 if rng.random() < 0.2 else -2.7)), 0.0
    if dusk:
        strength, ambient = strength * rng.uniform(0.05, 0.4), ambient * rng.uniform(0.3, 0.7)
        horizon = horizon * np.array([0.8, 0.6, 0.5]) * rng.uniform(0.3, 0.7)
        zenith, beam = zenith * rng.uniform(0.2, 0.5), float(rng.choice([0.0, 0.4]))
    if condition == 'fog':
        haze, strength = float(10 ** rng.uniform(-1.9, -1.3)), strength * 0.2
    if condition == 'night':
        strength, ambient = _DARK, ambient * rng.uniform(0.02, 0.08)
        horizon, zenith, beam = horizon * 0.02, zenith * 0.01, float(rng.uniform(0.6, 1.6))
    return Light(
        sun, strength, ambient, zenith, horizon, cloud, haze, np.zeros((0, 3)), _DARK, beam
    )


_LAMPS = (
    (1.0, 0.92, 0.8), (1.0, 0.78, 0.52), (0.95, 0.98, 1.0), (0.8, 0.9, 1.0), (0.9, 0.5, 0.7),
)  # fmt: skip


def sample_room_light(rng: np.random.Generator, condition: str, size: Array) -> Light:
    """Sample one to three lamps and what the walls scatter, in a room of a size (3,) m."""
    count = int(rng.integers(1, 4))
    lamps = rng.uniform(-0.45, 0.45, (count, 3)) * size
    lamps[:, 2] = rng.uniform(0.6, 0.97, count) * size[2]
    hue = _LAMPS[rng.choice(len(_LAMPS), p=[0.4, 0.2, 0.25, 0.12, 0.03])]
    strength = rng.uniform(1.5, 3.5) / count * float(min(size[:2].max(), 8.0)) / 4
    dim = 0.15 if condition == 'night' else 1.0
    if dim == 1.0 and rng.random() < 0.12:
        dim = float(rng.uniform(0.1, 0.4))
    glow = np.array(hue) * strength * (1.0 if condition == 'night' else dim**0.5)
    day = np.array([0.6, 0.66, 0.74]) if rng.random() < 0.3 else np.array([0.66, 0.65, 0.64])
    ambient = day * rng.uniform(0.2, 1.0) * dim
    sky = np.array([0.5, 0.5, 0.5])
    return Light(np.array([0, 0, 1.0]), _DARK, ambient, sky, sky, 0.0, 0.0, lamps, glow)
