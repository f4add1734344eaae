"""All of PSD at once on one short rendered clip, which it must learn by heart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.video_task import VideoTask

CLIP = 'synth:street:2000005?frames=8&size=384x128&focal_px=220'

STARTING = ('photometric', 'smoothness', 'patch', 'patch_smoothness', 'patch_level', 'mix',
            'mix_consistency')  # fmt: skip


@pytest.mark.timeout(180)
def test_a_clip_is_learned_by_heart(tmp_path: Path) -> None:
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
            'data.clips.held_out=0.3',
            'data.clips.mask_fixed_regions=false',
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
    task = VideoTask.from_recipe(recipe, tmp_path / 'data', None, lambda done, total: None)
    before = seen_error(task)
    losses: list[dict[str, float]] = []
    outcome = run_training(
        task, RunFolder(tmp_path / 'run'), device='cpu',
        report=lambda progress: losses.append(dict(progress.losses)),
    )  # fmt: skip
    assert outcome.path is not None
    assert {'photometric', 'patch', 'distillation', 'mix'} <= set(losses[-1])
    assert seen_error(task) < 0.8 * before
    assert list((tmp_path / 'run' / 'previews').glob('*.jpg'))


@torch.no_grad()
def seen_error(task: VideoTask) -> float:
    """The photometric error of the first batches, all of the clip."""
    task.prepare(0.0)
    batches = [task.batch(step, 0, 1) for step in range(1, 4)]
    errors = [float(task.losses(task.module, batch, 0.0)['photometric']) for batch in batches]
    return sum(errors) / len(errors)
