"""Depth of single primitives and of the ground, known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from psd_depth_ros.synth import primitives, World, WorldSettings
from psd_depth_ros.synth.primitives import join_rows, make_ball, make_box, make_post, Material
from psd_depth_ros.synth.raycast import bound_rectangles, cast, View

CUTOUT = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64)))
OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def _look_ahead(width: int = 65, height: int = 33, yaw: float = 0.0) -> View:
    """A level camera at the origin looking along world +x, turned by yaw."""
    pose = np.eye(4)
    pose[:3, :3] = primitives.yaw_basis(yaw).T @ OPTICAL
    return View(width, height, 50.0, 50.0, (width - 1) / 2, (height - 1) / 2, pose)


def _depth(rows: primitives.Rows, view: View) -> torch.Tensor:
    return cast(rows, view, CUTOUT).depth.view(view.height, view.width)


def test_fronto_parallel_box_has_the_depth_of_its_face() -> None:
    depth = _depth(make_box((11.0, 0, 0), (2.0, 4.04, 2.04), Material()), _look_ahead())
    inside = torch.isfinite(depth)
    assert torch.allclose(depth[inside], torch.tensor(10.0))
    # 4.04 m and 2.04 m at 10 m with 50 px of focal length: 20.2 and 10.2 pixels.
    assert inside.any(0).sum() == 21
    assert inside.any(1).sum() == 11


def test_ball_and_post_are_nearest_in_the_middle() -> None:
    ball = _depth(make_ball((8.0, 0, 0), (1.0, 1.0, 1.0), Material()), _look_ahead())
    assert ball[16, 32] == pytest.approx(7.0, rel=1e-5)
    assert ball.min() == ball[16, 32]
    post = _depth(make_post(8.0, 0.0, -5, 5, 0.2, Material()), _look_ahead())
    assert torch.allclose(post[:, 32], torch.tensor(7.8), rtol=1e-5)
    # Half width seen from 8 m: tan(asin(0.2 / 8)) * 50 = 1.25 px.
    assert torch.isfinite(post[0]).sum() == 3


def test_far_thin_post_is_not_lost_to_rounding() -> None:
    view = View(801, 3, 4000.0, 4000.0, 400.0, 1.0, _look_ahead().pose)
    depth = cast(make_post(400.0, 0.0, -5, 5, 0.05, Material()), view, CUTOUT).depth.view(3, 801)
    assert torch.isfinite(depth[1]).sum() == 1
    assert depth[1, 400] == pytest.approx(399.95, rel=1e-4)


def test_wedge_leans_as_its_taper_says() -> None:
    # The rear face (towards the camera) leans from x = 9 at the bottom to x = 10 at the top.
    wedge = make_box((10.0, 0, 0), (2.0, 2.0, 2.0), Material(), taper=(0.0, 1.0, 0.0))
    depth = _depth(wedge, _look_ahead())
    assert depth[16, 32] == pytest.approx(9.5, rel=1e-5)


def test_turned_camera_sees_depth_along_its_own_axis() -> None:
    yaw = 0.3
    view = _look_ahead(yaw=yaw)
    post = make_ball((6 * math.cos(yaw), 6 * math.sin(yaw), 0), (0.5, 0.5, 0.5), Material())
    assert _depth(post, view)[16, 32] == pytest.approx(5.5, rel=1e-5)


def test_nearer_thing_hides_the_farther() -> None:
    rows = join_rows([make_box((x, 0, 0), (1.0, 1.0, 1.0), Material()) for x in (9.0, 5.0, 7.0)])
    hits = cast(rows, _look_ahead(), CUTOUT)
    middle = 16 * 65 + 32
    assert hits.index[middle] == 1
    assert hits.depth[middle] == pytest.approx(4.5)


def test_flat_ground_follows_the_camera_height() -> None:
    settings = WorldSettings(
        kind='street', width=160, height=96, focal_px=120.0, camera_height_m=1.4,
        vary_pitch=False, moving_objects=0,
    )  # fmt: skip
    world = World(12, settings)
    depth, camera = world.render(0).depth_m, world.camera
    row = 95
    expected = 1.4 * camera.fy / (row - camera.cy)
    # The way ahead of the ego is free, so the middle of the lowest row is road.
    assert depth[row, 70:90].numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('seed', range(6))
def test_culling_by_bounds_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(60):
        centre = tuple(rng.uniform((-10, -8, -4), (25, 8, 4)))
        half = tuple(rng.uniform(0.05, 2.0, 3))
        taper = tuple(rng.uniform(0, 0.9, 3)) if rng.random() < 0.4 else (0.0, 0.0, 0.0)
        basis = np.linalg.qr(rng.standard_normal((3, 3)))[0]
        shape = int(rng.choice([0, 2, 3, 4]))
        taper = taper if shape == 0 else (0.0, 0.0, 0.0)
        parts.append(primitives.make_row(shape, centre, half, Material(), taper, basis))
    rows, view = join_rows(parts), _look_ahead(yaw=float(rng.uniform(-1, 1)))
    culled, brute = cast(rows, view, CUTOUT), cast(rows, view, CUTOUT, bounded=False)
    assert torch.equal(culled.index, brute.index)
    assert torch.equal(culled.depth, brute.depth)


def test_things_behind_the_camera_have_empty_bounds() -> None:
    rectangle = bound_rectangles(make_box((-5, 0, 0), (1, 1, 1), Material()), _look_ahead())[0]
    assert rectangle[2] < rectangle[0]


def test_leaves_do_not_depend_on_what_else_there_is() -> None:
    crown = make_ball((8.0, 0.3, 0.2), (2.0, 2.0, 2.0), Material(), foliage=True)
    behind = make_box((-9.0, 0, 0), (1, 1, 1), Material())
    other = make_ball((-5.0, 0, 0), (1, 1, 1), Material(), foliage=True)
    alone, among = (_depth(r, _look_ahead()) for r in (crown, join_rows([behind, other, crown])))
    assert torch.isfinite(alone).any()
    assert torch.equal(alone, among)
