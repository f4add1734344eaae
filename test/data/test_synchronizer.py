"""What belongs to an image: late, out of order, after a jump; else the reason."""

import re
from typing import Any

import numpy as np
from pack_clouds import pack_cloud
import pytest

from psd_depth_ros.data.message_types import MessageTypes
from psd_depth_ros.data.synchronizer import (
    MessageDecoders,
    PoseTrack,
    RequiredInputs,
    Synchronizer,
    Track,
    TransformBuffer,
)
from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.pose import make_pose
from psd_depth_ros.messages import (
    header_fields,
    odometry_fields,
    transform_fields,
)

SECOND = 1_000_000_000
TYPES = MessageTypes()


def ns(seconds: float) -> int:
    return round(seconds * SECOND)


def odometry(time_s: float, x: float, *, speed: float = 1.0, parent: str = 'odom') -> Any:
    fields = odometry_fields(make_pose(np.eye(3), (x, 0.0, 0.0)), 'base_link', (speed, 0.0, 0.0))
    header = header_fields(ns(time_s), parent)
    return TYPES.build('nav_msgs/msg/Odometry', {'header': header, **fields})


def cloud(time_s: float, unit: float = 1.0) -> Any:
    points = np.full(300, 20.0 * unit, np.float32)
    fields = pack_cloud({'x': points, 'y': points, 'z': points})
    header = header_fields(ns(time_s), 'lidar')
    return TYPES.build('sensor_msgs/msg/PointCloud2', {'header': header, **fields})


def drive(
    synchronizer: Synchronizer, start_s: float, stop_s: float, *, late_s: float = 0.0
) -> None:
    """Odometry at 20 Hz and 1 m/s, each message `late_s` after its stamp."""
    for time_s in np.arange(start_s, stop_s, 0.05):
        synchronizer.add_odometry(odometry(time_s, time_s), ns(100 + time_s + late_s))


def seen(synchronizer: Synchronizer, time_s: float, **options: float) -> Any:
    arrived_s = options.get('arrived_s', 100 + time_s)
    return synchronizer.at(ns(time_s), 'camera', ns(arrived_s))


def test_a_track_keeps_order_and_its_newest_ten_seconds() -> None:
    track: Track[str] = Track(kept=3)
    for stamp, item in ((ns(1.0), 'b'), (ns(0.9), 'a'), (ns(1.1), 'c'), (ns(1.0), 'late twin')):
        track.add(stamp, item)
    assert track.around(ns(0.95)) == ((ns(0.9), 'a'), (ns(1.0), 'b'))
    track.add(ns(1.2), 'd')
    assert track.around(ns(0.95)) == (None, (ns(1.0), 'b'))
    track.add(ns(30), 'e')
    assert track.around(ns(20)) == (None, (ns(30), 'e'))
    track.add(ns(2), 'f')  # time was set back
    assert track.around(ns(40)) == ((ns(2), 'f'), None)


def test_late_poses_of_the_past_do_not_stay_after_a_jump() -> None:
    """A recording of 20 s begins anew while its last poses are still on their way."""
    track = PoseTrack()
    for time_s in (19.8, 19.9, 1.0, 1.1):
        track.add(ns(time_s), make_pose(np.eye(3), (time_s, 0.0, 0.0)))
    pose = track.at(ns(1.05))
    assert pose is not None
    assert pose[0, 3] == pytest.approx(1.05)
    assert track.at(ns(19.85)) is None


def test_a_frame_waits_for_odometry_that_is_late() -> None:
    synchronizer = Synchronizer(RequiredInputs(poses=True))
    assert not synchronizer.is_final(ns(3.0), 'camera')
    assert seen(synchronizer, 3.0).problem == 'no message of odometry has come'
    # One image waited in vain, the others need not.
    assert synchronizer.is_final(ns(3.1), 'camera')
    drive(synchronizer, 4.0, 4.9, late_s=0.6)
    assert not synchronizer.is_final(ns(5.0), 'camera')
    assert seen(synchronizer, 5.0).pose is None
    drive(synchronizer, 4.9, 5.1, late_s=0.6)
    assert synchronizer.is_final(ns(5.0), 'camera')
    found = seen(synchronizer, 5.0)
    assert found.problem == ''
    assert found.pose[0, 3] == pytest.approx(5.0)


def test_clouds_and_quaternions_are_read_by_the_libraries_that_are_given() -> None:
    turned = []

    def rotation(quaternion: Any) -> np.ndarray:
        turned.append(tuple(quaternion))
        return np.diag([-1.0, -1.0, 1.0])

    points = np.full((300, 3), 7.0, np.float32)
    synchronizer = Synchronizer(
        RequiredInputs(poses=True, points=True), MessageDecoders(lambda message: points, rotation)
    )
    synchronizer.add_odometry(odometry(1.0, 5.0), ns(1.0))
    synchronizer.add_odometry(odometry(1.1, 5.1), ns(1.1))
    synchronizer.add_cloud(cloud(1.0), ns(1.0))
    found = seen(synchronizer, 1.0, arrived_s=1.0)
    assert found.points is points
    assert found.pose[:3, :3] == pytest.approx(np.diag([-1.0, -1.0, 1.0]))
    assert turned == [(0.0, 0.0, 0.0, 1.0)] * 2
    links = TransformBuffer(rotation)
    transform = transform_fields(np.eye(4), 0, 'base_link', 'camera')
    links.add(TYPES.build('tf2_msgs/msg/TFMessage', {'transforms': [transform]}), fixed=True)
    assert links.lookup('base_link', 'camera', 0)[:3, :3] == pytest.approx(np.diag([-1, -1, 1]))


