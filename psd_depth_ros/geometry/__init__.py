"""Cameras, lens models, rigid motions and the inverse warp.

The conventions of the whole project, written once:

Images
    `(B, 3, H, W)` RGB, float in [0, 1] as tensors, `(H, W, 3)` uint8 as arrays. Network input is
    normalised (`networks.Normalisation`).
Depth
    `(B, 1, H, W)` float32 metres along Z of the optical frame, not along the ray. As arrays that
    leave the package it follows REP 117: NaN unknown or not trusted, +Inf beyond range or sky,
    -Inf nearer than range. Canonical depth is Z' = Z f_c / fx, with fx in pixels of the network's
    input; u = ln Z, u' = ln Z'.
Frames
    Camera: REP 103 optical frame, x right, y down, z forward. Bodies: x forward, y left, z up.
Transforms
    `T_b_a` maps points from frame a to frame b, as a 4x4 matrix, so that T_c_a = T_c_b @ T_b_a.
    Rotations are right-handed; quaternions are x y z w.
Pixels
    Centres lie at integer coordinates: an image spans [-0.5, W - 0.5]. Resizing by s moves a
    centre from c to s (c + 0.5) - 0.5, which is `align_corners=False` everywhere.
Intrinsics
    `fx fy cx cy` `(B, 4)` or K `(B, 3, 3)`, in pixels of the image they come with.
Time
    Integer nanoseconds, from `header.stamp`.
Units
    SI. A name carries its unit where the type cannot tell: `max_depth_m`, `max_gap_ns`, `fov_deg`.
"""

from psd_depth_ros.geometry.camera import Camera
from psd_depth_ros.geometry.distortion import Distortion
from psd_depth_ros.geometry.pose import Extrinsics

__all__ = ['Camera', 'Distortion', 'Extrinsics']
