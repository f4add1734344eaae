"""Worlds as a whole: the same seed gives the same frame, and frames agree with each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.synth import SynthFrame, World, WorldSettings

SMALL = {'width': 208, 'height': 64}


def _reproject(world: World, a: SynthFrame, b: SynthFrame) -> tuple[torch.Tensor, torch.Tensor]:
    """Relative depth error of a's points in b, and the moving mask, where both see them."""
    camera = world.camera
    v, u = torch.meshgrid(
        torch.arange(camera.height, dtype=torch.float64),
        torch.arange(camera.width, dtype=torch.float64),
        indexing='ij',
    )
    z = a.depth_m.double()
    points = torch.stack(
        [(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z, torch.ones_like(z)]
    )
    motion = torch.from_numpy(np.linalg.inv(b.T_world_camera) @ a.T_world_camera)
    x, y, depth, _ = (motion @ points.reshape(4, -1)).reshape(4, *z.shape)
    left, top = x / depth * camera.fx + camera.cx, y / depth * camera.fy + camera.cy
    left, top = torch.floor(left).long(), torch.floor(top).long()
    inside = (left >= 0) & (left < camera.width - 1) & (top >= 0) & (top < camera.height - 1)
    inside &= torch.isfinite(z) & (depth > 0.1) & (z < 60)
    index = top[inside] * camera.width + left[inside]
    flat = b.depth_m.double().reshape(-1)
    around = torch.stack([flat[index + step] for step in (0, 1, camera.width, camera.width + 1)])
    # Between pixels the surface lies between its neighbours.
    nearest = torch.minimum(torch.maximum(depth[inside], around.amin(0)), around.amax(0))
    return (nearest / depth[inside] - 1).abs(), a.moving[inside]


@pytest.mark.parametrize('kind', ['street', 'room'])
def test_same_seed_gives_the_same_bytes(kind: str) -> None:
    settings = WorldSettings(kind=kind, condition='any', **SMALL)
    world = World(5, settings)
    world.render(0)
    a, b = world.render(3), World(5, settings).render(3)
    assert torch.equal(a.rgb, b.rgb)
    assert torch.equal(a.depth_m, b.depth_m)
    assert torch.equal(a.moving, b.moving)
    assert np.array_equal(a.T_world_camera, b.T_world_camera)
    assert not torch.equal(a.rgb, World(6, settings).render(3).rgb)


@pytest.mark.parametrize('kind', ['street', 'room'])
def test_frame_has_the_promised_types(kind: str) -> None:
    frame = World(2, WorldSettings(kind=kind, frame_rate_hz=4.0, **SMALL)).render(2)
    assert frame.rgb.shape == (64, 208, 3)
    assert frame.rgb.dtype == torch.uint8
    assert frame.depth_m.shape == (64, 208)
    assert frame.depth_m.dtype == torch.float32
    assert frame.moving.dtype == torch.bool
    assert frame.stamp_ns == 500_000_000
    assert not torch.isnan(frame.depth_m).any()
    assert frame.depth_m.min() > 0.05


@pytest.mark.parametrize(('kind', 'seed'), [('street', 1), ('street', 8), ('room', 3)])
def test_depth_and_poses_of_two_frames_agree(kind: str, seed: int) -> None:
    world = World(seed, WorldSettings(kind=kind, condition='clear', moving_objects=0, **SMALL))
    error, moving = _reproject(world, world.render(4), world.render(5))
    assert not moving.any()
    assert len(error) > 1000
    # The rest is hidden in one of the frames, or thinner than a pixel.
    assert (error < 0.01).float().mean() > (0.95 if kind == 'street' else 0.98)
    assert error.median() < 1e-4


@pytest.mark.parametrize('seed', [3, 6, 7])
def test_motion_mask_marks_what_moves_and_nothing_else(seed: int) -> None:
    settings = WorldSettings(layout='dense', moving_objects=12, speed_mps=4.0, **SMALL)
    world = World(seed, settings)
    error, moving = _reproject(world, world.render(10), world.render(14))
    assert moving.sum() > 100
    assert (error[moving] > 0.02).float().mean() > 0.8
    assert (error[~moving] > 0.02).float().mean() < 0.08


@pytest.mark.parametrize('kind', ['street', 'room'])
def test_camera_never_runs_into_anything(kind: str) -> None:
    for seed in range(20, 26):
        world = World(seed, WorldSettings(kind=kind, width=64, height=32))
        assert all(world.render(index).depth_m.min() > 0.2 for index in (0, 15, 40))


def test_velocity_is_the_derivative_of_the_pose() -> None:
    world = World(4, WorldSettings(kind='street', speed_mps=7.0, **SMALL))
    a, b, c = (world.render(i) for i in (20, 21, 22))
    moved = (c.T_world_camera[:3, 3] - a.T_world_camera[:3, 3]) / 0.2
    assert np.allclose(moved, b.linear_mps, atol=0.05)
    assert 6.5 < np.linalg.norm(b.linear_mps) < 7.5


def test_sky_is_infinite_and_the_street_is_deep() -> None:
    world = World(2, WorldSettings(kind='street', vary_pitch=False, **SMALL))
    depth = torch.stack([world.render(i).depth_m for i in range(0, 60, 12)])
    assert torch.isinf(depth[:, :16]).any()
    assert not torch.isinf(depth[:, -1]).any()
    assert depth[torch.isfinite(depth)].max() > 100


def test_room_has_no_sky() -> None:
    world = World(7, WorldSettings(kind='room', **SMALL))
    assert torch.isfinite(world.render(0).depth_m).all()


@pytest.mark.parametrize('condition', ['clear', 'fog', 'rain', 'night', 'blur'])
def test_every_condition_changes_the_image_but_not_the_depth(condition: str) -> None:
    frames = {
        name: World(3, WorldSettings(kind='street', condition=name, **SMALL)).render(1)
        for name in (condition, 'clear')
    }
    assert 5 < frames[condition].rgb.float().mean() < 250
    assert torch.equal(frames[condition].depth_m, frames['clear'].depth_m)
    if condition != 'clear':
        assert not torch.equal(frames[condition].rgb, frames['clear'].rgb)


def test_fixed_camera_is_kept() -> None:
    settings = WorldSettings(
        kind='street', focal_px=240.0, camera_height_m=1.5, vary_pitch=False, **SMALL
    )
    world = World(9, settings)
    assert world.camera.fx == world.camera.fy == 240.0
    assert world.camera_height_m == 1.5
    pose = world.render(0).T_world_camera
    assert pose[2, 3] == pytest.approx(1.5)
    assert pose[2, 2] == pytest.approx(0.0, abs=1e-12)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match='condition'):
        World(1, WorldSettings(condition='snow'))
    with pytest.raises(SettingsError, match='width'):
        World(1, WorldSettings(width=0))


def test_weather_stays_outdoors() -> None:
    with pytest.raises(SettingsError, match=r'rain.*room'):
        World(1, WorldSettings(kind='room', condition='rain'))
    worlds = [World(seed, WorldSettings(condition='fog', **SMALL)) for seed in range(4)]
    assert all(world.kind == 'street' for world in worlds)
