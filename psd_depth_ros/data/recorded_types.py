"""What the bytes of a recording mean: its own type definitions, or those of the distribution.

A recording may carry the definition of every type. It goes before ours, so that older and newer
layouts are read right; where it is damaged the type is refused by name, and all others are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
import re
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.typesys import (
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
    Stores,
)
from rosbags.typesys.store import Typestore

from psd_depth_ros.data.bag_file import Channel
from psd_depth_ros.errors import MessageError

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
