"""Losses against known depth: used for the starter weights, which learn from rendered worlds.

Everything is in canonical log-depth u = ln Z' and float32. `target` holds NaN where nothing is
known and +Inf where there is sky or more than the farthest depth.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F


def log_depth_error(log_depth: Tensor, target: Tensor) -> Tensor:
    """Mean |u - u*| over pixels with a finite target; both (B, 1, H, W)."""
    valid = torch.isfinite(target)
    difference = torch.where(valid, log_depth - target, 0.0).abs()
    return difference.sum() / valid.sum().clamp(min=1)


def edge_error(log_depth: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """Mean |grad(u - u*)| over finite neighbours, at steps of 1, 2, 4 ... pixels.

    The multi-scale gradient matching of MegaDepth (Li and Snavely 2018, eq. 5).
    """
    valid = torch.isfinite(target)
    difference = torch.where(valid, log_depth - target, 0.0)
    total = difference.new_zeros(())
    for step in (2**scale for scale in range(scales)):
        d, v = difference[..., ::step, ::step], valid[..., ::step, ::step]
        across, down = v[..., 1:] & v[..., :-1], v[..., 1:, :] & v[..., :-1, :]
        x = ((d[..., 1:] - d[..., :-1]).abs() * across).sum()
        y = ((d[..., 1:, :] - d[..., :-1, :]).abs() * down).sum()
        total = total + (x + y) / (across.sum() + down.sum()).clamp(min=1)
    return total / scales


def bin_cross_entropy(logits: Tensor, centres: Tensor, target: Tensor, far_bins: int) -> Tensor:
    """Cross-entropy of the bins against the target's two neighbouring bins, or the far bins.

    `logits` (B, Q, h, w) score bins at `centres` (B, Q), ascending. A finite target (B, 1, h, w)
    is shared between the two bins around it in proportion to its
    distance to their centres, so that their expectation is the target; a target of +Inf wants the
    last `far_bins`, in any share.
    """
    log_share = F.log_softmax(logits.float(), dim=1)
    centres = centres.detach().float()
    known = torch.isfinite(target)
    u = torch.where(known, target, centres[:, :1, None, None]).flatten(1)  # (B, n)
    upper = torch.searchsorted(centres, u).clamp(1, centres.shape[1] - 1)
    low, high = centres.gather(1, upper - 1), centres.gather(1, upper)
    share = ((u - low) / (high - low)).clamp(0.0, 1.0)
    flat = log_share.flatten(2)  # (B, Q, n)
    lower_log = flat.gather(1, (upper - 1)[:, None])[:, 0]
    upper_log = flat.gather(1, upper[:, None])[:, 0]
    near = -((1.0 - share) * lower_log + share * upper_log)
    far = -flat[:, -far_bins:].logsumexp(dim=1)
    is_known, is_far = known.flatten(1), torch.isposinf(target).flatten(1)
    total = torch.where(is_known, near, 0.0).sum() + torch.where(is_far, far, 0.0).sum()
    return total / (is_known.sum() + is_far.sum()).clamp(min=1)


def bin_uniformity(widths: Tensor) -> Tensor:
    """KL divergence of the bin widths from uniform ones: keeps bins from collapsing."""
    widths = widths.float()  # (B, Q), sum 1
    return (widths * (widths * widths.shape[1]).log()).sum(dim=1).mean()
