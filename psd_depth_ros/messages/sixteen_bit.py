"""16-bit pixels -> 8 bits: from black to white, or by the percentiles of each image.

A camera of 10, 12 or 14 bits fills the low end of `mono16` only, and thermal counts a narrow band
of it. Scaled by the full range, as sensor_msgs and cv_bridge do, their images are nearly black. A
`SixteenBitTone` scales the images of one stream and notices that.
"""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import SettingsError

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
# An image of 14 bits in 16 uses a quarter of the range at most.
_LITTLE = 0.25
_OUTSIDE = 0.25
_WATCHED = 10


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
    """Scales the 16-bit images of one stream to 8 bits, and watches which values they use."""

    def __init__(self, text: str = FULL) -> None:
        self.text = text
        self._range = parse_sixteen_bit(text)
        self._seen = 0
        self.is_settled = False  # whether enough images were seen to believe `note`
        self._low, self._high = np.inf, -np.inf
        self._outside = 0.0

    def scale(self, values: Array, watch: Array | None = None) -> npt.NDArray[np.uint8]:
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
        """What is odd about the stream so far, with what to do about it; empty where nothing is.

        Of one dark image nothing can be said: see `is_settled`.
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
    """Some of the pixels, those of every colour of a Bayer mosaic among them."""
    step = max(1, int((values.shape[0] * values.shape[1] / 6000) ** 0.5)) | 1
    return values[::step, ::step]


def _percentiles(sample: Array) -> tuple[int, int]:
    low, high = (int(value) for value in np.percentile(sample, _PERCENTILES))
    return low, max(high, low + 1)


def _advice(low: int, high: int) -> str:
    """The number of bits that the values in use have; what they use where they begin high."""
    bits = next(name for name, white in _BITS.items() if high <= white)
    narrow = low > _LITTLE * high or bits == FULL
    return f'{low}..{high}' if narrow and low < high else bits
