"""What ties depth to metres, or keeps it near what is known.

- Guizilini et al. 2020, "3D Packing for Self-Supervised Monocular Depth Estimation"
  (PackNet-SfM): velocity.
- Xue et al. 2020, "Toward Hierarchical Self-Supervised Monocular Absolute Depth Estimation for
  Autonomous Driving Applications" (DNet): camera height.
- Lidar points and anchors to the initial network (own).

Each is 0 for samples whose recording does not know the quantity.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.geometry.warp import backproject, sample
from psd_depth_ros.losses.depth import huber
from psd_depth_ros.objectives.base import Context, Term
from psd_depth_ros.teachers import INITIAL

MIN_DISTANCE_M = 0.1
LEVEL_COSINE = math.cos(math.radians(10.0))
GROUND_START = 0.6  # fraction of the image height below which ground is expected
GROUND_BAND = 0.3  # relative deviation from the median height


class Velocity(Term):
    """Lengths of motions against distances of the odometry, relative (after PackNet-SfM)."""

    name = 'velocity'
    needs = frozenset({'distance_m'})
    metric_field = 'distance_m'

    def __call__(self, context: Context) -> Tensor:
        """Mean over both sources of each sample."""
        lengths = context.poses()[..., :3, 3].transpose(0, 1)
        if context.has_refined_poses:  # aligned motions are as long as depth is large
            mean = context.prediction().log_depth.mean(dim=(1, 2, 3))
            lengths = lengths * (mean - mean.detach()).exp()[:, None, None]
        return velocity_error(lengths, context.batch.distance_m)


class CameraHeight(Term):
    """Height of the camera above the ground that it sees (after DNet)."""

    name = 'camera_height'
    needs = frozenset({'camera_height_m'})
    metric_field = 'camera_height_m'

    def __call__(self, context: Context) -> Tensor:
        """|ln(h' / h)| of each sample."""
        points = backproject(context.prediction().depth, context.K)[..., ::2, ::2]
        return camera_height_error(points, context.batch.camera_height_m)


class Lidar(Term):
    """Log-depth against lidar points, Huber."""

    name = 'lidar'
    needs = frozenset({'lidar'})
    metric_field = 'lidar'

    def __call__(self, context: Context) -> Tensor:
        """Mean over the points of each sample."""
        return lidar_error(context.prediction().log_depth, context.batch.lidar)


class Anchor(Term):
    """Log-depth against that of the network the run started from: against forgetting."""

    name = 'anchor'
    teachers = frozenset({INITIAL})
    keeps_scale = True

    def __call__(self, context: Context) -> Tensor:
        """Mean Huber of each sample."""
        return huber(_from_initial(context)).mean(dim=(1, 2, 3))


class AnchorScale(Term):
    """Mean log-depth of each image against that of the network the run started from."""

    name = 'anchor_scale'
    teachers = frozenset({INITIAL})
    keeps_scale = True

    def __call__(self, context: Context) -> Tensor:
        """Huber of each sample's mean difference."""
        return huber(_from_initial(context).mean(dim=(1, 2, 3)))


def _from_initial(context: Context) -> Tensor:
    """How far log-depth is from that of the initial network, (B, 1, H, W)."""
    return context.prediction().log_depth - context.prediction(INITIAL).log_depth


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
