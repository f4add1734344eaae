"""Which pixels of a depth map the views of its neighbours confirm, and which must have moved.

The round trip of stereo matching (left-right check) through depth and pose: out to the neighbour
by the target's depth, back by the neighbour's own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from psd_depth_ros.geometry.warp import (
    backproject,
    backproject_pixels,
    inside_image,
    invert,
    pixel_grid,
    project,
    sample,
    transform,
)
from psd_depth_ros.losses.photometric import depth_difference


class Thresholds(NamedTuple):
    """What counts as confirmed, and as moved."""

    depth: float = 0.05  # relative difference of depth after the round trip
    pixel: float = 1.0  # distance in pixels after the round trip
    dynamic: float = 0.15  # |a - b| / (a + b) of the depths in the neighbour
    relative: bool = False  # confirmed up to the image's mean difference of depth, if larger


DEFAULTS = Thresholds()


class MultiView(NamedTuple):
    """Result of `multi_view_masks`: every pixel is in one of three masks; no gradient."""

    static: Tensor  # (B, 1, H, W) bool: a neighbour confirms it
    dynamic: Tensor  # (B, 1, H, W) bool: every neighbour that sees it contradicts it
    noisy: Tensor  # (B, 1, H, W) bool: the rest, contradicted a little, or seen by none
    difference: Tensor  # (B, 1, H, W) least D of the neighbours that see it; 0 where none does


@torch.no_grad()
def multi_view_masks(
    depth: Tensor,
    others: Tensor,
    poses: Tensor,
    K: Tensor,
    thresholds: Thresholds = DEFAULTS,
) -> MultiView:
    """Compare a depth map with those of neighbouring frames.

    A pixel p goes to p_s in source s with depth Z_p; the source says Z_s there. D = |Z_p - Z_s| /
    (Z_p + Z_s). Sent back with Z_s, it arrives at p' with depth Z'. e_d = |Z' - Z| / Z and
    e_p = |p' - p| tell how far off that is. Static: both are below their thresholds for a source
    that sees the pixel. Dynamic: D is above its threshold for every source that sees it, and one
    does: what one source cannot see for something in front of it, the other one mostly can.

    Args:
        depth: (B, 1, H, W) of the target.
        others: (S, B, 1, H, W) of the sources.
        poses: (S, B, 4, 4) T_source_target.
        K: (B, 3, 3) of all frames.
        thresholds: Of the comparison. `relative` is for depth that has hardly been learned: the
            pixel distance is then left out.
    """
    height, width = depth.shape[-2:]
    points, grid = backproject(depth, K), pixel_grid(height, width, depth.device)
    static = torch.zeros_like(depth, dtype=torch.bool)
    seen, contradicted = static, ~static
    least = torch.full_like(depth, torch.inf)
    for other, pose in zip(others, poses, strict=True):
        moved = transform(pose, points)
        pixels = project(moved, K)
        inside = inside_image(pixels, moved, (height, width))
        own = sample(other, pixels)
        D = depth_difference(moved[:, 2:].clamp(min=1e-3), own)
        back = transform(invert(pose), backproject_pixels(own, pixels, K))
        e_d = ((back[:, 2:] - depth).abs() / depth).clamp(max=1.0)
        e_p = torch.hypot(*(project(back, K) - grid).unbind(-1))[:, None]
        if thresholds.relative:
            weight = inside.to(depth.dtype)
            mean = (e_d * weight).sum(dim=(2, 3), keepdim=True)
            mean = mean / weight.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
            confirmed = e_d < mean.clamp(min=thresholds.depth)
        else:
            confirmed = (e_d < thresholds.depth) & (e_p < thresholds.pixel)
        static = static | (inside & confirmed)
        seen = seen | inside
        contradicted = contradicted & (~inside | (D > thresholds.dynamic))
        least = torch.where(inside, torch.minimum(least, D), least)
    dynamic = seen & contradicted & ~static
    return MultiView(static, dynamic, ~static & ~dynamic, torch.where(seen, least, 0.0))
