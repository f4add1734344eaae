"""What ties depth to metres, or keeps it near what is known.

- Guizilini et al. 2020, "3D Packing for Self-Supervised Monocular Depth Estimation"
  (PackNet-SfM): velocity.
- Xue et al. 2020, "Toward Hierarchical Self-Supervised Monocular Absolute Depth Estimation for
  Autonomous Driving Applications" (DNet): camera height.
- Lidar points and anchors to the initial network (own).

Each is 0 for samples whose recording does not know the quantity.
"""

from __future__ import annotations

from torch import Tensor

from psd_depth_ros.geometry.warp import backproject
from psd_depth_ros.losses.distillation import huber
from psd_depth_ros.losses.scale import camera_height_error, lidar_error, velocity_error
from psd_depth_ros.objectives.base import Context, Term
from psd_depth_ros.teachers import INITIAL


class Velocity(Term):
    """Lengths of motions against distances of the odometry, relative (PackNet-SfM, eq. 7)."""

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
    """Height of the camera above the ground that it sees (DNet, section 3.3)."""

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
