"""The decoder: from the five maps of an encoder to one map at stride 2.

Each stage doubles the size and takes in the skip map of that size (U-Net). Depth itself is made
by `bin_head`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn, Tensor
import torch.nn.functional as F


class Decoder(nn.Module):
    """Four stages of (upsample x2, concatenate the skip map, convolutions with ELU).

    `inputs` channels come in at stride 32; `skips` are the encoder's channels at strides 2, 4, 8
    and 16; `channels` leave the stages at strides 16, 8, 4 and 2.
    """

    def __init__(
        self, inputs: int, skips: Sequence[int], channels: Sequence[int], convolutions: int
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for skip, outputs in zip(reversed(skips), channels, strict=True):
            layers: list[nn.Module] = []
            width = inputs + skip
            for _ in range(convolutions):
                layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.ELU()]
                width = outputs
            self.stages.append(nn.Sequential(*layers))
            inputs = outputs

    def forward(self, deepest: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """`deepest` (B, inputs, H/32, W/32) and four skip maps to (B, channels[-1], H/2, W/2)."""
        x = deepest
        for stage, skip in zip(self.stages, reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2.0, mode='nearest')
            x = stage(torch.cat([x, skip], dim=1))
        return x
