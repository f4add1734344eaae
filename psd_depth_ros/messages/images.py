"""Image and CompressedImage messages to NumPy arrays, and back.

Encodings are those of sensor_msgs/image_encodings.hpp. `preprocess` rectifies and resizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
import re
import sys
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError, SettingsError
from psd_depth_ros.geometry.camera import MAX_SIDE
from psd_depth_ros.messages.compressed import (
    BAYER_CODES,
    compressed_header,
    decode_compressed,
    decode_file,
    FullRange,
    MAX_PIXELS,
    Tone,
)

Bytes = npt.NDArray[np.uint8]
Depth = npt.NDArray[np.float32]
Array = npt.NDArray[Any]


FULL = 'full'
PERCENTILE = 'percentile'
DESCRIPTION = (
    'how 16-bit images become 8 bits: full (0..65535), 10bit, 12bit, 14bit, BLACK..WHITE such as '
    '7000..9500 for thermal counts, or percentile (the 1st to the 99th of every image)'
)
_BITS = {'10bit': 1023, '12bit': 4095, '14bit': 16383, FULL: 65535}
_RANGE = re.compile(r'(\d{1,5})\.\.(\d{1,5})')
_PERCENTILES = (1.0, 99.0)
# Dead pixels of a thermal camera are 0 or 65535: the range in use leaves out one in a thousand.
_USED_PERCENTILES = (0.1, 99.9)
# 14 bits in 16 use a quarter of the range at most.
_LITTLE = 0.25
_OUTSIDE = 0.25
_WATCHED = 10

DEPTH_ENCODINGS = ('32FC1', '16UC1')

_SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class _Layout:
    """How one encoding lays out its bytes, and how its pixels become RGB.

    `rows(height)` rows of `width` pixels of `channels` values of `dtype` each; width and height
    must be multiples of `width_step` and `height_step`. `to_rgb` takes (rows, width x channels)
    uint8, or uint16 in native byte order with the tone that makes 8 bits of them.
    """

    channels: int
    to_rgb: Callable[[Any, int, Tone], Bytes]
    dtype: type[Any] = np.uint8
    width_step: int = 1
    height_step: int = 1
    chroma: Fraction = Fraction(0)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel in a row."""
        return self.channels * np.dtype(self.dtype).itemsize

    def rows(self, height: int) -> int:
        """Rows of bytes that an image of this height takes, chroma planes included."""
        return int(height * (1 + self.chroma))


def _keep(rows: Bytes, channels: int, tone: Tone) -> Bytes:
    return np.ascontiguousarray(_pixels(rows, channels))


def _convert(code: int) -> Callable[[Bytes, int, Tone], Bytes]:
    def convert(rows: Bytes, channels: int, tone: Tone) -> Bytes:
        return cv2.cvtColor(_pixels(rows, channels), code)

    return convert


def _convert_plane(code: int) -> Callable[[Bytes, int, Tone], Bytes]:
    def convert(rows: Bytes, channels: int, tone: Tone) -> Bytes:
        return cv2.cvtColor(rows, code)

    return convert


def _deep(code: int | None) -> Callable[[Any, int, Tone], Bytes]:
    """Colours of 16 bits: to 8 bits, then to RGB."""

    def convert(rows: Any, channels: int, tone: Tone) -> Bytes:
        scaled = _pixels(tone.scale(rows), channels)
        return np.ascontiguousarray(scaled) if code is None else cv2.cvtColor(scaled, code)

    return convert


def _deep_bayer(code: int) -> Callable[[Any, int, Tone], Bytes]:
    """Debayer with all bits, then 8 bits of them: the order of cv_bridge."""

    def convert(rows: Any, channels: int, tone: Tone) -> Bytes:
        return tone.scale(cv2.cvtColor(rows, code), watch=rows)

    return convert


def _nv24(rows: Bytes, channels: int, tone: Tone) -> Bytes:
    """Y plane, then a plane of Cb Cr of every pixel: two rows of bytes for each of its rows."""
    height, width = rows.shape[0] // 3, rows.shape[1]
    chroma = rows[height:].reshape(height, width, 2)
    # BT.601 video range as OpenCV computes it for 4:2:2: each pixel twice, with its own chroma.
    packed = np.empty((height, 2 * width, 2), np.uint8)
    packed[:, 0::2, 0] = packed[:, 1::2, 0] = rows[:height]
    packed[:, 0::2, 1], packed[:, 1::2, 1] = chroma[..., 0], chroma[..., 1]
    return np.ascontiguousarray(cv2.cvtColor(packed, cv2.COLOR_YUV2RGB_YUY2)[:, ::2])


def _pixels(rows: Any, channels: int) -> Any:
    """(H, W * channels) rows, padded or not, as (H, W, channels) without a copy."""
    return rows.reshape(rows.shape[0], -1, channels)


