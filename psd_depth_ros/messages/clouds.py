"""PointCloud2 messages of any layout to named NumPy arrays, and points already packed to messages.

Any order of fields, padding within points and rows, both byte orders. Building a cloud from depth
is left to `inference.cloud`, which packs straight into the layout described here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError
from psd_depth_ros.messages.images import flat_bytes

# sensor_msgs/PointField: INT8 = 1 .. FLOAT64 = 8
_DTYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}
_MAX_POINT_STEP = 1 << 20
_XYZ = ('x', 'y', 'z')
# What PCL and its kind call the bytes between two fields.
_PADDING = ('', '_')


@dataclass(frozen=True)
class CloudField:
    """One sensor_msgs/PointField: `count` values of `datatype` at `offset` bytes of each point."""

    name: str
    offset: int
    datatype: int
    count: int = 1


def decode_cloud(message: Any) -> dict[str, npt.NDArray[Any]]:
    """Fields of a sensor_msgs/PointCloud2 by name, in native byte order.

    Arrays are (N,), or (N, count) where a field holds several values; N = height x width, row by
    row. Fields without a name, and those called `_`, are padding and left out. Raises MessageError
    for an unknown datatype, a field outside the point, sizes that are negative and a buffer
    shorter than its rows.
    """
    points = _points(message, [field for field in message.fields if field.name not in _PADDING])
    arrays = {}
    for name in points.dtype.names or ():
        values = points[name].reshape(-1, *points[name].shape[2:])
        arrays[name] = values.astype(values.dtype.newbyteorder('='))
    return arrays


def decode_points(message: Any) -> npt.NDArray[np.float32]:
    """Finite points of a sensor_msgs/PointCloud2, (N, 3) float32 metres.

    Points beyond what a float32 holds are left out as well. Raises MessageError.
    """
    names = [field.name for field in message.fields]
    missing = [name for name in _XYZ if name not in names]
    if missing:
        raise MessageError(
            f'point cloud has no field {", ".join(missing)}; its fields are '
            f'{", ".join(names) or "none"}'
        )
    fields = [field for field in message.fields if field.name in _XYZ]
    for field in fields:
        if int(field.count) > 1:
            raise MessageError(
                f'point cloud field {field.name!r} holds {field.count} values, expected one: a '
                'coordinate in metres'
            )
    points = _points(message, fields)
    xyz = np.empty((points.size, 3), np.float32)
    with np.errstate(over='ignore'):
        for column, name in enumerate(_XYZ):
            xyz[:, column] = points[name].reshape(-1)
    return xyz[np.isfinite(xyz).all(axis=1)]


def unpack_rgb(packed: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Unpack the `rgb` field of RViz and PCL (N,), float32 or uint32 0x00RRGGBB: (N, 3) uint8."""
    value = np.ascontiguousarray(packed).view(np.uint32)
    channels = [(value >> shift) & 255 for shift in (16, 8, 0)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def cloud_fields(
    data: npt.NDArray[np.uint8],
    fields: Sequence[CloudField],
    width: int,
    height: int = 1,
    *,
    point_step: int,
    is_dense: bool = True,
) -> dict[str, Any]:
    """Fields of a sensor_msgs/PointCloud2 without its header, from points already packed.

    `data` is flat uint8 of height x width x point_step bytes in native byte order; it is not
    copied.
    """
    if data.size != height * width * point_step:
        raise MessageError(
            f'cloud data is {data.size} bytes, expected {height} x {width} points of '
            f'{point_step} bytes'
        )
    return {
        'height': int(height),
        'width': int(width),
        'fields': [asdict(field) for field in fields],
        'is_bigendian': sys.byteorder == 'big',
        'point_step': int(point_step),
        'row_step': int(width) * int(point_step),
        'data': data,
        'is_dense': bool(is_dense),
    }


def _points(message: Any, wanted: Sequence[Any]) -> npt.NDArray[Any]:
    """View some fields of the cloud's buffer as (height, width) structured points."""
    height, width = int(message.height), int(message.width)
    point_step = int(message.point_step)
    _check_sizes(message, height * width)
    dtype = _point_dtype(message, wanted)
    if not height * width:
        return np.empty((height, width), dtype)
    data = flat_bytes(message.data)
    row_step = _row_step(message, data.size)
    return np.ndarray((height, width), dtype, data, strides=(row_step, point_step))


def _check_sizes(message: Any, count: int) -> None:
    """Raise MessageError for impossible sizes."""
    for name in ('height', 'width', 'point_step', 'row_step'):
        if int(getattr(message, name)) < 0:
            raise MessageError(
                f'point cloud {name} is {getattr(message, name)}, expected 0 or more'
            )
    smallest = 1 if count else 0
    if not smallest <= message.point_step <= _MAX_POINT_STEP:
        raise MessageError(
            f'point cloud point_step is {message.point_step} bytes, expected at most '
            f'{_MAX_POINT_STEP} and at least {smallest}'
        )


def _row_step(message: Any, size: int) -> int:
    """Row step in bytes of a cloud with `size` bytes of data.

    Drivers fill `row_step` with 0, with the bytes of the whole cloud or with another number where
    nothing depends on it: data of as many bytes as there are points has rows without padding.
    Padding after the last row may be missing.
    """
    height, width = int(message.height), int(message.width)
    row_step, row = int(message.row_step), width * int(message.point_step)
    if row <= row_step and size >= (height - 1) * row_step + row:
        return row_step
    if size == height * row or (size >= height * row and row_step in (0, height * row)):
        return row
    raise MessageError(
        f'point cloud data is {size} bytes, but {height} rows of {row_step} bytes take '
        f'{height * row_step}, and {height} x {width} points of {message.point_step} bytes '
        f'{height * row}; the message was cut short or its fields disagree'
    )


def _point_dtype(message: Any, wanted: Sequence[Any]) -> np.dtype[Any]:
    order = '>' if message.is_bigendian else '<'
    names, formats, offsets = [], [], []
    for field in wanted:
        code = _DTYPES.get(int(field.datatype))
        if code is None:
            raise MessageError(
                f'point cloud field {field.name!r} has datatype {field.datatype}, expected 1 '
                '(INT8) to 8 (FLOAT64)'
            )
        # Some drivers leave count at 0 where they mean 1.
        count = max(int(field.count), 1)
        end = int(field.offset) + count * np.dtype(code).itemsize
        if not (field.offset >= 0 and end <= message.point_step):
            raise MessageError(
                f'point cloud field {field.name!r} begins at byte {field.offset} and ends at byte '
                f'{end} of a point, but point_step is {message.point_step}'
            )
        dtype = np.dtype(order + code) if count == 1 else np.dtype((order + code, (count,)))
        names.append(field.name)
        formats.append(dtype)
        offsets.append(int(field.offset))
    if len(set(names)) != len(names):
        raise MessageError(f'point cloud has fields of one name twice: {", ".join(names)}')
    return np.dtype(
        {
            'names': names,
            'formats': formats,
            'offsets': offsets,
            'itemsize': int(message.point_step),
        }
    )
