"""Photometric alignment: camera motions refined on two images and a depth map.

Direct visual odometry (Wang et al., Learning Depth from Monocular Videos using Direct Methods,
CVPR 2018): Gauss-Newton steps on the photometric residual with the Jacobian
J = dI/dp dp/dX dX/dxi, xi a twist applied on the left of T_source_target, Huber weights, coarse
levels of the pyramid first. A pose network needs thousands of images until it is exact to a pixel,
and depth cannot be better than the motion that its photometric error is computed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.geometry.warp import (
    backproject,
    camera_matrix,
    exponential,
    inside_image,
    project,
    resize_intrinsics,
    sample,
    transform,
)

DELTA = 0.05  # Huber threshold, of brightness in [0, 1]
DAMPING = 1e-3
LARGEST_STEP = 0.1  # radians, and fraction of the median depth
FEWEST_PIXELS = 25
LEAST_FRACTION = 0.3
LEVELS = ((8, 4), (4, 3), (2, 2))  # reduction of the image, steps


@torch.no_grad()
def refine_motions(
    target: Tensor,
    source: Tensor,
    depth: Tensor,
    intrinsics: Tensor,
    motions: Tensor,
    valid: Tensor,
    levels: Sequence[tuple[int, int]] = LEVELS,
) -> Tensor:
    """Refine motions by photometric alignment; float32, without gradient.

    Args:
        target, source: images (B, 3, H, W) in [0, 1].
        depth: (B, 1, H, W) of the target.
        intrinsics: fx, fy, cx, cy (B, 4) of both.
        motions: first guess T_source_target (B, 4, 4), translations in the units of `depth`.
        valid: (B, 1, H, W) bool, pixels of the target that count.
        levels: reduction of the image and number of steps of every level.

    Returns:
        T_source_target (B, 4, 4); a sample keeps its first guess where alignment does not make its
        error smaller.
    """
    found = motions.clone()
    pair = torch.stack([target.mean(dim=1), source.mean(dim=1)], dim=1)  # grey (B, 2, H, W)
    for reduction, steps in levels:
        view = _View.of(pair, depth, intrinsics, valid, reduction)
        current, warped = found, view.warp(found)
        error = view.error(warped)
        for _ in range(steps):
            current = view.step(warped) @ current
            warped = view.warp(current)
            value = view.error(warped)
            better = value < error
            found = torch.where(better[:, None, None], current, found)
            error = torch.where(better, value, error)
    return found


class _Warped(NamedTuple):
    """The source warped into the target by depth and motion."""

    residual: Tensor  # (B, 1, h, w) source minus target
    slopes: Tensor  # (B, 2, h, w) of the source, across and down
    points: Tensor  # (B, 3, h, w) in the frame of the source
    inside: Tensor  # (B, 1, h, w) bool: valid and inside the source


class _View:
    """Images, points and gradients at one level of the pyramid."""

    def __init__(
        self, target: Tensor, source: Tensor, points: Tensor, K: Tensor, valid: Tensor
    ) -> None:
        self.target, self.points, self.K, self.valid = target, points, K, valid
        self.size = source.shape[-2:]
        padded = F.pad(source, (1, 1, 1, 1), mode='replicate')
        across = 0.5 * (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2])
        down = 0.5 * (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1])
        self.stack = torch.cat([source, across, down], dim=1)  # (B, 3, h, w)
        self.unit = points[:, 2].flatten(1).median(dim=1).values  # (B,) translations are in it

    @classmethod
    def of(
        cls, pair: Tensor, depth: Tensor, intrinsics: Tensor, valid: Tensor, reduction: int
    ) -> _View:
        """The level whose images are `reduction` times smaller."""
        small = F.avg_pool2d(pair, reduction)
        K_small = camera_matrix(resize_intrinsics(intrinsics, 1.0 / reduction))
        inverse = F.avg_pool2d(1.0 / depth, reduction)
        seen = F.avg_pool2d(valid.float(), reduction) > 0.99
        return cls(small[:, :1], small[:, 1:], backproject(1.0 / inverse, K_small), K_small, seen)

    def warp(self, motions: Tensor) -> _Warped:
        """Warp the source by motions (B, 4, 4)."""
        moved = transform(motions, self.points)
        pixels = project(moved, self.K)
        found = sample(self.stack, pixels)
        inside = inside_image(pixels, moved, self.size) & self.valid
        return _Warped(found[:, :1] - self.target, found[:, 1:], moved, inside)

    def error(self, warped: _Warped) -> Tensor:
        """The mean Huber cost (B,); infinite where too few pixels are inside."""
        inside = warped.inside
        size = warped.residual.abs()
        cost = torch.where(size < DELTA, 0.5 * size.square() / DELTA, size - 0.5 * DELTA)
        count = inside.flatten(1).sum(dim=1)
        mean = torch.where(inside, cost, 0.0).flatten(1).sum(dim=1) / count.clamp(min=1)
        enough = count > max(FEWEST_PIXELS, LEAST_FRACTION * inside[0].numel())
        return torch.where(enough, mean, torch.inf)

    def step(self, warped: _Warped) -> Tensor:
        """The motion (B, 4, 4) of one damped Gauss-Newton step, to be applied on the left."""
        residual = warped.residual.flatten(1)
        jacobian = self._jacobian(warped.slopes, warped.points)  # (B, 6, n)
        weight = DELTA / residual.abs().clamp(min=DELTA) * warped.inside.flatten(1)
        weighted = jacobian * weight[:, None]
        normal = weighted @ jacobian.transpose(1, 2)  # (B, 6, 6)
        right = (weighted @ residual[..., None])[..., 0]
        diagonal = normal.diagonal(dim1=1, dim2=2)
        damped = normal + torch.diag_embed(DAMPING * diagonal + 1e-6)
        twist = -torch.linalg.solve_ex(damped, right).result  # `solve` waits for a GPU
        twist = twist.clamp(-LARGEST_STEP, LARGEST_STEP)
        twist = torch.cat([twist[:, :3], twist[:, 3:] * self.unit[:, None]], dim=1)
        return exponential(twist)

    def _jacobian(self, slopes: Tensor, points: Tensor) -> Tensor:
        """d residual / d (rotation, translation in units of the median depth), (B, 6, n)."""
        x, y, z = points.flatten(2).unbind(1)
        z = z.clamp(min=1e-3)
        across, down = slopes.flatten(2).unbind(1)
        force_x = across * self.K[:, 0, 0, None] / z
        force_y = down * self.K[:, 1, 1, None] / z
        force_z = -(force_x * x + force_y * y) / z
        unit = self.unit[:, None]
        turn_x = y * force_z - z * force_y  # X x force
        turn_y = z * force_x - x * force_z
        turn_z = x * force_y - y * force_x
        return torch.stack(
            [turn_x, turn_y, turn_z, unit * force_x, unit * force_y, unit * force_z], dim=1
        )
