"""Ray casting of primitive rows with torch: nearest hit per pixel, exact at pixel centres.

Each primitive is tested only inside the pixel rectangle of its projected bounds. The pairs
(primitive, pixel) of all rectangles form one flat list, so a frame costs a fixed, small number of
tensor operations on any device. Rays are ``(x/z, y/z, 1)`` in the camera, so the ray parameter is
depth along Z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from psd_depth_ros.synth import primitives as P

NEAR_M = 0.05
NO_HIT = torch.iinfo(torch.int64).max
# Added to ray directions: an exact zero would make 0 * inf; any other value is not changed.
_TINY = 1e-20
_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
_EDGES = np.array(
    [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count('1') == 1]
)


@dataclass(frozen=True)
class View:
    """A pinhole view of the world: K entries, image size and camera pose (4x4)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    pose: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """Nearest primitive per pixel: depth (N,), +inf without a hit; index (N,), -1 without."""

    depth: torch.Tensor
    index: torch.Tensor


def bound_rectangles(rows: P.Rows, view: View) -> npt.NDArray[np.int64]:
    """Pixel rectangles (N, 4: left, top, right, bottom, inclusive) that contain each primitive.

    Conservative: the box around each primitive is clipped at the near plane edge by edge. A
    primitive out of view has right < left.
    """
    axes = rows[:, P.BASIS].reshape(-1, 3, 3) * rows[:, P.HALF, None]
    corners = rows[:, None, P.CENTRE] + np.einsum('kc,ncd->nkd', _CORNERS, axes)
    points = (corners - view.pose[:3, 3]) @ view.pose[:3, :3]
    a, b = points[:, _EDGES[:, 0]], points[:, _EDGES[:, 1]]
    step = b[..., 2] - a[..., 2]
    fraction = (NEAR_M - a[..., 2]) / np.where(np.abs(step) < 1e-12, 1e-12, step)
    crossing = (a[..., 2] < NEAR_M) != (b[..., 2] < NEAR_M)
    cut = a + np.clip(fraction, 0.0, 1.0)[..., None] * (b - a)
    candidates = np.concatenate([points, cut], axis=1)
    used = np.concatenate([points[..., 2] >= NEAR_M, crossing], axis=1)
    z = np.maximum(candidates[..., 2], NEAR_M * 0.5)
    u = view.fx * candidates[..., 0] / z + view.cx
    v = view.fy * candidates[..., 1] / z + view.cy
    return _clip_rectangles(u, v, used, view)


def _clip_rectangles(
    u: npt.NDArray[np.float64],
    v: npt.NDArray[np.float64],
    used: npt.NDArray[np.bool_],
    view: View,
) -> npt.NDArray[np.int64]:
    low, high = np.where(used, 0.0, np.inf), np.where(used, 0.0, -np.inf)
    left, right = (u + low).min(1), (u + high).max(1)
    top, bottom = (v + low).min(1), (v + high).max(1)
    visible: npt.NDArray[np.bool_] = np.any(used, axis=1)
    edges = np.stack(
        [
            np.clip(np.ceil(left - 1e-3), 0, view.width),
            np.clip(np.ceil(top - 1e-3), 0, view.height),
            np.clip(np.floor(right + 1e-3), -1, view.width - 1),
            np.clip(np.floor(bottom + 1e-3), -1, view.height - 1),
        ],
        axis=1,
    )
    return np.where(visible[:, None], edges, [[0, 0, -1, -1]]).astype(np.int64)


def cast(rows: P.Rows, view: View, cutout: torch.Tensor, bounded: bool = True) -> Hits:
    """Find the nearest primitive along every pixel's ray.

    `cutout` is a square (S, S) noise image on the wanted device; it tears holes into foliage.
    With `bounded` false every primitive is tested on every pixel (the reference for tests).
    """
    device = cutout.device
    pixels = view.width * view.height
    rectangles = bound_rectangles(rows, view)
    if not bounded:
        rectangles[:] = (0, 0, view.width - 1, view.height - 1)
    spans = np.maximum(rectangles[:, 2:] - rectangles[:, :2] + 1, 0)
    area = spans[:, 0] * spans[:, 1]
    order = np.argsort(rows[:, P.SHAPE], kind='stable')
    order = order[area[order] > 0]
    nearest = torch.full((pixels,), NO_HIT, dtype=torch.int64, device=device)
    shapes = rows[order, P.SHAPE]
    for shape in range(5):
        chosen = order[shapes == shape]
        if len(chosen):
            lanes = _make_lanes(rows, chosen, rectangles, area, view, device)
            depth = _INTERSECT[shape](lanes, cutout)
            _keep_nearest(nearest, lanes, depth)
    return _read_hits(nearest)


