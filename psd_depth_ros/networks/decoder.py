"""The decoder: from the five maps of an encoder to one map at stride 2.

Each stage doubles the size and takes in the skip map of that size (U-Net), and how high each pixel
lies. Depth itself is made by `bin_head`.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.networks.bin_head import DepthOutput

SIGMA = 0.22  # ln 1.25: no pixel is more certain than another


class DisparityHead(nn.Module):
    """1/Z' = 1/Zmax + (1/Zmin - 1/Zmax) sigmoid(x); starts at the middle of the log range."""

    def __init__(self, embedding: int, log_range: tuple[float, float]) -> None:
        super().__init__()
        self.log_range = log_range
        self.convolution = nn.Conv2d(embedding, 1, 3, padding=1)
        low, high = (math.exp(-value) for value in reversed(log_range))
        middle = math.exp(-0.5 * sum(log_range))
        share = (middle - low) / (high - low)
        assert self.convolution.bias is not None
        nn.init.constant_(self.convolution.bias, math.log(share / (1.0 - share)))

    def forward(self, features: Tensor) -> DepthOutput:
        """The decoder's map (B, E, h, w) to canonical log-depth, a constant sigma, far nowhere."""
        low, high = (math.exp(-value) for value in reversed(self.log_range))
        raw = self.convolution(features).float()
        log_depth = -(low + (high - low) * torch.sigmoid(raw)).log()
        return DepthOutput(
            log_depth, torch.full_like(log_depth, SIGMA), torch.zeros_like(log_depth)
        )


BEND_PX = 10.0


class Decoder(nn.Module):
    """Four stages of (upsample x2, concatenate the skip map, convolutions with ELU).

    `inputs` channels come in at stride 32; `skips` are the encoder's channels at strides 2, 4, 8
    and 16; `channels` leave the stages at strides 16, 8, 4 and 2. With `positions` each stage sees
    the `row_positions` too.
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
            width = inputs + skip + int(positions)
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
            # an encoder's finest map may be float32: it must not make all of this float32
            parts = [x, skip.to(x.dtype)]
            if self.positions:
                place = row_positions(intrinsics, skip.shape[-2], skip.shape[-1], 16 >> index)
                parts.append(place.to(x.dtype))
            x = stage(torch.cat(parts, dim=1))
        return x


def row_positions(intrinsics: Tensor, height: int, width: int, stride: int) -> Tensor:
    """How far the rows of a map of `stride` lie below the principal point: asinh(d / 10 px).

    (B, 1, height, width) from fx fy cx cy (B, 4) of the input image. Level ground at a height h
    under the camera has the canonical depth Z' = h f_c / (y - cy), whatever the focal length: in
    this coordinate log-depth falls nearly linearly. A crop and an enlarged patch keep that rule,
    which the distance from the border of the image does not. Nothing of the kind holds across the
    image: a network that saw the columns would learn the sides of the one street it drove along.
    """
    rows = torch.arange(height, device=intrinsics.device, dtype=torch.float32)
    cy = intrinsics[:, 3:].float()
    down = (((rows + 0.5) * stride - 0.5 - cy) / BEND_PX).asinh()  # (B, height)
    return down[:, None, :, None].expand(-1, -1, -1, width)
