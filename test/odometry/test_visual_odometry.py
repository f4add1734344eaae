"""The motion between rendered views of a still street, from corners."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.data.triplets.prepare import Preparation
from psd_depth_ros.geometry.pose import relative, rotation_vector
from psd_depth_ros.odometry.visual_odometry import (
    find_corners,
    find_motion,
    lift,
    track_motion,
)
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.video_task import VideoTask


@pytest.fixture(scope='module')
def street() -> tuple[Sequence, np.ndarray, np.ndarray]:
    """Two frames, the depth of the first, and T_second_first."""
    world = World(5, WorldSettings(kind='street', width=640, height=192, moving_objects=0))
    frames = [world.render(index) for index in (10, 12)]
    sequence = Sequence(
        name='street',
        rgb=np.stack([frame.rgb.numpy() for frame in frames]),
        camera=world.camera.rectified(),
        stamps_ns=np.arange(2),
        valid=np.ones((192, 640), bool),
        triplets=np.array([[0, 1, 1]], np.int32),
        held_out=np.zeros((0, 3), np.int32),
    )
    motion = relative(frames[1].T_world_camera, frames[0].T_world_camera)
    return sequence, frames[0].depth_m.clamp(max=300.0).numpy(), motion


def motion_of(sequence, depth_m):
    here, there = (cv2.cvtColor(sequence.rgb[index], cv2.COLOR_RGB2GRAY) for index in (0, 1))
    return find_motion(here, there, sequence.camera, depth_m, sequence.valid)


def test_turn_direction_and_length(street) -> None:
    sequence, depth_m, motion = street
    found = motion_of(sequence, depth_m)
    assert found is not None
    error = np.linalg.inv(motion) @ found.pose
    assert np.degrees(np.linalg.norm(rotation_vector(error[:3, :3]))) < 0.1
    lengths = np.linalg.norm(found.pose[:3, 3]), np.linalg.norm(motion[:3, 3])
    assert found.pose[:3, 3] @ motion[:3, 3] > 0.99 * lengths[0] * lengths[1]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.05)
    x, y, distance = found.corners.T
    truth = depth_m[y.round().astype(int), x.round().astype(int)] / lengths[1]
    near = truth < 30.0  # a pixel of error is too much farther away
    assert np.median(np.abs(distance / truth - 1.0)[near]) < 0.1


def test_the_length_follows_the_scale_of_depth(street) -> None:
    sequence, depth_m, _ = street
    one, two = (motion_of(sequence, s * depth_m) for s in (1.0, 2.0))
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(two.pose[:3, 3], 2.0 * one.pose[:3, 3], rtol=1e-3)


def test_a_network_that_knows_nothing_yet_has_motions_to_learn_from(street) -> None:
    sequence, _, motion = street
    data = Preparation((sequence,), {}, ())
    shipped = read_recipe(find_recipe('psd'))
    recorded = change_recipe(shipped, {'batch': 1, 'poses': 'recorded'}, 'test')
    assert VideoTask(recorded, data).batch(1, 0, 1).pose_prior.isnan().all()
    recipe = change_recipe(recorded, {'poses': 'tracked', 'smallest_window': 1.0}, 'test')
    for found in VideoTask(recipe, data).batch(1, 0, 1).pose_prior[0].double().numpy():
        direction = found[:3, 3] / np.linalg.norm(found[:3, 3])
        wanted = motion[:3, 3] / np.linalg.norm(motion[:3, 3])
        assert abs(direction[2] - wanted[2]) < 0.005  # whether mirrored or not
        angle = np.linalg.norm(rotation_vector(found[:3, :3]))
        assert np.degrees(abs(angle - np.linalg.norm(rotation_vector(motion[:3, :3])))) < 0.1


def test_corners_that_end_outside_the_mask_are_left_out(street) -> None:
    sequence, _, _ = street
    here, there = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in sequence.rgb)
    mask = np.ones((192, 640), bool)
    mask[:, 320:] = False
    corners = find_corners(here)
    found = track_motion(here, there, corners, sequence.camera, mask)
    assert found is not None
    assert found.there[:, 0].max() < 320.0 < corners[:, 0].max()
    back = found.reversed()
    points = sequence.camera.backproject(found.here, found.distance_here)
    moved = points @ found.rotation.T + found.direction
    np.testing.assert_allclose(moved[:, 2], found.distance_there, rtol=0.02)
    np.testing.assert_allclose(moved @ back.rotation.T + back.direction, points, atol=1e-3)


def test_nothing_to_follow_is_no_motion(street) -> None:
    sequence, depth_m, _ = street
    flat = replace(sequence, rgb=np.full_like(sequence.rgb, 128))
    assert motion_of(flat, depth_m) is None


def test_pixels_are_lifted_at_half_pixels(street) -> None:
    sequence, _, _ = street
    ramp = np.tile(np.arange(320, dtype=np.float32) + 5.0, (96, 1))  # a map of half the size
    x = np.linspace(1.0, 638.0, 500, dtype=np.float32)
    points = lift(np.stack([x, x / 4], axis=1), ramp, sequence.camera)
    np.testing.assert_allclose(points[:, 2], 5.0 + ((x + 0.5) / 2 - 0.5), rtol=1e-5)
