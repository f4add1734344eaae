"""The decoder: from the five maps of an encoder to one map at stride 2.

Each stage doubles the size and takes in the skip map of that size (U-Net), and where each pixel
lies. Depth itself is made by `bin_head`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn, Tensor
import torch.nn.functional as F

BEND_PX = 10.0


class Decoder(nn.Module):
    """Four stages of (upsample x2, concatenate the skip map, convolutions with ELU).

    `inputs` channels come in at stride 32; `skips` are the encoder's channels at strides 2, 4, 8
    and 16; `channels` leave the stages at strides 16, 8, 4 and 2. With `positions` each stage sees
    the `pixel_positions` too.
    """

    def __init__(
        self,
        inputs: int,
        skips: Sequence[int],
        channels: Sequence[int],
        convolutions: int,
        positions: bool,
    ) -> None:
        super().__init__()
        self.positions = positions
        self.stages = nn.ModuleList()
        for skip, outputs in zip(reversed(skips), channels, strict=True):
            layers: list[nn.Module] = []
            width = inputs + skip + (2 if positions else 0)
            for _ in range(convolutions):
                layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.ELU()]
                width = outputs
            self.stages.append(nn.Sequential(*layers))
            inputs = outputs

    def forward(self, deepest: Tensor, skips: Sequence[Tensor], intrinsics: Tensor) -> Tensor:
        """`deepest` (B, inputs, H/32, W/32) and four skip maps to (B, channels[-1], H/2, W/2).

        `intrinsics` fx fy cx cy (B, 4) in pixels of the input image.
        """
        x = deepest
        for index, (stage, skip) in enumerate(zip(self.stages, reversed(skips), strict=True)):
            x = F.interpolate(x, scale_factor=2.0, mode='nearest')
            parts = [x, skip]
            if self.positions:
                place = pixel_positions(intrinsics, skip.shape[-2], skip.shape[-1], 16 >> index)
                parts.append(place.to(skip.dtype))
            x = stage(torch.cat(parts, dim=1))
        return x


def pixel_positions(intrinsics: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Where the cells of a map of `stride` lie from the principal point: asinh(d / 10 px).

    (B, 2, height, width), right and down, from fx fy cx cy (B, 4) of the input image. Level ground
    at a height h under the camera has the canonical depth Z' = h f_c / (y - cy), whatever the
    focal length: in these coordinates log-depth falls nearly linearly. A crop and an enlarged
    patch keep that rule, which the distance from the border of the image does not.
    """
    grid = [
        (torch.arange(side, device=intrinsics.device, dtype=torch.float32) + 0.5) * stride - 0.5
        for side in (width, height)
    ]
    cx, cy = intrinsics[:, 2:, None].float().unbind(1)  # (B, 1) each
    across = ((grid[0] - cx) / BEND_PX).asinh()[:, None, None, :]
    down = ((grid[1] - cy) / BEND_PX).asinh()[:, None, :, None]
    return torch.cat([across.expand(-1, -1, height, -1), down.expand(-1, -1, -1, width)], dim=1)
