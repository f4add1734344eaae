"""Bags written and read back, and every way a file can fail to be a bag."""

import errno
from pathlib import Path
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import get_typestore, Stores

from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.data.message_types import MessageTypes
from psd_depth_ros.errors import BagError, MessageError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import (
    camera_from_info,
    camera_info_fields,
    decode,
    header_fields,
    image_fields,
    odometry_fields,
    stamp_ns,
    transform_fields,
)

IMAGE = 'sensor_msgs/msg/Image'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
START = 1_700_000_000_000_000_000
CAMERA = Camera(16, 12, 20, 20, 7.5, 5.5)


def make_rgb(index):
    return np.random.default_rng(index).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def write_bag(path, count=3):
    with BagWriter(path) as writer:
        for index in range(count):
            stamp = START + index * 100_000_000
            writer.write('/cam/image', IMAGE, image_fields(make_rgb(index), 'rgb8'), stamp, 'cam')
            writer.write('/cam/camera_info', CAMERA_INFO, camera_info_fields(CAMERA), stamp, 'cam')
    return path


def test_what_is_written_is_read(tmp_path):
    with BagReader(write_bag(tmp_path / 'a.mcap')) as bag:
        assert {name: info.count for name, info in bag.topics.items()} == {
            '/cam/camera_info': 3,
            '/cam/image': 3,
        }
        assert (bag.start_ns, bag.end_ns) == (START, START + 200_000_000)
        images = list(bag.messages(['/cam/image']))
        for index, item in enumerate(images):
            assert np.array_equal(decode(item.message), make_rgb(index))
            assert stamp_ns(item.message.header) == item.timestamp_ns
            assert item.message.header.frame_id == 'cam'
        info = next(bag.messages(['/cam/camera_info'])).message
        assert camera_from_info(info) == CAMERA


def test_reading_starts_and_stops_at_a_time(tmp_path):
    with BagReader(write_bag(tmp_path / 'a.mcap')) as bag:
        later = list(bag.messages(start_ns=START + 1))
        assert len(later) == 4
        assert len(list(bag.messages(['/cam/image'], stop_ns=START + 100_000_000))) == 1


def test_the_same_calls_make_the_same_bytes(tmp_path):
    first = write_bag(tmp_path / 'first.mcap').read_bytes()
    assert write_bag(tmp_path / 'another_name.mcap').read_bytes() == first


def test_chunks_and_their_index(tmp_path):
    """More than one chunk of 4 MiB, so that seeking uses the index."""
    path = tmp_path / 'big.mcap'
    block = np.arange(3 << 20, dtype=np.uint8).reshape(1024, 1024, 3)
    with BagWriter(path) as writer:
        for index in range(4):
            writer.write('/cam/image', IMAGE, image_fields(block + index, 'rgb8'), index, 'cam')
    with BagReader(path) as bag:
        last = list(bag.messages(start_ns=3))
        assert len(last) == 1
        assert np.array_equal(decode(last[0].message), block + 3)


