import math

import pytest
import torch

from psd_depth_ros.networks import DepthModel, preset
from psd_depth_ros.objectives.base import Context, Objective
from psd_depth_ros.objectives.psd import bin_uniformity
from psd_depth_ros.objectives.supervised import (
    bin_cross_entropy,
    Bins,
    gradient_matching_error,
    log_depth_error,
)
from psd_depth_ros.training.worlds import WorldsBatch


def image(rows):
    return torch.tensor(rows)[None, None]


def test_log_depth_error_counts_finite_pixels_only():
    target = image([[1.0, 2.0], [math.nan, math.inf]])
    assert log_depth_error(image([[1.5, 2.0], [9.0, 9.0]]), target).item() == pytest.approx(0.25)
    assert log_depth_error(image([[1.0]]), image([[math.nan]])).item() == 0.0


def test_edge_error_ignores_a_constant_offset_and_sees_a_missing_edge():
    target = image([[0.0, 0.0, 1.0, 1.0]] * 4)
    assert gradient_matching_error(target + 3.0, target, scales=1).item() == pytest.approx(0.0)
    # Of 3 horizontal and 3 vertical neighbours a row, one per row is off by 1: 4 of 24.
    assert gradient_matching_error(0 * target, target, scales=1).item() == pytest.approx(4 / 24)


def scores(share):
    return torch.tensor(share).log().view(1, -1, 1, 1)


CENTRES = torch.tensor([[0.0, 1.0, 2.0, 3.0]])


def test_cross_entropy_shares_a_target_between_its_two_bins():
    loss = bin_cross_entropy(scores([0.7, 0.1, 0.1, 0.1]), CENTRES, image([[0.25]]), 2)
    expected = -(0.75 * math.log(0.7) + 0.25 * math.log(0.1))
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_cross_entropy_of_far_wants_the_last_bins_together():
    logits = scores([0.4, 0.1, 0.2, 0.3])
    loss = bin_cross_entropy(logits, CENTRES, image([[math.inf]]), 2)
    assert loss.item() == pytest.approx(-math.log(0.5), rel=1e-5)
    assert bin_cross_entropy(logits, CENTRES, image([[math.nan]]), 2).item() == 0.0


def test_uniform_bins_cost_nothing():
    assert bin_uniformity(torch.tensor([[0.5, 0.5]])).item() == pytest.approx(0.0)
    expected = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    assert bin_uniformity(torch.tensor([[0.9, 0.1]])).item() == pytest.approx(expected)


def test_bins_of_every_fourth_pixel_are_those_of_all_where_depth_is_flat():
    """Both ways see the same network; a truth of one depth makes every pixel's loss comparable."""
    torch.manual_seed(1)
    network = DepthModel(preset('lite'))
    batch = WorldsBatch(
        torch.rand(2, 3, 64, 96), torch.tensor([[80.0, 80.0, 47.5, 31.5]] * 2),
        torch.full((2, 1, 64, 96), math.nan), torch.full((2, 1, 64, 96), 5.0),
    )  # fmt: skip
    losses = {}
    for everywhere in (False, True):
        term = Bins(Bins.Settings(everywhere=everywhere))
        objective = Objective([term], network, canonical_focal_px=240.0)
        context = Context(objective, batch, 0.5)
        rows = context.prediction().bins.logits.shape[-2]
        assert rows == (32 if everywhere else 8)
        losses[everywhere] = term(context).mean().item()
    assert losses[False] == pytest.approx(losses[True], rel=0.05)


def test_bins_take_the_truth_of_the_pixels_that_they_score():
    """Only the pixels of the stride-2 map that are kept know their depth: all others are NaN."""
    network = DepthModel(preset('lite'))
    depth = torch.full((1, 1, 64, 96), math.nan)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        depth[..., row::8, column::8] = 3.0
    batch = WorldsBatch(
        torch.rand(1, 3, 64, 96), torch.tensor([[80.0, 80, 47.5, 31.5]]), depth, depth
    )
    term = Bins(Bins.Settings())
    objective = Objective([term], network, canonical_focal_px=240.0)
    assert term(Context(objective, batch, 0.5)).item() > 0.5
    shifted = WorldsBatch(batch.image, batch.intrinsics, depth, depth.roll(2, dims=-1))
    assert term(Context(objective, shifted, 0.5)).item() == 0.0
