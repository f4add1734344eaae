"""Recordings: rosbag1, rosbag2 folders, .db3 and .mcap files in, a single .mcap file out.

Which topics of a bag hold the camera is decided in `message_types`; making frames of images,
cameras and poses is left to `readers.bag`. No ROS installation is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from psd_depth_ros.data import message_types as naming
from psd_depth_ros.data.bag_file import Channel, Data, McapWriter, merge_by_time
from psd_depth_ros.data.bag_storage import BagStorage
from psd_depth_ros.data.compression import decompress, ZSTD_MAGIC
from psd_depth_ros.data.message_types import (
    is_ros,
    list_topics,
    MessageTypes,
    modern_name,
    nearest,
    RecordedTypes,
    TopicInfo,
)
from psd_depth_ros.errors import BagError, MessageError
from psd_depth_ros.files import atomic_path, keep_cut
from psd_depth_ros.messages import header_fields
from psd_depth_ros.parsing import user_path

_END_OF_TIME = 2**64
_LARGEST_MESSAGE = 1 << 30


@dataclass(frozen=True)
class BagMessage:
    """One recorded message; it is deserialised when asked for.

    `timestamp_ns` is when it was recorded, which is not the stamp in its header. `stored` is as
    stored (CDR, or the ROS 1 format, compressed where the recorder did so); `msgtype` is the name
    ROS 2 has for the type.
    """

    topic: str
    timestamp_ns: int
    msgtype: str
    stored: bytes
    channel: Channel
    types: RecordedTypes

    @property
    def raw(self) -> bytes:
        """The bytes as they were before the recorder compressed them. Raises MessageError."""
        # rosbag2 compresses single messages where it was told to. CDR never begins like that.
        if self.channel.encoding != 'cdr' or not self.stored.startswith(ZSTD_MAGIC):
            return self.stored
        try:
            return decompress(self.stored, 'zstd', _LARGEST_MESSAGE)
        except ValueError as error:
            raise MessageError(
                f'message on {self.topic} at {self.timestamp_ns} ns is compressed and cannot be '
                f'unpacked ({len(self.stored)} bytes): {error}'
            ) from error

    @property
    def message(self) -> Any:
        """The fields of the message. Raises MessageError where its bytes are damaged."""
        raw = self.raw
        try:
            return self.types.deserialize(raw, self.channel.msgtype, self.channel.encoding)
        except MessageError as error:
            raise MessageError(
                f'message on {self.topic} at {self.timestamp_ns} ns cannot be read as '
                f'{self.msgtype} ({len(raw)} bytes): {error}'
            ) from error

    @property
    def cdr(self) -> bytes | memoryview:
        """The bytes ROS 2 would put on the wire. Raises MessageError."""
        if self.channel.encoding != 'ros1':
            return self.raw
        try:
            return self.types.to_cdr(self.raw, self.channel.msgtype)
        except MessageError as error:
            raise MessageError(
                f'message on {self.topic} at {self.timestamp_ns} ns cannot be converted from ROS '
                f'1: {error}'
            ) from error


@dataclass(frozen=True)
class _OpenBag:
    """The files of a bag and the types of its messages."""

    storage: BagStorage
    types: RecordedTypes
    topics: dict[str, TopicInfo]


class BagReader:
    """A recording opened for reading, as a context manager.

    What is cut short or damaged is read as far as it is whole, and `notes` say what was lost.
    Raises BagError where the path is missing or no bag, or nothing of it can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self._bag: _OpenBag | None = None
        self._notes: list[str] = []

    def __enter__(self) -> BagReader:
        """Open the bag and read its index."""
        storage = BagStorage(self.path)
        channels = [channel for file in storage.files for channel in file.channels]
        self._bag = _OpenBag(storage, RecordedTypes(filter(is_ros, channels)), _topics(channels))
        try:
            self._check_content(channels)
        except BagError:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files; a second time does nothing."""
        bag, self._bag = self._bag, None
        if bag is not None:
            self._notes = bag.storage.notes
            bag.storage.close()

    @property
    def notes(self) -> list[str]:
        """What was lost or put right, as far as the bag has been read."""
        return self._notes if self._bag is None else self._bag.storage.notes

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """Type and number of messages of every topic, sorted by name."""
        return self._open.topics

    @property
    def start_ns(self) -> int:
        """When the first message was recorded."""
        return min(file.start_ns for file in self._open.storage.files if file.count)

    @property
    def end_ns(self) -> int:
        """When the last message was recorded."""
        return max(file.end_ns for file in self._open.storage.files if file.count)

    def messages(
        self,
        topics: Collection[str] | None = None,
        start_ns: int | None = None,
        stop_ns: int | None = None,
    ) -> Iterator[BagMessage]:
        """Messages of some topics (all by default) recorded in [start_ns, stop_ns), in order.

        Raises BagError for a topic that is not in the bag and where the file is damaged so that
        not one of them can be read.
        """
        bag = self._open
        for topic in topics or ():
            self.check_topic(topic)
        wanted = None if topics is None else frozenset(topics)
        start = 0 if start_ns is None else max(0, start_ns)
        stop = _END_OF_TIME if stop_ns is None else stop_ns
        known, blocks = [], []
        for file in bag.storage.files:
            channels = {
                channel.number: channel
                for channel in file.channels
                if is_ros(channel) and (wanted is None or channel.topic in wanted)
            }
            if channels and file.count and file.end_ns >= start and file.start_ns < stop:
                blocks.append((file.start_ns, file.messages(list(channels), start, stop)))
                known.append(channels)
        given = 0
        for place, (time_ns, number, stored) in merge_by_time(blocks):
            channel = known[place][number]
            name = modern_name(channel.msgtype)
            given += 1
            yield BagMessage(channel.topic, time_ns, name, stored, channel, bag.types)
        if blocks and not given and start_ns is None and stop_ns is None and self.notes:
            raise BagError(f'bag {self.path} is damaged: {self.notes[-1]}')

    def image_topics(self) -> list[str]:
        """Topics of images, raw and compressed, depth images included."""
        return naming.image_topics(self.topics)

    def pick_image_topic(self, wanted: str | None = None) -> str:
        """Return the colour camera, see `message_types.pick_image_topic`."""
        return naming.pick_image_topic(self, wanted)

    def pick_camera_info_topic(self, image_topic: str, wanted: str | None = None) -> str:
        """Return the CameraInfo topic of an image, see `message_types.pick_camera_info_topic`."""
        return naming.pick_camera_info_topic(self, image_topic, wanted)

    def check_topic(self, topic: str) -> None:
        """Raise BagError, listing the topics there are, where `topic` is not in the bag."""
        known = self.topics
        if topic not in known:
            raise BagError(
                f'topic {topic} is not in bag {self.path}{nearest(topic, known)}; its topics '
                f'are:{list_topics(known)}'
            )

    def _check_content(self, channels: list[Channel]) -> None:
        """Raise BagError where there is nothing to read."""
        ros = [channel for channel in channels if is_ros(channel)]
        if channels and not ros:
            kinds = sorted(
                {f'{one.msgtype or "no type"} ({one.schema or one.encoding})' for one in channels}
            )
            raise BagError(
                f'bag {self.path} holds no messages of ROS: its {len(channels)} topics are of '
                f'the types {", ".join(kinds[:8])}; expected ROS 2 messages such as '
                'sensor_msgs/msg/Image (encoding cdr, schema ros2msg or ros2idl), as '
                '`ros2 bag record` writes them'
            )
        if not sum(channel.count for channel in ros):
            notes = ''.join(f'; {note}' for note in self.notes)
            raise BagError(f'bag {self.path} holds no messages{notes}; record it again')

    @property
    def _open(self) -> _OpenBag:
        if self._bag is None:
            raise BagError(f'bag {self.path} is not open; use it in a with statement')
        return self._bag


def _topics(channels: list[Channel]) -> dict[str, TopicInfo]:
    """Add up the channels of each topic; one that is not of ROS is listed with its encoding."""
    found: dict[str, TopicInfo] = {}
    for channel in sorted(channels, key=lambda one: one.topic):
        name = modern_name(channel.msgtype)
        if not is_ros(channel):
            kind = channel.schema or channel.encoding
            name = f'{channel.msgtype or "no type"}, {kind}, not of ROS'
        known = found.get(channel.topic)
        count = channel.count + (known.count if known else 0)
        found[channel.topic] = TopicInfo(known.msgtype if known else name, count)
    return found


class BagWriter:
    """A single .mcap file that `ros2 bag` and `rosbags` read, as a context manager.

    The same calls make the same bytes, whatever the name of the file. It appears under its name
    only when closed without an error, replacing an older one; what a writer that was killed left
    half-written beside it is removed. `compression` is `zstd` or empty.
    Raises BagError where it cannot be written, as on a full disk; what was written until then is
    kept as NAME_cut_1.mcap, which can be read as far as it is whole.
    """

    def __init__(self, path: str | Path, compression: str = '') -> None:
        self._compression = compression
        self.path = user_path(path)
        if self.path.suffix != '.mcap':
            raise BagError(f'bags are written as .mcap files; found {self.path}')
        if self.path.is_dir():
            raise BagError(f'{self.path} is a folder; name a file that ends with .mcap')
        self._unfinished: AbstractContextManager[Path] | None = None
        self._temporary: Path | None = None
        self._types = MessageTypes()
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, tuple[int, str]] = {}
        self._stream: BinaryIO | None = None
        self._file: McapWriter | None = None

    def __enter__(self) -> BagWriter:
        """Open the temporary file that becomes the bag."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._unfinished = atomic_path(self.path)
            self._temporary = self._unfinished.__enter__()
            self._stream = self._temporary.open('wb')
            self._file = McapWriter(self._stream, compression=self._compression)
        except OSError as error:
            raise self._unwritable(error, self._give_up()) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Finish the file, or take it away where the body failed."""
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(
        self,
        topic: str,
        msgtype: str,
        fields: Mapping[str, Any],
        stamp_ns: int,
        frame_id: str | None = None,
    ) -> None:
        """Write a message from its fields, recorded at its stamp.

        With `frame_id` the header is made of it and the stamp; else `fields` hold the header.
        """
        if frame_id is not None:
            fields = {'header': header_fields(stamp_ns, frame_id), **fields}
        self.write_raw(topic, msgtype, self._types.serialize(msgtype, fields), stamp_ns)

    def write_raw(self, topic: str, msgtype: str, cdr: Data, time_ns: int) -> None:
        """Write a message that is serialised already; `cdr` must not change afterwards."""
        if self._file is None:
            raise BagError(f'bag {self.path} is not open for writing')
        try:
            self._file.add_message(self._channel(self._file, topic, msgtype), time_ns, cdr)
        except OSError as error:
            raise self._unwritable(error, self._give_up()) from error

    def close(self) -> None:
        """Write the index and give the file its name."""
        stream, file = self._stream, self._file
        if stream is None or file is None:
            return
        try:
            file.finish()
            stream.close()
            self._stream = self._file = None
            self._leave(None)
        except OSError as error:
            raise self._unwritable(error, self._give_up()) from error

    def abort(self) -> None:
        """Leave no file behind."""
        stream, self._stream, self._file = self._stream, None, None
        if stream is not None:
            with suppress(OSError):
                stream.close()
        self._leave(BagError('the bag is given up'))

    def _give_up(self) -> Path | None:
        """Stop writing, and keep what is whole; returns the file that has it, None where none."""
        kept, file, temporary = None, self._file, self._temporary
        if file is not None and temporary is not None and file.has_chunks:
            with suppress(OSError):
                kept = keep_cut(temporary, self.path)
        self.abort()
        return kept

    def _channel(self, file: McapWriter, topic: str, msgtype: str) -> int:
        number, known = self._channels.get(topic, (0, msgtype))
        if known != msgtype:
            raise BagError(f'topic {topic} holds {known}; {msgtype} cannot be written to it')
        if number:
            return number
        text, digest = self._types.definition(msgtype)
        if msgtype not in self._schemas:
            self._schemas[msgtype] = file.add_schema(msgtype, 'ros2msg', text)
        metadata = {'offered_qos_profiles': '', 'topic_type_hash': digest}
        number = file.add_channel(topic, self._schemas[msgtype], metadata)
        self._channels[topic] = number, msgtype
        return number

    def _leave(self, error: Exception | None) -> None:
        """Give the file its name, or remove it. Raises OSError."""
        one, self._unfinished = self._unfinished, None
        if one is not None:
            one.__exit__(None if error is None else type(error), error, None)

    def _unwritable(self, error: OSError, kept: Path | None = None) -> BagError:
        rest = f'; what was written before is in {kept}' if kept else ''
        return BagError(f'bag {self.path} cannot be written: {error}{rest}')
