"""All of PSD at once on one short rendered clip, which it must learn by heart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from psd_depth_ros.config import change
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.training.clip_task import ClipTask
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.run_folder import RunFolder

CLIP = 'synth:street:2000005?frames=8&size=384x128&focal_px=220'


@pytest.mark.timeout(180)
def test_a_clip_is_learned_by_heart(tmp_path: Path) -> None:
    recipe = change(
        VideoRecipe(data=DataSettings(paths=(CLIP,))),
        (
            'steps=80',
            'batch=2',
            'pixel_budget=12288',
            'rate=0.001',
            'encoder_rate=0.0005',
            'average=0.8',
            'schedule=cosine',
            'data.clips.held_out=0.3',
            'data.clips.mask_fixed_regions=false',
            'patch.start=0.6',
            'distillation.start=0.7',
            'distillation.full=0.8',
            'patch_mix.start=0.6',
            'patch_mix.share=0.5',
            'validate_every=80',
            'save_every=80',
            'preview_every=80',
        ),
        'test',
    )
    task = ClipTask.from_recipe(recipe, tmp_path / 'data', None, lambda done, total: None)
    before = seen_error(task)
    losses: list[dict[str, float]] = []
    outcome = run_training(
        task, RunFolder(tmp_path / 'run'), device='cpu',
        report=lambda progress: losses.append(dict(progress.losses)),
    )  # fmt: skip
    assert outcome.path is not None
    assert {'photometric', 'patch_photometric', 'distillation', 'mix_photometric'} <= set(
        losses[-1]
    )
    assert seen_error(task) < 0.8 * before
    assert list((tmp_path / 'run' / 'previews').glob('*.jpg'))


@torch.no_grad()
def seen_error(task: ClipTask) -> float:
    """The photometric error of the first batches, all of the clip."""
    task.prepare(0.0)
    batches = [task.batch(step, 0, 1) for step in range(1, 4)]
    errors = [float(task.losses(task.module, batch, 0.0)['photometric']) for batch in batches]
    return sum(errors) / len(errors)
