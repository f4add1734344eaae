"""What ties self-supervised depth to metres: distances driven, camera height, lidar points.

Each returns a value per sample (B,), 0 where the recording does not know the quantity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.geometry.warp import sample
from psd_depth_ros.losses.distillation import huber

SHORTEST_M = 0.1
LEVEL = math.cos(math.radians(10.0))


def velocity_error(translation: Tensor, distance_m: Tensor) -> Tensor:
    """| |t| - d | / max(d, 0.1 m) (PackNet-SfM's velocity loss, made relative).

    `translation` (B, S, 3) of the pose network, `distance_m` (B, S) of the odometry, NaN unknown.
    """
    known = torch.isfinite(distance_m)
    distance = torch.where(known, distance_m, 1.0)
    error = (translation.norm(dim=-1) - distance).abs() / distance.clamp(min=SHORTEST_M)
    return torch.where(known, error, 0.0).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def camera_height_error(points: Tensor, height_m: Tensor) -> Tensor:
    """|ln(h' / h)|, h' the height of the camera above the ground that it sees (DNet, 2020).

    `points` (B, 3, H, W) metres in the optical frame of a level camera; `height_m` (B,), NaN
    unknown. The ground is what lies in the lower 40 % of the picture with a normal within 10
    degrees of the camera's down axis; h' is the geometric mean of n X over those pixels within
    30 % of their median. 0 where no ground is found.
    """
    lower = points[..., int(points.shape[-2] * 0.6) :, :]
    across = lower[..., :-1, 1:] - lower[..., :-1, :-1]
    down = lower[..., 1:, :-1] - lower[..., :-1, :-1]
    normal = F.normalize(torch.linalg.cross(down, across, dim=1), dim=1)  # level ground: +y
    height = (normal * lower[..., :-1, :-1]).sum(dim=1).flatten(1)  # (B, n)
    with torch.no_grad():
        level = (normal[:, 1].abs().flatten(1) > LEVEL) & (height.abs() > 1e-3)
        median = torch.where(level, height.abs(), torch.nan).nanmedian(dim=1, keepdim=True).values
        near = level & ((height.abs() / median - 1.0).abs() < 0.3)
    known = torch.isfinite(height_m) & near.any(dim=1)
    logs = torch.where(near, height.abs().clamp(min=1e-3).log(), 0.0).sum(dim=1)
    found = logs / near.sum(dim=1).clamp(min=1)
    return torch.where(known, (found - torch.where(known, height_m, 1.0).log()).abs(), 0.0)


def lidar_error(log_depth: Tensor, lidar: Tensor) -> Tensor:
    """Huber of u - ln z at lidar points (B, M, 3): x, y in pixels of `log_depth`, z metres or NaN.

    `log_depth` (B, 1, H, W) is metric.
    """
    if lidar.shape[1] == 0:
        return log_depth.new_zeros(len(log_depth))
    known = torch.isfinite(lidar).all(dim=2)
    points = torch.where(known[..., None], lidar, 1.0)
    found = sample(log_depth, points[:, None, :, :2])[:, 0, 0]  # (B, M)
    error = huber(found - points[..., 2].log())
    return torch.where(known, error, 0.0).sum(dim=1) / known.sum(dim=1).clamp(min=1)
