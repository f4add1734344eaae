"""One disparity per pixel through a sigmoid, as in monodepth2: the plain baseline of the bin head.

It says nothing of its uncertainty, nor of what is beyond range.
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor

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
