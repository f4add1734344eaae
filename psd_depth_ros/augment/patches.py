"""Enlarged patches of far regions: where they are cut, and where their pixels lie (PSD).

A patch is the image resized by a zoom s and cropped at (ox, oy) of the resized image. It is cut
from pixels of a finer copy of the image, so that enlarging adds detail. The camera that follows
is K' = [[s fx, 0, s (cx + 1/2) - 1/2 - ox], ...].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.geometry.warp import pixel_grid, resize_intrinsics, sample

FAR_QUANTILE = 0.7
TEXTURE = 0.02


@dataclass(frozen=True)
class Patches:
    """One patch for each of some images: zoom (B,) and offset (B, 2) in the zoomed image."""

    zoom: Tensor
    offset: Tensor
    height: int
    width: int

    def intrinsics(self, full: Tensor) -> Tensor:
        """fx fy cx cy (B, 4) of the patch from those of the full image."""
        zoomed = resize_intrinsics(full, self.zoom)
        return torch.cat([zoomed[:, :2], zoomed[:, 2:] - self.offset], dim=1)

    def pixels(self, stride: int = 1) -> Tensor:
        """Pixels (B, h, w, 2) of the full image at the centres of the patch's cells of `stride`.

        `stride` 1 are the patch's own pixels, 2 those of a map of half its size.
        """
        grid = pixel_grid(self.height // stride, self.width // stride, self.zoom.device)
        own = (grid + 0.5) * stride - 0.5  # in pixels of the patch
        s = self.zoom[:, None, None, None]
        return (own + self.offset[:, None, None, :] + 0.5) / s - 0.5

    def cut(self, fine: Tensor, factor: float) -> Tensor:
        """The patches (B, C, height, width) of images `fine`, `factor` times the full image."""
        return sample(fine, (self.pixels() + 0.5) * factor - 0.5)


def sample_patches(
    log_depth: Tensor | None,
    image: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    zooms: tuple[float, float],
    selection: str,
    seeds: Sequence[int],
) -> Patches:
    """Sample a patch of `size` (height, width) for each image (B, 3, H, W).

    `selection` 'distant' prefers windows with many far and textured pixels of `log_depth`
    (B, 1, h, w), any scale; 'random' takes any window; 'centre' those about the principal point
    within a tenth of the image. Sample b draws from its own `seeds[b]`.
    """
    height, width = image.shape[-2:]
    score = None
    if selection == 'distant' and log_depth is not None:
        score = far_score(log_depth, image).cpu()  # all at once: here a GPU is waited for
    zoom, offset = [], []
    for index, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        low, high = zooms
        s = low + (high - low) * float(torch.rand((), generator=generator))
        s = max(s, size[0] / height, size[1] / width)
        rooms = (s * width - size[1], s * height - size[0])
        if score is not None:
            x, y = _sample_far(
                score[index], (size[0] / s, size[1] / s), (height, width), generator
            )
            corner = (s * x, s * y)
        elif selection == 'centre':
            corner = _about_principal_point(intrinsics[index], s, size, (height, width), generator)
        else:
            corner = (
                rooms[0] * float(torch.rand((), generator=generator)),
                rooms[1] * float(torch.rand((), generator=generator)),
            )
        zoom.append(s)
        offset.append([min(max(c, 0.0), room) for c, room in zip(corner, rooms, strict=True)])
    device = image.device
    return Patches(
        torch.tensor(zoom).to(device, non_blocking=True),
        torch.tensor(offset).to(device, non_blocking=True),
        *size,
    )


def far_score(log_depth: Tensor, image: Tensor) -> Tensor:
    """1 where a pixel is among the farthest 30 % and textured, (B, 1, H / 4, W / 4).

    The texture factor leaves out the sky.
    """
    shape = (image.shape[-2] // 4, image.shape[-1] // 4)
    depth = F.interpolate(log_depth.detach(), shape, mode='area')
    grey = F.interpolate(image.mean(dim=1, keepdim=True), scale_factor=0.5, mode='area')
    across = (grey[..., :, 1:] - grey[..., :, :-1]).abs()
    down = (grey[..., 1:, :] - grey[..., :-1, :]).abs()
    gradient = F.pad(across, (0, 1)) + F.pad(down, (0, 0, 0, 1))
    texture = F.adaptive_max_pool2d(gradient, shape) > TEXTURE
    far = depth > depth.flatten(1).quantile(FAR_QUANTILE, dim=1)[:, None, None, None]
    return (far & texture).float()


def _sample_far(
    score: Tensor,
    footprint: tuple[float, float],
    size: tuple[int, int],
    generator: torch.Generator,
) -> tuple[float, float]:
    """The top-left corner (x, y) in pixels of a window, likelier where the score is high."""
    kernel = [
        min(max(1, round(side / 4)), have)
        for side, have in zip(footprint, score.shape[-2:], strict=True)
    ]
    mean = _window_means(score[0], *kernel)
    best = mean.max().clamp(min=1e-6)
    weights = (8.0 * mean / best).exp().flatten()
    index = int(torch.multinomial(weights, 1, generator=generator))
    y, x = divmod(index, mean.shape[1])
    shift = torch.rand(2, generator=generator)
    room_x, room_y = size[1] - footprint[1], size[0] - footprint[0]
    return min(4.0 * (x + float(shift[0])), room_x), min(4.0 * (y + float(shift[1])), room_y)


def _window_means(score: Tensor, height: int, width: int) -> Tensor:
    """The mean of every window (height, width) of a map (H, W), from sums over all before it."""
    total = F.pad(score.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    lower, upper = total[height:], total[:-height]
    inside = lower[:, width:] - lower[:, :-width] - upper[:, width:] + upper[:, :-width]
    return inside / (height * width)


def _about_principal_point(
    intrinsics: Tensor,
    zoom: float,
    size: tuple[int, int],
    full: tuple[int, int],
    generator: torch.Generator,
) -> tuple[float, float]:
    shift = 0.2 * torch.rand(2, generator=generator) - 0.1
    x = float(intrinsics[2]) + float(shift[0]) * full[1]
    y = float(intrinsics[3]) + float(shift[1]) * full[0]
    return zoom * x - 0.5 * size[1], zoom * y - 0.5 * size[0]
