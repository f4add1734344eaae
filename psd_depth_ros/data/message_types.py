"""Message classes without ROS: the types of ROS 2 Jazzy, filled from plain dicts and serialised.

`messages` decides what goes into the fields; `bags` and `replay` put the bytes somewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.typesys import get_typestore, Stores

from psd_depth_ros.errors import BagError


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

    def has_header(self, msgtype: str) -> bool:
        """Whether messages of this type start with a std_msgs/Header."""
        return any(name == 'header' for name, _ in self._fields(msgtype))

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
