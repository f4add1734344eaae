"""Robust and scale-invariant differences of log-depth, normals, and what the warp tells of it."""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

HUBER_DELTA = 0.05


def huber(difference: Tensor, delta: float = HUBER_DELTA) -> Tensor:
    """d^2 / (2 delta) up to delta, |d| - delta / 2 beyond: slope one far out. Any shape."""
    size = difference.abs()
    return torch.where(size < delta, size.square() / (2.0 * delta), size - 0.5 * delta)


def scale_invariant(difference: Tensor, mask: Tensor) -> Tensor:
    """mean(d^2) - mean(d)^2 / 2 over `mask` for each sample, (B,) (Eigen et al. 2014).

    Both (B, 1, H, W); `difference` is one of log-depths.
    """
    weight = mask.to(difference.dtype)
    count = weight.flatten(1).sum(dim=1).clamp(min=1.0)
    mean = (difference * weight).flatten(1).sum(dim=1) / count
    square = (difference.square() * weight).flatten(1).sum(dim=1) / count
    return square - 0.5 * mean.square()


def warp_sensitivity(points: Tensor, translation: Tensor, focal: Tensor) -> Tensor:
    """Pixels by which the warp moves per unit of log-depth, (B, 1, H, W).

    s_u = |(fx (t_x - x t_z), fy (t_y - y t_z))| / Z_s: the derivative of pi(K T Z p) by u = ln Z.

    Args:
        points: (B, 3, H, W) points in the source frame, metres; (x, y) above are their
            normalised coordinates and Z_s their depth.
        translation: (B, 3) of T_source_target, metres.
        focal: (B, 2) fx, fy of the source, pixels.
    """
    z = points[:, 2].clamp(min=1e-3)
    x, y = points[:, 0] / z, points[:, 1] / z
    t_x, t_y, t_z = (translation[:, i, None, None] for i in range(3))
    across = focal[:, 0, None, None] * (t_x - x * t_z)
    down = focal[:, 1, None, None] * (t_y - y * t_z)
    return (torch.hypot(across, down) / z)[:, None]


def surface_normals(points: Tensor) -> Tensor:
    """Unit normals (B, 3, H - 2, W - 2) of a surface that a camera sees, for all inner pixels.

    The cross product of the differences to both sides; level ground below the camera has (0, -1,
    0), a wall ahead (0, 0, -1): they point to the camera. A common scale of the points cancels.

    Args:
        points: (B, 3, H, W) in the optical frame, x right, y down, z forward.
    """
    across = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    down = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    return F.normalize(torch.linalg.cross(down, across, dim=1), dim=1)
