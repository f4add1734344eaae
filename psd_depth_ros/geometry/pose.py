"""Rigid motions as 4x4 matrices in float64, and the extrinsics of a camera.

Formulas: Barfoot, State Estimation for Robotics, chapter 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import math

import numpy as np
import numpy.typing as npt

from psd_depth_ros.geometry.camera import Camera

Array = npt.NDArray[np.float64]
# A quaternion (x, y, z, w) to its 3x3 matrix, ValueError where it is zero: `from_quaternion`.
Rotation = Callable[[npt.ArrayLike], Array]

_UNIT_TOLERANCE = 0.01


def make_pose(rotation: npt.ArrayLike, translation: npt.ArrayLike) -> Array:
    """4x4 matrix of a 3x3 rotation and a translation (3,) in metres."""
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = translation
    return pose


def invert(pose: Array) -> Array:
    """Inverse of a rigid pose: T_a_b of T_b_a."""
    rotation = pose[:3, :3].T
    return make_pose(rotation, -rotation @ pose[:3, 3])


def relative(T_w_b: Array, T_w_a: Array) -> Array:
    """T_b_a of the poses of two frames in one world."""
    return invert(T_w_b) @ T_w_a


def transform(pose: Array, points: npt.ArrayLike) -> Array:
    """Move points (N, 3) by a pose."""
    return np.asarray(points, dtype=np.float64) @ pose[:3, :3].T + pose[:3, 3]


def exponential(twist: npt.ArrayLike) -> Array:
    """Exponential map of SE(3): the pose of a twist (vx, vy, vz, wx, wy, wz)."""
    vector = np.asarray(twist, dtype=np.float64)
    velocity, omega = vector[:3], vector[3:]
    angle = float(np.linalg.norm(omega))
    cross = skew(omega)
    if angle < 1e-8:
        return make_pose(np.eye(3) + cross, velocity + 0.5 * cross @ velocity)
    a, b = math.sin(angle) / angle, (1 - math.cos(angle)) / angle**2
    c = (1 - a) / angle**2
    rotation = np.eye(3) + a * cross + b * cross @ cross
    return make_pose(rotation, (np.eye(3) + b * cross + c * cross @ cross) @ velocity)


def logarithm(pose: Array) -> Array:
    """Inverse of `exponential`, for rotations below half a turn."""
    omega = rotation_vector(pose[:3, :3])
    angle = float(np.linalg.norm(omega))
    cross = skew(omega)
    if angle < 1e-8:
        return np.concatenate([pose[:3, 3] - 0.5 * cross @ pose[:3, 3], omega])
    half = 0.5 * angle
    factor = (1 - half / math.tan(half)) / angle**2
    velocity = (np.eye(3) - 0.5 * cross + factor * cross @ cross) @ pose[:3, 3]
    return np.concatenate([velocity, omega])


def interpolate(start: Array, end: Array, fraction: float) -> Array:
    """Pose between two, as in tf2: linear in translation, slerp in rotation."""
    turn = rotation_vector(start[:3, :3].T @ end[:3, :3])
    rotation = start[:3, :3] @ exponential([0.0, 0.0, 0.0, *(fraction * turn)])[:3, :3]
    return make_pose(rotation, (1 - fraction) * start[:3, 3] + fraction * end[:3, 3])


def skew(vector: Array) -> Array:
    """Cross-product matrix K of a vector v: K @ x is the cross product of v and x."""
    x, y, z = vector
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=np.float64)


def rotation_vector(rotation: Array) -> Array:
    """Axis times angle (3,), radians, of a rotation matrix (3, 3)."""
    x, y, z, w = to_quaternion(rotation)
    vector = np.array([x, y, z])
    sine = float(np.linalg.norm(vector))
    if sine < 1e-12:
        return 2.0 * vector
    return vector / sine * 2.0 * math.atan2(sine, w)


def unit_quaternion(quaternion: npt.ArrayLike) -> Array:
    """Normalise a quaternion (x, y, z, w) that is a unit quaternion except for rounding.

    Raises ValueError where its length is not 1 within 0.01, as in tf2.
    """
    value = np.asarray(quaternion, dtype=np.float64)
    length = float(np.linalg.norm(value))
    if value.shape != (4,) or not abs(length - 1) <= _UNIT_TOLERANCE:
        what = 'nobody filled it in' if length == 0 else 'it is no rotation'
        raise ValueError(
            f'quaternion {" ".join(f"{one:g}" for one in value.ravel())} has length '
            f'{length:g}, expected 1 (x y z w): {what}'
        )
    return value / length


def from_quaternion(quaternion: npt.ArrayLike) -> Array:
    """Rotation matrix (3, 3) of a unit quaternion (x, y, z, w), as in geometry_msgs.

    Raises ValueError as `unit_quaternion` does.
    """
    x, y, z, w = unit_quaternion(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def to_quaternion(rotation: Array) -> Array:
    """Quaternion (x, y, z, w), w >= 0, of a rotation matrix (Shepperd's method)."""
    m = np.asarray(rotation, dtype=np.float64)
    squares = np.array(
        [
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
            1 + m[0, 0] + m[1, 1] + m[2, 2],
        ]
    )
    sums = {(0, 1): m[0, 1] + m[1, 0], (0, 2): m[0, 2] + m[2, 0], (1, 2): m[1, 2] + m[2, 1]}
    differences = (m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1])
    best = int(np.argmax(squares))
    raw = np.empty(4)
    for i in range(3):
        if best == 3:
            raw[i] = differences[i]
        else:
            raw[i] = squares[best] if i == best else sums[min(i, best), max(i, best)]
    raw[3] = squares[3] if best == 3 else differences[best]
    quaternion = raw / np.linalg.norm(raw)
    return quaternion if quaternion[3] >= 0 else -quaternion


@dataclass(frozen=True, eq=False)
class Extrinsics:
    """Where a camera is mounted; None for what is unknown.

    `T_body_camera` is the pose of the optical frame in the frame that odometry moves,
    `T_camera_lidar` that of the lidar in the optical frame, both 4x4, metres. `camera_height_m` is
    the height of the camera above the ground, `up` (3,) the unit normal of the ground in the
    optical frame.
    """

    T_body_camera: Array | None = None
    T_camera_lidar: Array | None = None
    camera_height_m: float | None = None
    up: Array | None = None

    def or_else(self, other: Extrinsics) -> Extrinsics:
        """These values, completed by those of `other`."""
        known = {name: one for name, one in vars(self).items() if one is not None}
        return replace(other, **known)

    def rectified(self, camera: Camera) -> Extrinsics:
        """The extrinsics of the rectified view of a camera, which `R` may have rotated."""
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
