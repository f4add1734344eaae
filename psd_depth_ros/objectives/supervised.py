"""Exact depth, as of rendered worlds: log-depth, its gradients, and bins.

- Bhat, Alhashim, Wonka 2021, "AdaBins: Depth Estimation Using Adaptive Bins": adaptive bins.
- Li and Snavely 2018, "MegaDepth: Learning Single-View Depth Prediction from Internet Photos":
  multi-scale gradient matching.

The batch has `depth_m` (B, 1, H, W): metres, NaN where unknown, +Inf for sky and beyond the
farthest depth. Each loss is a mean over the known pixels of the whole batch, and has
that value for every sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.config import setting
from psd_depth_ros.networks.bin_head import FAR_BINS
from psd_depth_ros.objectives.base import Context, Term, TermSettings

SPARSE_STEP = 4  # pixels and rows between those whose logits a prediction keeps


class LogDepth(Term):
    """Mean |u - u*|."""

    name = 'log_depth'
    needs = frozenset({'depth_m'})

    def __call__(self, context: Context) -> Tensor:
        """Mean over the batch."""
        error = log_depth_error(_canonical(context), _target(context))
        return error.expand(len(context))


class Gradients(Term):
    """Multi-scale gradient matching of u and u* (MegaDepth)."""

    name = 'gradients'
    needs = frozenset({'depth_m'})

    def __call__(self, context: Context) -> Tensor:
        """Mean over the batch."""
        error = gradient_matching_error(_canonical(context), _target(context))
        return error.expand(len(context))


@dataclass(frozen=True)
class BinsSettings(TermSettings):
    """Settings of the term."""

    everywhere: bool = setting(
        False, 'At every pixel of the map of stride 2, instead of every fourth of every fourth '
        'row: twice the time of a step'
    )  # fmt: skip


class Bins(Term):
    """Cross-entropy of the bins against the two around u*, or the last ones for the sky."""

    name = 'bins'
    Settings = BinsSettings
    settings: BinsSettings
    needs = frozenset({'depth_m'})

    def __init__(self, settings: BinsSettings) -> None:
        super().__init__(settings)
        self.all_logits = settings.everywhere

    def __call__(self, context: Context) -> Tensor:
        """Mean over the batch; 0 for a network without bins."""
        bins = context.prediction().bins
        if bins is None:
            return context.zeros()
        target = nearest_of_four(_target(context))
        if bins.logits.shape[-2:] != target.shape[-2:]:
            target = target[..., ::SPARSE_STEP, ::SPARSE_STEP]
        error = bin_cross_entropy(bins.logits, bins.centres, target, FAR_BINS)
        return error.expand(len(context))


def nearest_of_four(target: Tensor) -> Tensor:
    """The smallest of each 2x2 block, (B, 1, H, W) to (B, 1, H/2, W/2): thin things stay whole.

    NaN where any of the four is unknown.
    """
    known = torch.where(torch.isnan(target), torch.inf, target)
    smallest = -F.max_pool2d(-known, 2)
    unknown = F.max_pool2d(torch.isnan(target).float(), 2) > 0
    return torch.where(unknown, torch.nan, smallest)


def _canonical(context: Context) -> Tensor:
    """Canonical log-depth (B, 1, H, W)."""
    prediction = context.prediction()
    return prediction.log_depth - prediction.log_ratio


def _target(context: Context) -> Tensor:
    """Canonical log-depth u* = ln(Z f_c / fx) of the truth (B, 1, H, W)."""

    def make() -> Tensor:
        depth_m: Tensor = context.batch.depth_m
        return depth_m.log() - context.prediction().log_ratio

    return context.once('target of exact depth', make)


def log_depth_error(log_depth: Tensor, target: Tensor) -> Tensor:
    """Mean |u - u*| over pixels with a finite target; both (B, 1, H, W)."""
    valid = torch.isfinite(target)
    difference = torch.where(valid, log_depth - target, 0.0).abs()
    return difference.sum() / valid.sum().clamp(min=1)


def gradient_matching_error(log_depth: Tensor, target: Tensor, scales: int = 3) -> Tensor:
    """Multi-scale gradient matching (MegaDepth).

    Mean |grad(u - u*)| over pairs of neighbours with finite targets, at steps of 1, 2, 4 ...
    pixels; both (B, 1, H, W).
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
    """Cross-entropy of bin probabilities against the two bins around the target.

    The target probability of the two neighbouring bins is such that their expectation is the
    target depth. A target of +Inf asks for the last bins, in any proportion.

    Args:
        logits: (B, Q, h, w) scores of the bins.
        centres: (B, Q) their log-depths, ascending; no gradient.
        target: (B, 1, h, w) log-depth.
        far_bins: Number of last bins that stand for the sky.
    """
    log_probability = F.log_softmax(logits.float(), dim=1)
    centres = centres.detach().float()
    known = torch.isfinite(target)
    u = torch.where(known, target, centres[:, :1, None, None]).flatten(1)  # (B, n)
    upper = torch.searchsorted(centres, u).clamp(1, centres.shape[1] - 1)
    low, high = centres.gather(1, upper - 1), centres.gather(1, upper)
    upper_weight = ((u - low) / (high - low)).clamp(0.0, 1.0)
    flat = log_probability.flatten(2)  # (B, Q, n)
    lower_log = flat.gather(1, (upper - 1)[:, None])[:, 0]
    upper_log = flat.gather(1, upper[:, None])[:, 0]
    near = -((1.0 - upper_weight) * lower_log + upper_weight * upper_log)
    far = -flat[:, -far_bins:].logsumexp(dim=1)
    is_known, is_far = known.flatten(1), torch.isposinf(target).flatten(1)
    total = torch.where(is_known, near, 0.0).sum() + torch.where(is_far, far, 0.0).sum()
    return total / (is_known.sum() + is_far.sum()).clamp(min=1)
