"""Topics and message types of recordings, without ROS.

`MessageTypes` are those of ROS 2 Jazzy, filled from plain dicts and serialised: `messages` decides
what goes into the fields, `bags` and `replay` put the bytes somewhere. `RecordedTypes` tell what
the bytes of a recording mean: a recording may carry the definition of every type. It goes before
ours, so that older and newer layouts are read right; where it is damaged the type is refused by
name, and all others are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
import difflib
from functools import cache
from pathlib import Path
import re
from typing import Any, Protocol

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import get_types_from_idl, get_types_from_msg, get_typestore, Stores
from rosbags.typesys.store import Typestore

from psd_depth_ros.data.bag_file import Channel
from psd_depth_ros.errors import BagError, MessageError
from psd_depth_ros.messages import DEPTH_ENCODINGS, is_compressed

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
CLOUD_TYPE = 'sensor_msgs/msg/PointCloud2'

# Transports of image_transport that sit below the image's own name.
_TRANSPORTS = ('compressed', 'compressedDepth', 'theora', 'ffmpeg', 'zstd')

_RENAMED = {'tf/msg/tfMessage': 'tf2_msgs/msg/TFMessage'}
_DDS_NAME = re.compile(r'(?P<package>\w+)::(?P<kind>msg|srv|action)::dds_::(?P<name>\w+)_')
_IDL_RULE = '=' * 80 + '\n'
# Types whose fields are used here: a definition that lacks one of them is damaged.
_USED = (
    'sensor_msgs/msg/Image',
    'sensor_msgs/msg/CompressedImage',
    'sensor_msgs/msg/CameraInfo',
    'sensor_msgs/msg/PointCloud2',
    'nav_msgs/msg/Odometry',
    'tf2_msgs/msg/TFMessage',
)
_ENCODINGS = ('cdr', 'ros1')
_SCHEMAS = ('', 'ros2msg', 'ros2idl', 'omgidl', 'ros1msg')


@dataclass(frozen=True)
class TopicInfo:
    """Type and number of messages of a topic."""

    msgtype: str
    count: int


def image_topics(topics: Mapping[str, TopicInfo]) -> list[str]:
    """Topics of images, raw and compressed, depth images included."""
    return [name for name, info in topics.items() if info.msgtype in IMAGE_TYPES]


class TopicReader(Protocol):
    """A recording whose topics can be listed and read; `bags.BagReader` is one."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def topics(self) -> Mapping[str, TopicInfo]:
        """Type and number of messages by name."""

    def check_topic(self, topic: str) -> None:
        """Raise BagError where there is no such topic."""

    def messages(self, topics: Collection[str]) -> Iterator[Any]:
        """Messages of some topics in the order of recording."""


def pick_image_topic(reader: TopicReader, wanted: str | None = None) -> str:
    """Return the colour camera of a bag, or check the one that is wanted.

    Without `wanted`, topics of depth are left out, topics with a CameraInfo beside them go before
    those without, and a raw image before its compressed twin. Raises BagError, listing the
    topics, where no camera or more than one is left.
    """
    topics = reader.topics
    if wanted is not None:
        return _check_type(reader, wanted, IMAGE_TYPES)
    images = image_topics(topics)
    found = [topic for topic in images if not _is_depth(reader, topic)]
    if not found:
        depth = (
            f' (those on {", ".join(images)} hold depth by their encoding, or nothing; thermal '
            'counts are published as mono16)'
        )
        raise BagError(
            f'bag {reader.path} has no colour images{depth if images else ""}; its topics '
            f'are:{list_topics(topics)}'
        )
    calibrated = [topic for topic in found if camera_info_beside(topic) in topics]
    left = _without_twins(calibrated or found)
    if len(left) > 1:
        raise BagError(
            f'bag {reader.path} has several cameras: {", ".join(left)}; choose one with '
            '--image-topic'
        )
    return left[0]


