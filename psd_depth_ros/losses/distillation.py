"""Self-distillation: the depth of a patch teaches the full image (PSD), in log-depth.

Why it helps where photometry does not: the warp moves s_u pixels per unit of log-depth
(`warp_sensitivity`); far away that is little, in an enlarged patch it is more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

HUBER_DELTA = 0.05
LARGEST_DIFFERENCE = 0.7
BETTER_BY = 0.002
MUTE_PX = 0.25
SURE_SIGMA = 0.15
SENSITIVE_PX = 2.0


def huber(difference: Tensor, delta: float = HUBER_DELTA) -> Tensor:
    """d^2 / (2 delta) up to delta, |d| - delta / 2 beyond: slope one far out."""
    size = difference.abs()
    return torch.where(size < delta, size.square() / (2.0 * delta), size - 0.5 * delta)


def scale_invariant(difference: Tensor, mask: Tensor) -> Tensor:
    """mean(d^2) - mean(d)^2 / 2 over `mask` for each sample (B,) (Eigen et al. 2014, eq. 3)."""
    weight = mask.to(difference.dtype)
    count = weight.flatten(1).sum(dim=1).clamp(min=1.0)
    mean = (difference * weight).flatten(1).sum(dim=1) / count
    square = (difference.square() * weight).flatten(1).sum(dim=1) / count
    return square - 0.5 * mean.square()


def warp_sensitivity(points: Tensor, translation: Tensor, focal: Tensor) -> Tensor:
    """Pixels by which the warp moves per unit of log-depth, (B, 1, H, W).

    s_u = |(fx (t_x - x t_z), fy (t_y - y t_z))| / Z_s with `points` (B, 3, H, W) in the source's
    frame, (x, y) = their normalised coordinates, `translation` (B, 3) of T_source_target and
    `focal` (B, 2) of the source. The derivative of pi(K T Z p) by u = ln Z.
    """
    z = points[:, 2].clamp(min=1e-3)
    x, y = points[:, 0] / z, points[:, 1] / z
    t_x, t_y, t_z = (translation[:, i, None, None] for i in range(3))
    across = focal[:, 0, None, None] * (t_x - x * t_z)
    down = focal[:, 1, None, None] * (t_y - y * t_z)
    return (torch.hypot(across, down) / z)[:, None]


class Evidence(NamedTuple):
    """What is known of every pixel of a patch when it teaches; all (B, 1, h, w), no gradient."""

    full_error: Tensor  # photometric error of the full image's depth, on the patch
    patch_error: Tensor  # ... of the patch's own depth
    moving: Tensor  # bool: has a photometric gradient (not auto-masked, in view)
    sensitivity: Tensor  # s_u of the full image, pixels per unit of log-depth
    sigma: Tensor  # spread of the patch's log-depth
    inside: Tensor  # bool: not in the margin of the patch


class Distilled(NamedTuple):
    """The loss of each sample and what it rests on."""

    loss: Tensor  # (B,)
    offset: Tensor  # (B,) a = median(u_full - u_patch)
    mask: Tensor  # (B, 1, h, w) bool


def distil(
    full: Tensor, patch: Tensor, evidence: Evidence, zoom: Tensor, *, masked: bool = True
) -> Distilled:
    """Pull the full image's log-depth to that of the patch, both (B, 1, h, w) on the patch's grid.

    Only trusted patches teach (`is_trusted`), where they explain the images better than the full
    image ((i)), or where photometry is mute and the patch is sure ((ii)), and never where both
    disagree wildly ((iii)).
    `masked` False drops (i) and (ii), a control for ablations. Pixels count by
    exp(-s_u / 2 px): where photometry tells little, the patch tells more.

    Only the shape is taught: the median difference a is taken off, however large. Scale is free in
    self-supervision, and a patch that is still off by its zoom would pull the full image, and with
    it itself, farther and farther.
    """
    teacher = patch.detach()
    with torch.no_grad():
        mute = ~evidence.moving | (zoom[:, None, None, None] * evidence.sensitivity < MUTE_PX)
        offset = _median(full.detach() - teacher, evidence.inside)
        better = evidence.patch_error < evidence.full_error - BETTER_BY
        difference = full.detach() - teacher - offset[:, None, None, None]
        mask = evidence.inside & (difference.abs() < LARGEST_DIFFERENCE)
        if masked:
            mask = (
                mask
                & is_trusted(evidence)
                & ((better & evidence.moving) | (mute & (evidence.sigma < SURE_SIGMA)))
            )
        weight = mask * (-evidence.sensitivity / SENSITIVE_PX).exp()
    error = huber(full - teacher - offset[:, None, None, None])
    total = (error * weight).flatten(1).sum(dim=1)
    return Distilled(total / weight.flatten(1).sum(dim=1).clamp(min=1e-3), offset, mask)


def is_trusted(evidence: Evidence) -> Tensor:
    """Patches (B, 1, 1, 1) that explain what moves in them better than the full image does.

    One that does not has nothing to teach yet. And a flat one, because the network has not learned
    to see enlarged pictures, would flatten the full image, and with it itself: a constant depth
    agrees with itself.
    """
    seen = evidence.moving & evidence.inside
    gain = evidence.full_error - evidence.patch_error
    total = torch.where(seen, gain, 0.0).sum(dim=(2, 3), keepdim=True)
    return seen.any(dim=3, keepdim=True).any(dim=2, keepdim=True) & (total > 0.0)


def _median(values: Tensor, mask: Tensor) -> Tensor:
    """The median of `values` over `mask` for each sample (B,); 0 where it is empty."""
    known = torch.where(mask, values, torch.nan).flatten(1)
    return known.nanmedian(dim=1).values.nan_to_num(0.0)
