"""JPEG and PNG of CompressedImage messages to NumPy arrays, and back.

Truncated images are refused instead of decoded half grey, and sizes that the bytes cannot hold are
refused before memory is allocated. Not all damage can be detected: changed bytes give other
pixels, and a progressive JPEG without the end of its last scan lacks the last bit of some details.
"""

from __future__ import annotations

from dataclasses import dataclass
import re
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.camera import MAX_SIDE

Bytes = npt.NDArray[np.uint8]

# Limit where the camera is unknown: 8192 x 8192, 200 MB as RGB.
MAX_PIXELS = 1 << 26
# OpenCV names a Bayer pattern after its second row read from the second column.
BAYER_CODES = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}
_BAYER = re.compile(r'\s*bayer_(rggb|bggr|gbrg|grbg)(?:8|16)\s*;')
_JPEG_START = b'\xff\xd8\xff'
_JPEG_END = b'\xff\xd9'
# SOF0 to SOF15 without the tables and extensions between them.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xCA})
_JPEG_MOST_SCANS = 256
_JPEG_ARITHMETIC = 0xC9
# Bits of every kind without a marker in them, as many as some dozens of blocks have.
_NOISE = bytes((97 * place * place + 31 * place) % 251 + 1 for place in range(256))
_ROW_BYTES = 16  # of noise for each column
_PNG_START = b'\x89PNG\r\n\x1a\n'
_PNG_END = b'IEND'
_PNG_PALETTE = 3


class Tone(Protocol):
    """How 16-bit pixels become 8 bits: `images.SixteenBitTone`, or `FullRange`."""

    def scale(self, values: Any, watch: Any = None) -> Bytes:
        """uint16 of any shape to uint8 of that shape; `watch` are the pixels of the sensor."""


class FullRange:
    """0 .. 65535 to 0 .. 255."""

    def scale(self, values: Any, watch: Any = None) -> Bytes:
        """See `Tone.scale`."""
        flat = values.reshape(values.shape[0], -1)
        return cv2.convertScaleAbs(flat, alpha=255.0 / 65535.0).reshape(values.shape)


@dataclass(frozen=True)
class PictureHeader:
    """Header of a JPEG or PNG: `bits` per value, byte offset of the `end` marker.

    `one_scan`: a sequential JPEG with all components interleaved in one scan.
    """

    kind: str
    width: int
    height: int
    channels: int
    bits: int
    end: int
    most_pixels_per_byte: float
    one_scan: bool = False


def decode_compressed(message: Any, tone: Tone | None = None) -> Bytes:
    """sensor_msgs/CompressedImage of jpeg or png -> (H, W, 3) uint8 RGB, C-contiguous.

    Grey pictures become three equal channels; of one channel that `format` calls a Bayer mosaic
    (`bayer_rggb8; jpeg compressed `) colours are made, as image_transport leaves it. 16-bit PNG is
    scaled to 8 bits by `tone`, from 0..65535 where it is None. A rotation written into the file
    is ignored: the calibration belongs to the sensor's rows and columns. Raises MessageError for
    other formats and for a picture that is empty, too large, cut short or damaged.
    """
    payload, name = _payload(message)
    return _decode(payload, name, _bayer_pattern(message.format), tone)


def compressed_header(message: Any) -> PictureHeader:
    """Header of the picture of a CompressedImage. Raises MessageError."""
    return read_header(*_payload(message))


def _payload(message: Any) -> tuple[bytes, str]:
    """The bytes of a picture, and its name in error messages."""
    if 'compressedDepth' in message.format:
        raise MessageError(
            f'compressed image has the format {message.format!r}, which holds depth; expected a '
            'colour picture as jpeg or png'
        )
    payload = bytes(memoryview(message.data))
    return payload, f'compressed image ({message.format!r}, {len(payload)} bytes)'


