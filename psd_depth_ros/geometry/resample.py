"""Resampling of maps (..., H, W) in NumPy, where NaN means unknown.

Pixel centres are at integers: the outer edges of a map of width W are at -0.5 and W - 0.5.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_ENOUGH = 0.5  # of the weight of a result has to be of known pixels


def positions(count: int, start: float, stop: float) -> NDArray[np.float64]:
    """Centres of `count` equal parts of what lies from the edges `start` to `stop`.

    `positions(w, -0.5, W - 0.5)` are those of a map of width W that is resized to w.
    """
    centres = np.arange(count, dtype=np.float64) + 0.5
    return start + centres * ((stop - start) / count)


def sample_bilinear(
    maps: NDArray, rows: NDArray[np.float64], columns: NDArray[np.float64], *, outside: bool = True
) -> Array:
    """Bilinear values (..., n, m) of maps (..., H, W) at every pair of n rows and m columns.

    Args:
        maps: Any real type.
        rows: Positions in pixels.
        columns: Positions in pixels.
        outside: Whether the values at the border go on beyond it; else they are NaN there.
    """
    values = np.asarray(maps, np.float32)
    known = np.isfinite(values)
    if known.all():
        result = _along(_along(values, rows, -2), columns, -1)
    else:
        weight = _along(_along(known.astype(np.float32), rows, -2), columns, -1)
        total = _along(_along(np.where(known, values, 0.0), rows, -2), columns, -1)
        result = _divide(total, weight)
    if not outside:
        height, width = values.shape[-2:]
        result[..., (rows < -0.5) | (rows > height - 0.5), :] = np.nan
        result[..., (columns < -0.5) | (columns > width - 0.5)] = np.nan
    return result


def sample_at(values: NDArray, places: NDArray) -> NDArray:
    """Bilinear values (n, C) of maps (H, W, C) at places (n, 2), x y, of the type of the maps.

    Beyond the outermost pixels their values go on. Places must be finite; values beside NaN or
    Inf are NaN. Not cv2.remap: that of OpenCV 4 rounds places to 1/32 pixel.
    """
    height, width, channels = values.shape
    flat = np.ascontiguousarray(values).reshape(-1, channels)
    x = np.clip(places[:, 0], 0, width - 1)
    y = np.clip(places[:, 1], 0, height - 1)
    left, top = x.astype(np.intp), y.astype(np.intp)
    right, below = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across = (x - left).astype(values.dtype)[:, None]
    down = (y - top).astype(values.dtype)[:, None]
    top, below = top * width, below * width
    first, last = flat[top + left], flat[below + left]
    first += across * (flat[top + right] - first)
    last += across * (flat[below + right] - last)
    last -= first
    last *= down
    first += last
    return first


def resize_area(maps: NDArray, size: tuple[int, int]) -> Array:
    """Maps (..., h, w) of a size (height, width): the mean over what each new pixel covers.

    Unlike OpenCV's, it takes any number of channels, any factor, and leaves out NaN.
    """
    values = np.asarray(maps, np.float32)
    by_row, by_column = (
        _overlap(old, new) for old, new in zip(values.shape[-2:], size, strict=True)
    )
    known = np.isfinite(values)
    if known.all():
        return by_row @ values @ by_column.T
    weight = by_row @ known.astype(np.float32) @ by_column.T
    return _divide(by_row @ np.where(known, values, np.float32(0)) @ by_column.T, weight)


def resize(maps: NDArray, size: tuple[int, int]) -> Array:
    """Maps of a size (height, width): averaged along sides that shrink, bilinear along others."""
    height, width = maps.shape[-2:]
    smaller = (min(height, size[0]), min(width, size[1]))
    averaged = np.asarray(maps, np.float32)
    if smaller != (height, width):
        averaged = resize_area(averaged, smaller)
    if smaller == size:
        return averaged
    rows = positions(size[0], -0.5, smaller[0] - 0.5)
    columns = positions(size[1], -0.5, smaller[1] - 0.5)
    return sample_bilinear(averaged, rows, columns)


def _along(values: Array, where: NDArray[np.float64], axis: int) -> Array:
    last = values.shape[axis] - 1
    inside = np.clip(where, 0, last)
    lower = np.minimum(inside.astype(np.int64), max(0, last - 1))
    part = (inside - lower).astype(np.float32)
    if axis == -2:
        part = part[:, None]
    low = np.take(values, lower, axis)
    result: Array = low + part * (np.take(values, np.minimum(lower + 1, last), axis) - low)
    return result


def _overlap(old: int, new: int) -> Array:
    """Fraction (new, old) of each new pixel that each old one covers."""
    edges = np.linspace(0, old, new + 1)
    cells = np.arange(old)
    low = np.maximum(edges[:-1, None], cells)
    covered = np.clip(np.minimum(edges[1:, None], cells + 1) - low, 0, None)
    return (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)


def _divide(total: Array, weight: Array) -> Array:
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(weight >= _ENOUGH, total / weight, np.float32(np.nan))
