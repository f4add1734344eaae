"""The multi-view filter on rendered planes: a square that moves is found, and nothing else."""

from __future__ import annotations

import pytest
import torch

from psd_depth_ros.losses.multi_view import multi_view_masks, Thresholds

HEIGHT, WIDTH, FOCAL = 48, 80, 60.0
WALL_M, SQUARE_M = 20.0, 8.0
K = torch.tensor([[[FOCAL, 0.0, 39.5], [0.0, FOCAL, 23.5], [0.0, 0.0, 1.0]]])
STEP_M = 0.4  # the camera moves to the right


def render(camera_x: float, square_x: float, side: float = 2.0) -> torch.Tensor:
    """Depth (1, 1, H, W) of a wall with a square in front of it."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    X = (x - 39.5) / FOCAL * SQUARE_M + camera_x - square_x
    Y = (y - 23.5) / FOCAL * SQUARE_M
    inside = (X.abs() < side / 2) & (Y.abs() < side / 2)
    return torch.where(inside, SQUARE_M, WALL_M)[None, None]


def poses() -> torch.Tensor:
    """T_source_target of the earlier and the later frame."""
    found = torch.eye(4).repeat(2, 1, 1, 1)
    found[0, 0, 0, 3], found[1, 0, 0, 3] = STEP_M, -STEP_M
    return found


def scene(speed_m: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Depth of the target, and of its sources: the square moves by `speed_m` between frames."""
    others = [render(step * STEP_M, step * speed_m) for step in (-1, 1)]
    return render(0.0, 0.0), torch.stack(others)


@pytest.mark.parametrize('relative', [False, True])
def test_a_static_scene_is_static(relative):
    found = multi_view_masks(*scene(0.0), poses(), K, Thresholds(relative=relative))
    assert not found.dynamic.any()
    # what one source does not see beside the square, the other does; borders are seen by one
    assert found.static.float().mean() > 0.98


def test_the_moving_square_is_found_and_nothing_else():
    depth, others = scene(2.5)
    found = multi_view_masks(depth, others, poses(), K)
    square = depth == SQUARE_M
    assert found.dynamic[square].all()
    assert not (found.dynamic & ~square).any()
    assert found.static[~square].float().mean() > 0.98
    total = found.static.int() + found.dynamic.int() + found.noisy.int()
    assert (total == 1).all()


def test_what_moves_is_found_by_the_one_view_that_sees_it():
    depth, others = scene(2.5)
    away = poses()
    away[1, 0, 0, 3] = -1e3
    others[1] = SQUARE_M  # would agree if it were seen there
    found = multi_view_masks(depth, others, away, K)
    assert found.dynamic[depth == SQUARE_M].all()


def test_a_pixel_that_comes_back_elsewhere_is_not_confirmed():
    """4 % of depth are 1.2 pixels where the camera moves by 2 m beside a wall at 4 m."""
    depth = torch.full((1, 1, HEIGHT, WIDTH), 4.0)
    beside = torch.eye(4).repeat(1, 1, 1, 1)
    beside[0, 0, 0, 3] = 2.0
    for limit_px, is_static in ((1.0, False), (1.3, True)):
        found = multi_view_masks(depth, 1.04 * depth[None], beside, K, Thresholds(pixel=limit_px))
        assert bool(found.static.any()) is is_static


def test_what_no_view_sees_is_noisy():
    depth, others = scene(0.0)
    turned = poses()
    turned[:, 0, 0, 3] = -1e3  # both sources are far to the right
    found = multi_view_masks(depth, others, turned, K)
    assert found.noisy.all()
    assert (found.difference == 0).all()


def test_thresholds_are_those_of_the_round_trip():
    """A source that says 4 % more sends points back 4 % farther, where the view is from ahead."""
    depth = torch.full((1, 1, HEIGHT, WIDTH), 10.0)
    still = torch.eye(4).repeat(1, 1, 1, 1)
    for excess, limit, is_static in ((1.04, 0.05, True), (1.06, 0.05, False), (1.06, 0.07, True)):
        found = multi_view_masks(depth, excess * depth[None], still, K, Thresholds(depth=limit))
        assert found.static.all() if is_static else not found.static.any()
        D = (excess - 1) / (excess + 1)
        torch.testing.assert_close(found.difference, torch.full_like(depth, D))
    # D is 0.15 at a ratio of 1.353
    for ratio, is_dynamic in ((1.34, False), (1.37, True), (1 / 1.34, False), (1 / 1.37, True)):
        found = multi_view_masks(depth, ratio * depth[None], still, K)
        assert found.dynamic.all() if is_dynamic else not found.dynamic.any()


def test_relative_thresholds_keep_the_better_part():
    depth = torch.full((1, 1, HEIGHT, WIDTH), 10.0)
    others = depth.clone()[None]
    others[..., : WIDTH // 2] *= 1.10
    others[..., WIDTH // 2 :] *= 1.25
    found = multi_view_masks(
        depth, others, torch.eye(4).repeat(1, 1, 1, 1), K, Thresholds(relative=True)
    )
    assert found.static[..., : WIDTH // 2].all()
    assert not found.static[..., WIDTH // 2 :].any()
