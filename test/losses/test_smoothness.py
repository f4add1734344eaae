"""Smoothness of ramps whose value is known."""

from __future__ import annotations

import math

import pytest
import torch

from psd_depth_ros.losses.photometric import smoothness


def ramp(step: float) -> torch.Tensor:
    """1, 1 + step, 1 + 2 step, ... from left to right (1, 1, 3, 5)."""
    return (1.0 + step * torch.arange(5.0)).expand(1, 1, 3, 5)


def test_a_ramp_over_a_flat_image() -> None:
    value = smoothness(ramp(0.5), torch.zeros(1, 3, 3, 5))
    assert value.item() == pytest.approx(0.5 / 2.0)  # the step over the mean disparity


def test_an_edge_of_the_image_allows_an_edge_of_depth() -> None:
    image = torch.arange(5.0).expand(1, 3, 3, 5)  # every step is 1
    value = smoothness(ramp(0.5), image)
    assert value.item() == pytest.approx(0.25 * math.exp(-1.0))


def test_scale_does_not_matter() -> None:
    disparity, image = torch.rand(2, 1, 6, 8) + 0.1, torch.rand(2, 3, 6, 8)
    torch.testing.assert_close(smoothness(disparity, image), smoothness(7 * disparity, image))
