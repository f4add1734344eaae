"""TF of a bag in place of parameters: where camera, lidar and ground are at every image."""

import numpy as np
import pytest
from robot_bag import pose_numbers, Robot, START_NS, T_BASE_LIDAR, Wall, write_robot_bag

from psd_depth_ros.config import build
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.open import open_frames
from psd_depth_ros.data.synchronizer import RequiredInputs
from psd_depth_ros.geometry.pose import invert
from psd_depth_ros.messages import decode_depth
from psd_depth_ros.replay.offline import run_bag, RunSettings


@pytest.fixture
def run(tmp_path):
    """Run a robot's bag; returns the notes and the last depth."""

    def run_once(robot, **scale):
        path = tmp_path / 'robot.mcap'
        if not path.exists():
            write_robot_bag(path, robot)
        settings = build(RunSettings, {'scale': scale})
        out = tmp_path / f'{len(list(tmp_path.iterdir()))}.mcap'
        with open_frames(path, with_lidar=scale['mode'] == 'lidar') as source:
            report = run_bag(source, Wall(), out, settings, outputs=('depth',))
        with BagReader(out) as bag:
            images = [item.message for item in bag.messages(['/depth/image_rect'])]
        return report, float(decode_depth(images[-1])[60, 80])

    return run_once


@pytest.mark.parametrize('mode', ['lidar', 'odometry'])
def test_tf_and_parameters_give_the_same_scale(run, mode) -> None:
    robot = Robot()
    T_base_camera = robot.T_base_camera(0.0)
    _, from_tf = run(robot, mode=mode)
    _, from_parameters = run(
        robot,
        mode=mode,
        lidar_pose=pose_numbers(invert(T_base_camera) @ T_BASE_LIDAR),
        camera_pose=pose_numbers(T_base_camera),
    )
    assert from_tf == pytest.approx(from_parameters, rel=1e-6)
    assert from_tf != 8.0
    assert 7.2 < from_tf < 9.1  # the wall is 9 m off in the first image, 7.25 m in the last
    _, elsewhere = run(robot, mode=mode, camera_frame='lidar', lidar_frame='base_link')
    assert abs(elsewhere / from_tf - 1) > 1e-5


def test_a_camera_that_pans_is_followed(tmp_path) -> None:
    robot = Robot(pan_radps=0.6)
    with open_frames(write_robot_bag(tmp_path / 'pan.mcap', robot), with_lidar=True) as source:
        source.request_transforms(RequiredInputs(body=True, lidar=True, ground=True))
        frames = list(source.frames())
    assert len(frames) == 9
    assert 'after the newest transform of base_link' in frames.pop().remark
    for frame in frames:
        T_base_camera = robot.T_base_camera((frame.stamp_ns - START_NS) * 1e-9)
        known = frame.extrinsics
        assert np.allclose(known.T_body_camera, T_base_camera, atol=1e-6)
        assert np.allclose(known.T_camera_lidar, invert(T_base_camera) @ T_BASE_LIDAR, atol=1e-6)
        assert known.camera_height_m == pytest.approx(1.3)
        assert np.allclose(known.up, [0, -np.cos(0.05), -np.sin(0.05)], atol=1e-6)
        assert not frame.remark


def test_what_tf_does_not_know_is_said(run) -> None:
    report, depth = run(Robot(), mode='lidar', lidar_frame='velodyne')
    assert depth == 8.0
    told = report.notes[-1]
    assert "there is no frame 'velodyne'; the frames are base_link, camera, lidar, odom" in told
    assert 'set scale.lidar_pose' in told
    assert 'not measured' in told
    report, depth = run(Robot(), mode='odometry', body_frame='base')
    assert depth != 8.0  # turns count less, that is all
    assert "no frame 'base'" in report.notes[-1]


def test_the_bag_is_whole_to_the_last_frame(tmp_path) -> None:
    with open_frames(write_robot_bag(tmp_path / 'bag.mcap', Robot())) as source:
        poses = [frame.pose for frame in source.frames()]
        assert source.count == len(poses) == 9
    assert poses.pop() is None  # there is no odometry that late
    times = [0.1 * index for index in range(8)]
    for time_s, pose in zip(times, poses, strict=True):
        assert np.allclose(pose, Robot().T_odom_base(time_s), atol=1e-9)
