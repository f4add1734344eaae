"""All of SS-MDE on one rendered street that is learned by heart, with exact pseudo-depth."""

from __future__ import annotations

import numpy as np
import torch

from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.geometry.pose import relative
from psd_depth_ros.networks import DepthModel, preset
from psd_depth_ros.networks.encoders import freeze_norm
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.objectives.base import Objective
from psd_depth_ros.synth import SynthFrame, World, WorldSettings
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe

STEPS, TARGETS = 24, (1, 4)
STREET = WorldSettings(kind='street', width=128, height=64, focal_px=80.0, moving_objects=6)
PROGRESS = 0.35  # all terms are on


def make_batch(world: World) -> tuple[TripletBatch, torch.Tensor]:
    """Triplets of the world and the exact depth of their targets (B, 1, H, W)."""
    frames = [world.render(index) for index in range(6)]
    triplets = [[frames[t], frames[t - 1], frames[t + 1]] for t in TARGETS]
    image = torch.stack([torch.stack([planes(one) for one in three]) for three in triplets])
    poses = np.stack([
        [relative(source.T_world_camera, three[0].T_world_camera) for source in three[1:]]
        for three in triplets
    ])  # fmt: skip
    depth = torch.stack([three[0].depth_m[None].clamp(max=200.0) for three in triplets])
    camera = world.camera
    intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]] * len(TARGETS))
    batch = TripletBatch(
        image=image,
        image_augmented=image,
        intrinsics=intrinsics,
        valid=torch.ones_like(depth, dtype=torch.bool),
        seeds=torch.tensor(TARGETS),
        pose_prior=torch.from_numpy(poses).float(),
        pseudo_depth=3.0 / depth + 0.2,
    )
    return batch, depth


def planes(frame: SynthFrame) -> torch.Tensor:
    """(3, H, W) of a frame."""
    return frame.rgb.permute(2, 0, 1)


def test_a_street_is_learned_by_heart() -> None:
    recipe = change_recipe(
        read_recipe(find_recipe('ss_mde')),
        ['objective.pseudo_depth.teacher=exact', 'objective.pseudo_depth.forgetting=none'],
        'test',
    )
    torch.manual_seed(1)
    network = DepthModel(preset('lite'))
    objective = Objective(
        recipe.make_terms(), network, canonical_focal_px=80.0, pose=PoseNet()
    ).train()
    freeze_norm(network.encoder, everywhere=False)
    batch, depth = make_batch(World(2000005, STREET))
    optimiser = torch.optim.Adam(objective.parameters(), lr=5e-4)
    untrained = error(objective, batch, depth)
    losses = []
    for step in range(STEPS):
        terms = objective(batch, PROGRESS)
        loss = torch.stack(list(terms.values())).sum()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), recipe.clip)
        optimiser.step()
        objective.teachers.update(network, step + 1)
    assert {'pseudo_depth', 'ema_teacher', 'dynamic_ranking', 'multi_scale'} <= set(terms)
    assert losses[-1] < 0.75 * losses[1]  # movers are found from the second step on
    assert error(objective, batch, depth) < 0.75 * untrained  # from 0.89 to 0.47


@torch.no_grad()
def error(objective: Objective, batch: TripletBatch, depth: torch.Tensor) -> float:
    """Mean |ln(Z / Z*)| after scaling by the median."""
    image = objective.depth.normalise(batch.image[:, 0])
    found = torch.nn.functional.interpolate(
        objective.depth(image, batch.intrinsics).log_depth, depth.shape[-2:], mode='bilinear'
    )
    off = found - depth.log()
    return float((off - off.flatten(1).median(dim=1).values[:, None, None, None]).abs().mean())
