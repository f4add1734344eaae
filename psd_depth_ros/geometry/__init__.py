"""Cameras, lens models, rigid motions and the inverse warp.

The conventions of the whole project, written once:

- Images are `(B, 3, H, W)` RGB in [0, 1]; depth is `(B, 1, H, W)` float32 metres along camera Z.
- Camera axes (REP 103 optical frame): x right, y down, z forward.
- Pixel centres lie at integer coordinates: the image spans [-0.5, W - 0.5]. Resizing by s moves a
  centre from c to s (c + 0.5) - 0.5, which is `align_corners=False` everywhere.
- `T_b_a` maps points from frame a to frame b, as a 4x4 matrix.
- Time is integer nanoseconds.
"""

from psd_depth_ros.geometry.camera import Camera
from psd_depth_ros.geometry.distortion import Distortion
from psd_depth_ros.geometry.pose import Extrinsics

__all__ = ['Camera', 'Distortion', 'Extrinsics']
