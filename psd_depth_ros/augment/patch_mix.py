"""PatchMix (PSD): rectangles of another image pasted into the input, shifted and enlarged.

It removes the cue of the vertical image position. The origin of every pasted pixel is kept, so
that its depth is compared by the geometry of its own image ("unmixing").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.geometry.warp import pixel_grid, sample

MARGIN = 2  # pixels beside a seam that no loss uses
MAX_ZOOM = 2.0


@dataclass(frozen=True)
class Mix:
    """Origin of every pixel of B mixed images."""

    pasted: Tensor  # (B, 1, H, W) bool: comes from the donor
    judged: Tensor  # (B, 1, H, W) bool: not beside a seam
    pixels: Tensor  # (B, H, W, 2) pixel of the donor; arbitrary where not pasted
    zoom: Tensor  # (B,) enlargement of the donor

    def to(self, device: torch.device) -> Mix:
        """Copy to another device."""
        return Mix(
            self.pasted.to(device, non_blocking=True),
            self.judged.to(device, non_blocking=True),
            self.pixels.to(device, non_blocking=True),
            self.zoom.to(device, non_blocking=True),
        )

    def apply(self, target: Tensor, donor: Tensor) -> Tensor:
        """The mixed images (B, C, H, W)."""
        return torch.where(self.pasted, sample(donor, self.pixels), target)


def sample_mix(size: tuple[int, int], seeds: Sequence[int]) -> Mix:
    """Sample 1 to 3 rectangles that cover 10 to 40 % of each image of `size` (H, W).

    All rectangles of an image have the same zoom and displacement of the donor, so that one
    sampling makes them all. Sample b draws from `seeds[b]`.
    """
    height, width = size
    grid = pixel_grid(height, width)
    pasted, pixels, zooms = [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(3, generator=generator)
        zoom = 1.0 + (MAX_ZOOM - 1.0) * float(draw[0])
        # the corner of the enlarged donor that lies at the target's corner
        corner = torch.stack([draw[1] * width, draw[2] * height]) * (zoom - 1.0)
        moved = float(torch.rand((), generator=generator) - 0.5) * 0.3 * height  # up or down
        corner[1] = corner[1] + moved
        source = (grid + corner + 0.5) / zoom - 0.5
        inside = (source[..., 1] >= 0) & (source[..., 1] <= height - 1)
        pasted.append((_rectangles(size, generator) & inside)[None])
        pixels.append(source)
        zooms.append(zoom)
    mask = torch.stack(pasted)
    return Mix(mask, _away_from_seams(mask), torch.stack(pixels), torch.tensor(zooms))


def _rectangles(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A mask (H, W) of 1 to 3 rectangles that cover 10 to 40 % together (less where they meet)."""
    height, width = size
    count = int(torch.randint(1, 4, (), generator=generator))
    area = (0.1 + 0.3 * float(torch.rand((), generator=generator))) * height * width / count
    mask = torch.zeros(size, dtype=torch.bool)
    for _ in range(count):
        aspect, x, y = torch.rand(3, generator=generator).tolist()
        h = min(height, max(8, round((area / (1.0 + 2.0 * aspect)) ** 0.5)))
        w = min(width, max(8, round(area / h)))
        top, left = round(y * (height - h)), round(x * (width - w))
        mask[top : top + h, left : left + w] = True
    return mask


def _away_from_seams(mask: Tensor) -> Tensor:
    side = 2 * MARGIN + 1
    value = mask.float()
    high = F.max_pool2d(value, side, 1, MARGIN)
    low = -F.max_pool2d(-value, side, 1, MARGIN)
    return high == low
