"""Images of a scene: rays, nearest surfaces and their colour.

`render` joins `raycast` (what is hit), the background (ground or room shell) and `shading` (its
colour) into linear light; `response` makes the bytes of a camera of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from psd_depth_ros.synth import primitives as P
from psd_depth_ros.synth.raycast import cast, View
from psd_depth_ros.synth.shading import (
    Atlas,
    Blob,
    dim_under,
    fade_upward,
    Light,
    LightMaps,
    measure,
    paint_sky,
    shade,
    Surface,
)


@dataclass(frozen=True)
class Ground:
    """The flat ground at z = 0 of a street; offsets in metres from the ego line."""

    road: int
    verge: int
    tile_m: float
    tint: float
    left_edge: float
    right_edge: float
    lines: tuple[tuple[float, float, float, float], ...]  # offset, half width, dash m, period m
    line_value: float
    bends: tuple[tuple[float, float, float], ...]
    junctions: tuple[float, float, float] = (0.0, 0.0, 0.0)  # period (0: none), phase, half width
    zebra: bool = False
    wet: float = 0.0  # shine of the road, 0..1


@dataclass(frozen=True)
class Shell:
    """The inside of a room: walls, floor and ceiling of a box."""

    centre: npt.NDArray[np.float64]
    half: npt.NDArray[np.float64]
    layers: tuple[int, int, int, int, int, int]  # +x, -x, +y, -y, ceiling, floor
    tints: npt.NDArray[np.float64]  # (6, 3)
    tiles: tuple[float, float, float, float, float, float]
    gloss: float = 0.0  # of the floor


@dataclass(frozen=True)
class Stage:
    """Everything of a world that does not change between frames, on one device."""

    atlas: Atlas
    cutout: torch.Tensor
    clouds: torch.Tensor
    light: Light
    background: Ground | Shell


@dataclass(frozen=True)
class Picture:
    """Linear colour (H, W, 3), depth (H, W) metres with +inf for sky, moving (H, W) bool."""

    colour: torch.Tensor
    depth: torch.Tensor
    moving: torch.Tensor


@dataclass(frozen=True)
class Occlusion:
    """What keeps light away: maps seen from the sun or lamp and from above, moving blobs."""

    main: LightMaps | None = None
    sky: LightMaps | None = None
    blobs: tuple[Blob, ...] = ()

    def visibilities(self, position: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fractions (N,) of the main light and of the sky's that reach points (3, N)."""
        blob = dim_under(self.blobs, position)
        ground = blob if self.sky is None else blob * self.sky.visibility(position)
        low = fade_upward(position)
        sky, main = 1 - low * (1 - ground), 1 - low * (1 - blob)
        return (main if self.main is None else main * self.main.visibility(position)), sky


def render(rows: P.Rows, view: View, stage: Stage, occlusion: Occlusion) -> Picture:
    """Render primitives and background from a view; depth is exact at pixel centres."""
    device = stage.cutout.device
    hits = cast(rows, view, stage.cutout)
    camera_ray = _make_rays(view, device)
    turn = torch.tensor(view.pose[:3, :3], dtype=torch.float32, device=device)
    ray = turn @ camera_ray
    eye = torch.tensor(view.pose[:3, 3], dtype=torch.float32, device=device)
    if isinstance(stage.background, Ground):
        behind, marking = _look_at_ground(stage.background, ray, eye, view)
    else:
        behind, marking = _look_at_shell(stage.background, ray, eye, view), None
    hit = hits.depth < behind.depth
    table = torch.tensor(_describe(rows), dtype=torch.float32, device=device)
    solid = torch.nonzero(hit).squeeze(1)
    surface = behind
    if solid.numel():
        part = _look_at_rows(table, hits.index[solid], hits.depth[solid], ray[:, solid], eye, view)
        _overwrite(surface, part, solid)
    unit = ray / measure(ray)
    sky = torch.isinf(surface.depth)
    safe = torch.where(sky, torch.ones_like(surface.depth), surface.depth)
    lit = Surface(**{**surface.__dict__, 'depth': safe})
    texel = stage.atlas.sample(lit.layer, lit.u, lit.v, lit.footprint)
    if marking is not None:
        cover, value = marking
        cover = torch.where(hit, 0.0, cover).unsqueeze(1)
        wear = 0.5 + 1.2 * texel[:, :1].clamp(max=0.5)
        texel = torch.cat(
            [torch.lerp(texel[:, :3], value * wear.expand(-1, 3), cover), texel[:, 3:]], 1
        )
    visible = occlusion.visibilities(lit.position)
    colour = shade(lit, texel, unit, visible, stage.light, stage.clouds)
    above = torch.nonzero(sky).squeeze(1)
    colour[above] = paint_sky(unit.index_select(1, above), stage.light, stage.clouds)
    moving = torch.zeros_like(sky)
    if solid.numel():
        moving[solid] = table[hits.index[solid], P.MOVING] > 0
    size = (view.height, view.width)
    return Picture(colour.view(*size, 3), surface.depth.view(size), moving.view(size))


