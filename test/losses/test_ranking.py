"""Choosing and ranking pairs of pixels; numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from psd_depth_ros.losses.depth import surface_normals
from psd_depth_ros.losses.ranking import draw_pixels, draw_positions, order_labels, ranking_error


def test_pixels_of_a_mask_are_drawn_in_reading_order():
    mask = torch.zeros(2, 1, 3, 4, dtype=torch.bool)
    mask[0, 0, 0, 1] = mask[0, 0, 1, 2] = mask[0, 0, 2, 3] = True  # 1, 6, 11
    index, count = draw_pixels(mask, torch.tensor([[0.0, 0.34, 0.99]] * 2))
    assert index[0].tolist() == [1, 6, 11]
    assert count.tolist() == [3, 0]
    assert (index < 12).all()


def test_draws_follow_from_the_seed_of_each_sample():
    drawn = draw_positions([5, 6], 100)
    assert drawn.shape == (2, 2, 100)
    torch.testing.assert_close(drawn[:, 1], draw_positions([6], 100)[:, 0])
    assert not torch.equal(drawn[:, 0], drawn[:, 1])
    assert (drawn[0].mul(100).floor() == torch.arange(100)).all()  # one in each part
    assert 0 <= drawn.min() <= drawn.max() < 1


def test_order_of_two_depths():
    metres = torch.tensor([10.0, 12.0, 10.0, 11.4])
    others = torch.tensor([12.0, 10.0, 10.0, 10.0])
    assert order_labels(metres.log(), others.log()).tolist() == [-1.0, 1.0, 0.0, 0.0]


def test_ranking_of_two_pixels_by_hand():
    a, b = torch.tensor([math.log(2.0)] * 3), torch.zeros(3)
    found = ranking_error(a, b, torch.tensor([1.0, -1.0, 0.0]))
    # e^-ln2 = 1/2, e^ln2 = 2
    assert found.tolist() == pytest.approx([math.log(1.5), math.log(3.0), math.log(2.0) ** 2])


def test_normals_of_a_tilted_plane():
    # the plane n X = -h with n = (0, -cos 30, -sin 30): below the camera, rising ahead
    normal = torch.tensor([0.0, -math.cos(math.pi / 6), -math.sin(math.pi / 6)])
    y, x = torch.meshgrid(torch.linspace(0, 1, 7), torch.linspace(-1, 1, 9), indexing='ij')
    rays = torch.stack([x, y, torch.ones_like(x)])
    depth = -1.5 / torch.einsum('c,chw->hw', normal, rays)
    found = surface_normals((depth * rays)[None])
    assert found.shape == (1, 3, 5, 7)
    torch.testing.assert_close(found, normal.view(1, 3, 1, 1).expand_as(found))
    torch.testing.assert_close(surface_normals((40.0 * depth * rays)[None]), found)
