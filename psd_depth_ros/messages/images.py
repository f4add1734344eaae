"""Pixels of Image and CompressedImage messages -> NumPy arrays, and back.

Reads fields by name and imports no message type, so a message from a bag and one from a live
topic take the same path. Encodings are those of sensor_msgs/image_encodings.hpp. Rectifying and
resizing are left to `preprocess`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.camera import MAX_SIDE
from psd_depth_ros.messages.compressed import decode_compressed, is_compressed

Bytes = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Layout:
    """How one encoding lays out its bytes, and how rows of it become RGB.

    `rows(height)` rows of `width * pixel_bytes` bytes each; width and height must be multiples of
    `width_step` and `height_step`.
    """

    pixel_bytes: int
    to_rgb: Callable[[Bytes, int, bool], Bytes]
    width_step: int = 1
    height_step: int = 1
    half_chroma_plane: bool = False

    def rows(self, height: int) -> int:
        """Rows of bytes that an image of this height takes."""
        return height * 3 // 2 if self.half_chroma_plane else height


def _keep(rows: Bytes, channels: int, swapped: bool) -> Bytes:
    return np.ascontiguousarray(_pixels(rows, channels))


def _convert(code: int) -> Callable[[Bytes, int, bool], Bytes]:
    def convert(rows: Bytes, channels: int, swapped: bool) -> Bytes:
        return cv2.cvtColor(_pixels(rows, channels), code)

    return convert


def _convert_plane(code: int) -> Callable[[Bytes, int, bool], Bytes]:
    def convert(rows: Bytes, channels: int, swapped: bool) -> Bytes:
        return cv2.cvtColor(rows, code)

    return convert


def _grey16(rows: Bytes, channels: int, swapped: bool) -> Bytes:
    """Scale the full 16-bit range to 8 bits, as cv_bridge does."""
    grey = rows.view(np.uint16)
    if swapped:
        grey = grey.byteswap()
    return cv2.cvtColor(cv2.convertScaleAbs(grey, alpha=255.0 / 65535.0), cv2.COLOR_GRAY2RGB)


def _pixels(rows: Bytes, channels: int) -> Bytes:
    """(H, W * channels) rows, padded or not, as (H, W, channels) without a copy."""
    return rows.reshape(rows.shape[0], -1, channels)


_UYVY = _Layout(2, _convert(cv2.COLOR_YUV2RGB_UYVY), width_step=2)
_YUYV = _Layout(2, _convert(cv2.COLOR_YUV2RGB_YUY2), width_step=2)


def _bayer(code: int) -> _Layout:
    return _Layout(1, _convert_plane(code), width_step=2, height_step=2)


def _semiplanar(code: int) -> _Layout:
    return _Layout(1, _convert_plane(code), width_step=2, height_step=2, half_chroma_plane=True)


# OpenCV names a Bayer pattern after its second row read from the second column.
_LAYOUTS: dict[str, _Layout] = {
    'rgb8': _Layout(3, _keep),
    'bgr8': _Layout(3, _convert(cv2.COLOR_BGR2RGB)),
    'rgba8': _Layout(4, _convert(cv2.COLOR_RGBA2RGB)),
    'bgra8': _Layout(4, _convert(cv2.COLOR_BGRA2RGB)),
    'mono8': _Layout(1, _convert_plane(cv2.COLOR_GRAY2RGB)),
    'mono16': _Layout(2, _grey16),
    'bayer_rggb8': _bayer(cv2.COLOR_BayerBG2RGB),
    'bayer_bggr8': _bayer(cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg8': _bayer(cv2.COLOR_BayerGR2RGB),
    'bayer_grbg8': _bayer(cv2.COLOR_BayerGB2RGB),
    'uyvy': _UYVY,
    'yuv422': _UYVY,
    'yuyv': _YUYV,
    'yuv422_yuy2': _YUYV,
    'nv12': _semiplanar(cv2.COLOR_YUV2RGB_NV12),
    'nv21': _semiplanar(cv2.COLOR_YUV2RGB_NV21),
}

ENCODINGS = tuple(_LAYOUTS)
DEPTH_ENCODINGS = ('32FC1', '16UC1')
_DTYPES: dict[str, np.dtype[Any]] = {
    'rgb8': np.dtype(np.uint8),
    'bgr8': np.dtype(np.uint8),
    'mono8': np.dtype(np.uint8),
    'mono16': np.dtype(np.uint16),
    '16UC1': np.dtype(np.uint16),
    '32FC1': np.dtype(np.float32),
}


def decode(message: Any) -> Bytes:
    """Image or CompressedImage -> (H, W, 3) uint8 RGB. Raises MessageError."""
    return decode_compressed(message) if is_compressed(message) else decode_image(message)


def decode_image(message: Any) -> Bytes:
    """sensor_msgs/Image of a colour or grey encoding -> (H, W, 3) uint8 RGB, C-contiguous.

    `rgb8` without row padding is a view of the message's buffer, everything else a new array.
    YUV is BT.601 in video range; mono16 is scaled from 0..65535. Raises MessageError for an
    encoding that is not in `ENCODINGS`, a size out of range, a step shorter than a row and a
    buffer shorter than height x step.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise MessageError(
            f'image encoding {message.encoding!r} cannot be read; accepted are '
            f'{", ".join(ENCODINGS)}, or jpeg and png as CompressedImage'
        )
    if message.width % layout.width_step or message.height % layout.height_step:
        raise MessageError(
            f'image is {message.width}x{message.height}, but {message.encoding} needs a width in '
            f'steps of {layout.width_step} and a height in steps of {layout.height_step}'
        )
    rows = _rows(message, layout.pixel_bytes, layout.rows(message.height))
    return layout.to_rgb(rows, layout.pixel_bytes, _is_swapped(message))


