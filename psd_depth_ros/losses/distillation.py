"""Self-distillation: the depth of an enlarged patch teaches the full image (PSD), in log-depth.

PSD: Yu et al. 2025, "Exploiting the Potential of Self-Supervised Monocular Depth Estimation via
Patch-Based Self-Distillation", doi:10.1109/JIOT.2025.3540917. It helps where photometry does not:
the warp moves s_u pixels per unit of log-depth (`warp_sensitivity`), which is little far away and
more in an enlarged patch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

HUBER_DELTA = 0.05
MAX_DIFFERENCE = 0.7  # of log-depth, between teacher and student
MIN_ERROR_GAIN = 0.002  # photometric, for the teacher to count as better
MIN_PARALLAX_PX = 0.25  # below it, photometry says nothing
MAX_TEACHER_SIGMA = 0.15  # of the teacher where photometry says nothing
SENSITIVITY_SCALE_PX = 2.0


class DistillationInputs(NamedTuple):
    """Per-pixel inputs of the distillation mask on the patch's grid; (B, 1, h, w), no gradient."""

    full_error: Tensor  # photometric error of the full image's depth
    patch_error: Tensor  # photometric error of the patch's own depth
    auto_mask: Tensor  # bool: the pixel has a photometric gradient
    sensitivity: Tensor  # s_u of the full image, pixels per unit of log-depth
    sigma: Tensor  # standard deviation of the patch's log-depth
    inside: Tensor  # bool: not in the margin of the patch


class Distillation(NamedTuple):
    """Result of `distillation_loss`."""

    loss: Tensor  # (B,)
    offset: Tensor  # (B,) median of u_full - u_patch, removed before the comparison
    mask: Tensor  # (B, 1, h, w) bool: pixels that are taught


def huber(difference: Tensor, delta: float = HUBER_DELTA) -> Tensor:
    """d^2 / (2 delta) up to delta, |d| - delta / 2 beyond: slope one far out. Any shape."""
    size = difference.abs()
    return torch.where(size < delta, size.square() / (2.0 * delta), size - 0.5 * delta)


def scale_invariant(difference: Tensor, mask: Tensor) -> Tensor:
    """mean(d^2) - mean(d)^2 / 2 over `mask` for each sample, (B,) (Eigen et al. 2014, eq. 3).

    Both (B, 1, H, W); `difference` is one of log-depths.
    """
    weight = mask.to(difference.dtype)
    count = weight.flatten(1).sum(dim=1).clamp(min=1.0)
    mean = (difference * weight).flatten(1).sum(dim=1) / count
    square = (difference.square() * weight).flatten(1).sum(dim=1) / count
    return square - 0.5 * mean.square()


def warp_sensitivity(points: Tensor, translation: Tensor, focal: Tensor) -> Tensor:
    """Pixels by which the warp moves per unit of log-depth, (B, 1, H, W).

    s_u = |(fx (t_x - x t_z), fy (t_y - y t_z))| / Z_s: the derivative of pi(K T Z p) by u = ln Z.

    Args:
        points: (B, 3, H, W) points in the source frame, metres; (x, y) above are their
            normalised coordinates and Z_s their depth.
        translation: (B, 3) of T_source_target, metres.
        focal: (B, 2) fx, fy of the source, pixels.
    """
    z = points[:, 2].clamp(min=1e-3)
    x, y = points[:, 0] / z, points[:, 1] / z
    t_x, t_y, t_z = (translation[:, i, None, None] for i in range(3))
    across = focal[:, 0, None, None] * (t_x - x * t_z)
    down = focal[:, 1, None, None] * (t_y - y * t_z)
    return (torch.hypot(across, down) / z)[:, None]


def distillation_loss(
    full: Tensor, patch: Tensor, inputs: DistillationInputs, zoom: Tensor, *, masked: bool = True
) -> Distillation:
    """Huber loss that draws the full image's log-depth to that of the patch, without its level.

    A pixel is taught where the teacher is reliable (`is_trusted`) and either (i) its photometric
    error is clearly smaller than the full image's, or (ii) photometry says nothing and the teacher
    is certain; and (iii) nowhere where both differ by more than `MAX_DIFFERENCE`. Pixels are
    weighted by exp(-s_u / 2 px): the less photometry tells, the more the patch does.

    Only the shape is taught: the median difference is removed, however large. Scale is free in
    self-supervision, and a patch that is still off by its zoom would draw the full image, and
    itself with it, farther and farther away.

    Args:
        full: (B, 1, h, w) log-depth of the full image on the patch's grid (the student).
        patch: (B, 1, h, w) log-depth of the patch (the teacher; detached here).
        inputs: What the mask and the weights are computed from.
        zoom: (B,) enlargement of each patch.
        masked: False drops (i) and (ii), a control for ablations.
    """
    teacher = patch.detach()
    with torch.no_grad():
        parallax_px = zoom[:, None, None, None] * inputs.sensitivity
        uninformative = ~inputs.auto_mask | (parallax_px < MIN_PARALLAX_PX)
        offset = _median(full.detach() - teacher, inputs.inside)
        better = inputs.patch_error < inputs.full_error - MIN_ERROR_GAIN
        difference = full.detach() - teacher - offset[:, None, None, None]
        mask = inputs.inside & (difference.abs() < MAX_DIFFERENCE)
        if masked:
            certain = inputs.sigma < MAX_TEACHER_SIGMA
            teaches = (better & inputs.auto_mask) | (uninformative & certain)
            mask = mask & is_trusted(inputs) & teaches
        weight = mask * (-inputs.sensitivity / SENSITIVITY_SCALE_PX).exp()
    error = huber(full - teacher - offset[:, None, None, None])
    total = (error * weight).flatten(1).sum(dim=1)
    return Distillation(total / weight.flatten(1).sum(dim=1).clamp(min=1e-3), offset, mask)


def is_trusted(inputs: DistillationInputs) -> Tensor:
    """Whether a patch explains its auto-masked pixels better than the full image, (B, 1, 1, 1).

    One that does not has nothing to teach yet. A patch that is flat, because the network cannot
    interpret enlarged images yet, would flatten the full image and thereby itself: a constant
    depth agrees with itself.
    """
    seen = inputs.auto_mask & inputs.inside
    gain = inputs.full_error - inputs.patch_error
    total = torch.where(seen, gain, 0.0).sum(dim=(2, 3), keepdim=True)
    return seen.any(dim=3, keepdim=True).any(dim=2, keepdim=True) & (total > 0.0)


def _median(values: Tensor, mask: Tensor) -> Tensor:
    """Median of `values` over `mask` for each sample (B,); 0 where it is empty."""
    known = torch.where(mask, values, torch.nan).flatten(1)
    return known.nanmedian(dim=1).values.nan_to_num(0.0)
