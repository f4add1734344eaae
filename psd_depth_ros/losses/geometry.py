"""Consistency of depth between frames (SC-Depth, Bian et al. 2019)."""

from __future__ import annotations

from torch import Tensor


def depth_difference(projected_m: Tensor, sampled_m: Tensor) -> Tensor:
    """D = |a - b| / (a + b) of two positive depths (B, 1, H, W): 0 where they agree, below 1.

    `projected_m` is the target's depth seen from the source, `sampled_m` the source's own depth at
    the pixel where it lands.
    """
    return (projected_m - sampled_m).abs() / (projected_m + sampled_m).clamp(min=1e-6)