def _make_rays(view: View, device: torch.device) -> torch.Tensor:
    x = (torch.arange(view.width, device=device, dtype=torch.float32) - view.cx) / view.fx
    y = (torch.arange(view.height, device=device, dtype=torch.float32) - view.cy) / view.fy
    shape = (view.height, view.width)
    rays = [x.expand(shape), y.unsqueeze(1).expand(shape), torch.ones(shape, device=device)]
    return torch.stack(rays).view(3, -1)


def _describe(rows: P.Rows) -> P.Rows:
    """Rows for lookup per pixel; a dummy without them."""
    return rows if len(rows) else np.ones((1, P.COLUMNS))


def _overwrite(surface: Surface, part: Surface, where: torch.Tensor) -> None:
    for name in ('depth', 'layer', 'u', 'v', 'footprint', 'gloss', 'lamp'):
        getattr(surface, name)[where] = getattr(part, name)
    for name in ('position', 'normal', 'tint'):
        getattr(surface, name)[:, where] = getattr(part, name)


def _look_at_rows(
    table: torch.Tensor,
    index: torch.Tensor,
    depth: torch.Tensor,
    ray: torch.Tensor,
    eye: torch.Tensor,
    view: View,
) -> Surface:
    row = table.T.contiguous().index_select(1, index)
    position = eye.unsqueeze(1) + ray * depth
    offset = position - row[P.CENTRE]
    basis, half = row[P.BASIS].view(3, 3, -1), row[P.HALF]
    local = (basis * offset.unsqueeze(0)).sum(1)
    unit = local / half
    shape = row[P.SHAPE]
    flat = _box_normal(unit, row[P.TAPER], half)
    round_ = unit / half
    upright = torch.stack([round_[0], round_[1], torch.zeros_like(shape)])
    cap = torch.stack([torch.zeros_like(shape), torch.zeros_like(shape), unit[2].sign()])
    tube = torch.where((unit[2].abs() > 0.9995) & (half[2] < 50), cap, upright)
    curved = torch.where(shape == P.CYLINDER, tube, round_)
    normal = torch.where(shape <= P.WEDGE, flat, curved)
    normal = normal / measure(normal).clamp(min=1e-9)
    world_normal = (basis * normal.unsqueeze(1)).sum(0)
    u, v, up = _unwrap(local, normal, shape, half)
    tile = row[P.TILE]
    footprint = _footprint(depth, world_normal, ray, view) / tile.amin(0)
    layer = torch.where(up, row[P.TOP], row[P.SIDE]).to(torch.int64)
    shift = row[P.SHIFT]
    return Surface(
        depth, position, world_normal, row[P.TINT].contiguous(), layer,
        u / tile[0] + shift[0], v / tile[1] + shift[1], footprint, row[P.GLOSS], row[P.LAMP],
    )  # fmt: skip