def pick_camera_info_topic(
    reader: TopicReader, image_topic: str, wanted: str | None = None
) -> str:
    """Return the CameraInfo topic of an image topic, or check the one that is wanted.

    It is the one beside the image, or the only one of the bag. Raises BagError with the topics
    there are and the way out: --camera-info-topic, or --camera with a calibration file.
    """
    topics = reader.topics
    if wanted is not None:
        return _check_type(reader, wanted, (CAMERA_INFO_TYPE,))
    found = [name for name, info in topics.items() if info.msgtype == CAMERA_INFO_TYPE]
    beside = camera_info_beside(image_topic)
    if beside in found:
        return beside
    if len(found) == 1:
        return found[0]
    what = f'several CameraInfo topics: {", ".join(found)}' if found else 'no CameraInfo topic'
    raise BagError(
        f'bag {reader.path} has {what}, and none at {beside} beside {image_topic}; choose one '
        'with --camera-info-topic, give the calibration with --camera camera.yaml, or --fov '
        'DEGREES if only the horizontal field of view is known'
    )


def pick_odometry_topic(reader: TopicReader, wanted: str | None = None) -> str | None:
    """Return the only odometry topic, None without one or with several to choose from."""
    if wanted is not None:
        return _check_type(reader, wanted, (ODOMETRY_TYPE,))
    found = odometry_topics(reader)
    return found[0] if len(found) == 1 else None


def odometry_topics(reader: TopicReader) -> list[str]:
    """Every topic with odometry."""
    return [name for name, info in reader.topics.items() if info.msgtype == ODOMETRY_TYPE]


def pick_cloud_topic(reader: TopicReader, wanted: str | None = None) -> str:
    """Return the only point cloud topic of a bag, or check the one that is wanted.

    Raises BagError without a cloud topic, or with several to choose from.
    """
    if wanted is not None:
        return _check_type(reader, wanted, (CLOUD_TYPE,))
    found = [name for name, info in reader.topics.items() if info.msgtype == CLOUD_TYPE]
    if len(found) == 1:
        return found[0]
    if found:
        raise BagError(
            f'bag {reader.path} has several point clouds: {", ".join(found)}; choose the lidar '
            'with --lidar-topic'
        )
    raise BagError(
        f'bag {reader.path} has no point clouds ({CLOUD_TYPE}), which a lidar is read from; its '
        f'topics are:{list_topics(reader.topics)}'
    )


def camera_info_beside(image_topic: str) -> str:
    """Return where image_transport puts the CameraInfo of an image topic."""
    parent, _, _ = base_topic(image_topic).rpartition('/')
    return f'{parent}/camera_info'


def base_topic(image_topic: str) -> str:
    """Return the image topic without its transport, such as `/compressed`."""
    parent, _, last = image_topic.rpartition('/')
    return parent if last in _TRANSPORTS else image_topic


def list_topics(topics: Mapping[str, TopicInfo]) -> str:
    """Put every topic on a line of its own, with type and count."""
    return ''.join(f'\n  {name} ({info.msgtype}, {info.count})' for name, info in topics.items())


def nearest(name: str, names: Collection[str]) -> str:
    """Put the most similar name into words, empty where none is similar."""
    close = difflib.get_close_matches(name, names, n=1)
    return f' (did you mean {close[0]}?)' if close else ''


def _check_type(reader: TopicReader, topic: str, expected: tuple[str, ...]) -> str:
    topic = topic if topic.startswith('/') else f'/{topic}'
    reader.check_topic(topic)
    msgtype = reader.topics[topic].msgtype
    if msgtype not in expected:
        raise BagError(
            f'topic {topic} of bag {reader.path} is {msgtype}, expected {" or ".join(expected)}'
        )
    return topic


def _is_depth(reader: TopicReader, topic: str) -> bool:
    """Look at the first message: the name of a topic does not tell what it holds."""
    if topic.endswith('/compressedDepth'):
        return True
    first = next(reader.messages([topic]), None)
    if first is None:
        return True
    try:
        message = first.message
    except MessageError:
        return False
    if is_compressed(message):
        return 'compressedDepth' in message.format or message.format.startswith(DEPTH_ENCODINGS)
    return message.encoding in DEPTH_ENCODINGS


def _without_twins(topics: list[str]) -> list[str]:
    """Keep one topic for each camera, the raw one where there is one."""
    kept: dict[str, str] = {}
    for topic in sorted(topics, key=len):
        kept.setdefault(base_topic(topic), topic)
    return sorted(kept.values())


