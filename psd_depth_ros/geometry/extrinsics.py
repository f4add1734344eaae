"""Where camera, body, lidar and ground are to each other at the time of one image.

Where these poses come from (parameters, TF, a data set) is left to the callers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from psd_depth_ros.geometry.camera import Camera
from psd_depth_ros.geometry.pose import invert, make_pose

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Extrinsics:
    """Poses around a camera, None where they are not known; metres.

    `T_body_camera` is the pose of the optical frame in the frame that odometry moves,
    `T_camera_lidar` that of the lidar in the optical frame, both 4x4. `camera_height_m` is the
    height of the camera above the ground, `up` (3,) the unit normal of the ground in the optical
    frame.
    """

    T_body_camera: Array | None = None
    T_camera_lidar: Array | None = None
    camera_height_m: float | None = None
    up: Array | None = None

    def or_else(self, other: Extrinsics) -> Extrinsics:
        """What is known here, and of `other` what is not."""
        known = {name: one for name, one in vars(self).items() if one is not None}
        return replace(other, **known)

    def rectified(self, camera: Camera) -> Extrinsics:
        """The same for the rectified view of a camera, which `R` may have turned."""
        if camera.rectification is None:
            return self
        turn = make_pose(np.asarray(camera.rectification), np.zeros(3))
        body, lidar, up = self.T_body_camera, self.T_camera_lidar, self.up
        return Extrinsics(
            None if body is None else body @ invert(turn),
            None if lidar is None else turn @ lidar,
            self.camera_height_m,
            None if up is None else turn[:3, :3] @ up,
        )
