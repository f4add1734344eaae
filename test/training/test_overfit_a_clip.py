"""All of PSD on one short rendered sequence: photometric error and exact depth error must fall."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from psd_depth_ros.checkpoint import save_checkpoint
from psd_depth_ros.evaluation.metrics import average, measure
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.video_task import VideoTask

SEED, FRAMES = 2000012, 8
STREET = WorldSettings(layout='dense', width=384, height=128, focal_px=220.0)
CLIP = f'synth:street:{SEED}?frames={FRAMES}&size=384x128&focal_px=220&layout=dense'

STARTING = ('photometric', 'smoothness', 'patch', 'patch_smoothness', 'patch_level', 'mix',
            'mix_consistency')  # fmt: skip


@pytest.mark.timeout(180)
def test_a_sequence_is_learned_by_heart(tmp_path: Path) -> None:
    recipe = change_recipe(
        read_recipe(find_recipe('psd')),
        (
            f'data.paths=["{CLIP}"]',
            'steps=80',
            'batch=2',
            'pixel_budget=12288',
            'rate=0.001',
            'encoder_rate=0.0005',
            'average=0.8',
            'schedule=cosine',
            'data.triplets.held_out=0.3',
            'data.triplets.mask_fixed_regions=false',
            *(f'objective.{name}.start=0.6' for name in STARTING),
            'objective.distillation.start=0.7',
            'objective.distillation.full=0.8',
            'objective.mix.fraction=0.5',
            'validate_every=80',
            'save_every=80',
            'preview_every=80',
        ),
        'test',
    )
    task = VideoTask.from_recipe(recipe, None, lambda done, total: None)
    untrained = tmp_path / 'untrained.safetensors'
    save_checkpoint(untrained, task.describe(task.depth, 0, {}), task.depth.state_dict())
    before, depth_before = seen_error(task), depth_errors(untrained)
    losses: list[dict[str, float]] = []
    outcome = run_training(
        task, RunFolder(tmp_path / 'run'), device='cpu',
        report=lambda progress: losses.append(dict(progress.losses)),
    )  # fmt: skip
    assert outcome.path is not None
    assert {'photometric', 'patch', 'distillation', 'mix'} <= set(losses[-1])
    assert seen_error(task) < 0.8 * before
    assert list((tmp_path / 'run' / 'previews').glob('*.jpg'))
    scaled, metric = depth_errors(outcome.path)  # of the depth: from 0.57 to 0.31
    assert scaled < 0.65 * depth_before[0]
    assert metric < 0.7 * depth_before[1]


@torch.no_grad()
def seen_error(task: VideoTask) -> float:
    """The photometric error of the first batches, all of the clip."""
    task.prepare(0.0)
    batches = [task.batch(step, 0, 1) for step in range(1, 4)]
    errors = [float(task.losses(task.module, batch, 0.0)['photometric']) for batch in batches]
    return sum(errors) / len(errors)


def depth_errors(checkpoint: Path) -> tuple[float, float]:
    """AbsRel against the exact depth of every frame: after scaling by the median, and metric."""
    world = World(SEED, STREET)
    scenes = [world.render(frame) for frame in range(FRAMES)]
    engine = DepthEngine.from_checkpoint(checkpoint, 'cpu', 'torch')
    frames = engine.infer_batch(
        [(scene.rgb.numpy(), world.camera) for scene in scenes],
        settings=DepthSettings(min_depth_m=0.001, max_depth_m=10000.0, min_confidence=0.0),
    )
    pairs = [(f.depth_m, scene.depth_m.numpy()) for f, scene in zip(frames, scenes, strict=True)]
    scaled, metric = (
        average([measure(*pair, median_scaled=is_scaled) for pair in pairs]).abs_rel
        for is_scaled in (True, False)
    )
    return scaled, metric