_UYVY = _Layout(2, _convert(cv2.COLOR_YUV2RGB_UYVY), width_step=2)
_YUYV = _Layout(2, _convert(cv2.COLOR_YUV2RGB_YUY2), width_step=2)
_MONO8 = _Layout(1, _convert_plane(cv2.COLOR_GRAY2RGB))
_BGR8 = _Layout(3, _convert(cv2.COLOR_BGR2RGB))
_BGRA8 = _Layout(4, _convert(cv2.COLOR_BGRA2RGB))
_BGR16 = _Layout(3, _deep(cv2.COLOR_BGR2RGB), np.uint16)
_BGRA16 = _Layout(4, _deep(cv2.COLOR_BGRA2RGB), np.uint16)


def _semiplanar(code: int) -> _Layout:
    half = Fraction(1, 2)
    return _Layout(1, _convert_plane(code), width_step=2, height_step=2, chroma=half)


# OpenCV's own names (8UC3 ...) do not state the colours; as in cv_bridge, they are in the order of
# OpenCV.
_LAYOUTS: dict[str, _Layout] = {
    'rgb8': _Layout(3, _keep),
    'bgr8': _BGR8,
    'rgba8': _Layout(4, _convert(cv2.COLOR_RGBA2RGB)),
    'bgra8': _BGRA8,
    'mono8': _MONO8,
    'rgb16': _Layout(3, _deep(None), np.uint16),
    'bgr16': _BGR16,
    'rgba16': _Layout(4, _deep(cv2.COLOR_RGBA2RGB), np.uint16),
    'bgra16': _BGRA16,
    'mono16': _Layout(1, _deep(cv2.COLOR_GRAY2RGB), np.uint16),
    **{
        f'bayer_{pattern}8': _Layout(1, _convert_plane(code), width_step=2, height_step=2)
        for pattern, code in BAYER_CODES.items()
    },
    **{
        f'bayer_{pattern}16': _Layout(1, _deep_bayer(code), np.uint16, width_step=2, height_step=2)
        for pattern, code in BAYER_CODES.items()
    },
    'uyvy': _UYVY,
    'yuv422': _UYVY,
    'yuyv': _YUYV,
    'yuv422_yuy2': _YUYV,
    'nv12': _semiplanar(cv2.COLOR_YUV2RGB_NV12),
    'nv21': _semiplanar(cv2.COLOR_YUV2RGB_NV21),
    'nv24': _Layout(1, _nv24, chroma=Fraction(2)),
    '8UC1': _MONO8,
    '8UC3': _BGR8,
    '8UC4': _BGRA8,
    '16UC3': _BGR16,
    '16UC4': _BGRA16,
}

ENCODINGS = tuple(_LAYOUTS)
_DTYPES: dict[str, np.dtype[Any]] = {
    'rgb8': np.dtype(np.uint8),
    'bgr8': np.dtype(np.uint8),
    'mono8': np.dtype(np.uint8),
    'mono16': np.dtype(np.uint16),
    '16UC1': np.dtype(np.uint16),
    '32FC1': np.dtype(np.float32),
}


def is_compressed(message: Any) -> bool:
    """Whether a message is a CompressedImage, told by its fields."""
    return hasattr(message, 'format') and not hasattr(message, 'encoding')


class ImageDecoder:
    """Decodes the images of one stream, and reports problems of the stream as a whole.

    `sixteen_bit_range`: see `SixteenBitTone`. `fallback` gets an
    Image whose encoding is neither in `ENCODINGS` nor of depth and gives (H, W, 3) uint8 RGB or
    raises MessageError.
    """

    def __init__(
        self, sixteen_bit_range: str = FULL, fallback: Callable[[Any], Bytes] | None = None
    ) -> None:
        self._tone = SixteenBitTone(sixteen_bit_range)
        self._fallback = fallback

    @property
    def sixteen_bit_range(self) -> str:
        """How 16-bit pixels become 8 bits."""
        return self._tone.text

    @property
    def note(self) -> str:
        """Problem of the stream so far, with advice; '' without a problem."""
        return self._tone.note

    @property
    def is_settled(self) -> bool:
        """Whether enough images were seen for `note` to be reliable."""
        return self._tone.is_settled

    def change_range(self, sixteen_bit_range: str) -> None:
        """Change the range of 16-bit pixels. Raises SettingsError."""
        if sixteen_bit_range != self._tone.text:
            self._tone = SixteenBitTone(sixteen_bit_range)

    def decode(self, message: Any) -> Bytes:
        """Image or CompressedImage -> (H, W, 3) uint8 RGB, C-contiguous. Raises MessageError."""
        if is_compressed(message):
            return decode_compressed(message, self._tone)
        is_known = message.encoding in _LAYOUTS or message.encoding in DEPTH_ENCODINGS
        if self._fallback is not None and not is_known:
            return self._fallback(message)
        return decode_image(message, self._tone)

    def decode_file(self, path: Path) -> Bytes:
        """An image file -> (H, W, 3) uint8 RGB, with what `decode_compressed` refuses refused.

        Raises MessageError. jpeg and png are checked; other formats are those that OpenCV reads.
        """
        try:
            payload = path.read_bytes()
        except OSError as error:
            raise MessageError(
                f'image {path} cannot be read: {error.strerror or error}'
            ) from error
        return decode_file(payload, f'image {path}', self._tone)


