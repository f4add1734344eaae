"""The ties to metres, on planes and motions whose size is known."""

from __future__ import annotations

import math

import pytest
import torch

from psd_depth_ros.geometry.warp import backproject
from psd_depth_ros.objectives.metric import camera_height_error, lidar_error, velocity_error

NAN = float('nan')


def test_velocity_is_relative_and_skips_the_unknown() -> None:
    moved = torch.tensor([[[0.0, 0.0, 0.5], [0.3, 0.4, 0.0]], [[1.0, 0.0, 0.0]] * 2])
    known = torch.tensor([[1.0, NAN], [NAN, NAN]])
    assert velocity_error(moved, known).tolist() == pytest.approx([0.5, 0.0])


def test_a_standing_robot_does_not_divide_by_nothing() -> None:
    error = velocity_error(torch.tensor([[[0.02, 0.0, 0.0]]]), torch.tensor([[0.01]]))
    assert error.item() == pytest.approx(0.1)


def floor(height_m: float) -> torch.Tensor:
    """Points (1, 3, 40, 60) of a level floor and the far wall above the horizon."""
    K = torch.tensor([[[40.0, 0.0, 29.5], [0.0, 40.0, 15.0], [0.0, 0.0, 1.0]]])
    rows = torch.arange(40.0)
    depth = torch.where(rows > 15.0, 40.0 * height_m / (rows - 15.0), 80.0)
    return backproject(depth.view(1, 1, 40, 1).expand(1, 1, 40, 60).contiguous(), K)


def test_camera_height_of_a_level_floor() -> None:
    error = camera_height_error(floor(1.5), torch.tensor([1.2]))
    assert error.item() == pytest.approx(math.log(1.5 / 1.2), abs=1e-4)


def test_camera_height_says_nothing_without_a_floor_or_a_height() -> None:
    assert camera_height_error(floor(1.5), torch.tensor([NAN])).item() == 0.0
    wall = torch.stack([*torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing='ij')])
    points = torch.cat([wall.flip(0), torch.full((1, 40, 60), 5.0)])[None]
    assert camera_height_error(points, torch.tensor([1.0])).item() == 0.0


def test_camera_height_moves_depth_towards_it() -> None:
    points = floor(1.5).requires_grad_()
    camera_height_error(points, torch.tensor([1.2])).sum().backward()
    assert points.grad is not None
    assert (points.grad * points).sum() > 0  # a larger scene is a larger error


def test_lidar_points_between_pixels() -> None:
    log_depth = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    lidar = torch.tensor([[[0.5, 0.5, math.exp(0.3)], [0.0, 0.0, NAN]]])
    assert lidar_error(log_depth, lidar).item() == pytest.approx(0.2 - 0.025)


def test_no_lidar_is_no_error() -> None:
    assert lidar_error(torch.zeros(2, 1, 4, 4), torch.zeros(2, 0, 3)).tolist() == [0.0, 0.0]
