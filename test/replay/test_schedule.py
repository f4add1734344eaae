"""The timetable of a tiny bag: due times by hand, rates, windows, loops and the clock."""

from itertools import islice

import cv2
import numpy as np
import pytest

from psd_depth_ros.config import build
from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.data.message_types import MessageTypes
from psd_depth_ros.errors import BagError, CalibrationError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import (
    camera_info_fields,
    decode,
    image_fields,
    odometry_fields,
    stamp_ns,
    transform_fields,
)
from psd_depth_ros.replay.player import PlaybackSettings, Schedule
from psd_depth_ros.replay.recordings import open_recording

START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
CAMERA = Camera(16, 12, 20, 20, 7.5, 5.5)
IMAGE, INFO = '/cam/image', '/cam/camera_info'


@pytest.fixture
def path(tmp_path):
    """Three frames 0.1 s apart, odometry and TF, and a topic nobody plays."""
    with BagWriter(tmp_path / 'drive.mcap') as writer:
        for index in range(3):
            stamp = START_NS + index * STEP_NS
            rgb = np.full((12, 16, 3), index, np.uint8)
            writer.write(IMAGE, 'sensor_msgs/msg/Image', image_fields(rgb, 'rgb8'), stamp, 'cam')
            writer.write(INFO, 'sensor_msgs/msg/CameraInfo', camera_info_fields(CAMERA), stamp, '')
            transform = transform_fields(np.eye(4), stamp, 'odom', 'base')
            writer.write('/tf', 'tf2_msgs/msg/TFMessage', {'transforms': [transform]}, stamp)
            odometry = odometry_fields(np.eye(4), 'base')
            writer.write('/odom', 'nav_msgs/msg/Odometry', odometry, stamp, 'odom')
            writer.write('/text', 'std_msgs/msg/String', {'data': 'hello'}, stamp)
    return tmp_path / 'drive.mcap'


def due_times(schedule, count=100):
    return [round(due.due_s, 6) for due in islice(schedule, count) if due.message.topic == IMAGE]


def test_what_is_played_and_that_bytes_stay_as_recorded(path):
    with open_recording(path) as recording, BagReader(path) as bag:
        assert recording.topics == {
            INFO: 'sensor_msgs/msg/CameraInfo',
            IMAGE: 'sensor_msgs/msg/Image',
            '/odom': 'nav_msgs/msg/Odometry',
            '/tf': 'tf2_msgs/msg/TFMessage',
        }
        played = list(recording.messages(recording.start_ns, recording.end_ns))
        recorded = [item for item in bag.messages() if item.topic != '/text']
        assert [bytes(one.cdr) for one in played] == [item.raw for item in recorded]


def test_topics_chosen_and_renamed(path):
    with open_recording(path, only=(IMAGE,), renamed={IMAGE: '/front'}) as recording:
        assert list(recording.topics) == ['/front']
        messages = recording.messages(recording.start_ns, recording.end_ns)
        assert {message.topic for message in messages} == {'/front'}
    with pytest.raises(BagError, match='/nothing is not in bag'):
        open_recording(path, only=('/nothing',))


def test_due_times_follow_the_rate(path):
    with open_recording(path) as recording:
        assert due_times(Schedule(recording, PlaybackSettings())) == [0, 0.1, 0.2]
        assert due_times(Schedule(recording, PlaybackSettings(rate=4.0))) == [0, 0.025, 0.05]


def test_a_window_of_the_recording(path):
    with open_recording(path) as recording:
        late = Schedule(recording, PlaybackSettings(start_s=0.05))
        assert due_times(late) == [0.05, 0.15]
        assert late.clock_ns(0) == START_NS + STEP_NS // 2
        assert due_times(Schedule(recording, PlaybackSettings(duration_s=0.1))) == [0, 0.1]
        with pytest.raises(BagError, match=r'start is 5 s into the recording, which lasts 0\.2 s'):
            Schedule(recording, PlaybackSettings(start_s=5.0))