def decode_depth(message: Any) -> Depth:
    """sensor_msgs/Image of depth -> (H, W) float32 metres (REP 118).

    `32FC1` keeps its NaN and Inf (REP 117) and, where neither padded nor byte-swapped, is a view
    of the buffer. `16UC1` is millimetres; its 0 (no measurement) becomes NaN. Raises MessageError.
    """
    if message.encoding not in DEPTH_ENCODINGS:
        raise MessageError(
            f'depth encoding {message.encoding!r} cannot be read; accepted are '
            f'{", ".join(DEPTH_ENCODINGS)}'
        )
    dtype = _DTYPES[message.encoding]
    rows = _rows(message, dtype.itemsize, message.height)
    values = np.ascontiguousarray(rows).view(dtype)
    if _is_swapped(message):
        values = values.byteswap()
    if message.encoding == '32FC1':
        return values
    metres = values.astype(np.float32) * np.float32(1e-3)
    metres[values == 0] = np.nan
    return metres


def depth_to_millimetres(depth_m: Depth) -> npt.NDArray[np.uint16]:
    """Float metres -> the 16UC1 of REP 118: millimetres, 0 where invalid or out of range."""
    with np.errstate(invalid='ignore'):
        inside = (depth_m > 0) & (depth_m < 65.5355)
    return (np.where(inside, depth_m, 0.0) * 1000.0 + 0.5).astype(np.uint16)


def image_fields(array: npt.NDArray[Any], encoding: str) -> dict[str, Any]:
    """Fields of a sensor_msgs/Image without its header.

    `array` is (H, W) or (H, W, 3) of the type of `encoding` (rgb8, bgr8, mono8, mono16, 16UC1,
    32FC1). `data` is a flat uint8 view of it, copied only where it is not C-contiguous.
    """
    if encoding not in _DTYPES:
        raise MessageError(
            f'images are written as {", ".join(_DTYPES)}; found the encoding {encoding!r}'
        )
    channels = 3 if encoding in ('rgb8', 'bgr8') else 1
    shape = (*array.shape[:2], 3) if channels == 3 else array.shape[:2]
    if array.shape != shape or array.dtype != _DTYPES[encoding]:
        raise MessageError(
            f'{encoding} needs {_DTYPES[encoding]} with {channels} channel(s), '
            f'found {array.dtype} of shape {array.shape}'
        )
    contiguous = np.ascontiguousarray(array)
    return {
        'height': int(array.shape[0]),
        'width': int(array.shape[1]),
        'encoding': encoding,
        'is_bigendian': int(sys.byteorder == 'big'),
        'step': int(array.shape[1]) * channels * array.dtype.itemsize,
        'data': contiguous.reshape(-1).view(np.uint8),
    }


def _rows(message: Any, pixel_bytes: int, count: int) -> Bytes:
    """View the message as (count, width * pixel_bytes) bytes, row padding cut off."""
    width, height, step = message.width, message.height, message.step
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise MessageError(
            f'image is {width}x{height}, expected sides of 1 to {MAX_SIDE} pixels; check the '
            'camera driver'
        )
    if step < width * pixel_bytes:
        raise MessageError(
            f'image step is {step} bytes, but a row of {width} pixels in {message.encoding} '
            f'takes {width * pixel_bytes}; check the camera driver'
        )
    data = flat_bytes(message.data)
    if data.size < count * step:
        raise MessageError(
            f'image data is {data.size} bytes, but {count} rows of {step} bytes '
            f'({width}x{height} {message.encoding}) take {count * step}; the message was cut '
            'short or its fields disagree'
        )
    return data[: count * step].reshape(count, step)[:, : width * pixel_bytes]


def flat_bytes(data: Any) -> Bytes:
    """View the uint8[] of a message as a flat array.

    Bags give ndarray, rclpy gives array.array, tests and other tools bytes or memoryview.
    """
    if isinstance(data, np.ndarray):
        return data.reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


def _is_swapped(message: Any) -> bool:
    return bool(message.is_bigendian) != (sys.byteorder == 'big')
