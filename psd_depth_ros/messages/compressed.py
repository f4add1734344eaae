"""JPEG and PNG of CompressedImage messages -> NumPy arrays, and back.

A picture that arrived damaged is refused here rather than handed on half grey. Bags with
compressed chunks are another matter and left to `data.bags`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.camera import MAX_SIDE

Bytes = npt.NDArray[np.uint8]

_JPEG_START = b'\xff\xd8\xff'
_JPEG_END = b'\xff\xd9'
# SOF0 to SOF15 without the tables and extensions between them.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_START = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND'


def is_compressed(message: Any) -> bool:
    """Whether a message is a CompressedImage, told by its fields."""
    return hasattr(message, 'format') and not hasattr(message, 'encoding')


def decode_compressed(message: Any) -> Bytes:
    """sensor_msgs/CompressedImage of jpeg or png -> (H, W, 3) uint8 RGB, C-contiguous.

    Grey pictures become three equal channels and 16-bit PNG becomes 8 bits. A rotation written
    into the file is ignored: the calibration belongs to the sensor's rows and columns. Raises
    MessageError for other formats and for a picture that is empty, cut short or damaged.
    """
    payload = bytes(memoryview(message.data))
    _check_format(message.format, payload)
    _check_size(message.format, payload)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(payload, np.uint8), flags)
    except cv2.error as error:
        raise MessageError(f'{_describe(message.format, payload)} is damaged: {error}') from error
    if image is None:
        raise MessageError(
            f'{_describe(message.format, payload)} is damaged and cannot be decoded'
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def compressed_fields(
    rgb: Bytes, picture_format: str = 'jpeg', quality: int = 95
) -> dict[str, Any]:
    """Fields of a sensor_msgs/CompressedImage without its header, from (H, W, 3) uint8 RGB."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    if picture_format == 'jpeg':
        done, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    elif picture_format == 'png':
        done, data = cv2.imencode('.png', bgr)
    else:
        raise MessageError(f'pictures are written as jpeg or png; found {picture_format!r}')
    if not done:
        raise MessageError(f'an image of shape {rgb.shape} could not be written as jpeg or png')
    return {'format': f'rgb8; {picture_format} compressed bgr8', 'data': data.reshape(-1)}


def _check_format(text: str, payload: bytes) -> None:
    """Look at the bytes, not only at `format`: image_transport writes many forms of it."""
    if 'compressedDepth' in text:
        raise MessageError(
            f'compressed image has the format {text!r}, which holds depth; expected a colour '
            'picture as jpeg or png'
        )
    if payload.startswith(_JPEG_START):
        end = _JPEG_END
    elif payload.startswith(_PNG_START):
        end = _PNG_END
    else:
        raise MessageError(f'{_describe(text, payload)} is neither jpeg nor png')
    # Decoders differ in what they do with half a picture; its end marker is either there or not.
    if payload.rfind(end) < 0:
        raise MessageError(
            f'{_describe(text, payload)} is damaged: it was cut short (no end marker)'
        )


def _check_size(text: str, payload: bytes) -> None:
    """Read the size before memory of that size is taken."""
    size = _png_size(payload) if payload.startswith(_PNG_START) else _jpeg_size(payload)
    if size is None:
        raise MessageError(f'{_describe(text, payload)} is damaged: its header has no size')
    width, height = size
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise MessageError(
            f'{_describe(text, payload)} is {width}x{height}, expected sides of 1 to {MAX_SIDE} '
            'pixels'
        )


def _png_size(payload: bytes) -> tuple[int, int] | None:
    """Width and height in the first chunk, IHDR (PNG specification, 11.2.2)."""
    if payload[12:16] != b'IHDR' or len(payload) < 24:
        return None
    return int.from_bytes(payload[16:20], 'big'), int.from_bytes(payload[20:24], 'big')


def _jpeg_size(payload: bytes) -> tuple[int, int] | None:
    """Width and height in the start-of-frame segment (ITU-T T.81, B.2.2)."""
    place = 2
    while place + 9 <= len(payload) and payload[place] == 0xFF:
        marker = payload[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker in _JPEG_FRAMES:
            height = int.from_bytes(payload[place + 5 : place + 7], 'big')
            return int.from_bytes(payload[place + 7 : place + 9], 'big'), height
        place += 2 + int.from_bytes(payload[place + 2 : place + 4], 'big')
    return None


def _describe(text: str, payload: bytes) -> str:
    return f'compressed image ({text!r}, {len(payload)} bytes)'
