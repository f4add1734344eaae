"""Resizing of uint8 images by an antialiased triangle filter, prepared once for a pair of sizes.

It is the filter of Pillow's BILINEAR and of torch's `antialias=True`: a triangle as wide as two
output pixels, or two input pixels where the image is enlarged, sampled at the pixels and
normalised. OpenCV has none: INTER_LINEAR leaves out pixels, INTER_AREA averages over a box.

A filter is a matrix with a narrow band for each axis. NumPy multiplies blocks of these bands, so
that a process that serves depth needs no torch, whose import alone takes a second and 150 MB.
Measured on one x86 core, 640x480 to 256x192 with normalisation: 0.8 ms, Pillow 1.8 ms, OpenCV's
INTER_AREA 1.0 ms, torch 0.3 ms. A NumPy without a fast BLAS, as some distributions have it, would
take 20 ms; there torch does it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
import itertools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Planes = NDArray[np.float32]

_BLOCK = 8  # rows or columns of the output that share a block of a band
_MOST_PRODUCTS = 1 << 18  # of one multiplication: OpenBLAS starts threads for larger ones
_FAST_BLAS = ('openblas', 'mkl', 'accelerate', 'blis')


class _Band(NamedTuple):
    """A block of a filter: pixels `to` of the output from pixels `of` of the input."""

    to: slice
    of: slice
    weights: Planes


class AntialiasedResize:
    """Resizes uint8 images (H, W, 3) to float32 planes (3, h, w), as `gain` x + `offset`.

    Args:
        source: Height and width of the images.
        size: Height and width of the planes.
        gain: For each channel.
        offset: For each channel.
    """

    def __init__(
        self,
        source: tuple[int, int],
        size: tuple[int, int],
        gain: Sequence[float] = (1.0, 1.0, 1.0),
        offset: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        self._source, self._size = source, size
        self._gain = np.array(gain, np.float32)[:, None, None]
        self._offset = np.array(offset, np.float32)[:, None, None]
        self._is_plain = source == size
        if self._is_plain or not has_fast_blas():
            return
        self._rows = _bands(source[0], size[0])
        self._columns = [_of_colours(band, gain) for band in _bands(source[1], size[1])]
        largest = max(band.weights.size for band in self._rows)
        self._row_parts = _parts(3 * source[1], _MOST_PRODUCTS // largest)
        largest = max(band.weights.size for band in self._columns)
        self._column_parts = _parts(size[0], _MOST_PRODUCTS // largest)
        # Reused for every image: memory that the kernel just gave costs more than the arithmetic.
        tallest = max(band.weights.shape[1] for band in self._rows)
        self._wide = np.empty((tallest, 3 * source[1]), np.float32)
        self._half = np.empty((size[0], 3 * source[1]), np.float32)
        self._block = np.empty((size[0], 3 * _BLOCK), np.float32)

    def __call__(self, image: Image) -> Planes:
        """Planes (3, h, w), a new array, of an image (H, W, 3), contiguous. Not thread-safe."""
        if self._is_plain:
            planes = np.empty((3, *self._size), np.float32)
            np.multiply(image.transpose(2, 0, 1), self._gain, out=planes)
            planes += self._offset
            return planes
        if not has_fast_blas():
            return _resize_with_torch(image, self._size) * self._gain + self._offset
        image = image.reshape(self._source[0], -1)
        for band in self._rows:
            wide = self._wide[: band.weights.shape[1]]
            np.copyto(wide, image[band.of])
            for part in self._row_parts:
                np.matmul(band.weights, wide[:, part], out=self._half[band.to, part])
        planes = np.empty((3, *self._size), np.float32)
        for band in self._columns:
            block = self._block[:, : band.weights.shape[1]]
            for part in self._column_parts:
                np.matmul(self._half[part, band.of], band.weights, out=block[part])
            planes[:, :, band.to] = block.reshape(len(block), 3, -1).transpose(1, 0, 2)
        planes += self._offset
        return planes


def resize_with_torch(image: Image, size: tuple[int, int]) -> Image:
    """The same in rounded uint8, (H, W, 3) -> (h, w, 3); faster where torch is there anyway."""
    planes = _resize_with_torch(image, size)
    return cv2.merge(list(planes))  # far faster than to copy with strides


@lru_cache(maxsize=1)
def has_fast_blas() -> bool:
    """Whether NumPy was built with a BLAS that is known to be fast."""
    config: Any = np.show_config(mode='dicts')
    name = str(config.get('Build Dependencies', {}).get('blas', {}).get('name', '')).lower()
    return any(known in name for known in _FAST_BLAS)


def _resize_with_torch(image: Image, size: tuple[int, int]) -> Image:
    """Planes (3, h, w) uint8."""
    import torch

    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    planes = torch.nn.functional.interpolate(
        pixels, size, mode='bilinear', align_corners=False, antialias=True
    )
    found: Image = planes[0].numpy()
    return found


def _bands(old: int, new: int) -> list[_Band]:
    """The filter from `old` to `new` pixels, in blocks of its band."""
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale  # of the output, from the edge of the input
    distances = np.abs(np.arange(old) + 0.5 - centres[:, None])
    weights = np.clip(1.0 - distances / reach, 0.0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    bands = []
    for start in range(0, new, _BLOCK):
        rows = weights[start : start + _BLOCK]
        used = np.flatnonzero(rows.any(axis=0))
        of = slice(int(used[0]), int(used[-1]) + 1)
        to = slice(start, start + len(rows))
        bands.append(_Band(to, of, np.ascontiguousarray(rows[:, of], np.float32)))
    return bands


def _of_colours(band: _Band, gain: Sequence[float]) -> _Band:
    """The band for rows of interleaved colours (3 W); the output is by colour, times its gain."""
    count, length = band.weights.shape
    weights = np.zeros((length, 3, 3, count), np.float32)
    for channel in range(3):
        weights[:, channel, channel] = band.weights.T * np.float32(gain[channel])
    of = slice(3 * band.of.start, 3 * band.of.stop)
    return _Band(band.to, of, weights.reshape(3 * length, 3 * count))


def _parts(count: int, most: int) -> list[slice]:
    """Cut `count` items into equal parts of at most `most`."""
    number = math.ceil(count / max(1, most))
    edges = [round(count * index / number) for index in range(number + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