@dataclass(frozen=True)
class _Lanes:
    """Flat (primitive, pixel) pairs: per-pair local ray, taper or phase, and where it belongs."""

    origin: tuple[torch.Tensor, ...]
    direction: tuple[torch.Tensor, ...]
    taper: tuple[torch.Tensor, ...]
    pixel: torch.Tensor
    primitive: torch.Tensor


def local_rays(rows: P.Rows, view: View) -> npt.NDArray[np.float64]:
    """Per primitive (N, 12): the unit-space ray origin, then the columns of x/z, y/z and 1."""
    axes = rows[:, P.BASIS].reshape(-1, 3, 3) / rows[:, P.HALF, None]
    origin = np.einsum('nij,nj->ni', axes, view.pose[:3, 3] - rows[:, P.CENTRE])
    matrix = axes @ view.pose[:3, :3]
    return np.concatenate([origin, matrix.transpose(0, 2, 1).reshape(-1, 9)], axis=1)


def _make_lanes(
    rows: P.Rows,
    chosen: npt.NDArray[np.int64],
    rectangles: npt.NDArray[np.int64],
    area: npt.NDArray[np.int64],
    view: View,
    device: torch.device,
) -> _Lanes:
    part, boxes, sizes = rows[chosen], rectangles[chosen], area[chosen]
    width = boxes[:, 2] - boxes[:, 0] + 1
    starts = np.cumsum(sizes) - sizes
    integers = np.stack([boxes[:, 0], boxes[:, 1], width, starts, chosen]).astype(np.int32)
    table = np.concatenate([local_rays(part, view), part[:, P.TAPER]], axis=1)
    member = np.repeat(np.arange(len(chosen), dtype=np.int32), sizes)
    index = torch.from_numpy(member).to(device)
    whole = torch.from_numpy(integers).to(device).index_select(1, index)
    left, top, wide, start, primitive = whole
    offset = torch.arange(len(member), dtype=torch.int32, device=device) - start
    down = torch.div(offset, wide, rounding_mode='floor')
    u, v = offset - down * wide + left, down + top
    count = {P.WEDGE: 15, P.FOLIAGE: 13}.get(int(part[0, P.SHAPE]), 12)
    columns = torch.from_numpy(table.T[:count].astype(np.float32)).to(device)
    lane = columns.index_select(1, index)
    x, y = (u - view.cx) / view.fx, (v - view.cy) / view.fy
    direction = tuple(lane[3 + i] * x + lane[6 + i] * y + lane[9 + i] for i in range(3))
    return _Lanes(tuple(lane[:3]), direction, tuple(lane[12:]), v * view.width + u, primitive)


def _keep_nearest(nearest: torch.Tensor, lanes: _Lanes, depth: torch.Tensor) -> None:
    """Z-buffer: depth bits above, primitive index below, so that ties are settled the same."""
    hit = torch.nonzero(depth < torch.inf).squeeze(1)
    bits = depth[hit].view(torch.int32).to(torch.int64)
    key = (bits << 32) | lanes.primitive[hit].to(torch.int64)
    nearest.scatter_reduce_(0, lanes.pixel[hit].to(torch.int64), key, 'amin')


def _read_hits(nearest: torch.Tensor) -> Hits:
    missed = nearest == NO_HIT
    depth = (nearest >> 32).to(torch.int32).view(torch.float32)
    depth = torch.where(missed, torch.inf, depth)
    index = torch.where(missed, -1, nearest & 0xFFFFFFFF)
    return Hits(depth, index)