def decode_file(payload: bytes, name: str, tone: Tone) -> Bytes:
    """The bytes of an image file, in messages called `name` -> (H, W, 3) uint8 RGB.

    As `decode_compressed`, and without its checks also other formats that OpenCV reads. Raises
    MessageError.
    """
    if payload.startswith((_JPEG_START, _PNG_START)):
        return _decode(payload, name, '', tone)
    image = _imdecode(payload, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        found = 'empty' if not payload else 'damaged or of an unknown format'
        raise MessageError(f'{name} is {found if image is None else f"of {image.dtype} values"}')
    return cv2.cvtColor(_to_8_bits(image, tone), cv2.COLOR_BGR2RGB)


def _to_8_bits(image: Any, tone: Tone | None) -> Bytes:
    if image.dtype == np.uint16:
        return (tone or FullRange()).scale(image)
    return image  # type: ignore[no-any-return]


def _decode(payload: bytes, name: str, bayer: str, tone: Tone | None) -> Bytes:
    header = read_header(payload, name)
    flags = cv2.IMREAD_GRAYSCALE if header.channels == 1 else cv2.IMREAD_COLOR
    if header.bits == 16:
        flags |= cv2.IMREAD_ANYDEPTH
    image = _imdecode(payload, flags)
    if image is None:
        raise MessageError(f'{name} is damaged and cannot be decoded')
    if header.one_scan and _ends_early(payload, header.end, image, flags):
        raise MessageError(
            f'{name} is damaged: its pixels end before its {header.width}x{header.height} are full'
        )
    if bayer and header.channels == 1:
        return _debayer(image, bayer, name, tone or FullRange())
    image = _to_8_bits(image, tone)
    code = cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(image, code)


def _imdecode(payload: bytes, flags: int) -> Any:
    """Pixels of a picture by OpenCV, None where it fails."""
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(payload, np.uint8), flags)
    except cv2.error:
        return None


def _ends_early(payload: bytes, end: int, image: Any, flags: int) -> bool:
    """Whether a jpeg of one scan lost pixels, which decoders fill with grey without a word.

    They do so from the place of the loss to the last block, in the middle of the range. Where the
    last pixel is of that grey (others of its block may be mixed with the colours above), decoding
    decides, with noise in place of the end marker: it changes a picture that lacks pixels, and is
    never read of one that is whole. An ff before it would make a marker of the noise. It has to
    last for a row of blocks: libraries give out nothing of one that they cannot finish.
    """
    if (image[-1, -1] != 128).any():
        return False
    noise = _NOISE * (1 + _ROW_BYTES * image.shape[1] // len(_NOISE))
    again = _imdecode(payload[:end].rstrip(b'\xff') + noise, flags)
    return again is None or not np.array_equal(again, image)


def _bayer_pattern(text: str) -> str:
    """`rggb` of `bayer_rggb8; jpeg compressed `, '' where the picture is no mosaic.

    Where image_transport made a grey picture of the mosaic it says `compressed mono8`.
    """
    match = _BAYER.match(text)
    return match[1] if match and 'compressed mono' not in text else ''


def _debayer(image: Any, pattern: str, name: str, tone: Tone) -> Bytes:
    height, width = image.shape
    if height % 2 or width % 2:
        raise MessageError(
            f'{name} is {width}x{height}, but a Bayer mosaic has an even width and height'
        )
    rgb = cv2.cvtColor(image, BAYER_CODES[pattern])
    return tone.scale(rgb, watch=image) if image.dtype == np.uint16 else rgb


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


def read_header(payload: bytes, name: str) -> PictureHeader:
    """What a jpeg or png says of itself, before memory of its size is taken.

    Looks at the bytes, not at a format: image_transport writes many forms of it. Raises
    MessageError, which calls it `name`, where it is neither, has no header or no end, or says a
    size that no camera has or that its bytes cannot hold.
    """
    if payload.startswith(_JPEG_START):
        header, mark = _jpeg_header(payload), _JPEG_END
    elif payload.startswith(_PNG_START):
        header, mark = _png_header(payload), _PNG_END
    else:
        raise MessageError(f'{name} is neither jpeg nor png')
    # Decoders differ in what they do with half a picture; its end is either there or not.
    if payload.rfind(mark) < 0 or (header is not None and header.end < 0):
        raise MessageError(f'{name} is damaged: it was cut short (no end marker)')
    if header is None:
        raise MessageError(f'{name} is damaged: its header has no size')
    _check_size(header, name, payload)
    return header


def _check_size(header: PictureHeader, name: str, payload: bytes) -> None:
    width, height = header.width, header.height
    size = f'{name} is {width}x{height}'
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise MessageError(f'{size}, expected sides of 1 to {MAX_SIDE} pixels')
    if width * height > MAX_PIXELS:
        raise MessageError(f'{size}, expected at most {MAX_PIXELS} pixels')
    if width * height > header.most_pixels_per_byte * len(payload):
        raise MessageError(
            f'{size}, which is more pixels than its bytes can hold: it was cut short, or its '
            'header is damaged'
        )


def _png_header(payload: bytes) -> PictureHeader | None:
    """The first chunk, IHDR (PNG specification, 11.2.2)."""
    if payload[12:16] != b'IHDR' or len(payload) < 26:
        return None
    width, height = (int.from_bytes(payload[at : at + 4], 'big') for at in (16, 20))
    bits, colour = payload[24], payload[25]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour)
    if channels is None or bits not in (1, 2, 4, 8, 16):
        return None
    # Deflate makes at most 1032 bytes of one (RFC 1951).
    most = 1032 * 8 / (bits * channels)
    shown = 3 if colour == _PNG_PALETTE else channels
    return PictureHeader('png', width, height, shown, bits, _png_end(payload), most)