class MessageTypes:
    """The message types a bag or player can write, by names such as `sensor_msgs/msg/Image`."""

    def __init__(self) -> None:
        self._store = get_typestore(Stores.ROS2_JAZZY)

    def build(self, msgtype: str, fields: Mapping[str, Any]) -> Any:
        """Make a message; nested messages are dicts, fields left out are zero or empty.

        Raises BagError for an unknown type or a field the type does not have.
        """
        specification = dict(self._fields(msgtype))
        unknown = sorted(set(fields) - set(specification))
        if unknown:
            raise BagError(
                f'{msgtype} has no field {", ".join(unknown)}; its fields are '
                f'{", ".join(specification)}'
            )
        values = {
            name: self._value(kind, fields[name]) if name in fields else self._zero(kind)
            for name, kind in specification.items()
        }
        return self._store.types[msgtype](**values)

    def serialize(self, msgtype: str, fields: Mapping[str, Any]) -> memoryview:
        """Make a message as in `build` and return its little-endian CDR bytes."""
        message = self.build(msgtype, fields)
        return self._store.serialize_cdr(message, msgtype, little_endian=True)

    def deserialize(self, msgtype: str, cdr: bytes | memoryview) -> Any:
        """Read a message from its CDR bytes."""
        return self._store.deserialize_cdr(cdr, msgtype)

    def definition(self, msgtype: str) -> tuple[str, str]:
        """Return the text of a type with the types it contains, and its RIHS01 hash."""
        self._fields(msgtype)
        text, _ = self._store.generate_msgdef(msgtype, ros_version=2)
        return text, self._store.hash_rihs01(msgtype)

    def _fields(self, msgtype: str) -> list[tuple[str, Any]]:
        if msgtype not in self._store.fielddefs:
            raise BagError(
                f'message type {msgtype!r} is not known, expected one of ROS 2 Jazzy such as '
                'sensor_msgs/msg/Image'
            )
        return list(self._store.fielddefs[msgtype][1])

    def _value(self, kind: Any, value: Any) -> Any:
        node, description = kind[0], kind[1]
        if node == Nodetype.NAME:
            return self.build(description, value) if isinstance(value, Mapping) else value
        if node == Nodetype.BASE:
            return value
        item = description[0]
        if item[0] == Nodetype.NAME:
            return [self._value(item, part) for part in value]
        return list(value) if _is_text(item) else np.asarray(value, _dtype(item))

    def _zero(self, kind: Any) -> Any:
        node, description = kind[0], kind[1]
        if node == Nodetype.NAME:
            return self.build(description, {})
        if node == Nodetype.BASE:
            return '' if _is_text(kind) else False if description[0] == 'bool' else 0
        item, count = description[0], description[1] if node == Nodetype.ARRAY else 0
        if item[0] == Nodetype.BASE and not _is_text(item):
            return np.zeros(count, _dtype(item))
        return [self._zero(item) for _ in range(count)]


def _is_text(kind: Any) -> bool:
    return kind[0] == Nodetype.BASE and kind[1][0] in ('string', 'wstring')


def _dtype(kind: Any) -> np.dtype[Any]:
    name = kind[1][0]
    return np.dtype({'byte': 'uint8', 'char': 'uint8'}.get(name, name))


def is_ros(channel: Channel) -> bool:
    """Whether the messages of a channel are those of ROS, so that they can be read here."""
    known = channel.encoding in _ENCODINGS and channel.schema in _SCHEMAS
    return known and bool(channel.msgtype)


def modern_name(msgtype: str) -> str:
    """The ROS 2 name of a type: `sensor_msgs/Image` and DDS names are `sensor_msgs/msg/Image`."""
    dds = _DDS_NAME.fullmatch(msgtype)
    if dds is not None:
        msgtype = f'{dds["package"]}/{dds["kind"]}/{dds["name"]}'
    package, _, name = msgtype.partition('/')
    if name and '/' not in name:
        msgtype = f'{package}/msg/{name}'
    return _RENAMED.get(msgtype, msgtype)