def _entry(near: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    return torch.where((near <= far) & (near > NEAR_M), near, torch.inf)


def _slab(origin: torch.Tensor, direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inverse = 1.0 / (direction + _TINY)
    middle, reach = -origin * inverse, inverse.abs()
    return middle - reach, middle + reach


def _hit_box(lanes: _Lanes, cutout: torch.Tensor) -> torch.Tensor:
    near, far = _slab(lanes.origin[0], lanes.direction[0])
    for axis in (1, 2):
        low, high = _slab(lanes.origin[axis], lanes.direction[axis])
        near, far = torch.maximum(near, low), torch.minimum(far, high)
    return _entry(near, far)


def _hit_wedge(lanes: _Lanes, cutout: torch.Tensor) -> torch.Tensor:
    near, far = _slab(lanes.origin[2], lanes.direction[2])
    front, rear, side = (0.5 * taper for taper in lanes.taper)
    planes = ((0, 1.0, front), (0, -1.0, rear), (1, 1.0, side), (1, -1.0, side))
    for axis, sign, lean in planes:
        rise = sign * lanes.direction[axis] + lean * lanes.direction[2] + _TINY
        gap = 1.0 - lean - (sign * lanes.origin[axis] + lean * lanes.origin[2])
        reach = gap / rise
        near = torch.where(rise < 0, torch.maximum(near, reach), near)
        far = torch.where(rise > 0, torch.minimum(far, reach), far)
    return _entry(near, far)


def _add(terms: list[torch.Tensor]) -> torch.Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _quadratic(
    lanes: _Lanes, axes: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a = _add([lanes.direction[i] * lanes.direction[i] for i in axes]) + _TINY
    b = _add([lanes.direction[i] * lanes.origin[i] for i in axes])
    # |o + d (-b/a)|^2 instead of c - b^2/a: far away, float32 loses the difference.
    closest = -b / a
    offsets = [lanes.origin[i] + closest * lanes.direction[i] for i in axes]
    miss = _add([offset * offset for offset in offsets])
    reach = torch.sqrt(torch.clamp(1.0 - miss, min=0.0) / a)
    return closest - reach, closest + reach, miss <= 1.0


def _hit_cylinder(lanes: _Lanes, cutout: torch.Tensor) -> torch.Tensor:
    near, far, meets = _quadratic(lanes, (0, 1))
    low, high = _slab(lanes.origin[2], lanes.direction[2])
    entry = _entry(torch.maximum(near, low), torch.minimum(far, high))
    return torch.where(meets, entry, torch.inf)


def _hit_ellipsoid(lanes: _Lanes, cutout: torch.Tensor) -> torch.Tensor:
    near, far, meets = _quadratic(lanes, (0, 1, 2))
    return torch.where(meets, _entry(near, far), torch.inf)


def _hit_foliage(lanes: _Lanes, cutout: torch.Tensor) -> torch.Tensor:
    near, far, meets = _quadratic(lanes, (0, 1, 2))
    speed = torch.sqrt(_add([d * d for d in lanes.direction]))
    # Half the chord: 1 through the middle, 0 at the rim, where leaves thin out.
    thick = 0.5 * (far - near) * speed
    front = meets & (near > NEAR_M) & _is_leaf(lanes, near, thick, cutout, 0.0)
    back = meets & (far > NEAR_M) & _is_leaf(lanes, far, thick, cutout, 0.37)
    return torch.where(front, near, torch.where(back, far, torch.inf))


def _is_leaf(
    lanes: _Lanes, depth: torch.Tensor, thick: torch.Tensor, cutout: torch.Tensor, shift: float
) -> torch.Tensor:
    x, y, z = (lanes.origin[i] + depth * lanes.direction[i] for i in range(3))
    phase = 3.0 * lanes.taper[0]
    size = cutout.shape[0]
    u = (x + 0.7 * y + phase + shift) * (0.32 * size)
    v = (z + 0.7 * y - phase + shift) * (0.32 * size)
    column = u.floor().to(torch.int32) & (size - 1)
    row = v.floor().to(torch.int32) & (size - 1)
    return cutout.view(-1).index_select(0, row * size + column) + 2.2 * thick > 0.8


_INTERSECT = (_hit_box, _hit_wedge, _hit_cylinder, _hit_ellipsoid, _hit_foliage)
