"""Renders a synthetic world (`synth`) into a bag: camera, odometry, TF and ground truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.data.message_types import CAMERA_INFO_TYPE, IMAGE_TYPES, ODOMETRY_TYPE
from psd_depth_ros.geometry.pose import invert, make_pose
from psd_depth_ros.messages import (
    camera_info_fields,
    compressed_fields,
    image_fields,
    odometry_fields,
    transform_fields,
)
from psd_depth_ros.replay.recordings import TF_TYPE
from psd_depth_ros.synth import SynthFrame, World

IMAGE_TOPIC = '/camera/image'
CAMERA_INFO_TOPIC = '/camera/camera_info'
ODOMETRY_TOPIC = '/odom'
TF_TOPIC = '/tf'
DEPTH_TOPIC = '/ground_truth/depth'
MOVING_TOPIC = '/ground_truth/moving'

OPTICAL_FRAME, BASE_FRAME, ODOMETRY_FRAME = 'camera_optical', 'base_link', 'odom'

# First stamp; for ROS a clock at 0 means that time has not started yet.
EPOCH_NS = 1_000_000_000

# Optical axes (x right, y down, z forward) in those of a body (x forward, y left, z up), REP 103.
_BODY_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])

Message = tuple[str, str, dict[str, Any], str | None]


def write_world(
    world: World,
    path: str | Path,
    frames: int,
    jpeg_quality: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Render `frames` frames of a world into the .mcap file `path`.

    Topics: /camera/image (rgb8; with `jpeg_quality` /camera/image/compressed), its camera_info,
    /odom, /tf (odom -> base_link -> camera_optical), /ground_truth/depth (32FC1 metres, +Inf sky)
    and /ground_truth/moving (mono8, 255 where something moves). The same world gives the same
    bytes. Raises BagError where the file cannot be written.
    """
    mounting = make_pose(_BODY_OPTICAL, (0.0, 0.0, world.camera_height_m))
    with BagWriter(path) as writer:
        for index in range(frames):
            frame = world.render(index)
            stamp_ns = EPOCH_NS + frame.stamp_ns
            for topic, msgtype, fields, frame_id in (
                *_motion(frame, mounting, stamp_ns),
                *_camera(world, frame, jpeg_quality),
            ):
                writer.write(topic, msgtype, fields, stamp_ns, frame_id)
            if progress is not None:
                progress(index + 1, frames)


def _motion(
    frame: SynthFrame, mounting: npt.NDArray[np.float64], stamp_ns: int
) -> Iterator[Message]:
    """Odometry of the point on the ground below the camera, and both transforms."""
    T_odom_base = frame.T_world_camera @ invert(mounting)
    linear = T_odom_base[:3, :3].T @ frame.linear_mps
    angular = (0.0, 0.0, frame.yaw_rate_radps)
    odometry = odometry_fields(T_odom_base, BASE_FRAME, linear, angular)
    yield ODOMETRY_TOPIC, ODOMETRY_TYPE, odometry, ODOMETRY_FRAME
    transforms = [
        transform_fields(T_odom_base, stamp_ns, ODOMETRY_FRAME, BASE_FRAME),
        transform_fields(mounting, stamp_ns, BASE_FRAME, OPTICAL_FRAME),
    ]
    yield TF_TOPIC, TF_TYPE, {'transforms': transforms}, None


def _camera(world: World, frame: SynthFrame, jpeg_quality: int | None) -> Iterator[Message]:
    image, compressed = IMAGE_TYPES
    rgb = frame.rgb.cpu().numpy()
    yield CAMERA_INFO_TOPIC, CAMERA_INFO_TYPE, camera_info_fields(world.camera), OPTICAL_FRAME
    if jpeg_quality is None:
        yield IMAGE_TOPIC, image, image_fields(rgb, 'rgb8'), OPTICAL_FRAME
    else:
        fields = compressed_fields(rgb, quality=jpeg_quality)
        yield f'{IMAGE_TOPIC}/compressed', compressed, fields, OPTICAL_FRAME
    depth_m = frame.depth_m.cpu().numpy()
    yield DEPTH_TOPIC, image, image_fields(depth_m, '32FC1'), OPTICAL_FRAME
    moving = frame.moving.cpu().numpy().astype(np.uint8) * np.uint8(255)
    yield MOVING_TOPIC, image, image_fields(moving, 'mono8'), OPTICAL_FRAME
