"""Libraries that come with a ROS distribution: the one place where they are imported.

cv_bridge decodes encodings that `messages` does not know, sensor_msgs_py reads clouds whose layout
it refuses, and tf_transformations turns quaternions; where no distribution is, transforms3d does,
which tf_transformations is made of. None of them has to be there: each is imported when it is
first needed, and a message that could have been read with it names it. What `messages` knows it
decodes itself, faster and with equal results.
"""

from __future__ import annotations

from collections.abc import Callable
import copy
import functools
import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.pose import from_quaternion, unit_quaternion
from psd_depth_ros.messages import decode_points, ENCODINGS

Array = npt.NDArray[np.float64]


def decode_with_cv_bridge(message: Any) -> npt.NDArray[np.uint8]:
    """sensor_msgs/Image of an encoding that only cv_bridge may know -> (H, W, 3) uint8 RGB.

    Raises MessageError where cv_bridge is not there or does not know it either.
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

    By `messages.decode_points`, and what that refuses by sensor_msgs_py. Raises MessageError with
    what was wrong for the first where the other fails too or is not there.
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
    """3x3 rotation of a unit quaternion (x, y, z, w), by the library that is there.

    Raises ValueError where its length is not 1, which the libraries make some rotation of.
    """
    return quaternion_library()[1](unit_quaternion(quaternion))


@functools.cache
def quaternion_library() -> tuple[str, Callable[[Array], Array]]:
    """Name of the library that turns quaternions, and how: the first that is installed."""
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
    """A module, or None and why it cannot be had; looked for once, not with every image."""
    package = name.partition('.')[0]
    try:
        return importlib.import_module(name), ''
    except ModuleNotFoundError as error:
        missing = (error.name or package).partition('.')[0]
        return None, f'{package} ' + (
            'is not installed' if missing == package else f'lacks {missing}'
        )
    except Exception as error:  # noqa: BLE001 - built for another NumPy it raises what it likes
        return None, f'{package} cannot be imported: {error}'