class RecordedTypes:
    """Reads messages of one recording."""

    def __init__(self, channels: Iterable[Channel]) -> None:
        self._channels: dict[tuple[str, str], Channel] = {}
        for channel in channels:
            key = channel.msgtype, channel.encoding
            known = self._channels.get(key)
            if known is None or not known.definition:
                self._channels[key] = channel
        self._stores: dict[tuple[str, str], tuple[Typestore, str]] = {}

    def deserialize(self, raw: bytes, msgtype: str, encoding: str) -> Any:
        """The fields of a message. Raises MessageError where type or bytes cannot be read."""
        store, name = self._store(msgtype, encoding)
        read = store.deserialize_ros1 if encoding == 'ros1' else store.deserialize_cdr
        try:
            return read(raw, name)
        except Exception as error:
            detail = str(error) or type(error).__name__
            raise MessageError(detail) from error

    def to_cdr(self, raw: bytes, msgtype: str) -> bytes | memoryview:
        """A ROS 1 message as ROS 2 would put it on the wire. Raises MessageError."""
        try:
            return _standard('cdr').ros1_to_cdr(raw, modern_name(msgtype))
        except Exception as error:
            raise MessageError(str(error) or type(error).__name__) from error

    def _store(self, msgtype: str, encoding: str) -> tuple[Typestore, str]:
        key = msgtype, encoding
        if key not in self._stores:
            self._stores[key] = self._build(msgtype, encoding)
        return self._stores[key]

    def _build(self, msgtype: str, encoding: str) -> tuple[Typestore, str]:
        """A store that knows a type, and the name it has there. Raises MessageError."""
        standard, name = _standard(encoding), _plain_name(msgtype)
        channel = self._channels.get((msgtype, encoding))
        if channel is None or not channel.definition.strip():
            if name not in standard.fielddefs:
                raise MessageError(
                    f'the recording does not define {msgtype}, and it is no type of ROS that is '
                    'known here'
                )
            return standard, name
        try:
            own = _parse(channel)
            if name not in own:
                raise ValueError(f'the text defines {", ".join(own) or "nothing"}')
            _check_fields(own, name, encoding)
        except Exception as error:
            raise MessageError(
                f'the definition of {msgtype} in the recording is damaged: {error}'
            ) from error
        if all(standard.fielddefs.get(one) == fields for one, fields in own.items()):
            return standard, name
        store = get_typestore(Stores.EMPTY)
        missing = {**own, **_closure({**standard.fielddefs, **own}, name)}
        try:
            store.register(missing)
            digest = store.hash_rihs01(name) if channel.digest and encoding == 'cdr' else ''
        except Exception as error:
            raise MessageError(
                f'the definition of {msgtype} in the recording is damaged: {error}'
            ) from error
        if channel.digest and digest and digest != channel.digest:
            raise MessageError(
                f'the definition of {msgtype} in the recording is not the one it was recorded '
                f'with: its hash is {digest}, expected {channel.digest}'
            )
        return store, name


@cache
def _standard(encoding: str) -> Typestore:
    """The types of the newest distribution; a large table, made once."""
    return get_typestore(Stores.ROS1_NOETIC if encoding == 'ros1' else Stores.ROS2_JAZZY)


def _plain_name(msgtype: str) -> str:
    """The name a definition is known by; renamed types keep their own."""
    name = modern_name(msgtype)
    former = {new: old for old, new in _RENAMED.items()}.get(name)
    return former if former is not None and msgtype.startswith('tf/') else name


def _parse(channel: Channel) -> dict[str, Any]:
    text, name = channel.definition, _plain_name(channel.msgtype)
    if channel.schema not in ('ros2idl', 'omgidl'):
        return dict(get_types_from_msg(text, name))
    parts = [text]
    if text.startswith(_IDL_RULE):  # one section for each type
        parts = [part.partition('\n')[2] for part in text.split(_IDL_RULE) if part.strip()]
    types: dict[str, Any] = {}
    for part in parts:
        types.update(get_types_from_idl(part))
    return types


def _check_fields(own: dict[str, Any], name: str, encoding: str) -> None:
    """Raise ValueError where a definition lacks a field that every distribution has."""
    standard = _standard(encoding).fielddefs
    for used in _used(encoding):
        if used in own and name in _USED:
            expected = {field for field, _ in standard[used][1]}
            found = {field for field, _ in own[used][1]}
            if lacking := sorted(expected - found):
                raise ValueError(f'{used} has no field {", ".join(lacking)} there')


@cache
def _used(encoding: str) -> frozenset[str]:
    standard = _standard(encoding).fielddefs
    return frozenset(one for name in _USED for one in _closure(standard, name))


def _closure(types: Any, name: str) -> dict[str, Any]:
    """A type and all types in its fields, as far as they are known."""
    found: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in found or one not in types:
            continue
        found[one] = types[one]
        waiting += [inner for _, kind in types[one][1] for inner in _named(kind)]
    return found


def _named(kind: Any) -> Iterator[str]:
    node, description = kind[0], kind[1]
    if node == Nodetype.NAME:
        yield description
    elif node in (Nodetype.ARRAY, Nodetype.SEQUENCE):
        yield from _named(description[0])