def _png_end(payload: bytes) -> int:
    """Offset of the chunk IEND, -1 where a chunk before it reaches beyond the bytes."""
    place = len(_PNG_START)
    while place + 8 <= len(payload):
        if payload[place + 4 : place + 8] == _PNG_END:
            return place
        place += 12 + int.from_bytes(payload[place : place + 4], 'big')
    return -1


def _jpeg_header(payload: bytes) -> PictureHeader | None:
    """The start-of-frame segment and the scan after it (ITU-T T.81, B.2)."""
    frame: tuple[int, int, int, int] | None = None
    place = 2
    while place + 4 <= len(payload) and payload[place] == 0xFF:
        marker = payload[place + 1]
        if marker == 0xFF:  # filling
            place += 1
            continue
        if marker in _JPEG_FRAMES and place + 10 <= len(payload):
            height, width = (
                int.from_bytes(payload[place + at : place + at + 2], 'big') for at in (5, 7)
            )
            frame = width, height, payload[place + 9], marker
        if marker == _JPEG_SCAN:
            break
        place += 2 + int.from_bytes(payload[place + 2 : place + 4], 'big')
    if frame is None:
        return None
    width, height, channels, marker = frame
    # A block of 64 pixels takes one bit at least, unless it is coded arithmetically.
    most = 512.0 if marker < _JPEG_ARITHMETIC else float('inf')
    end = payload.rfind(_JPEG_END, min(place, len(payload)))
    one_scan = payload[place + 4 : place + 5] == bytes([channels])
    one_scan = one_scan and marker not in _JPEG_PROGRESSIVE
    if end >= 0 and not one_scan and not _has_all_scans(payload, place, channels):
        end = -1
    return PictureHeader('jpeg', width, height, channels, 8, end, most, one_scan)


def _has_all_scans(payload: bytes, place: int, channels: int) -> bool:
    """Whether every component is coded to its last bit (T.81, B.2.3 and G.1.1.1)."""
    seen: set[tuple[int, str]] = set()
    for _ in range(_JPEG_MOST_SCANS):
        if place < 0 or place + 4 >= len(payload):
            break
        count = min(payload[place + 4], 4)
        last = place + 5 + 2 * count
        if last + 2 < len(payload) and payload[last + 2] & 15 == 0:  # down to the lowest bit
            for one in range(count):
                component = payload[place + 5 + 2 * one]
                seen |= {(component, 'dc')} if payload[last] == 0 else set()
                seen |= {(component, 'ac')} if payload[last + 1] == 63 else set()
        place = payload.find(bytes([0xFF, _JPEG_SCAN]), place + 2)
    return len(seen) >= 2 * channels
