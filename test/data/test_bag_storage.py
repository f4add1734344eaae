"""What recorders leave behind: killed, cut short, split, compressed, or not of ROS at all."""

import re
import shutil
import sqlite3
import struct
import zlib

import lz4.frame
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import get_typestore, Stores

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.compression import compress_zstd
from psd_depth_ros.data.message_types import MessageTypes
from psd_depth_ros.data.open import split_folder
from psd_depth_ros.errors import BagError, MessageError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_info_fields, decode, header_fields, image_fields

IMAGE, INFO = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CameraInfo'
CAMERA = Camera(16, 12, 20, 20, 7.5, 5.5)
TYPES = MessageTypes()
STEP_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000


def image_cdr(index):
    header = {'header': header_fields(START_NS + index * STEP_NS, 'cam')}
    rgb = np.full((12, 16, 3), index, np.uint8)
    return bytes(TYPES.serialize(IMAGE, {**header, **image_fields(rgb, 'rgb8')}))


def info_cdr():
    header = {'header': header_fields(START_NS, 'cam')}
    return bytes(TYPES.serialize(INFO, {**header, **camera_info_fields(CAMERA)}))


def seen(path):
    """Red of every image of a bag, in the order it is read."""
    with BagReader(path) as bag:
        return [int(decode(item.message)[0, 0, 0]) for item in bag.messages(['/cam/image'])]


def notes_of(path):
    with BagReader(path) as bag:
        list(bag.messages())
        return ' | '.join(bag.notes)


# SQLite


def open_database(path, journal='wal'):
    database = sqlite3.connect(path)
    database.execute(f'PRAGMA journal_mode={journal}')
    database.execute('PRAGMA wal_autocheckpoint=0')
    database.executescript(
        'CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT, type TEXT, '
        'serialization_format TEXT, offered_qos_profiles TEXT);'
        'CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, '
        'data BLOB); CREATE INDEX timestamp_idx ON messages (timestamp ASC);'
    )
    database.execute("INSERT INTO topics VALUES (1, '/cam/image', ?, 'cdr', '')", (IMAGE,))
    return database


def insert(database, indices, pack=bytes):
    for index in indices:
        row = (START_NS + index * STEP_NS, pack(image_cdr(index)))
        database.execute('INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)', row)
    database.commit()


def write_database(path, indices, pack=bytes):
    database = open_database(path, 'delete')
    insert(database, indices, pack)
    database.close()
    return path


def killed_database(path, merged, in_log):
    """A database as a recorder leaves it that is killed: some messages are in the log only."""
    working = path.with_name('working.db3')
    database = open_database(working)
    insert(database, merged)
    database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    insert(database, in_log)
    shutil.copy(working, path)
    shutil.copy(f'{working}-wal', f'{path}-wal')
    database.close()
    working.unlink()
    return path


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize('merged', [range(3), range(0)])
def test_the_log_of_a_killed_recorder_is_read_and_left_alone(tmp_path, merged):
    path = killed_database(tmp_path / 'drive.db3', merged, range(len(merged), 8))
    before = contents(tmp_path)
    assert seen(path) == list(range(8))
    assert 'not closed by its recorder' in notes_of(path)
    assert contents(tmp_path) == before


def test_a_log_that_is_damaged_itself(tmp_path):
    path = killed_database(tmp_path / 'drive.db3', range(3), range(3, 8))
    assert 'pages in the log' not in notes_of(path)
    log = tmp_path / 'drive.db3-wal'
    log.write_bytes(log.read_bytes()[:-900])
    assert seen(path) == [0, 1, 2]  # the others were one transaction
    assert re.search(r'\d of \d pages in the log of .*drive\.db3 are damaged', notes_of(path))


def test_a_log_on_read_only_media(tmp_path):
    folder = tmp_path / 'drive'
    folder.mkdir()
    path = killed_database(folder / 'drive.db3', range(2), range(2, 5))
    folder.chmod(0o500)
    try:
        assert seen(path) == [0, 1, 2, 3, 4]
        assert seen(folder) == [0, 1, 2, 3, 4]
    finally:
        folder.chmod(0o700)


