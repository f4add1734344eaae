"""Alignment of rendered views: the motion is known."""

from __future__ import annotations

import numpy as np
import torch

from psd_depth_ros.geometry.pose import relative, rotation_vector
from psd_depth_ros.odometry.alignment import refine_motions
from psd_depth_ros.synth import World, WorldSettings


def street() -> tuple[torch.Tensor, ...]:
    """Two views, depth of the first, fx fy cx cy, and T_second_first."""
    world = World(5, WorldSettings(layout='dense', width=320, height=96, moving_objects=0))
    first, second = world.render(10), world.render(11)
    images = [f.rgb.permute(2, 0, 1)[None].float() / 255.0 for f in (first, second)]
    depth = first.depth_m.clamp(max=300.0)[None, None]
    camera = world.camera.rectified()
    intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]])
    motion = relative(second.T_world_camera, first.T_world_camera)
    return *images, depth, intrinsics, torch.from_numpy(motion).float()[None]


def test_the_motion_is_found_from_standing_still() -> None:
    target, source, depth, intrinsics, motion = street()
    valid = torch.ones_like(depth, dtype=torch.bool)
    found = refine_motions(target, source, depth, intrinsics, torch.eye(4)[None], valid)
    error = np.linalg.inv(motion[0].double().numpy()) @ found[0].double().numpy()
    length = motion[0, :3, 3].norm().item()
    assert length > 0.3
    assert np.linalg.norm(error[:3, 3]) < 0.1 * length
    assert np.degrees(np.linalg.norm(rotation_vector(error[:3, :3]))) < 0.1


def test_the_scale_of_depth_is_that_of_the_motion() -> None:
    target, source, depth, intrinsics, _ = street()
    valid = torch.ones_like(depth, dtype=torch.bool)
    one, three = (
        refine_motions(target, source, s * depth, intrinsics, torch.eye(4)[None], valid)
        for s in (1.0, 3.0)
    )
    torch.testing.assert_close(three[0, :3, 3], 3.0 * one[0, :3, 3], atol=0.02, rtol=0.02)


def test_nothing_to_align_leaves_the_motion_alone() -> None:
    flat = torch.full((1, 3, 32, 64), 0.5)
    motion = torch.eye(4)[None].clone()
    motion[0, 2, 3] = 0.4
    valid = torch.ones(1, 1, 32, 64, dtype=torch.bool)
    intrinsics = torch.tensor([[60.0, 60.0, 31.5, 15.5]])
    found = refine_motions(flat, flat, torch.full((1, 1, 32, 64), 5.0), intrinsics, motion, valid)
    assert torch.equal(found, motion)
