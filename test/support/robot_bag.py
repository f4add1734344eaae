"""A robot that drives towards a textured wall: camera, odometry, lidar and TF in a bag.

Everything about it is known: what it sees, where it is, and how camera and lidar sit on it.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from pack_clouds import pack_cloud

from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.data.synchronizer import TF_TYPE
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import exponential, invert, make_pose, transform
from psd_depth_ros.inference.cloud import build_cloud
from psd_depth_ros.messages import (
    camera_info_fields,
    image_fields,
    odometry_fields,
    transform_fields,
)

CAMERA = Camera(160, 120, 150.0, 150.0, 79.5, 59.5)
START_NS, STEP_NS = 2_000_000_000, 100_000_000
OPTICAL = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)
T_BASE_LIDAR = make_pose(exponential([0, 0, 0, 0.1, -0.05, 0.4])[:3, :3], (0.4, -0.3, 1.7))
WALL_M, TEXELS = 10.0, 30.0  # distance from the start, texture pixels in a metre


@dataclass(frozen=True)
class Robot:
    """With `pan_radps` the camera turns on the robot, and its pose comes on /tf as it moves."""

    pan_radps: float = 0.0

    @property
    def camera_frame(self) -> str:
        return 'head_camera' if self.pan_radps else 'camera'

    def T_odom_base(self, time_s: float) -> np.ndarray:
        return exponential([2.5 * time_s, 0, 0, 0, 0, 0.1 * time_s])

    def T_base_camera(self, time_s: float) -> np.ndarray:
        """1 m ahead and 1.3 m up, looking down by 0.05 rad."""
        turn = exponential([0, 0, 0, 0, 0.05, 0])
        pan = exponential([0, 0, 0, 0, 0, self.pan_radps * time_s])
        return make_pose((pan @ turn)[:3, :3] @ OPTICAL, (1.0, 0.2, 1.3))


class Wall:
    """An engine that sees a wall, so many of its own units away, whatever it is shown."""

    def __init__(self, depth: float = 8.0) -> None:
        self._depth = depth
        output = SimpleNamespace(metric=True, scale_sigma=0.15)
        self.checkpoint = SimpleNamespace(info=SimpleNamespace(output=output), affine=False)

    def infer_batch(self, requests, *, scales, settings, moments):
        ((rgb, camera),) = requests
        return [self._frame(rgb, camera, scales[0])]

    def _frame(self, rgb, camera, scale):
        depth = np.full(rgb.shape[:2], self._depth * scale.factor, np.float32)
        sure = np.ones_like(depth)

        def cloud(points):
            return build_cloud(depth, sure, rgb, camera, points)

        return SimpleNamespace(
            depth_m=depth,
            confidence=sure,
            camera=camera,
            rgb=rgb,
            values=None,
            problem='',
            cloud=cloud,
            rescaled=lambda another: self._frame(rgb, camera, another),
        )


def write_robot_bag(path: Path, robot: Robot, frames: int = 8) -> Path:
    """Write /image, /camera_info, /odom, /lidar, /tf and /tf_static.

    The last image comes a quarter of a second after all else: its depth has the scale that was
    learned from the others.
    """
    wall = _texture()
    grid = np.stack(np.meshgrid(np.linspace(-3, 3, 40), np.linspace(-1, 3, 30)), axis=-1)
    points = np.column_stack([np.full(grid[..., 0].size, WALL_M), grid.reshape(-1, 2)])
    with BagWriter(path) as writer:
        fixed = [('base_link', 'lidar', T_BASE_LIDAR)]
        if not robot.pan_radps:
            fixed.append(('base_link', robot.camera_frame, robot.T_base_camera(0.0)))
        _write_transforms(writer, '/tf_static', START_NS - STEP_NS, fixed)
        for step in range(2 * frames + 1):
            stamp_ns, time_s = START_NS + (step - 1) * STEP_NS // 2, (step - 1) * 0.05
            T_odom_base = robot.T_odom_base(time_s)
            moving = [('odom', 'base_link', T_odom_base)]
            if step % 2:  # an image lies half-way between two poses and two transforms
                T_odom_camera = T_odom_base @ robot.T_base_camera(time_s)
                image = _look(wall, T_odom_camera)
                fields = camera_info_fields(CAMERA)
                writer.write(
                    '/camera_info',
                    'sensor_msgs/msg/CameraInfo',
                    fields,
                    stamp_ns,
                    robot.camera_frame,
                )
                fields = image_fields(image, 'rgb8')
                writer.write(
                    '/image', 'sensor_msgs/msg/Image', fields, stamp_ns, robot.camera_frame
                )
                seen = transform(invert(T_odom_base @ T_BASE_LIDAR), points).astype(np.float32)
                cloud = pack_cloud(dict(zip('xyz', seen.T, strict=True)))
                writer.write('/lidar', 'sensor_msgs/msg/PointCloud2', cloud, stamp_ns, 'lidar')
                continue
            if robot.pan_radps:
                moving.append(('base_link', robot.camera_frame, robot.T_base_camera(time_s)))
            _write_transforms(writer, '/tf', stamp_ns, moving)
            fields = odometry_fields(T_odom_base, 'base_link', (2.5, 0.0, 0.0))
            writer.write('/odom', 'nav_msgs/msg/Odometry', fields, stamp_ns, 'odom')
        stamp_ns += STEP_NS * 5 // 2
        fields = image_fields(image, 'rgb8')
        writer.write('/image', 'sensor_msgs/msg/Image', fields, stamp_ns, robot.camera_frame)
    return path


def pose_numbers(pose: np.ndarray) -> list[float]:
    """A pose as a parameter: x y z qx qy qz qw."""
    fields = transform_fields(pose, 0, '', '')['transform']
    return [*fields['translation'].values(), *fields['rotation'].values()]


def _write_transforms(writer: BagWriter, topic: str, stamp_ns: int, all_of_them: list) -> None:
    fields = [
        transform_fields(pose, stamp_ns, parent, child) for parent, child, pose in all_of_them
    ]
    writer.write(topic, TF_TYPE, {'transforms': fields}, stamp_ns)


def _texture() -> np.ndarray:
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 256, (900, 1200, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)


def _look(wall: np.ndarray, T_odom_camera: np.ndarray) -> np.ndarray:
    """The picture of the wall x = 10 m, whose texture is centred at y = 0, z = 1 m."""
    T_camera_odom = invert(T_odom_camera)
    rotation, shift = T_camera_odom[:3, :3], T_camera_odom[:3, 3]
    centre = np.array([WALL_M, wall.shape[1] / TEXELS / 2, 1 + wall.shape[0] / TEXELS / 2])
    plane = np.column_stack(
        [-rotation[:, 1] / TEXELS, -rotation[:, 2] / TEXELS, rotation @ centre + shift]
    )
    size = CAMERA.width, CAMERA.height
    return cv2.warpPerspective(wall, CAMERA.K @ plane, size, flags=cv2.INTER_AREA)
