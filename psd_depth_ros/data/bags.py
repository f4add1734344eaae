"""Recordings: rosbag1, rosbag2 folders, .db3 and .mcap files in, a single .mcap file out.

Which topics of a bag hold the camera is decided in `topics`; making frames of images, cameras and
poses is left to `sources`. Parsing is that of `rosbags`, so no ROS installation is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
import os
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from rosbags.highlevel import AnyReader
from rosbags.typesys import get_typestore, Stores
from rosbags.typesys.store import Typestore

from psd_depth_ros.data import topics as naming
from psd_depth_ros.data.mcap_file import Data, McapFile
from psd_depth_ros.data.message_types import MessageTypes
from psd_depth_ros.data.topics import list_topics, nearest, TopicInfo
from psd_depth_ros.errors import BagError, MessageError, PsdDepthError
from psd_depth_ros.messages import header_fields

_SUFFIXES = ('.mcap', '.db3', '.bag')
_ROS1_NAMES = {'tf/msg/tfMessage': 'tf2_msgs/msg/TFMessage'}


@dataclass(frozen=True)
class _OpenBag:
    """What messages need of their bag to be read: its own types, and those of ROS 2."""

    reader: AnyReader
    modern: Typestore


@dataclass(frozen=True)
class BagMessage:
    """One recorded message; it is deserialised when asked for.

    `timestamp_ns` is when it was recorded, which is not the stamp in its header. `raw` is as
    stored (CDR, or the ROS 1 format in a rosbag1); `msgtype` is the name ROS 2 has for the type.
    """

    topic: str
    timestamp_ns: int
    msgtype: str
    raw: bytes
    stored_type: str
    bag: _OpenBag

    @property
    def message(self) -> Any:
        """The fields of the message. Raises MessageError where its bytes are damaged."""
        try:
            return self.bag.reader.deserialize(self.raw, self.stored_type)
        except Exception as error:
            raise MessageError(
                f'message on {self.topic} at {self.timestamp_ns} ns cannot be read as '
                f'{self.msgtype} ({len(self.raw)} bytes): {error}'
            ) from error

    @property
    def cdr(self) -> bytes | memoryview:
        """The bytes ROS 2 would put on the wire. Raises MessageError."""
        if self.bag.reader.is2:
            return self.raw
        try:
            return self.bag.modern.ros1_to_cdr(self.raw, self.msgtype)
        except Exception as error:
            raise MessageError(
                f'message on {self.topic} at {self.timestamp_ns} ns cannot be converted from ROS '
                f'1: {error}'
            ) from error


class BagReader:
    """A recording opened for reading, as a context manager.

    Raises BagError where the path is missing, empty, cut short, damaged or no bag.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        self._bag: _OpenBag | None = None

    def __enter__(self) -> BagReader:
        """Open the bag and read its index."""
        store = get_typestore(Stores.ROS2_JAZZY)
        try:
            reader = AnyReader([_storage(self.path)], default_typestore=store)
            reader.open()
        except PsdDepthError:
            raise
        except Exception as error:
            raise _unreadable(self.path, error) from error
        self._bag = _OpenBag(reader, store)
        if not reader.message_count:
            self.close()
            raise BagError(f'bag {self.path} holds no messages; record it again')
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self.close()

    def close(self) -> None:
        """Close the files; a second time does nothing."""
        bag, self._bag = self._bag, None
        if bag is not None:
            bag.reader.close()

    @property
    def topics(self) -> dict[str, TopicInfo]:
        """Type and number of messages of every topic, sorted by name."""
        return {
            name: TopicInfo(_modern(info.msgtype or ''), info.msgcount)
            for name, info in sorted(self._open.reader.topics.items())
        }

    @property
    def start_ns(self) -> int:
        """When the first message was recorded."""
        return int(self._open.reader.start_time)

    @property
    def end_ns(self) -> int:
        """When the last message was recorded."""
        return int(self._open.reader.end_time) - 1

    def messages(
        self,
        topics: Collection[str] | None = None,
        start_ns: int | None = None,
        stop_ns: int | None = None,
    ) -> Iterator[BagMessage]:
        """Messages of some topics (all by default) recorded in [start_ns, stop_ns), in order.

        Raises BagError for a topic that is not in the bag and where the file is damaged.
        """
        bag = self._open
        for topic in topics or ():
            self.check_topic(topic)
        wanted = [x for x in bag.reader.connections if topics is None or x.topic in topics]
        if not wanted:
            return
        stored = bag.reader.messages(connections=wanted, start=start_ns, stop=stop_ns)
        while True:
            try:
                item = next(stored, None)
            except Exception as error:
                raise _unreadable(self.path, error) from error
            if item is None:
                return
            connection, time_ns, raw = item
            name = connection.msgtype
            yield BagMessage(connection.topic, time_ns, _modern(name), raw, name, bag)

    def image_topics(self) -> list[str]:
        """Topics of images, raw and compressed, depth images included."""
        return naming.image_topics(self.topics)

    def pick_image_topic(self, wanted: str | None = None) -> str:
        """Return the colour camera, see `topics.pick_image_topic`."""
        return naming.pick_image_topic(self, wanted)

    def pick_camera_info_topic(self, image_topic: str, wanted: str | None = None) -> str:
        """Return the CameraInfo topic of an image, see `topics.pick_camera_info_topic`."""
        return naming.pick_camera_info_topic(self, image_topic, wanted)

    def check_topic(self, topic: str) -> None:
        """Raise BagError, listing the topics there are, where `topic` is not in the bag."""
        known = self.topics
        if topic not in known:
            raise BagError(
                f'topic {topic} is not in bag {self.path}{nearest(topic, known)}; its topics '
                f'are:{list_topics(known)}'
            )

    @property
    def _open(self) -> _OpenBag:
        if self._bag is None:
            raise BagError(f'bag {self.path} is not open; use it in a with statement')
        return self._bag


