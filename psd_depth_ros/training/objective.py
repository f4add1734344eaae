"""What a step makes small: every term by name, weighted by the recipe."""

from __future__ import annotations

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.losses.supervised import (
    bin_cross_entropy,
    bin_uniformity,
    gradient_matching_error,
    log_depth_error,
)
from psd_depth_ros.networks import DepthModel, expectation
from psd_depth_ros.networks.bin_head import FAR_BINS
from psd_depth_ros.training.batches import Batch
from psd_depth_ros.training.recipe import LossSettings


class SupervisedObjective(nn.Module):
    """The network with what it is trained for, in one call."""

    def __init__(self, depth: DepthModel, settings: LossSettings) -> None:
        super().__init__()
        self.depth = depth
        self._settings = settings

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Every weighted term."""
        return supervised_losses(self.depth, batch, self._settings)


def supervised_losses(
    model: DepthModel, batch: Batch, settings: LossSettings
) -> dict[str, Tensor]:
    """Every weighted term for a batch with known depth; their sum is the loss.

    The network may run in half precision under autocast; bins, depth and losses are float32.
    """
    bins = model.predict_bins(model.normalise(batch.image), batch.intrinsics)
    with torch.autocast(batch.image.device.type, enabled=False):
        output = expectation(bins)
        size = batch.target.shape[-2:]
        log_depth = F.interpolate(output.log_depth, size, mode='bilinear', align_corners=False)
        return {
            'log_depth': settings.log_depth * log_depth_error(log_depth, batch.target),
            'edges': settings.edges * gradient_matching_error(log_depth, batch.target),
            'bins': settings.bins
            * bin_cross_entropy(
                bins.logits, bins.centres, nearest_of_four(batch.target), FAR_BINS
            ),
            'uniformity': settings.uniformity * bin_uniformity(bins.widths),
        }


def nearest_of_four(target: Tensor) -> Tensor:
    """The smallest of each 2x2 block (B, 1, H, W) -> (B, 1, H/2, W/2): thin things stay whole."""
    known = torch.where(torch.isnan(target), torch.inf, target)
    smallest = -F.max_pool2d(-known, 2)
    unknown = F.max_pool2d(torch.isnan(target).float(), 2) > 0
    return torch.where(unknown, torch.nan, smallest)
