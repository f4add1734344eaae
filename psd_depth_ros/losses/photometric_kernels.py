"""The photometric error and its gradient of one image, compiled by Numba, a row at a time.

`photometric.photometric_error` says what is computed, in plain torch, where every step of SSIM
passes over all images of a batch and waits for memory. Here the rows that a pixel needs are in the
first cache of the processor. SSIM / 4 = a b / (c d) with the local means m of x and n of t:
a = m n + C1 / 2, b = E[x t] - m n + C2 / 2, c = m^2 + n^2 + C1, d = E[x^2] + E[t^2] - m^2 - n^2 +
C2.

Compiled code is kept beside this file, or in a folder of the user's cache where that cannot be
written: the first time ever takes some seconds. It runs without the global lock of Python, so
that threads may work on several images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import njit
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# What is written as a plain number would turn everything into float64.
_HALF, _ONE, _TWO, _ZERO = (np.float32(value) for value in (0.5, 1.0, 2.0, 0.0))
_OPTIONS: dict[str, Any] = {
    'nogil': True, 'error_model': 'numpy', 'fastmath': {'contract', 'nsz'}
}  # fmt: skip


class Kernels(NamedTuple):
    """`find_error` and `find_gradient`, compiled for arrays in one piece."""

    find_error: Callable[..., None]
    find_gradient: Callable[..., None]


def compile_kernels() -> Kernels:
    """Read what was compiled before, or compile it and keep it."""
    try:
        return _compile(keep=True)
    except Exception:  # noqa: BLE001 - no folder to keep it in, or damaged files: they raise anything
        return _compile(keep=False)


def _compile(keep: bool) -> Kernels:
    kernels = Kernels(*(njit(cache=keep, **_OPTIONS)(one) for one in (find_error, find_gradient)))
    image, plane = np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32)
    given = image, image, image, image, plane, np.zeros(3, np.float32)
    kernels.find_error(*given, plane)
    kernels.find_gradient(*given, plane, image)
    return kernels


def find_error(
    x: Array, t: Array, n: Array, square: Array, count: Array, constants: Array, error: Array
) -> None:
    """The error of one image.

    Args:
        x: (C, H, W) the image.
        t: Likewise, the target.
        n: Its local mean.
        square: The local mean of its square.
        count: (H, W) one over the number of pixels in the window of each.
        constants: C1, C2 and the weight of SSIM.
        error: (H, W), takes the mean over colours of weight (1 - SSIM) / 2 + (1 - weight) |x - t|.
    """
    channels, height, width = x.shape
    weight, share = constants[2], _ONE / np.float32(channels)
    sums = np.zeros((3, width + 2), np.float32)
    for y in range(height):
        error[y] = _ZERO
        for k in range(channels):
            _sum_rows(x[k], t[k], y, sums)
            for i in range(width):
                a, b, c, d, _ = _compare(
                    sums, i, count[y, i], n[k, y, i], square[k, y, i], constants
                )
                dissimilarity = min(max(_HALF - _TWO * a * b / (c * d), _ZERO), _ONE)
                difference = abs(x[k, y, i] - t[k, y, i])
                error[y, i] += share * (weight * dissimilarity + (_ONE - weight) * difference)


def find_gradient(
    x: Array,
    t: Array,
    n: Array,
    square: Array,
    count: Array,
    constants: Array,
    by_error: Array,
    by_image: Array,
) -> None:
    """The gradient by the image, of one by its error.

    A row is done as soon as the one below it is known: the error of a pixel depends on the sums of
    x, x t and x^2 over its window, and these on all pixels of the window.

    Args:
        x, t, n, square, count, constants: As `find_error` takes them.
        by_error: (H, W).
        by_image: (C, H, W), takes the result.
    """
    channels, height, width = x.shape
    sums = np.empty((3, width + 2), np.float32)
    rows = np.empty((3, 3, width + 2), np.float32)  # derivatives by the sums, of three rows
    for k in range(channels):
        rows[:] = _ZERO
        for y in range(height + 1):
            below = rows[y % 3]
            if y < height:
                sums[:, 0] = sums[:, -1] = _ZERO
                _sum_rows(x[k], t[k], y, sums)
                _differentiate(
                    sums, count[y], n[k, y], square[k, y], constants, by_error[y], below
                )
            else:
                below[:] = _ZERO
            if y > 0:
                _gather(x[k, y - 1], t[k, y - 1], rows, sums, constants, by_error[y - 1],
                        by_image[k, y - 1])  # fmt: skip
    by_image *= _ONE / np.float32(channels)


@njit(**_OPTIONS)
def _differentiate(
    sums: Array,
    count: Array,
    n: Array,
    square: Array,
    constants: Array,
    by_error: Array,
    by_sums: Array,
) -> None:
    """Gradient (3, W + 2) of a row of SSIM's part of the error by its sums, ends excluded.

    The last one is that of 2 x^2, so that what x is multiplied by is the derivative of x^2.
    """
    for i in range(len(count)):
        a, b, c, d, m = _compare(sums, i, count[i], n[i], square[i], constants)
        over = _ONE / (c * d)
        quarter = a * b * over
        weight = -_TWO * constants[2] * count[i] * over * by_error[i]
        by_sums[0, i + 1] = weight * ((b - a) * n[i] + _TWO * (c - d) * m * quarter)
        by_sums[1, i + 1] = weight * a
        by_sums[2, i + 1] = -_TWO * weight * c * quarter


@njit(**_OPTIONS)
def _gather(
    x: Array,
    t: Array,
    rows: Array,
    sums: Array,
    constants: Array,
    by_error: Array,
    by_image: Array,
) -> None:
    """Gradient (W,) by a row of the image: of all windows that it is in, and of |x - t|."""
    for kind in range(3):
        for i in range(len(x) + 2):
            sums[kind, i] = rows[0, kind, i] + rows[1, kind, i] + rows[2, kind, i]
    for i in range(len(x)):
        sign = np.float32(x[i] > t[i]) - np.float32(x[i] < t[i])
        by_image[i] = (
            (sums[0, i] + sums[0, i + 1] + sums[0, i + 2])
            + (sums[1, i] + sums[1, i + 1] + sums[1, i + 2]) * t[i]
            + (sums[2, i] + sums[2, i + 1] + sums[2, i + 2]) * x[i]
            + sign * (_ONE - constants[2]) * by_error[i]
        )


@njit(**_OPTIONS)
def _sum_rows(x: Array, t: Array, y: int, sums: Array) -> None:
    """Sums of x, x t and x^2 over row `y` and its neighbours, into the inner columns of `sums`."""
    height, width = x.shape
    for i in range(width):
        p, q = x[y, i], t[y, i]
        sums[0, i + 1], sums[1, i + 1], sums[2, i + 1] = p, p * q, p * p
    for other in (y - 1, y + 1):
        if 0 <= other < height:
            for i in range(width):
                p, q = x[other, i], t[other, i]
                sums[0, i + 1] += p
                sums[1, i + 1] += p * q
                sums[2, i + 1] += p * p


@njit(**_OPTIONS)
def _compare(
    sums: Array, i: int, count: float, n: float, square: float, constants: Array
) -> tuple[float, float, float, float, float]:
    """a, b, c, d and m of a pixel."""
    m = count * (sums[0, i] + sums[0, i + 1] + sums[0, i + 2])
    product = count * (sums[1, i] + sums[1, i + 1] + sums[1, i + 2])
    own_square = count * (sums[2, i] + sums[2, i + 1] + sums[2, i + 2])
    c1, c2 = constants[0], constants[1]
    means, squared_means = m * n, m * m + n * n
    a, b = means + _HALF * c1, product - means + _HALF * c2
    return a, b, squared_means + c1, own_square + square - squared_means + c2, m
