"""Why a scale is not measured: said while it is not, and silent where all is well."""

import numpy as np
import pytest

from psd_depth_ros.data.synchronizer import ImageInputs
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import make_pose
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_monitor import ScaleFrame, ScaleMonitor

CAMERA = Camera(160, 120, 150.0, 150.0, 79.5, 59.5)
BLACK = np.zeros((120, 160, 3), np.uint8)


def monitor_of(mode: str) -> ScaleMonitor:
    return ScaleMonitor(ScaleTracker(ScaleSettings(mode=mode), checkpoint_sigma=0.15))


def look(monitor: ScaleMonitor, time_s: float, **inputs: object) -> None:
    """A black picture of a wall at 8 m, at a time on both clocks."""
    depth = np.full(CAMERA.size, 8.0, np.float32)
    frame = ScaleFrame(round(time_s * 1e9), BLACK, depth, CAMERA, CAMERA, 1.0)
    known = {'pose': None, 'points': None, 'extrinsics': Extrinsics()}
    monitor.observe(time_s, frame, ImageInputs(**{**known, **inputs}))


def wall(distance_m: float) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(-3, 3, 20), np.linspace(-2, 2, 20))
    return np.stack([x, y, np.full_like(x, distance_m)], -1).reshape(-1, 3).astype(np.float32)


def test_pictures_that_tell_nothing_are_said() -> None:
    monitor = monitor_of('odometry')
    assert monitor.reason == ''
    for index in range(20):
        pose = make_pose(np.eye(3), (0.1 * index, 0.0, 0.0))
        look(monitor, 0.1 * index, pose=pose)
    assert monitor.measured == 0
    assert monitor.silent_s == pytest.approx(1.9)
    assert 'corners' in monitor.reason
    assert '(it has moved 1.90 m in all)' in monitor.reason


def test_the_commonest_reason_of_late_is_said_with_its_newest_figures() -> None:
    monitor = monitor_of('odometry')
    for index in range(40):
        text = f'odometry is {index} s late' if index % 4 else 'a hiccup'
        look(monitor, 0.1 * index, problem=text)
    assert monitor.reason == 'odometry is 39 s late'
    for index in range(20):
        look(monitor, 4 + 0.1 * index, problem='nobody publishes /odom')
    assert monitor.reason == 'nobody publishes /odom'


def test_inputs_that_stop_are_said_and_forgotten_when_they_are_back() -> None:
    monitor = monitor_of('lidar')
    known = Extrinsics(T_camera_lidar=np.eye(4))
    look(monitor, 0.0, points=wall(8.4), extrinsics=known)
    look(monitor, 1.0, points=wall(8.4), extrinsics=known)
    assert (monitor.measured, monitor.accepted, monitor.reason) == (2, 2, '')
    for time_s in (2.0, 3.0, 4.0):
        look(monitor, time_s, problem='the lidar has stopped', extrinsics=known)
    assert monitor.silent_s == pytest.approx(3.0)
    assert monitor.reason == 'the lidar has stopped'
    look(monitor, 5.0, points=wall(8.4), extrinsics=known)
    assert (monitor.silent_s, monitor.reason) == (0.0, '')


@pytest.mark.parametrize(
    ('mode', 'words'),
    [('lidar', 'set scale.lidar_pose'), ('camera_height', 'set scale.camera_height_m')],
)
def test_a_place_that_nobody_knows_is_asked_for(mode: str, words: str) -> None:
    monitor = monitor_of(mode)
    look(monitor, 0.0, points=wall(8.0), remark="there is no frame 'velodyne'")
    assert words in monitor.reason
    assert "there is no frame 'velodyne'" in monitor.reason
