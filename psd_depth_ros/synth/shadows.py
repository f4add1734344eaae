"""Shadow maps: what the sun, a lamp or the open sky can see of the fixed things of a world.

A map is a depth image cast from the light with the same machinery as the camera's image. Streets
have one map per chunk and light, made when the chunk first comes into view. Moving objects cast
soft blobs instead, since a map per frame would cost as much as the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt
import torch

from psd_depth_ros.synth import primitives as P
from psd_depth_ros.synth.raycast import cast, View

SUN_DISTANCE_M = 800.0
_BIAS_M = 0.12


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

    With `soft` false a map holds depth from the light, else the share of open sky at ground level.
    """

    maps: torch.Tensor
    views: tuple[View, ...]
    first: int = 0
    length: float = math.inf  # metres of x per map; inf for a single map
    soft: bool = False

    def share(self, position: torch.Tensor) -> torch.Tensor:
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
    for _ in range(2):
        covered = torch.nn.functional.avg_pool2d(
            covered, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False
        )
    return 1 - 0.75 * covered[0, 0]


def dim_under(blobs: tuple[Blob, ...], position: torch.Tensor) -> torch.Tensor:
    """Share of light (N,) left near the ground at points (3, N) around moving objects."""
    share = torch.ones_like(position[0])
    for blob in blobs:
        c, s = math.cos(blob.yaw), math.sin(blob.yaw)
        x, y = position[0] - blob.x, position[1] - blob.y
        along = (c * x + s * y) / (blob.half_length + 0.1)
        across = (c * y - s * x) / (blob.half_width + 0.1)
        reach = along * along
        width = across * across
        inside = 1.0 / (1.0 + reach * reach * reach + width * width * width)
        share = share * (1 - 0.75 * inside)
    return share


def fade_upward(position: torch.Tensor) -> torch.Tensor:
    """How much of what is known at ground level holds at points (3, N): 1 there, 0 far above."""
    return torch.exp(-6 * position[2].clamp(min=0))