def decode(message: Any) -> Bytes:
    """Image or CompressedImage -> (H, W, 3) uint8 RGB. Raises MessageError."""
    return ImageDecoder().decode(message)


def image_size(message: Any) -> tuple[int, int]:
    """Width and height of an Image or CompressedImage without decoding it.

    Raises MessageError where a compressed image has no valid header or the size is out of range.
    """
    if is_compressed(message):
        header = compressed_header(message)
        return header.width, header.height
    _check_size(message.width, message.height)
    return int(message.width), int(message.height)


def decode_image(message: Any, tone: Tone | None = None) -> Bytes:
    """sensor_msgs/Image of a colour or grey encoding -> (H, W, 3) uint8 RGB, C-contiguous.

    `rgb8` without row padding is a view of the message's buffer, everything else a new array.
    YUV is BT.601 in video range; 16 bits are scaled by `tone`, from 0..65535 where it is None. A
    step of 0 means rows without padding. Raises MessageError for an encoding that is not in
    `ENCODINGS`, a size out of range, a step shorter than a row and a buffer shorter than height x
    step.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise MessageError(_describe_unknown(message.encoding))
    if message.width % layout.width_step or message.height % layout.height_step:
        raise MessageError(
            f'image is {message.width}x{message.height}, but {message.encoding} needs a width in '
            f'steps of {layout.width_step} and a height in steps of {layout.height_step}'
        )
    count = layout.rows(message.height)
    rows = _rows(message, layout.pixel_bytes, count)
    if layout.chroma > 1:  # a row of the second plane is two of the first, its padding too
        luma, chroma = rows[: message.height], rows[message.height :]
        chroma = chroma.reshape(message.height, -1)[:, : 2 * message.width]
        rows = np.concatenate([luma[:, : message.width], chroma.reshape(-1, message.width)])
    rows = rows[:, : message.width * layout.pixel_bytes]
    if layout.dtype is not np.uint8:
        rows = rows.view(layout.dtype)
        # OpenCV cannot read rows that begin between two values, as an odd padding makes them.
        odd = not rows.flags.aligned
        rows = rows.byteswap() if _is_swapped(message) else rows.copy() if odd else rows
    return layout.to_rgb(rows, layout.channels, tone or FullRange())


def _describe_unknown(encoding: str) -> str:
    if encoding in DEPTH_ENCODINGS:
        return (
            f'image encoding {encoding!r} holds depth (REP 118), no picture; choose the topic of '
            'the camera (thermal counts are published as mono16)'
        )
    return (
        f'image encoding {encoding!r} cannot be read; accepted are '
        f'{", ".join(ENCODINGS)}, or jpeg and png as CompressedImage'
    )


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
    rows = _rows(message, dtype.itemsize, message.height)[:, : message.width * dtype.itemsize]
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
    """View the message as (count, step) bytes, padding included."""
    width, height, step = message.width, message.height, message.step
    _check_size(width, height)
    data = flat_bytes(message.data)
    if step == 0 and data.size == count * width * pixel_bytes:
        step = width * pixel_bytes
    if step < width * pixel_bytes:
        raise MessageError(
            f'image step is {step} bytes, but a row of {width} pixels in {message.encoding} '
            f'takes {width * pixel_bytes}; check the camera driver'
        )
    if data.size < count * step:
        raise MessageError(
            f'image data is {data.size} bytes, but {count} rows of {step} bytes '
            f'({width}x{height} {message.encoding}) take {count * step}; the message was cut '
            'short or its fields disagree'
        )
    return data[: count * step].reshape(count, step)


def _check_size(width: int, height: int) -> None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise MessageError(
            f'image is {width}x{height}, expected sides of 1 to {MAX_SIDE} pixels; check the '
            'camera driver'
        )
    if width * height > MAX_PIXELS:
        raise MessageError(
            f'image is {width}x{height}, expected at most {MAX_PIXELS} pixels; check the camera '
            'driver'
        )


def flat_bytes(data: Any) -> Bytes:
    """View the uint8[] of a message as a flat array.

    Bags give ndarray, rclpy gives array.array, tests and other tools bytes or memoryview.
    """
    if isinstance(data, np.ndarray):
        return data.reshape(-1).view(np.uint8)
    return np.frombuffer(data, np.uint8)


def _is_swapped(message: Any) -> bool:
    return bool(message.is_bigendian) != (sys.byteorder == 'big')


def stamp_ns(header: Any) -> int:
    """Integer nanoseconds of a std_msgs/Header."""
    stamp = header.stamp
    return int(stamp.sec) * _SECOND_NS + int(stamp.nanosec)


def time_fields(time_ns: int) -> dict[str, int]:
    """Fields of a builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(int(time_ns), _SECOND_NS)
    return {'sec': seconds, 'nanosec': nanoseconds}