def test_a_half_written_transaction_is_taken_back(tmp_path):
    """A rollback journal: what it holds is how the pages were before."""
    path = tmp_path / 'drive.db3'
    write_database(path, range(40))
    before = path.read_bytes()
    database = sqlite3.connect(path)
    database.execute('PRAGMA cache_size=1')  # so that pages go to the file before the commit
    database.execute('BEGIN')
    database.execute('UPDATE messages SET data = zeroblob(700)')
    hot = tmp_path / 'hot'
    hot.mkdir()
    for name in ('drive.db3', 'drive.db3-journal'):
        shutil.copy(tmp_path / name, hot / name)
    database.rollback()
    database.close()
    assert (hot / 'drive.db3-journal').stat().st_size > 0
    assert (hot / 'drive.db3').read_bytes() != before
    assert seen(hot / 'drive.db3') == list(range(40))


METADATA = """rosbag2_bagfile_information:
  version: {version}
  storage_identifier: sqlite3
  relative_file_paths: {files}
  duration: {{nanoseconds: 1}}
  starting_time: {{nanoseconds_since_epoch: {start}}}
  message_count: 1
  topics_with_message_count: []
"""


def write_metadata(folder, files, version=5, start=0, more=''):
    text = METADATA.format(version=version, files=files, start=start)
    (folder / 'metadata.yaml').write_text(text + more)


@pytest.mark.parametrize('listed', [None, range(11), range(12)])
def test_split_files_in_the_order_of_their_numbers(tmp_path, listed):
    """Twelve parts, the last killed: 10 comes after 9, with metadata that knows it and without."""
    folder = tmp_path / 'drive'
    folder.mkdir()
    for part in range(11):
        write_database(folder / f'drive_{part}.db3', [part])
    killed_database(folder / 'drive_11.db3', [11], [12])
    if listed is not None:
        write_metadata(folder, [f'drive_{part}.db3' for part in listed])
    assert seen(folder) == list(range(13))
    assert split_folder(folder) == [folder]
    assert ('not listed' in notes_of(folder)) == (listed == range(11))


def test_bags_beside_each_other_are_no_parts(tmp_path):
    for name in ('b10', 'b2', 'a1'):
        write_database(tmp_path / f'{name}.db3', [0])
    assert [path.stem for path in split_folder(tmp_path)] == ['a1', 'b2', 'b10']
    with pytest.raises(BagError, match=r'3 bag files that are not the parts .*\n  a1\.db3\n  b2'):
        seen(tmp_path)


def test_compressed_messages_without_metadata(tmp_path):
    path = write_database(tmp_path / 'drive.db3', range(3), compress_zstd)
    assert seen(path) == [0, 1, 2]
    broken = write_database(tmp_path / 'b.db3', range(1), lambda raw: compress_zstd(raw)[:-9])
    with pytest.raises(MessageError, match='compressed and cannot be unpacked'):
        seen(broken)