class BagWriter:
    """A single .mcap file that `ros2 bag` and `rosbags` read, as a context manager.

    The same calls make the same bytes, whatever the name of the file. It appears under its name
    only when closed without an error, replacing an older one. Raises BagError where it cannot be
    written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if self.path.suffix != '.mcap':
            raise BagError(f'bags are written as .mcap files; found {self.path}')
        if self.path.is_dir():
            raise BagError(f'{self.path} is a folder; name a file that ends with .mcap')
        self._partial = self.path.with_name(f'.{self.path.name}.{os.getpid()}.partial')
        self._types = MessageTypes()
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, tuple[int, str]] = {}
        self._stream: BinaryIO | None = None
        self._file: McapFile | None = None

    def __enter__(self) -> BagWriter:
        """Open the temporary file that becomes the bag."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._partial.open('wb')
            self._file = McapFile(self._stream)
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Write the index and give the file its name."""
        stream, file, self._stream, self._file = self._stream, self._file, None, None
        if stream is None or file is None:
            return
        try:
            with stream:
                file.finish()
            self._partial.replace(self.path)
        except OSError as error:
            self._discard()
            raise self._unwritable(error) from error

    def abort(self) -> None:
        """Leave no file behind."""
        stream, self._stream, self._file = self._stream, None, None
        if stream is not None:
            with suppress(OSError):
                stream.close()
            self._discard()

    def _channel(self, file: McapFile, topic: str, msgtype: str) -> int:
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

    def _discard(self) -> None:
        with suppress(OSError):
            self._partial.unlink()

    def _unwritable(self, error: OSError) -> BagError:
        return BagError(f'bag {self.path} cannot be written: {error}')


def _storage(path: Path) -> Path:
    """What `rosbags` should open: the path, or the one file of a folder without metadata."""
    if not path.exists():
        raise BagError(f'bag {path} is not there; expected a file {_kinds()} or a rosbag2 folder')
    if not path.is_dir():
        if path.suffix not in _SUFFIXES:
            raise BagError(f'{path} is not a bag; expected a file {_kinds()} or a rosbag2 folder')
        return path
    if (path / 'metadata.yaml').exists():
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    if len(files) != 1:
        raise BagError(
            f'folder {path} has no metadata.yaml and {len(files)} bag files; run '
            f'`ros2 bag reindex {path}`, or name one file {_kinds()}'
        )
    return files[0]


def _unreadable(path: Path, error: Exception) -> BagError:
    detail = ' '.join(str(error).split()) or type(error).__name__
    return BagError(
        f'bag {path} is empty, cut short or damaged: {detail}. A recording that was not closed '
        'can be mended with `ros2 bag reindex` or `mcap recover`'
    )


def _kinds() -> str:
    return ' | '.join(f'*{suffix}' for suffix in _SUFFIXES)


def _modern(msgtype: str) -> str:
    return _ROS1_NAMES.get(msgtype, msgtype)