def _box_normal(unit: torch.Tensor, taper: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
    lean = 0.5 * (unit[2] + 1)
    x_taper = torch.where(unit[0] > 0, taper[0], taper[1])
    x_slack = 1 - x_taper * lean - unit[0].abs()
    y_slack = 1 - taper[2] * lean - unit[1].abs()
    z_slack = 1 - unit[2].abs()
    on_x = (x_slack < y_slack) & (x_slack < z_slack)
    on_y = y_slack < z_slack
    zero = torch.zeros_like(lean)
    x_face = torch.stack([unit[0].sign() / half[0], zero, 0.5 * x_taper / half[2]])
    y_face = torch.stack([zero, unit[1].sign() / half[1], 0.5 * taper[2] / half[2]])
    z_face = torch.stack([zero, zero, unit[2].sign()])
    return torch.where(on_x, x_face, torch.where(on_y, y_face, z_face))


def _unwrap(
    local: torch.Tensor, normal: torch.Tensor, shape: torch.Tensor, half: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Surface coordinates in metres, v downward, and where the top (or bottom) face is meant."""
    up = normal[2].abs() > 0.75
    along = normal[0].abs() > normal[1].abs()
    around = torch.atan2(local[1], local[0]) * torch.maximum(half[0], half[1])
    box_u = torch.where(up, local[0], torch.where(along, local[1], local[0]))
    box_v = torch.where(up, local[1], -local[2])
    tube = (shape == P.CYLINDER) & ~up
    return torch.where(tube, around, box_u), torch.where(tube, -local[2], box_v), up


def _footprint(
    depth: torch.Tensor, normal: torch.Tensor, ray: torch.Tensor, view: View
) -> torch.Tensor:
    """Metres of surface under one pixel; grazing views count by the root of the stretch."""
    length = measure(ray)
    facing = ((normal * ray).sum(0) / length).abs().clamp(min=0.04)
    return depth / view.fx * length * torch.rsqrt(facing)


def _look_at_ground(
    ground: Ground, ray: torch.Tensor, eye: torch.Tensor, view: View
) -> tuple[Surface, tuple[torch.Tensor, float]]:
    down = ray[2] < -1e-6
    depth = torch.where(down, -eye[2] / torch.where(down, ray[2], -1.0), torch.inf)
    reach = depth.clamp(max=5000.0)
    position = eye.unsqueeze(1) + ray * reach
    x, y = position[0], position[1]
    bend = sum((a * torch.sin(k * x + p) for a, k, p in ground.bends), torch.zeros_like(x))
    across = y - bend
    road = (across < ground.left_edge) & (across > ground.right_edge)
    road |= _beside_junction(ground, x) < 0
    normal = torch.zeros_like(ray)
    normal[2] = 1.0
    layer = torch.where(road, ground.road, ground.verge)
    size = _footprint(reach, normal, ray, view)
    zero = torch.zeros_like(x)
    tint = torch.where(road, ground.tint, 1.0).expand(3, -1).contiguous()
    surface = Surface(
        depth, position, normal, tint, layer, x / ground.tile_m, across / ground.tile_m,
        size / ground.tile_m, torch.where(road, ground.wet, 0.3 * ground.wet), zero.clone(),
    )  # fmt: skip
    cover = _mark_road(ground, x, across, reach, eye[2], view)
    return surface, (cover * 0.9, ground.line_value)


def _mark_road(
    ground: Ground,
    x: torch.Tensor,
    across: torch.Tensor,
    reach: torch.Tensor,
    height: torch.Tensor,
    view: View,
) -> torch.Tensor:
    """Share of each pixel (N,) under road paint, smoothed over its footprint."""
    side = (reach / view.fx).clamp(min=1e-3)
    stretch = (reach * side / height.clamp(min=0.05)).clamp(min=1e-3)
    beside = _beside_junction(ground, x)
    cover = torch.zeros_like(x)
    for offset, half, dash, period in ground.lines:
        line = ((half - (across - offset).abs()) / side + 0.5).clamp(0, 1)
        line = line * (2 * half / side).clamp(max=1.0) * (beside > 0.5)
        if period > 0:
            phase = torch.remainder(x, period)
            gap = torch.minimum(phase, dash - phase) / stretch + 0.5
            line = line * torch.where(stretch > period, dash / period, gap.clamp(0, 1))
        cover = torch.maximum(cover, line)
    if ground.zebra and ground.junctions[0] > 0:
        stripe = (torch.remainder(across, 1.0) - 0.5).abs() - 0.25
        stripe = torch.where(side > 0.5, 0.5, (stripe / side + 0.5).clamp(0, 1))
        on_road = (across < ground.left_edge - 0.2) & (across > ground.right_edge + 0.2)
        crossing = ((1.5 - (beside - 2.5).abs()) / stretch + 0.5).clamp(0, 1)
        cover = torch.maximum(cover, stripe * crossing * on_road)
    return cover


def _beside_junction(ground: Ground, x: torch.Tensor) -> torch.Tensor:
    """Distance (N,) from the nearest side street, negative in its mouth; large without any."""
    period, phase, half = ground.junctions
    if period <= 0:
        return torch.full_like(x, 1e6)
    return (torch.remainder(x - phase + period / 2, period) - period / 2).abs() - half


def _look_at_shell(shell: Shell, ray: torch.Tensor, eye: torch.Tensor, view: View) -> Surface:
    device = ray.device
    half = torch.tensor(shell.half, dtype=torch.float32, device=device).unsqueeze(1)
    centre = torch.tensor(shell.centre, dtype=torch.float32, device=device)
    start = (eye - centre).unsqueeze(1)
    slope = torch.where(ray.abs() < 1e-9, 1e-9, ray)
    depth, axis = ((slope.sign() * half - start) / slope).min(0)
    sign = torch.gather(slope, 0, axis.unsqueeze(0)).squeeze(0).sign()
    position = eye.unsqueeze(1) + ray * depth
    local = position - centre.unsqueeze(1)
    normal = -torch.nn.functional.one_hot(axis, 3).T.to(torch.float32) * sign
    wall = axis * 2 + (sign < 0).to(torch.int64)
    tile = torch.tensor(shell.tiles, device=device)[wall]
    layer = torch.tensor(shell.layers, device=device)[wall]
    tint = torch.tensor(shell.tints, dtype=torch.float32, device=device)[wall].T.contiguous()
    u = torch.where(axis == 0, local[1], local[0])
    v = torch.where(axis == 2, local[1], -local[2])
    size = _footprint(depth, normal, ray, view) / tile
    gloss = torch.where(wall == 5, shell.gloss, 0.0)
    return Surface(
        depth, position, normal, tint, layer, u / tile, v / tile, size, gloss,
        torch.zeros_like(depth),
    )  # fmt: skip
