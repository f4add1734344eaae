"""The photometric error on a CPU as an operation of torch, where Numba is installed.

In plain torch an eighth of a training step. `photometric_kernels` has the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, cast, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from psd_depth_ros.losses.photometric_kernels import Kernels

C1, C2 = 1e-4, 9e-4  # constants of SSIM for images in [0, 1]
SSIM_WEIGHT = 0.85


@cache
def find_kernels() -> Kernels | None:
    """The compiled functions, None without a Numba that works with this NumPy."""
    try:
        from psd_depth_ros.losses.photometric_kernels import compile_kernels
    except ImportError:
        return None
    return compile_kernels()


def photometric_error_compiled(
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
    return cast(Tensor, _CompiledError.apply(image, target, mean, square))


class _CompiledError(torch.autograd.Function):
    """Nothing is kept for the way back but the images: to compute again is faster."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, mean: Tensor, square: Tensor) -> Tensor:
        batch, _, height, width = image.shape
        ctx.save_for_backward(image, target, mean, square)
        arrays, shared = _arrays(image, target, mean, square), _shared(height, width)
        error = torch.empty((batch, 1, height, width))
        found, kernels = error.numpy(), cast('Kernels', find_kernels())

        def work(index: int) -> None:
            kernels.find_error(*(one[index] for one in arrays), *shared, found[index, 0])

        _share_out(batch, work)
        return error

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        *arrays, given = _arrays(*ctx.saved_tensors, gradient)
        shared = _shared(*gradient.shape[-2:])
        by_image = torch.empty(arrays[0].shape)
        found, kernels = by_image.numpy(), cast('Kernels', find_kernels())

        def work(index: int) -> None:
            images = (one[index] for one in arrays)
            kernels.find_gradient(*images, *shared, given[index, 0], found[index])

        _share_out(len(found), work)
        return by_image, None, None, None


def _arrays(*tensors: Tensor) -> list[NDArray[np.float32]]:
    """Arrays with their rows last, in one piece, as the functions were compiled for."""
    return [one.detach().contiguous().numpy() for one in tensors]


def _shared(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the functions take for every image of a size."""
    return inverse_count(height, width), np.array([C1, C2, SSIM_WEIGHT], np.float32)


def inverse_count(height: int, width: int) -> NDArray[np.float32]:
    """1 / number of pixels in the 3x3 window of each pixel."""
    sides = []
    for length in (height, width):
        side = np.full(length, 1.0 / 3.0, np.float32)
        side[[0, -1]] = 0.5 if length > 1 else 1.0
        sides.append(side)
    return np.outer(*sides)


def _share_out(count: int, work: Callable[[int], None]) -> None:
    """Have all images worked on by as many threads as torch may use, this one among them."""

    def work_from(first: int) -> None:
        for index in range(first, count, threads):
            work(index)

    threads = max(1, min(count, torch.get_num_threads()))
    if threads == 1:
        work_from(0)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        others = pool.map(work_from, range(1, threads))
        work_from(0)
        list(others)  # raises what they raised
