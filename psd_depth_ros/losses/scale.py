"""Losses that tie self-supervised depth to metres: distance, camera height, lidar.

Each returns one value per sample (B,), 0 where the recording lacks the quantity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.geometry.warp import sample
from psd_depth_ros.losses.distillation import huber

MIN_DISTANCE_M = 0.1
LEVEL_COSINE = math.cos(math.radians(10.0))
GROUND_START = 0.6  # fraction of the image height below which ground is expected
GROUND_BAND = 0.3  # relative deviation from the median height


def velocity_error(translation: Tensor, distance_m: Tensor) -> Tensor:
    """Relative velocity loss | |t| - d | / max(d, 0.1 m), (B,) (after PackNet-SfM, 2020).

    Args:
        translation: (B, S, 3) of the motions to the S source frames.
        distance_m: (B, S) distance travelled by odometry, NaN where unknown.
    """
    known = torch.isfinite(distance_m)
    distance = torch.where(known, distance_m, 1.0)
    error = (translation.norm(dim=-1) - distance).abs() / distance.clamp(min=MIN_DISTANCE_M)
    return torch.where(known, error, 0.0).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def camera_height_error(points: Tensor, height_m: Tensor) -> Tensor:
    """|ln(h' / h)| with h' the estimated height of the camera above ground, (B,) (DNet, 2020).

    Ground is what lies in the lower 40 % of the image with a normal within 10 degrees of the
    camera's down axis; h' is the geometric mean of n X over its pixels within 30 % of their
    median. 0 where no ground is found.

    Args:
        points: (B, 3, H, W) metres in the optical frame of a level camera.
        height_m: (B,) known height, NaN where unknown.
    """
    lower = points[..., int(points.shape[-2] * GROUND_START) :, :]
    across = lower[..., :-1, 1:] - lower[..., :-1, :-1]
    down = lower[..., 1:, :-1] - lower[..., :-1, :-1]
    normal = F.normalize(torch.linalg.cross(down, across, dim=1), dim=1)  # level ground: +y
    height = (normal * lower[..., :-1, :-1]).sum(dim=1).flatten(1)  # (B, n)
    with torch.no_grad():
        level = (normal[:, 1].abs().flatten(1) > LEVEL_COSINE) & (height.abs() > 1e-3)
        median = torch.where(level, height.abs(), torch.nan).nanmedian(dim=1, keepdim=True).values
        ground = level & ((height.abs() / median - 1.0).abs() < GROUND_BAND)
    known = torch.isfinite(height_m) & ground.any(dim=1)
    logs = torch.where(ground, height.abs().clamp(min=1e-3).log(), 0.0).sum(dim=1)
    found = logs / ground.sum(dim=1).clamp(min=1)
    return torch.where(known, (found - torch.where(known, height_m, 1.0).log()).abs(), 0.0)


def lidar_error(log_depth: Tensor, lidar: Tensor) -> Tensor:
    """Mean Huber loss of u - ln z over the lidar points of each sample, (B,).

    Args:
        log_depth: (B, 1, H, W) metric log-depth u.
        lidar: (B, M, 3) x, y in pixels of `log_depth` and z in metres; NaN pads short lists.
    """
    if lidar.shape[1] == 0:
        return log_depth.new_zeros(len(log_depth))
    known = torch.isfinite(lidar).all(dim=2)
    points = torch.where(known[..., None], lidar, 1.0)
    found = sample(log_depth, points[:, None, :, :2])[:, 0, 0]  # (B, M)
    error = huber(found - points[..., 2].log())
    return torch.where(known, error, 0.0).sum(dim=1) / known.sum(dim=1).clamp(min=1)