def test_compressed_files_without_metadata(tmp_path):
    write_database(tmp_path / 'drive.db3', range(3))
    packed = compress_zstd((tmp_path / 'drive.db3').read_bytes())
    (tmp_path / 'drive.db3').unlink()
    (tmp_path / 'drive.db3.zstd').write_bytes(packed)
    assert seen(tmp_path) == seen(tmp_path / 'drive.db3.zstd') == [0, 1, 2]
    (tmp_path / 'drive.db3.zstd').write_bytes(b'no frame of any kind')
    with pytest.raises(BagError, match=r'drive\.db3\.zstd is empty, cut short or damaged'):
        seen(tmp_path)
    (tmp_path / 'drive.db3.zstd').write_bytes(packed[: len(packed) // 2])
    with pytest.raises(BagError) as caught:
        seen(tmp_path)
    assert str(tmp_path / 'drive.db3.zstd') in str(caught.value)


@pytest.mark.parametrize('plugin', list(StoragePlugin))
@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_what_rosbags_compresses(tmp_path, plugin, mode):
    if (plugin, mode) == (StoragePlugin.MCAP, CompressionMode.MESSAGE):
        mode = CompressionMode.STORAGE  # zstd chunks
    writer = Rosbag2Writer(tmp_path / 'bag', version=9, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        store = get_typestore(Stores.ROS2_JAZZY)
        connection = writer.add_connection('/cam/image', IMAGE, typestore=store)
        for index in range(3):
            writer.write(connection, START_NS + index, image_cdr(index))
    assert seen(tmp_path / 'bag') == [0, 1, 2]


@pytest.mark.parametrize(
    'metadata',
    [
        b'rosbag2_bagfile_information: [text, where, a, mapping, belongs]',
        b'rosbag2_bagfile_information: {relative_file_paths: 7}',
        b'\xff\xfe not UTF-8',
        b'[' * 300,
        b'',
    ],
)
def test_metadata_that_is_damaged_is_named_and_not_needed(tmp_path, metadata):
    write_database(tmp_path / 'drive_0.db3', range(3))
    (tmp_path / 'metadata.yaml').write_bytes(metadata)
    assert seen(tmp_path) == [0, 1, 2]
    assert 'metadata.yaml' in notes_of(tmp_path)
    (tmp_path / 'drive_0.db3').unlink()
    with pytest.raises(BagError, match=r'metadata\.yaml'):
        seen(tmp_path)


def test_metadata_with_text_where_a_number_belongs(tmp_path):
    write_database(tmp_path / 'drive_0.db3', range(3))
    write_metadata(tmp_path, ['drive_0.db3'], version='many', start='yesterday')
    assert seen(tmp_path) == [0, 1, 2]
    write_metadata(tmp_path, ['drive_0.db3', 'drive_1.db3'])
    with pytest.raises(BagError, match=r'lacks drive_1\.db3, which its metadata\.yaml lists'):
        seen(tmp_path)


@pytest.mark.parametrize('name', ['sensor_msgs/Image', 'sensor_msgs::msg::dds_::Image_'])
def test_other_spellings_of_a_type(tmp_path, name):
    path = write_database(tmp_path / 'a.db3', range(2))
    with sqlite3.connect(path) as database:
        database.execute('UPDATE topics SET type = ?', (name,))
    database.close()
    assert seen(path) == [0, 1]
    with BagReader(path) as bag:
        assert bag.pick_image_topic() == '/cam/image'


def test_a_database_without_an_index_by_time(tmp_path):
    path = write_database(tmp_path / 'a.db3', [2, 0, 1])
    assert seen(path) == [0, 1, 2]
    with sqlite3.connect(path) as database:
        database.execute('DROP INDEX timestamp_idx')
    database.close()
    assert seen(path) == [0, 1, 2]
    assert notes_of(path) == ''


def test_a_database_that_is_cut_short(tmp_path):
    """A disk that filled up, a copy that broke off: what comes before is read."""
    path = write_database(tmp_path / 'a.db3', range(200))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found = seen(path)
    assert 50 < len(found) < 150
    assert found[:50] == list(range(50))
    assert found == sorted(set(found))
    assert f'{len(found)} messages are read, all others are lost' in notes_of(path)
    content = bytearray(whole)
    place = whole.index(image_cdr(100)[50:]) // 4096 * 4096
    content[place : place + 8192] = b'\xff' * 8192
    path.write_bytes(content)
    found = seen(path)
    assert found[:50] == list(range(50))
    assert 180 < len(found) < 200
    assert 'all others are lost' in notes_of(path)
    path.unlink()  # without an index by time it is read row by row
    write_database(path, range(200))
    with sqlite3.connect(path) as database:
        database.execute('UPDATE messages SET data = 7 WHERE id IN (3, 5)')
        database.execute('DROP INDEX timestamp_idx')
    database.close()
    assert len(seen(path)) == 198
    assert '2 messages are lost' in notes_of(path)
    path.write_bytes(whole[:8192])
    with pytest.raises(BagError, match=r'a\.db3 is empty, cut short or damaged: .*\.recover'):
        seen(path)


def test_what_claims_to_be_small_stays_small(tmp_path):
    bomb = compress_zstd(bytes(1 << 28))
    chunk = struct.pack('<QQQI', START_NS, START_NS, 1000, 0) + text('zstd')
    chunk = record(6, chunk + struct.pack('<Q', len(bomb)) + bomb)
    path = write(tmp_path / 'a.mcap', mcap(*chunks(2), chunk))
    assert seen(path) == [0, 1, 2, 3]
    assert 'unpacks to more than the 1000 bytes' in notes_of(path)


# ROS 1


@pytest.mark.parametrize('compression', [None, 'BZ2', 'LZ4'])
def test_ros1_bags(tmp_path, compression):
    write_ros1(tmp_path / 'old_0.bag', compression)
    assert seen(tmp_path / 'old_0.bag') == [0, 1, 2]
    write_ros1(tmp_path / 'old_1.bag', compression, first=3)
    assert seen(tmp_path) == [0, 1, 2, 3, 4, 5]


def write_ros1(path, compression=None, first=0):
    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    writer = Rosbag1Writer(path)
    if compression:
        writer.set_compression(Rosbag1Writer.CompressionFormat[compression])
    with writer:
        connection = writer.add_connection('/cam/image', IMAGE, typestore=store)
        for index in range(first, first + 3):
            stamp = types['builtin_interfaces/msg/Time'](index, 0)
            header = types['std_msgs/msg/Header'](seq=5, stamp=stamp, frame_id='cam')
            pixels = np.full(12 * 16 * 3, index, np.uint8)
            message = types[IMAGE](header, 12, 16, 'rgb8', 0, 48, pixels)
            writer.write(connection, index + 1, store.serialize_ros1(message, IMAGE))


def test_an_unindexed_ros1_bag_is_mended_by_tools_of_ros1(tmp_path):
    path = tmp_path / 'old.bag'
    write_ros1(path)
    content = bytearray(path.read_bytes())
    place = content.index(b'index_pos=') + len(b'index_pos=')
    content[place : place + 8] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(BagError, match=r'not indexed.*`rosbag reindex old\.bag`'):
        seen(path)
    with pytest.raises(BagError, match=r'`rosbag reindex old\.bag\.active` of ROS 1 and name it'):
        seen(path.rename(tmp_path / 'old.bag.active'))


# MCAP


def text(value):
    value = value if isinstance(value, bytes) else value.encode()
    return struct.pack('<I', len(value)) + value


def record(opcode, body):
    return struct.pack('<BQ', opcode, len(body)) + body


def schema_record(name=IMAGE, encoding='ros2msg', definition=None):
    definition = TYPES.definition(IMAGE)[0] if definition is None else definition
    return record(3, struct.pack('<H', 1) + text(name) + text(encoding) + text(definition))


def channel_record(encoding='cdr', topic='/cam/image', metadata=b'', number=1, schema=1):
    body = struct.pack('<HH', number, schema) + text(topic) + text(encoding) + text(metadata)
    return record(4, body)


def message_record(index, time_ns=None, number=1, data=None):
    time_ns = START_NS + index * STEP_NS if time_ns is None else time_ns
    head = struct.pack('<HIQQ', number, index, time_ns, time_ns)
    return record(5, head + (image_cdr(index) if data is None else data))


PACK = {'': bytes, 'zstd': compress_zstd, 'lz4': lz4.frame.compress}


def chunk_record(records, first, last, compression=''):
    packed = PACK[compression](records)
    head = struct.pack('<QQQI', first, last, len(records), zlib.crc32(records))
    return record(6, head + text(compression) + struct.pack('<Q', len(packed)) + packed)


def mcap(*records, profile='ros2', end=True):
    magic = b'\x89MCAP0\r\n'
    head = magic + record(1, text(profile) + text('test'))
    tail = record(15, bytes(4)) + record(2, bytes(20)) + magic if end else b''
    return head + b''.join(records) + tail


def chunks(count=4, compression='', each=2):
    """Chunks of two messages, the first one with schema and channel."""
    made = []
    for first in range(0, count * each, each):
        body = b''.join(message_record(index) for index in range(first, first + each))
        body = schema_record() + channel_record() + body if not first else body
        times = (START_NS + first * STEP_NS, START_NS + (first + each - 1) * STEP_NS)
        made.append(chunk_record(body, *times, compression))
    return made


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('profile', ['', 'ros2', 'px4'])
def test_a_profile_says_nothing_of_the_messages(tmp_path, profile):
    assert seen(write(tmp_path / 'a.mcap', mcap(*chunks(), profile=profile))) == list(range(8))


@pytest.mark.parametrize('compression', list(PACK))
def test_a_file_that_ends_in_the_middle_of_a_chunk(tmp_path, compression):
    whole = mcap(*chunks(3, compression, each=40), end=False)
    path = write(tmp_path / 'a.mcap', whole[:-150])
    found = seen(path)
    assert found == list(range(len(found)))
    assert 80 <= len(found) < 120  # two chunks are whole
    if not compression:
        assert len(found) == 119
    assert 'are cut short' in notes_of(path)


def test_a_file_without_its_end(tmp_path):
    path = write(tmp_path / 'a.mcap', mcap(*chunks(), end=False))
    assert seen(path) == list(range(8))
    assert 'was not closed: it has no end mark' in notes_of(path)
    assert notes_of(write(tmp_path / 'b.mcap', mcap(*chunks()))) == ''


@pytest.mark.parametrize('repeated', [True, False])
def test_an_index_of_chunks_without_one_of_messages(tmp_path, repeated):
    """What `noIndex` of other writers gives; the reader of rosbags finds nothing there."""
    made = chunks()
    head = len(mcap(end=False))
    indexes, offset = b'', head
    for number, chunk in enumerate(made):
        times = [START_NS + (2 * number + half) * STEP_NS for half in (0, 1)]
        body = struct.pack('<QQQQ', *times, offset, len(chunk)) + struct.pack('<IQ', 0, 0)
        size = len(chunk) - 9 - 28 - 4 - 8
        indexes += record(8, body + text('') + struct.pack('<QQ', size, size))
        offset += len(chunk)
    offset += len(record(15, bytes(4)))
    counts = struct.pack('<HQ', 1, 8)
    span = struct.pack('<QQ', START_NS, START_NS + 7 * STEP_NS)
    statistics = struct.pack('<QHIIII', 8, 1, 1, 0, 0, 4) + span + text(counts)
    schema = schema_record() if repeated else b''
    summary = schema + channel_record() + indexes + record(11, statistics)
    content = mcap(*made, end=False) + record(15, bytes(4)) + summary
    content += record(2, struct.pack('<QQI', offset, 0, 0)) + b'\x89MCAP0\r\n'
    path = write(tmp_path / 'a.mcap', content)
    assert seen(path) == list(range(8))
    assert notes_of(path) == ''
    with BagReader(path) as bag:
        assert bag.topics['/cam/image'].count == 8
        assert len(list(bag.messages(start_ns=START_NS + 5 * STEP_NS))) == 3


def test_messages_outside_of_chunks_and_out_of_order(tmp_path):
    order = [0, 2, 1, 3]
    records = [message_record(index) for index in order]
    content = mcap(schema_record(), channel_record(), *records)
    assert seen(write(tmp_path / 'a.mcap', content)) == [0, 1, 2, 3]
    whole = mcap(schema_record(), channel_record(), *records, end=False)
    cut = write(tmp_path / 'b.mcap', whole[:-10])
    assert seen(cut) == [0, 1, 2]
    assert 'cut short' in notes_of(cut)


def test_chunks_that_overlap_in_time(tmp_path):
    first = schema_record() + channel_record()
    first += b''.join(message_record(index) for index in (0, 2, 4))
    second = b''.join(message_record(index) for index in (5, 1, 3))
    span = (START_NS, START_NS + 5 * STEP_NS)
    content = mcap(chunk_record(first, *span), chunk_record(second, *span))
    assert seen(write(tmp_path / 'a.mcap', content)) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize('compression', list(PACK))
def test_a_damaged_chunk_is_left_out_and_said(tmp_path, compression):
    made = chunks(4, compression)
    damaged = bytearray(made[1])
    damaged[-60:-30] = b'\x55' * 30
    path = write(tmp_path / 'a.mcap', mcap(made[0], bytes(damaged), *made[2:]))
    assert seen(path) == [0, 1, 4, 5, 6, 7]
    assert 'is damaged, its messages are lost' in notes_of(path)


def test_noise_in_the_middle_of_a_file_without_index(tmp_path):
    made = chunks()
    content = mcap(*made[:2], b'\x77' * 500, *made[2:])
    path = write(tmp_path / 'a.mcap', content)
    assert seen(path) == [0, 1, 2, 3]
    assert 'is no record of MCAP; what comes after it is lost' in notes_of(path)


def test_recorders_of_other_systems_are_named(tmp_path):
    foreign = schema_record('foxglove.CompressedImage', 'protobuf', b'\x0a\xff\xfe\x00')
    channel = channel_record('protobuf', '/camera')
    content = mcap(foreign, channel, message_record(0, data=b'\x0a\x00'), profile='')
    expected = r'no messages of ROS: .*foxglove\.CompressedImage \(protobuf\); expected ROS 2'
    with pytest.raises(BagError, match=expected):
        seen(write(tmp_path / 'a.mcap', content))
    foreign = record(3, struct.pack('<H', 2) + text('Pose') + text('jsonschema') + text('{}'))
    other = channel_record('json', '/pose', number=2, schema=2)
    both = [schema_record(), channel_record(), foreign, other]
    both += [message_record(0), message_record(1, number=2, data=b'{}'), message_record(1)]
    path = write(tmp_path / 'b.mcap', mcap(*both))
    assert seen(path) == [0, 1]
    with BagReader(path) as bag:
        assert bag.topics['/pose'].msgtype == 'Pose, jsonschema, not of ROS'
        assert len(list(bag.messages())) == 2


def test_a_ros1_bag_converted_to_mcap(tmp_path):
    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    header = types['std_msgs/msg/Header'](5, types['builtin_interfaces/msg/Time'](1, 2), 'cam')
    message = types[IMAGE](header, 12, 16, 'rgb8', 0, 48, np.full(576, 9, np.uint8))
    raw = bytes(store.serialize_ros1(message, IMAGE))
    definition = store.generate_msgdef(IMAGE, ros_version=1)[0]
    records = [schema_record('sensor_msgs/Image', 'ros1msg', definition), channel_record('ros1')]
    path = write(tmp_path / 'a.mcap', mcap(*records, message_record(0, data=raw), profile='ros1'))
    assert seen(path) == [9]
    with BagReader(path) as bag:
        cdr = next(bag.messages()).cdr
    assert decode(TYPES.deserialize(IMAGE, cdr))[0, 0, 0] == 9


def test_a_schema_that_lost_a_field(tmp_path):
    definition = TYPES.definition(IMAGE)[0].replace('uint32 step', '')
    records = [schema_record(definition=definition), channel_record(), message_record(0)]
    path = write(tmp_path / 'a.mcap', mcap(*records))
    with pytest.raises(MessageError, match=r'Image in the recording is damaged: .*no field step'):
        seen(path)


def test_a_schema_with_other_fields_is_that_of_its_messages(tmp_path):
    definition = TYPES.definition(IMAGE)[0].replace('uint32 height', 'uint32 odd\nuint32 height')
    raw = image_cdr(3)
    place = raw.index(struct.pack('<II', 12, 16))
    raw = raw[:place] + bytes(4) + raw[place:]
    records = [schema_record(definition=definition), channel_record()]
    path = write(tmp_path / 'a.mcap', mcap(*records, message_record(0, data=raw)))
    assert seen(path) == [3]


IDL = """================================================================================
IDL: sensor_msgs/msg/Image
module sensor_msgs { module msg { struct Image {
  std_msgs::msg::Header header; uint32 height; uint32 width; string encoding;
  uint8 is_bigendian; uint32 step; sequence<uint8> data; }; }; };
================================================================================
IDL: std_msgs/msg/Header
module std_msgs { module msg { struct Header {
  builtin_interfaces::msg::Time stamp; string frame_id; }; }; };
================================================================================
IDL: builtin_interfaces/msg/Time
module builtin_interfaces { module msg { struct Time { int32 sec; uint32 nanosec; }; }; };
"""


@pytest.mark.parametrize(('encoding', 'definition'), [('ros2idl', IDL), ('ros2msg', '')])
def test_schemas_in_idl_and_without_text(tmp_path, encoding, definition):
    records = [schema_record(encoding=encoding, definition=definition), channel_record()]
    path = write(tmp_path / 'a.mcap', mcap(*records, message_record(4)))
    assert seen(path) == [4]


def test_files_of_nothing(tmp_path):
    for content, reason in (
        (b'', '0 bytes'),
        (b'fx: 720.0\n' * 50, 'not the mark of MCAP'),
        (mcap()[:20], 'header is not whole'),
        (mcap(end=False), r'no end mark.*mcap recover a\.mcap'),
    ):
        with pytest.raises(BagError, match=f'empty, cut short or damaged: .*{reason}'):
            seen(write(tmp_path / 'a.mcap', content))
    with pytest.raises(BagError, match='holds no messages'):
        seen(write(tmp_path / 'a.mcap', mcap(schema_record(), channel_record())))
