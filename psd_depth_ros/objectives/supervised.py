"""Exact depth, as of rendered worlds: log-depth, its gradients, and bins.

- Bhat, Alhashim, Wonka 2021, "AdaBins: Depth Estimation Using Adaptive Bins": adaptive bins.
- Li and Snavely 2018, "MegaDepth: Learning Single-View Depth Prediction from Internet Photos":
  multi-scale gradient matching, eq. 5.

The batch has `target` (B, 1, H, W): canonical log-depth, NaN where unknown, +Inf for sky and
beyond the farthest depth. Each loss is a mean over the known pixels of the whole batch, and has
that value for every sample.
"""

from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.losses.supervised import (
    bin_cross_entropy,
    gradient_matching_error,
    log_depth_error,
)
from psd_depth_ros.networks.bin_head import FAR_BINS
from psd_depth_ros.objectives.base import Context, Term


class LogDepth(Term):
    """Mean |u - u*|."""

    name = 'log_depth'
    needs = frozenset({'target'})

    def __call__(self, context: Context) -> Tensor:
        """Mean over the batch."""
        error = log_depth_error(_canonical(context), context.batch.target)
        return error.expand(len(context))


class Gradients(Term):
    """Multi-scale gradient matching of u and u* (MegaDepth, eq. 5)."""

    name = 'gradients'
    needs = frozenset({'target'})

    def __call__(self, context: Context) -> Tensor:
        """Mean over the batch."""
        error = gradient_matching_error(_canonical(context), context.batch.target)
        return error.expand(len(context))


class Bins(Term):
    """Cross-entropy of the bins against the two around u*, or the last ones for the sky."""

    name = 'bins'
    needs = frozenset({'target'})
    all_logits = True

    def __call__(self, context: Context) -> Tensor:
        """Mean over the batch; 0 for a network without bins."""
        bins = context.prediction().bins
        if bins is None:
            return context.zeros()
        target = nearest_of_four(context.batch.target)
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
