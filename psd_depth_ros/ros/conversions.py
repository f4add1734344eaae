"""Plain field values -> live ROS messages, without walking big data in Python.

What the fields are is decided in `messages`; here they are only put into message classes. `.data`
is always an `array.array('B')`: the one form that is fast with field checks on and off.
"""

from __future__ import annotations

import array
from collections.abc import Mapping
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header


def byte_array(data: npt.NDArray[Any]) -> array.array[int]:
    """Copy an array's bytes once into the form that rclpy takes without looking at each."""
    buffer = array.array('B')
    buffer.frombytes(np.ascontiguousarray(data).data.cast('B'))
    return buffer


def image_message(header: Header, fields: Mapping[str, Any]) -> Image:
    """Make an Image of the values of `messages.image_fields`."""
    message = Image(header=header)
    _fill(message, fields)
    return message


def camera_info_message(header: Header, fields: Mapping[str, Any]) -> CameraInfo:
    """Make a CameraInfo of the values of `messages.camera_info_fields`."""
    message = CameraInfo(header=header)
    _fill(message, fields)
    return message


def cloud_message(header: Header, fields: Mapping[str, Any]) -> PointCloud2:
    """Make a PointCloud2 of the values of `messages.cloud_fields`."""
    message = PointCloud2(header=header)
    _fill(message, {name: value for name, value in fields.items() if name != 'fields'})
    message.fields = [PointField(**dict(one)) for one in fields['fields']]
    return message


def stamp_message(stamp_ns: int) -> Time:
    """Make a Time of integer nanoseconds."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)


def _fill(message: Any, fields: Mapping[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            _fill(getattr(message, name), value)
            continue
        if isinstance(value, np.ndarray):
            value = byte_array(value) if value.dtype == np.uint8 else value.tolist()
        setattr(message, name, value)