def test_nested_messages_and_zero_defaults(tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    with BagWriter(tmp_path / 'a.mcap') as writer:
        transform = transform_fields(pose, 7, 'map', 'base')
        writer.write('/tf', 'tf2_msgs/msg/TFMessage', {'transforms': [transform]}, 7)
        writer.write('/odom', 'nav_msgs/msg/Odometry', odometry_fields(pose, 'base'), 8, 'odom')
        status = {'name': 'depth', 'values': [{'key': 'fps', 'value': '25'}]}
        fields = {'header': header_fields(9, ''), 'status': [status]}
        writer.write('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray', fields, 9)
    with BagReader(tmp_path / 'a.mcap') as bag:
        tf, odometry, diagnostics = (item.message for item in bag.messages())
    assert tf.transforms[0].transform.translation.y == 2
    assert odometry.pose.pose.position.z == 3
    assert diagnostics.status[0].values[0].value == '25'
    assert diagnostics.status[0].message == ''


def test_a_message_field_that_does_not_exist():
    with pytest.raises(BagError, match=r'Image has no field colour; its fields are .*encoding'):
        MessageTypes().build(IMAGE, {'colour': 1})
    with pytest.raises(BagError, match="'my_msgs/msg/Thing' is not known"):
        MessageTypes().build('my_msgs/msg/Thing', {})


def test_a_failed_write_leaves_nothing_and_keeps_the_old_file(tmp_path):
    path = write_bag(tmp_path / 'a.mcap')
    before = path.read_bytes()
    with pytest.raises(BagError, match='no field colour'), BagWriter(path) as writer:
        writer.write('/cam/image', IMAGE, {'colour': 1}, 1, 'cam')
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    code = f"""
import os
from psd_depth_ros.data.bags import BagWriter
with BagWriter({str(tmp_path / 'a.mcap')!r}) as writer:
    os._exit(9)
"""
    left = set()
    for _ in range(2):
        assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 9
        left |= {path.name for path in tmp_path.iterdir()}
    assert len(left) == 2  # nobody can guess the names
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(BagError, match='0 bag files'), BagReader(tmp_path):
        pass
    with BagWriter(tmp_path / 'a.mcap'):  # in use: not to be removed
        write_bag(tmp_path / 'a.mcap')
        assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ['a.mcap']


def test_outputs_that_cannot_be(tmp_path):
    with pytest.raises(BagError, match=r'written as \.mcap files; found .*out\.db3'):
        BagWriter(tmp_path / 'out.db3')
    (tmp_path / 'folder.mcap').mkdir()
    with pytest.raises(BagError, match='is a folder'):
        BagWriter(tmp_path / 'folder.mcap')
    (tmp_path / 'file').write_text('')
    with pytest.raises(BagError, match='cannot be written'), BagWriter(tmp_path / 'file/a.mcap'):
        pass


def test_a_topic_keeps_its_type(tmp_path):
    with BagWriter(tmp_path / 'a.mcap') as writer:
        writer.write('/cam/image', IMAGE, image_fields(make_rgb(0), 'rgb8'), 1, 'cam')
        with pytest.raises(BagError, match='/cam/image holds sensor_msgs/msg/Image'):
            writer.write('/cam/image', CAMERA_INFO, camera_info_fields(CAMERA), 1, 'cam')


class FullDisk:
    """A stream that takes so many bytes, then what a full disk does."""

    def __init__(self, stream, size):
        self._stream, self._left = stream, size

    def writelines(self, parts):
        for part in parts:
            self._stream.write(part[: max(self._left, 0)])
            self._left -= len(part)
            if self._left < 0:
                raise OSError(errno.ENOSPC, 'No space left on device')

    def close(self):
        self._stream.close()


def fill_disk(path, message, room):
    with BagWriter(path) as writer:
        writer._file._stream = FullDisk(writer._stream, room)
        for time_ns in range(20):
            writer.write_raw('/cam/image', IMAGE, message, time_ns)


@pytest.mark.parametrize(('room_mb', 'kept'), [(9, 8), (1, 0)])
def test_a_full_disk_leaves_what_was_written_and_the_older_bag(tmp_path, room_mb, kept):
    """Chunks of 4 MB are written whole; 1 MB messages."""
    path, message = tmp_path / 'a.mcap', b'\0' * 2**20
    with BagWriter(path) as writer:
        writer.write_raw('/cam/image', IMAGE, b'older', 1)
    expected = 'No space left on device' + ('; what was written.*a_cut_1' if kept else '$')
    with pytest.raises(BagError, match=expected):
        fill_disk(path, message, room_mb << 20)
    assert len([*tmp_path.iterdir()]) == 1 + bool(kept)
    with BagReader(path) as bag:
        assert [item.cdr for item in bag.messages()] == [b'older']
    if kept:
        with BagReader(tmp_path / 'a_cut_1.mcap') as bag:
            assert [item.timestamp_ns for item in bag.messages()][:kept] == [*range(kept)]


def write_with_rosbags(path, plugin):
    """Write one image with the writers of rosbags, for the formats we do not write."""
    types = MessageTypes()
    store = get_typestore(Stores.ROS2_JAZZY)
    fields = {'header': header_fields(START, 'cam'), **image_fields(make_rgb(0), 'rgb8')}
    with Rosbag2Writer(path, version=9, storage_plugin=plugin) as writer:
        connection = writer.add_connection('/cam/image', IMAGE, typestore=store)
        writer.write(connection, START, types.serialize(IMAGE, fields))
    return path


def test_folders_and_files_of_rosbag2(tmp_path):
    sqlite = write_with_rosbags(tmp_path / 'sqlite', StoragePlugin.SQLITE3)
    mcap = write_with_rosbags(tmp_path / 'mcap', StoragePlugin.MCAP)
    for path in (sqlite, sqlite / 'sqlite.db3', mcap, mcap / 'mcap.mcap'):
        with BagReader(path) as bag:
            message = next(bag.messages(['/cam/image'])).message
            assert np.array_equal(decode(message), make_rgb(0))
    (mcap / 'metadata.yaml').unlink()
    with BagReader(mcap) as bag:
        assert bag.topics['/cam/image'].count == 1


def test_rosbag1_gives_cdr(tmp_path):
    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    rgb = make_rgb(0)
    header = types['std_msgs/msg/Header'](
        seq=5, stamp=types['builtin_interfaces/msg/Time'](3, 4), frame_id='cam'
    )
    message = types[IMAGE](header, 12, 16, 'rgb8', 0, 48, rgb.reshape(-1))
    with Rosbag1Writer(tmp_path / 'old.bag') as writer:
        connection = writer.add_connection('/cam/image', IMAGE, typestore=store)
        writer.write(connection, 5, store.serialize_ros1(message, IMAGE))
    with BagReader(tmp_path / 'old.bag') as bag:
        item = next(bag.messages())
        assert np.array_equal(decode(item.message), rgb)
        assert stamp_ns(item.message.header) == 3_000_000_004
        modern = get_typestore(Stores.ROS2_JAZZY).deserialize_cdr(item.cdr, IMAGE)
        assert np.array_equal(decode(modern), rgb)
        assert modern.header.frame_id == 'cam'


def make_unreadable(folder, kind):
    path = folder / f'{kind}.mcap'
    whole = write_bag(folder / 'whole.mcap').read_bytes()
    contents = {
        'empty': b'',
        'cut_short': whole[: len(whole) // 2],
        'end_missing': whole[:-9],
        'noise': np.random.default_rng(0).bytes(2000),
        'text': b'fx: 720.0\n' * 50,
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize('kind', ['empty', 'noise', 'text'])
def test_files_that_are_no_whole_bag(tmp_path, kind):
    path = make_unreadable(tmp_path, kind)
    with (
        pytest.raises(BagError, match=rf'{kind}\.mcap is empty, cut short or damaged: \w+'),
        BagReader(path),
    ):
        pass


@pytest.mark.parametrize(('kind', 'count'), [('cut_short', 3), ('end_missing', 6)])
def test_what_is_whole_of_a_file_is_read(tmp_path, kind, count):
    with BagReader(make_unreadable(tmp_path, kind)) as bag:
        assert len(list(bag.messages())) == count
        assert bool(bag.notes) == (kind == 'cut_short')  # without an end nothing is lost


@pytest.mark.parametrize('suffix', ['.db3', '.bag'])
def test_other_formats_full_of_noise(tmp_path, suffix):
    path = tmp_path / f'noise{suffix}'
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    with pytest.raises(BagError, match='empty, cut short or damaged'), BagReader(path):
        pass


def test_a_database_that_is_no_bag(tmp_path):
    path = tmp_path / 'other.db3'
    with sqlite3.connect(path) as connection:
        connection.execute('CREATE TABLE people (name TEXT)')
    (tmp_path / 'empty.db3').write_bytes(b'')
    with pytest.raises(BagError, match=r'empty\.db3 is empty: the file has 0 bytes'):
        BagReader(tmp_path / 'empty.db3').__enter__()
    expected = 'no bag of rosbag2: its tables are people'
    with pytest.raises(BagError, match=expected), BagReader(path):
        pass


def test_a_bag_without_messages(tmp_path):
    with BagWriter(tmp_path / 'none.mcap'):
        pass
    with pytest.raises(BagError, match='holds no messages'), BagReader(tmp_path / 'none.mcap'):
        pass


def test_paths_that_are_no_bag(tmp_path):
    with pytest.raises(BagError, match=r'gone\.mcap is not there'), BagReader('gone.mcap'):
        pass
    video = tmp_path / 'drive.mp4'
    video.write_bytes(b'x')
    with pytest.raises(BagError, match=r'drive\.mp4 is not a bag; .*\*\.mcap'), BagReader(video):
        pass
    with pytest.raises(BagError, match=r'no metadata\.yaml and 0 bag files'), BagReader(tmp_path):
        pass


def test_a_bag_damaged_inside_reads_up_to_the_damage(tmp_path):
    path = write_bag(tmp_path / 'a.mcap')
    content = bytearray(path.read_bytes())
    place = content.index(make_rgb(1).tobytes())
    content[place - 40 : place] = b'\xff' * 40
    path.write_bytes(content)
    with pytest.raises(BagError, match='damaged'), BagReader(path) as bag:
        list(bag.messages())


def test_a_damaged_message_is_named(tmp_path):
    with BagWriter(tmp_path / 'a.mcap') as writer:
        writer.write_raw('/cam/image', IMAGE, b'\x00\x01\x00\x00' + b'\xff' * 20, 5)
    with BagReader(tmp_path / 'a.mcap') as bag:
        item = next(bag.messages())
        with pytest.raises(MessageError, match=r'/cam/image at 5 ns .* \(24 bytes\)'):
            _ = item.message


def test_a_topic_that_is_not_there_lists_those_that_are(tmp_path):
    with BagReader(write_bag(tmp_path / 'a.mcap')) as bag, pytest.raises(BagError) as caught:
        list(bag.messages(['/cam/imag']))
    message = str(caught.value)
    assert 'did you mean /cam/image?' in message
    assert '/cam/camera_info (sensor_msgs/msg/CameraInfo, 3)' in message


def test_other_readers_open_the_file(tmp_path):
    path = write_bag(tmp_path / 'a.mcap')
    with AnyReader([Path(path)]) as reader:
        assert reader.message_count == 6
        assert reader.connections[0].digest == ''
        assert reader.connections[0].msgdef.data.startswith('std_msgs/Header header')
