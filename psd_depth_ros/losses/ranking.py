"""Ranking of pixel pairs by depth (Chen et al. 2016, "Single-Image Depth Perception in the Wild").

Pairs of a pixel that moves and one that stands still are ranked after SC-DepthV3 (Sun et al.
2023).
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import Tensor
import torch.nn.functional as F

EQUAL_RATIO = 1.15  # depths nearer to each other than this count as equal


def draw_pixels(mask: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Choose pixels of a mask without waiting for a GPU.

    Args:
        mask: (B, 1, H, W) bool.
        positions: (B, N) in [0, 1): 0 is the first pixel of the mask in reading order, just below
            1 the last.

    Returns:
        Flat indices (B, N) of pixels, and the number of pixels in the mask (B,). The indices of
        an empty mask mean nothing.
    """
    so_far = mask.flatten(1).int().cumsum(dim=1, dtype=torch.int32)  # (B, H W)
    count = so_far[:, -1]
    wanted = (positions * count[:, None]).int() + 1
    index = torch.searchsorted(so_far, wanted)
    return index.clamp(max=so_far.shape[1] - 1), count


def draw_positions(seeds: Sequence[int], count: int) -> Tensor:
    """Positions for `draw_pixels` of the first and the second pixels of pairs, (2, B, count).

    Those of the first pixels are one in each of `count` equal parts, the others independent.
    """
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        drawn.append(torch.rand(2, count, generator=generator))
    first, second = torch.stack(drawn, dim=1)
    first = (first + torch.arange(count)) / count
    return torch.stack([first, second]).clamp(max=1.0 - 1e-6)  # float32 may round up to 1


def order_labels(log_depth: Tensor, other: Tensor, equal_ratio: float = EQUAL_RATIO) -> Tensor:
    """+1 where the first of two log-depths is the farther one, -1 the nearer, 0 about equal."""
    difference = log_depth - other
    limit = math.log(equal_ratio)
    return (difference > limit).to(difference.dtype) - (difference < -limit).to(difference.dtype)


def ranking_error(log_depth: Tensor, other: Tensor, label: Tensor) -> Tensor:
    """ln(1 + e^(-l (a - b))) for ordered pairs, (a - b)^2 for equal ones; any shape.

    Args:
        log_depth, other: log-depths a and b of the pairs.
        label: l of `order_labels`.
    """
    difference = log_depth - other
    return torch.where(label == 0, difference.square(), F.softplus(-label * difference))
