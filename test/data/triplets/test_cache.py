"""Frames as they are kept for training."""

from types import SimpleNamespace

import numpy as np

from psd_depth_ros.data.frames import TimedFrame
from psd_depth_ros.data.triplets.cache import FrameWriter, Layout
from psd_depth_ros.geometry import Camera, Distortion


def test_the_depth_of_a_lens_that_distorts_is_rectified_once(tmp_path):
    lens = Distortion('plumb_bob', (-0.3, 0.1, 0.0, 0.0, 0.0))
    camera = Camera(64, 64, 50.0, 50.0, 31.5, 31.5, distortion=lens)
    # in the rectified view, as frames have it
    depth = np.broadcast_to(np.arange(1.0, 65.0, dtype=np.float32), (64, 64))
    frame = TimedFrame(0, 0, '', np.zeros((64, 64, 3), np.uint8), camera, depth_m=depth)
    source = SimpleNamespace(T_body_camera=None, T_camera_lidar=None, poses_are_of_camera=True)
    writer = FrameWriter(tmp_path / 'part', source, camera, Layout(4096, 1))
    writer.add(frame)
    writer.close()
    assert (np.load(tmp_path / 'part' / 'depth.npy')[0] == depth).all()
