"""Odometry and transform messages to 4x4 poses, and back; see `geometry.pose`."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.pose import from_quaternion, make_pose, Rotation, to_quaternion
from psd_depth_ros.messages.images import header_fields

Array = npt.NDArray[np.float64]


def odometry_pose(message: Any, rotation: Rotation = from_quaternion) -> Array:
    """T_odom_body of a nav_msgs/Odometry: 4x4, metres, body axes as published (REP 103).

    `rotation` converts the quaternion. Raises MessageError for a pose that is not finite or a
    quaternion whose length is not 1.
    """
    pose = message.pose.pose
    return _pose(pose.position, pose.orientation, 'Odometry', rotation)


def transform_pose(message: Any, rotation: Rotation = from_quaternion) -> Array:
    """T_parent_child of a geometry_msgs/Transform, as 4x4 in metres; see `odometry_pose`."""
    return _pose(message.translation, message.rotation, 'Transform', rotation)


def odometry_fields(
    pose: Array,
    child_frame_id: str,
    linear_mps: npt.ArrayLike = (0.0, 0.0, 0.0),
    angular_radps: npt.ArrayLike = (0.0, 0.0, 0.0),
) -> dict[str, Any]:
    """Fields of a nav_msgs/Odometry without its header, velocities in the child frame."""
    return {
        'child_frame_id': child_frame_id,
        'pose': {
            'pose': {
                'position': _vector_fields(pose[:3, 3]),
                'orientation': _quaternion_fields(pose),
            },
            'covariance': np.zeros(36),
        },
        'twist': {
            'twist': {
                'linear': _vector_fields(np.asarray(linear_mps, dtype=np.float64)),
                'angular': _vector_fields(np.asarray(angular_radps, dtype=np.float64)),
            },
            'covariance': np.zeros(36),
        },
    }


def transform_fields(
    pose: Array, time_ns: int, frame_id: str, child_frame_id: str
) -> dict[str, Any]:
    """Fields of a geometry_msgs/TransformStamped from T_frame_child."""
    return {
        'header': header_fields(time_ns, frame_id),
        'child_frame_id': child_frame_id,
        'transform': {
            'translation': _vector_fields(pose[:3, 3]),
            'rotation': _quaternion_fields(pose),
        },
    }


def _pose(position: Any, orientation: Any, kind: str, rotation: Rotation) -> Array:
    translation = np.array([position.x, position.y, position.z], dtype=np.float64)
    quaternion = (orientation.x, orientation.y, orientation.z, orientation.w)
    try:
        matrix = rotation(quaternion)
    except ValueError as error:
        raise MessageError(f'{kind} has an orientation that cannot be used: {error}') from error
    if not np.all(np.isfinite(translation)):
        raise MessageError(f'{kind} has the position {translation.tolist()}, expected metres')
    return make_pose(matrix, translation)


def _vector_fields(vector: Array) -> dict[str, float]:
    return {'x': float(vector[0]), 'y': float(vector[1]), 'z': float(vector[2])}


def _quaternion_fields(pose: Array) -> dict[str, float]:
    x, y, z, w = to_quaternion(pose[:3, :3])
    return {'x': float(x), 'y': float(y), 'z': float(z), 'w': float(w)}