def test_a_frame_after_a_jump_waits_for_odometry_to_jump_too() -> None:
    synchronizer = Synchronizer(RequiredInputs(poses=True))
    drive(synchronizer, 18.0, 20.0)
    assert not synchronizer.is_final(ns(1.0), 'camera')
    for time_s in (0.95, 1.0, 1.05):
        synchronizer.add_odometry(odometry(time_s, time_s), ns(120.5 + time_s))
    assert synchronizer.is_final(ns(1.0), 'camera')
    assert seen(synchronizer, 1.0, arrived_s=121.3).pose[0, 3] == pytest.approx(1.0)


def test_two_sources_of_odometry_are_not_mixed() -> None:
    synchronizer = Synchronizer(RequiredInputs(poses=True))
    for time_s in np.arange(1.0, 2.0, 0.05):
        synchronizer.add_odometry(odometry(time_s, time_s), ns(time_s))
        synchronizer.add_odometry(odometry(time_s, 50 + time_s, parent='map'), ns(time_s))
    found = seen(synchronizer, 1.5, arrived_s=1.5)
    assert found.pose[0, 3] == pytest.approx(1.5)
    assert found.remark == 'odometry of odom -> base_link is used, not map -> base_link (20)'


def no_turn(synchronizer: Synchronizer) -> None:
    message = odometry(1.0, 0.0)
    message.pose.pose.orientation.w = 0.0
    for _ in range(3):
        with pytest.raises(MessageError):
            synchronizer.add_odometry(message, ns(101.0))


def twist_only(synchronizer: Synchronizer) -> None:
    for time_s in np.arange(0.0, 2.0, 0.05):
        synchronizer.add_odometry(odometry(time_s, 0.0, speed=0.7), ns(100 + time_s))


def zero_stamps(synchronizer: Synchronizer) -> None:
    for time_s in np.arange(0.5, 1.5, 0.05):
        synchronizer.add_odometry(odometry(0.0, time_s), ns(100 + time_s))


def shifted(seconds: float) -> Any:
    def fill(synchronizer: Synchronizer) -> None:
        for time_s in np.arange(0.0, 3.0, 0.05):
            synchronizer.add_odometry(odometry(time_s + seconds, time_s), ns(100 + time_s))

    return fill


def rare(synchronizer: Synchronizer) -> None:
    for time_s in (0.2, 1.2):
        synchronizer.add_odometry(odometry(time_s, time_s), ns(100 + time_s))


@pytest.mark.parametrize(
    ('fill', 'words'),
    [
        (lambda synchronizer: None, 'no message of odometry has come'),
        (no_turn, r'all 3 messages of odometry were refused: .*quaternion 0 0 0 0'),
        (twist_only, r'does not change, though its twist says 0.70 m/s'),
        (zero_stamps, 'stamps of odometry are 0'),
        (shifted(5.0), r'5\.0 s ahead of those of the images: they are of another clock'),
        (shifted(-5.0), r'5\.0 s behind those of the images'),
        (shifted(1.7e9), r'170000000[01]\.0 s ahead of'),
        (rare, r'1\.00 s apart around the image, expected 0\.5 s'),
    ],
)
def test_odometry_that_cannot_be_used_has_its_reason(fill: Any, words: str) -> None:
    synchronizer = Synchronizer(RequiredInputs(poses=True))
    fill(synchronizer)
    found = seen(synchronizer, 1.0)
    assert found.pose is None
    assert re.search(words, found.problem), found.problem


def test_odometry_that_stops_is_said() -> None:
    synchronizer = Synchronizer(RequiredInputs(poses=True))
    drive(synchronizer, 0.0, 1.0)
    assert 'its last message is 4.0 s older than' in seen(synchronizer, 4.95).problem


def test_a_robot_at_rest_is_no_fault() -> None:
    synchronizer = Synchronizer(RequiredInputs(poses=True))
    for time_s in np.arange(0.0, 3.0, 0.05):
        synchronizer.add_odometry(odometry(time_s, 2.0, speed=0.001), ns(100 + time_s))
    assert seen(synchronizer, 2.0).problem == ''


@pytest.mark.parametrize(
    ('message', 'words'),
    [
        (cloud(1.0, unit=1000.0), r'over 34641 m away, expected metres .*millimetres\?'),
        (cloud(1.3), r'clouds of the lidar is 0\.30 s newer than the image'),
        (cloud(6.0), r'5\.0 s ahead'),
    ],
)
def test_clouds_that_cannot_be_used_have_their_reason(message: Any, words: str) -> None:
    synchronizer = Synchronizer(RequiredInputs(points=True))
    synchronizer.add_cloud(message, ns(101.0))
    found = seen(synchronizer, 1.0)
    assert found.points is None
    assert re.search(words, found.problem), found.problem


def test_the_cloud_nearest_in_time_is_taken() -> None:
    synchronizer = Synchronizer(RequiredInputs(points=True))
    for time_s in (0.9, 1.02, 1.1):
        synchronizer.add_cloud(cloud(time_s, unit=time_s), ns(100 + time_s))
    assert seen(synchronizer, 1.0).points[0, 0] == pytest.approx(20 * 1.02)
