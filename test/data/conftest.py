"""A small drive past walls at several distances, as pictures and as bags."""

from itertools import pairwise
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_info_fields, image_fields

CAMERA = Camera(96, 64, 70.0, 70.0, 47.5, 31.5)
STEP_NS = 100_000_000
# How far the walls of the picture, from top to bottom, move while the nearest moves 1.
SPEEDS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)


def make_pictures(count, step_px=2.0, seed=0):
    """Pictures (64, 96, 3) of walls, the nearest of which moves by `step_px` to the left."""
    rng = np.random.default_rng(seed)
    walls = [_make_wall(rng, 96 + int(step_px * count) + 8) for _ in SPEEDS]
    edges = np.linspace(0, 64, len(SPEEDS) + 1).astype(int)
    pictures = np.empty((count, 64, 96, 3), np.uint8)
    for index, picture in enumerate(pictures):
        for wall, speed, (top, bottom) in zip(walls, SPEEDS, pairwise(edges), strict=True):
            shift = np.float32([[1, 0, -index * step_px * speed], [0, 1, 0]])
            picture[top:bottom] = cv2.warpAffine(wall, shift, (96, 64))[top:bottom]
    return pictures


def _make_wall(rng, width):
    tiles = rng.integers(40, 216, (16, width // 4 + 1, 3)).astype(np.uint8)
    return np.kron(tiles, np.ones((4, 4, 1), np.uint8))[:, :width]


def write_bag(path, pictures, camera=CAMERA, stamps_ns=None, topic='/cam/image', more=None):
    """Write images with a CameraInfo each (`camera` may be a list, or None for no CameraInfo)."""
    with BagWriter(path) as writer:
        for index, picture in enumerate(pictures):
            stamp_ns = index * STEP_NS if stamps_ns is None else int(stamps_ns[index])
            own = camera[index] if isinstance(camera, list) else camera
            if own is not None:
                info = camera_info_fields(own)
                name = '/cam/camera_info'
                writer.write(name, 'sensor_msgs/msg/CameraInfo', info, stamp_ns, 'optical')
            fields = image_fields(picture, 'rgb8')
            writer.write(topic, 'sensor_msgs/msg/Image', fields, stamp_ns, 'optical')
            if more is not None:
                more(writer, index, stamp_ns)
    return path


@pytest.fixture
def drives():
    """What makes drives: `make_pictures`, `write_bag`, `camera`, `step_ns`."""
    return SimpleNamespace(
        make_pictures=make_pictures, write_bag=write_bag, camera=CAMERA, step_ns=STEP_NS
    )
