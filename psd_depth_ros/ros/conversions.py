"""ROS messages to arrays and back, and the optional libraries that come with a distribution.

What the fields of a message are is decided in `messages`; here plain field values are put into
message classes, without walking large data in Python: `.data` always is an `array.array('B')`, the
one form that is fast with field checks on and off.

cv_bridge decodes encodings that `messages` does not know, sensor_msgs_py reads clouds whose layout
it refuses, and tf_transformations (without a distribution: transforms3d) turns quaternions. None
of them has to be installed: each is imported when it is first needed, and an error about a message
that it could have read names it. What `messages` knows it decodes itself, faster and with equal
results.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Mapping
import copy
import functools
import importlib
import re
from typing import Any

from builtin_interfaces.msg import Time
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header

from psd_depth_ros.errors import MessageError, SettingsError
from psd_depth_ros.geometry.pose import from_quaternion, unit_quaternion
from psd_depth_ros.messages import decode_points, ENCODINGS

Array = npt.NDArray[np.float64]

_TYPE_NAME = re.compile(r'([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)')


def byte_array(data: npt.NDArray[Any]) -> array.array[int]:
    """Copy an array's bytes into the form that rclpy takes without checking each of them."""
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


def find_message_class(msgtype: str) -> type[Any] | None:
    """Find `sensor_msgs/msg/Image` and the like; None where the package is not installed.

    Raises SettingsError where the text is not the name of a message type.
    """
    match = _TYPE_NAME.fullmatch(msgtype)
    if match is None:
        raise SettingsError(
            f'{msgtype!r} is no message type, expected a name such as sensor_msgs/msg/Image'
        )
    try:
        module = importlib.import_module(f'{match[1]}.msg')
    except ImportError:
        return None
    found: type[Any] | None = getattr(module, match[2], None)
    return found


def decode_with_cv_bridge(message: Any) -> npt.NDArray[np.uint8]:
    """sensor_msgs/Image of an encoding that only cv_bridge may know -> (H, W, 3) uint8 RGB.

    Raises MessageError where cv_bridge is not installed or does not know it either.
    """
    known = ', '.join(ENCODINGS)
    refused = f'image encoding {message.encoding!r} cannot be read; accepted are {known}'
    try:
        bridge = _load('cv_bridge').CvBridge()
    except ImportError as error:
        raise MessageError(
            f'{refused}, and what cv_bridge of a ROS distribution knows ({error})'
        ) from error
    try:
        rgb = bridge.imgmsg_to_cv2(message, 'rgb8')
    except Exception as error:  # CvBridgeError, and what NumPy and OpenCV say of bad sizes
        raise MessageError(f'{refused}, and what cv_bridge knows, which says: {error}') from error
    if rgb.dtype != np.uint8 or rgb.shape != (message.height, message.width, 3):
        raise MessageError(f'{refused}; cv_bridge made {rgb.dtype} of shape {rgb.shape} of it')
    return np.ascontiguousarray(rgb)


def read_points(message: Any) -> npt.NDArray[np.float32]:
    """sensor_msgs/PointCloud2 -> its finite points, (N, 3) float32 metres.

    Read by `messages.decode_points`, and what that refuses by sensor_msgs_py. Raises MessageError,
    with the reason of the first, where the second fails too or is not installed.
    """
    try:
        return decode_points(message)
    except MessageError as error:
        refused = error
    try:
        reader = _load('sensor_msgs_py.point_cloud2')
    except ImportError as error:
        raise MessageError(
            f'{refused} (sensor_msgs_py of a ROS distribution reads more: {error})'
        ) from refused
    try:
        # It swaps bytes in the message itself.
        found = reader.read_points(copy.deepcopy(message), field_names=['x', 'y', 'z'])
        with np.errstate(over='ignore'):
            points = np.stack([found[name].astype(np.float32) for name in 'xyz'], axis=-1)
    except Exception as error:  # it asserts, and NumPy raises of its own
        raise MessageError(f'{refused} (sensor_msgs_py fails too: {error})') from error
    points = points.reshape(-1, 3)
    return points[np.isfinite(points).all(axis=1)]


def rotation_matrix(quaternion: npt.ArrayLike) -> Array:
    """3x3 rotation of a unit quaternion (x, y, z, w), by the library that is installed.

    Raises ValueError where its length is not 1, of which the libraries make some rotation.
    """
    return quaternion_library()[1](unit_quaternion(quaternion))


@functools.cache
def quaternion_library() -> tuple[str, Callable[[Array], Array]]:
    """Name and function of the first installed library that turns quaternions into matrices."""
    try:
        transformations = _load('tf_transformations')
    except ImportError:
        pass
    else:
        return 'tf_transformations', lambda q: np.asarray(
            transformations.quaternion_matrix(q), dtype=np.float64
        )[:3, :3]
    try:
        quaternions = _load('transforms3d.quaternions')
    except ImportError:
        return 'psd_depth_ros', from_quaternion
    return 'transforms3d', lambda q: np.asarray(
        quaternions.quat2mat((q[3], q[0], q[1], q[2])), dtype=np.float64
    )


def _load(name: str) -> Any:
    """Import a library of the distribution. Raises ImportError, naming it, where that fails."""
    module, reason = _find(name)
    if module is None:
        raise ImportError(reason)
    return module


@functools.cache
def _find(name: str) -> tuple[Any, str]:
    """A module, or None and why it cannot be imported; tried once, not with every image."""
    package = name.partition('.')[0]
    try:
        return importlib.import_module(name), ''
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition('.')[0]
        return None, f'{package} ' + (
            'is not installed' if missing == package else f'lacks {missing}'
        )
    except Exception as error:  # noqa: BLE001 - built for another NumPy it raises anything
        return None, f'{package} cannot be imported: {error}'
