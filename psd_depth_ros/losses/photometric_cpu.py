"""The photometric error and its gradient on a CPU, one colour of one image at a time.

Every step of SSIM passes over memory: on a whole batch it waits for memory, on one plane it works
in the cache of the processor, ten times as fast. `photometric.photometric_error` says what is
computed, in plain torch; a test compares both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Plane = NDArray[np.float32]

C1, C2 = 1e-4, 9e-4  # constants of SSIM for images in [0, 1]
SSIM_WEIGHT = 0.85
_ONES = np.ones(3, np.float32)
_HUGE = np.float32(1e30)


def photometric_error_planes(
    image: Tensor, target: Tensor, mean: Tensor, square: Tensor
) -> Tensor:
    """As `photometric.photometric_error`, with a gradient of `image` only, and that once.

    Args:
        image: (B, 3, H, W) float32 on the CPU.
        target: Likewise.
        mean: Its local mean.
        square: The local mean of its square.

    Returns:
        (B, 1, H, W).
    """
    return cast(Tensor, _PlanewiseError.apply(image, target, mean, square))


class _PlanewiseError(torch.autograd.Function):
    """Kept for the way back are the derivatives by the three local means of a plane."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, mean: Tensor, square: Tensor) -> Tensor:
        batch, channels, height, width = image.shape
        error = torch.empty((batch, 1, height, width))
        kept = torch.empty((batch, channels, 3 if image.requires_grad else 0, height, width))
        ctx.save_for_backward(image, target, kept)
        arrays = [one.detach().numpy() for one in (image, target, mean, square)]
        found, derivatives, share = error.numpy(), kept.numpy(), 1.0 / channels

        def work(indices: Iterable[int]) -> None:
            plane = _Plane(height, width)
            for index in indices:
                total = found[index, 0]
                total[:] = 0.0
                for channel in range(channels):
                    plane.compare(*(one[index, channel] for one in arrays))
                    if derivatives.size:
                        plane.differentiate(derivatives[index, channel])
                    total += plane.error()
                total *= share

        _share_out(batch, work)
        return error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        x, t, derivatives = (one.detach().numpy() for one in ctx.saved_tensors)
        batch, channels, height, width = x.shape
        by_image = torch.empty((batch, channels, height, width))
        found, given = by_image.numpy(), gradient.numpy()

        def work(indices: Iterable[int]) -> None:
            product, total = np.empty((2, height, width), np.float32)
            for index in indices:
                own = np.multiply(given[index, 0], 1.0 / channels, dtype=np.float32)
                for channel in range(channels):
                    out = found[index, channel]
                    for by, of in zip(derivatives[index, channel], (None, t, x), strict=True):
                        np.multiply(by, own, out=product)
                        _sum_3x3(product, out=out if of is None else total)
                        if of is not None:
                            total *= of[index, channel]
                            out += total
                    sign = np.subtract(x[index, channel], t[index, channel], out=total)
                    sign *= _HUGE
                    np.clip(sign, -1.0, 1.0, out=sign)  # twice as fast as `np.sign`
                    sign *= own
                    sign *= 1.0 - SSIM_WEIGHT
                    out += sign

        _share_out(batch, work)
        return by_image, None, None, None


class _Plane:
    """One colour x of an image beside that of its target t; memory is reused for every one.

    SSIM / 4 = a b / (c d) with the local means m of x and n of t: a = m n + C1 / 2, b = E[x t] -
    m n + C2 / 2, c = m^2 + n^2 + C1, d = E[x^2] + E[t^2] - m^2 - n^2 + C2.
    """

    def __init__(self, height: int, width: int) -> None:
        self._count = inverse_count(height, width)
        # of the error by SSIM / 4, and of a local mean by what is summed
        self._weight = np.float32(-2.0 * SSIM_WEIGHT) * self._count
        memory = np.empty((10, height, width), np.float32)
        self._x, self._t, self._m, self._n, *self._abcd, self._quarter, self._spare = memory

    def error(self) -> Plane:
        """0.85 (1 - SSIM) / 2 + 0.15 |x - t|; it ends the comparison."""
        error, spare = self._quarter, self._spare
        error *= -2.0
        error += 0.5
        np.clip(error, 0.0, 1.0, out=error)
        error *= SSIM_WEIGHT
        np.subtract(self._x, self._t, out=spare)
        np.abs(spare, out=spare)
        spare *= 1.0 - SSIM_WEIGHT
        error += spare
        return error

    def differentiate(self, out: Plane) -> None:
        """Derivatives (3, H, W) of SSIM's part of the error; it ends the comparison but for error.

        By the sums over the window of each pixel of x, of x t, and of x^2, the last one times 2,
        for the derivative of x^2.
        """
        (a, b, c, d), quarter, spare = self._abcd, self._quarter, self._spare
        by_mean, by_product, by_square = out
        weight = np.divide(self._weight, spare, out=spare)  # over c d
        np.multiply(a, weight, out=by_product)
        np.subtract(b, a, out=by_mean)
        by_mean *= self._n
        np.subtract(c, d, out=d)
        d *= self._m
        d *= quarter
        d *= 2.0
        by_mean += d
        by_mean *= weight
        np.multiply(c, quarter, out=by_square)
        by_square *= weight
        by_square *= -2.0

    def compare(self, x: Plane, t: Plane, n: Plane, square: Plane) -> None:
        """Take a plane and find a, b, c, d, c d and the quotient."""
        (a, b, c, d), spare, count = self._abcd, self._spare, self._count
        for kept, given in ((self._x, x), (self._t, t), (self._n, n)):
            np.copyto(kept, given)
        x, t, n, m = self._x, self._t, self._n, self._m
        _sum_3x3(x, out=m)
        m *= count
        np.multiply(m, n, out=a)
        np.multiply(x, t, out=spare)
        _sum_3x3(spare, out=b)
        b *= count
        b -= a
        a += 0.5 * C1
        b += 0.5 * C2
        np.square(x, out=spare)
        _sum_3x3(spare, out=d)
        d *= count
        d += square
        np.square(m, out=c)
        np.square(n, out=spare)
        c += spare
        d -= c
        d += C2
        c += C1
        np.multiply(c, d, out=spare)
        np.multiply(a, b, out=self._quarter)
        self._quarter /= spare


def inverse_count(height: int, width: int) -> Plane:
    """1 / number of pixels in the 3x3 window of each pixel."""
    sides = []
    for length in (height, width):
        side = np.full(length, 1.0 / 3.0, np.float32)
        side[[0, -1]] = 0.5 if length > 1 else 1.0
        sides.append(side)
    return np.outer(*sides)


def _sum_3x3(plane: Plane, out: Plane) -> Plane:
    """Sum over 3x3 pixels, 0 outside."""
    cv2.sepFilter2D(plane, -1, _ONES, _ONES, dst=out, borderType=cv2.BORDER_CONSTANT)
    return out


def _share_out(count: int, work: Callable[[Iterable[int]], None]) -> None:
    """Have all indices worked on by as many threads as torch may use, whichever takes which."""
    threads = min(count, torch.get_num_threads())
    if threads < 2:
        work(range(count))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, (range(first, count, threads) for first in range(threads))))