def header_fields(time_ns: int, frame_id: str) -> dict[str, Any]:
    """Fields of a std_msgs/Header."""
    return {'stamp': time_fields(time_ns), 'frame_id': frame_id}


def parse_sixteen_bit(text: str, name: str = 'sixteen_bit_range') -> tuple[int, int] | None:
    """Black and white of a setting such as `12bit` or `0..4095`; None for `percentile`.

    Raises SettingsError, naming the setting.
    """
    if text == PERCENTILE:
        return None
    if text in _BITS:
        return 0, _BITS[text]
    match = _RANGE.fullmatch(text.strip())
    if match and int(match[1]) < int(match[2]) <= _BITS[FULL]:
        return int(match[1]), int(match[2])
    raise SettingsError(
        f'{name} is {text!r}, expected {", ".join(_BITS)}, {PERCENTILE}, or BLACK..WHITE with '
        f'0 <= BLACK < WHITE <= {_BITS[FULL]}, such as 0..4095'
    )


class SixteenBitTone:
    """Scales the 16-bit images of one stream to 8 bits, and watches which values they use.

    A camera of 10, 12 or 14 bits uses only the low end of `mono16`, and thermal counts a narrow
    band of it: scaled by the full range, as sensor_msgs and cv_bridge do, their images are nearly
    black. `note` says so.
    """

    def __init__(self, text: str = FULL) -> None:
        self.text = text
        self._range = parse_sixteen_bit(text)
        self._seen = 0
        self.is_settled = False  # whether enough images were seen to believe `note`
        self._low, self._high = np.inf, -np.inf
        self._outside = 0.0

    def scale(self, values: Array, watch: Array | None = None) -> Bytes:
        """uint16 of any shape -> uint8 of that shape.

        `watch` (H, W) are the pixels as the sensor gave them, where `values` are no longer those.
        """
        sample = _sample(values if watch is None else watch)
        self._watch(sample)
        black, white = self._range or _percentiles(sample)
        flat = values.reshape(values.shape[0], -1)
        if black:
            flat = cv2.subtract(flat, float(black))  # ends at 0
        scaled = cv2.convertScaleAbs(flat, alpha=255.0 / (white - black))
        return scaled.reshape(values.shape)

    @property
    def note(self) -> str:
        """Problem of the stream so far, with advice; '' without a problem.

        One dark image proves nothing: see `is_settled`.
        """
        if not self._seen or self._range is None:
            return ''
        black, white = self._range
        low, high = int(self._low), int(self._high)
        advice = f'set sixteen_bit_range to {_advice(low, high)} or {PERCENTILE} (now {self.text})'
        if self._outside > _OUTSIDE:
            return (
                f'16-bit images are clipped: {100 * self._outside:.0f} % of the pixels are '
                f'outside of {black}..{white}, they use {low}..{high}; {advice}'
            )
        if high - low < _LITTLE * (white - black):
            return (
                f'16-bit images use {low}..{high} only, which is '
                f'{100 * (high - low) / (white - black):.1f} % of {black}..{white}: they look '
                'nearly flat to the network, and depth is far off. Unless the scene is that dark, '
                f'{advice}'
            )
        return ''

    def _watch(self, sample: Array) -> None:
        low, high = np.percentile(sample, _USED_PERCENTILES)
        self._low, self._high = min(self._low, float(low)), max(self._high, float(high))
        self._seen += 1
        self.is_settled = self._seen >= _WATCHED
        if self._range is not None:
            outside = np.mean((sample < self._range[0]) | (sample > self._range[1]))
            self._outside += (float(outside) - self._outside) / self._seen


def _sample(values: Array) -> Array:
    """A subset of the pixels, with every colour of a Bayer mosaic."""
    step = max(1, int((values.shape[0] * values.shape[1] / 6000) ** 0.5)) | 1
    return values[::step, ::step]


def _percentiles(sample: Array) -> tuple[int, int]:
    low, high = (int(value) for value in np.percentile(sample, _PERCENTILES))
    return low, max(high, low + 1)


def _advice(low: int, high: int) -> str:
    """Suggested setting: the bits of the values in use, or their range where it starts high."""
    bits = next(name for name, white in _BITS.items() if high <= white)
    narrow = low > _LITTLE * high or bits == FULL
    return f'{low}..{high}' if narrow and low < high else bits
