"""The tree of frames: answers known by hand, in space and in time, and what tf2 would say."""

import math

import numpy as np
import pytest

from psd_depth_ros.data.message_types import MessageTypes
from psd_depth_ros.data.synchronizer import FrameNames, locate, TransformBuffer
from psd_depth_ros.errors import TransformError
from psd_depth_ros.geometry.pose import exponential, make_pose
from psd_depth_ros.messages import transform_fields

SECOND = 1_000_000_000
OPTICAL = make_pose([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (0.5, 0.0, 1.0))
TYPES = MessageTypes()


def message(*transforms: tuple[str, str, float, np.ndarray]):
    """A TFMessage of parent, child, seconds and T_parent_child."""
    fields = [
        transform_fields(pose, round(time_s * SECOND), parent, child)
        for parent, child, time_s, pose in transforms
    ]
    return TYPES.build('tf2_msgs/msg/TFMessage', {'transforms': fields})


def at(x: float, yaw: float = 0.0) -> np.ndarray:
    return make_pose(exponential([0, 0, 0, 0, 0, yaw])[:3, :3], (x, 0.0, 0.0))


@pytest.fixture
def robot() -> TransformBuffer:
    """A body that drives 1 m/s and turns 0.2 rad/s, with a fixed camera on it."""
    buffer = TransformBuffer()
    buffer.add(message(('/base_link', 'camera', 0, OPTICAL)), fixed=True)
    for index in range(5):
        buffer.add(message(('odom', 'base_link', index, at(index, 0.2 * index))))
    return buffer


def test_moving_transforms_are_interpolated_as_tf2_does(robot: TransformBuffer) -> None:
    assert np.allclose(robot.lookup('odom', 'base_link', 2 * SECOND), at(2, 0.4))
    half = robot.lookup('odom', 'base_link', round(2.25 * SECOND))
    assert np.allclose(half, at(2.25, 0.45))  # straight in translation, slerp in rotation
    assert np.allclose(robot.lookup('base_link', 'odom', 2 * SECOND), np.linalg.inv(at(2, 0.4)))
    assert np.allclose(robot.lookup('odom', 'camera', 2 * SECOND), at(2, 0.4) @ OPTICAL)
    assert np.allclose(robot.lookup('base_link', '/camera', 10**15), OPTICAL)  # fixed: any time


@pytest.mark.parametrize(
    ('target', 'source', 'time_s', 'words', 'may_come'),
    [
        ('odom', 'camera', 4.1, 'after the newest transform of base_link', True),
        ('odom', 'camera', -1.0, 'before the oldest transform of base_link', False),
        ('odom', 'lidar', 1.0, "no frame 'lidar'; the frames are axle, base_link", False),
        ('map', 'camera', 1.0, "no frame 'map'", False),
        ('wheel', 'camera', 1.0, 'separate trees', False),
    ],
)
def test_nothing_is_extrapolated_or_guessed(robot, target, source, time_s, words, may_come):
    robot.add(message(('axle', 'wheel', 0, at(0.0))), fixed=True)
    with pytest.raises(TransformError, match=words) as caught:
        robot.lookup(target, source, round(time_s * SECOND))
    assert caught.value.may_come is may_come


def test_a_clock_set_back_begins_a_new_time(robot: TransformBuffer) -> None:
    robot.add(message(('odom', 'base_link', 1.0, at(50))))
    robot.add(message(('odom', 'base_link', 2.0, at(51))))
    assert robot.lookup('odom', 'base_link', round(1.5 * SECOND))[0, 3] == pytest.approx(50.5)
    robot.add(message(('odom', 'base_link', 1.9, at(50.9))))  # overtaken by a tenth of a second
    assert robot.lookup('odom', 'base_link', 2 * SECOND)[0, 3] == pytest.approx(51)
    robot.forget()
    with pytest.raises(TransformError):
        robot.lookup('odom', 'base_link', 2 * SECOND)
    assert np.allclose(robot.lookup('base_link', 'camera', 0), OPTICAL)


def test_a_loop_of_frames_ends() -> None:
    buffer = TransformBuffer()
    buffer.add(message(('a', 'b', 0, at(1)), ('b', 'a', 0, at(1))), fixed=True)
    with pytest.raises(TransformError):
        buffer.lookup('c', 'a', 0)


def test_height_and_tilt_of_a_camera_that_pans_and_looks_down() -> None:
    """The camera is 1.5 m above base_footprint and looks down by 0.3 rad at 1 s, 0.1 at 2 s."""
    buffer = TransformBuffer()
    for time_s, pitch in ((1.0, 0.3), (2.0, 0.1)):
        tilt = exponential([0, 0, 0, 0, pitch, 0])[:3, :3]
        pose = make_pose(tilt @ OPTICAL[:3, :3], (0.0, 0.0, 1.3))
        buffer.add(message(('base_link', 'camera', time_s, pose)))
    names = FrameNames('camera', ground=('base_footprint', 'base_link'))
    found = locate(buffer, names, round(1.5 * SECOND))
    assert found.extrinsics.camera_height_m == pytest.approx(1.3)
    assert found.source == 'camera above base_link'
    lift = make_pose(np.eye(3), (0.0, 0.0, 0.2))
    buffer.add(message(('base_footprint', 'base_link', 0, lift)), fixed=True)
    found = locate(buffer, names, round(1.5 * SECOND))
    assert found.problem == ''
    assert found.extrinsics.camera_height_m == pytest.approx(1.5)
    # y of the optical frame points down; looking down, the sky is behind: z of `up` is negative.
    assert np.allclose(found.extrinsics.up, [0, -math.cos(0.2), -math.sin(0.2)], atol=1e-9)


def test_a_camera_below_its_ground_is_refused() -> None:
    buffer = TransformBuffer()
    buffer.add(message(('base_link', 'camera', 0, at(0.3))), fixed=True)
    found = locate(buffer, FrameNames('camera', ground=('base_link',)), 0)
    assert found.extrinsics.camera_height_m is None
    assert 'not the ground' in found.problem


def test_the_same_as_tf2() -> None:
    """Random trees through the real buffer, where it is installed."""
    tf2_ros = pytest.importorskip('tf2_ros')
    from geometry_msgs.msg import TransformStamped
    from rclpy.duration import Duration
    from rclpy.time import Time

    def stamped(one):
        made = TransformStamped()
        made.header.frame_id, made.child_frame_id = one.header.frame_id, one.child_frame_id
        made.header.stamp.sec, made.header.stamp.nanosec = (
            one.header.stamp.sec,
            one.header.stamp.nanosec,
        )
        for part in ('translation', 'rotation'):
            for name in 'xyzw':
                if hasattr(getattr(one.transform, part), name):
                    value = float(getattr(getattr(one.transform, part), name))
                    setattr(getattr(made.transform, part), name, value)
        return made

    rng = np.random.default_rng(0)
    ours, theirs = TransformBuffer(), tf2_ros.Buffer(Duration(seconds=100))
    for parent, child, fixed in (('w', 'a', 0), ('a', 'b', 1), ('a', 'c', 0), ('c', 'd', 1)):
        for index in range(1 if fixed else 6):
            pose = exponential(rng.normal(size=6) * 0.7)
            one = message((parent, child, 1.0 + 0.3 * index, pose))
            ours.add(one, fixed=bool(fixed))
            add = theirs.set_transform_static if fixed else theirs.set_transform
            add(stamped(one.transforms[0]), 'test')
    for target, source in (('w', 'b'), ('b', 'd'), ('d', 'w')):
        for time_ns in rng.integers(SECOND, round(2.5 * SECOND), 20):
            found = theirs.lookup_transform(target, source, Time(nanoseconds=int(time_ns)))
            from psd_depth_ros.messages import transform_pose

            expected = transform_pose(found.transform)
            assert np.allclose(ours.lookup(target, source, int(time_ns)), expected, atol=1e-6)
