"""Motions of networks: the exponential and the inverse."""

from __future__ import annotations

import math

import numpy as np
import torch

from psd_depth_ros.geometry import pose
from psd_depth_ros.geometry.warp import exponential, invert


def test_a_quarter_turn_about_z() -> None:
    found = exponential(torch.tensor([[0.0, 0.0, math.pi / 2, 1.0, 2.0, 3.0]]))[0]
    expected = torch.tensor(
        [[0.0, -1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.0], [0.0, 0.0, 1.0, 3.0], [0.0, 0.0, 0.0, 1.0]]
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_rotations_agree_with_those_of_recordings() -> None:
    for _ in range(5):
        w = torch.randn(3, dtype=torch.double)
        twist = torch.cat([w, torch.zeros(3, dtype=torch.double)])
        expected = pose.exponential(np.concatenate([np.zeros(3), w.numpy()]))
        np.testing.assert_allclose(exponential(twist[None])[0].numpy(), expected, atol=1e-9)


def test_the_gradient_at_rest_is_finite() -> None:
    twist = torch.zeros(1, 6, requires_grad=True)
    exponential(twist).sum().backward()
    assert twist.grad is not None
    assert torch.isfinite(twist.grad).all()


def test_a_motion_and_its_inverse_cancel() -> None:
    motions = exponential(torch.randn(4, 6))
    torch.testing.assert_close(motions @ invert(motions), torch.eye(4).expand(4, 4, 4),
                               atol=1e-5, rtol=0)  # fmt: skip