def test_a_loop_goes_on_and_keeps_the_stamps(path):
    with open_recording(path, only=(IMAGE,)) as recording:
        schedule = Schedule(recording, PlaybackSettings(loop=True, rate=2.0))
        due = list(islice(schedule, 7))
    assert [round(one.due_s, 6) for one in due] == [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert [one.round for one in due] == [0, 0, 0, 1, 1, 1, 2]
    assert due[3].message.time_ns == START_NS
    assert due[3].message.cdr == due[0].message.cdr


def test_the_clock_runs_at_the_rate_and_jumps_back_in_a_loop(path):
    with open_recording(path) as recording:
        once = Schedule(recording, PlaybackSettings(rate=2.0))
        assert once.clock_ns(0.05) == START_NS + STEP_NS
        assert once.clock_ns(50.0) == START_NS + 3 * STEP_NS
        loop = Schedule(recording, PlaybackSettings(loop=True))
        assert loop.round_s == pytest.approx(0.3)
        assert loop.clock_ns(0.25) > loop.clock_ns(0.35) == START_NS + STEP_NS // 2


def test_a_camera_of_ones_own_replaces_the_recorded_one(path):
    mine = Camera(16, 12, 99, 99, 7.5, 5.5)
    with open_recording(path, camera=mine, renamed={IMAGE: '/front/image'}) as recording:
        assert INFO not in recording.topics
        messages = list(recording.messages(recording.start_ns, recording.end_ns))
    infos = [one for one in messages if one.topic == '/front/camera_info']
    assert len(infos) == 3
    types = MessageTypes()
    assert types.deserialize(infos[0].msgtype, infos[0].cdr).k[0] == 99
    with open_recording(path, horizontal_fov_deg=90) as recording:
        info = next(recording.messages(recording.start_ns, recording.end_ns))
    assert info.topic == INFO
    assert types.deserialize(info.msgtype, info.cdr).k[0] == pytest.approx(8)


@pytest.mark.parametrize('own', [None, CAMERA])
def test_images_without_stamps_are_said_or_take_those_of_recording(path, tmp_path, own):
    with BagReader(path) as bag, BagWriter(tmp_path / 'unstamped.mcap') as writer:
        for item in bag.messages([IMAGE, INFO]):
            cdr = bytearray(item.cdr)
            cdr[4:12] = bytes(8)
            writer.write_raw(item.topic, item.msgtype, bytes(cdr), item.timestamp_ns)
    with open_recording(writer.path, camera=own) as recording:
        for _ in recording.messages(recording.start_ns, recording.end_ns):
            pass
        (note,) = recording.notes
        assert note.startswith('all 3 images have no stamps')
        assert '--stamps recorded' in note
    types = MessageTypes()
    with open_recording(writer.path, camera=own, stamps='recorded') as recording:
        played = list(recording.messages(recording.start_ns, recording.end_ns))
        assert recording.notes == []
    assert len(played) == 6
    for one in played:
        message = types.deserialize(one.msgtype, bytes(one.cdr))
        assert stamp_ns(message.header) == one.time_ns
        assert message.width == 16


def test_a_folder_becomes_image_and_camera_info(tmp_path):
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{index}.png'), np.full((12, 16, 3), 50 * index, np.uint8))
    with pytest.raises(CalibrationError, match='without a calibration'):
        open_recording(tmp_path)
    with open_recording(tmp_path, camera=CAMERA) as recording:
        schedule = Schedule(recording, PlaybackSettings(start_s=0.1))
        due = list(schedule)
    assert [round(one.due_s, 6) for one in due] == [0, 0, 0.1, 0.1]
    assert [one.message.topic for one in due[:2]] == ['/camera/camera_info', '/camera/image']
    message = MessageTypes().deserialize('sensor_msgs/msg/Image', due[3].message.cdr)
    assert decode(message)[0, 0].tolist() == [100, 100, 100]
    assert message.header.stamp.sec == 1


def test_a_bag_with_nothing_to_play(tmp_path):
    with BagWriter(tmp_path / 'a.mcap') as writer:
        writer.write('/text', 'std_msgs/msg/String', {'data': 'hello'}, 1)
    with pytest.raises(BagError, match=r'has nothing to play .*its topics are:\s+/text'):
        open_recording(tmp_path / 'a.mcap')


@pytest.mark.parametrize(('name', 'value'), [('rate', 0.0), ('rate', 1e9), ('start_s', -1.0)])
def test_settings_out_of_range(name, value):
    with pytest.raises(SettingsError, match=name):
        build(PlaybackSettings, {name: value})
