"""Training on a GPU: the losses of a CPU, how often it is waited for, runs from end to end."""

from __future__ import annotations

import json
from pathlib import Path
import subprocess
import sys

import pytest
import torch

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.networks.depth_model import load_model
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.video_task import VideoTask

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

CLIP = 'synth:street:2000005?frames=8&size=384x128&focal_px=220'
SMALL = (
    'batch=4', 'pixel_budget=12288', 'data.triplets.held_out=0.3',
    'data.triplets.mask_fixed_regions=false', 'objective.patch.start=0.0',
    'objective.patch.fraction=1.0', 'objective.distillation.start=0.0',
    'objective.distillation.full=0.0', 'objective.mix.start=0.0', 'objective.mix.fraction=0.9',
    'objective.pose_alignment=1.0', 'objective.distant=0.5', 'objective.anchor=off',
    'objective.anchor_scale=off',
)  # fmt: skip
TERMS = {'photometric', 'patch', 'distillation', 'mix', 'pose_alignment', 'distant'}


def make_task(*changes: str) -> VideoTask:
    base = read_recipe(find_recipe('psd'))
    recipe = change_recipe(base, (f'data.paths=["{CLIP}"]', *SMALL, *changes), 'test')
    return VideoTask.from_recipe(recipe, None, lambda done, total: None)


def test_losses_are_those_of_a_cpu() -> None:
    found = []
    for device in ('cpu', 'cuda'):
        # not by a depth that rounding changes
        task = make_task('objective.patch.selection=random')
        task.module.to(device)
        task.prepare(1.0)
        torch.manual_seed(0)
        terms = task.losses(task.module, task.batch(1, 0, 1).to(device), 0.5)
        found.append({name: value.item() for name, value in terms.items()})
    assert set(found[0]) >= TERMS
    assert found[1] == pytest.approx(found[0], rel=0.03, abs=1e-4)


STRUCTURE = ('adverse', 'adverse_consistency', 'reflectance', 'illumination_smoothness', 'graph')


@pytest.mark.parametrize(
    ('choice', 'most', 'more'), [('random', 0, ()), ('distant', 1, ()), ('random', 0, STRUCTURE)]
)
def test_a_step_hardly_waits_for_the_gpu(  # type: ignore[no-untyped-def]
    gpu_waits, choice: str, most: int, more: tuple[str, ...]
) -> None:
    """Only to choose patches by the depth of the full image, once."""
    task = make_task(
        f'objective.patch.selection={choice}',
        *(f'objective.{name}=0.1' for name in more),
    )
    task.module.to('cuda')
    task.prepare(1.0)
    parameters = list(task.module.parameters())
    optimiser = torch.optim.AdamW(parameters, fused=True)
    batches = [task.batch(step, 0, 1).to('cuda') for step in (1, 2)]

    def step(number: int) -> None:
        with torch.autocast('cuda', torch.bfloat16):
            terms = task.losses(task.module, batches[number], 0.5)
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    step(0)
    with gpu_waits() as places:
        step(1)
    assert len(places) <= most, places


@pytest.mark.timeout(600)
def test_a_run_ends_and_is_resumed(tmp_path: Path) -> None:
    """By the command line: a process trains on one kind of device."""
    run = tmp_path / 'run'
    command = [
        sys.executable, '-m', 'psd_depth_ros.cli.main', 'train', 'psd', '--data', CLIP,
        '--output', str(run), '--device', 'cuda',
    ]  # fmt: skip
    for value in (*SMALL, 'steps=40', 'save_every=20', 'validate_every=20'):
        command += ['--set', value]
    train(command)
    state = sorted((run / 'state').glob('*.safetensors'))
    assert state[-1].stem.endswith('40')
    lines = (run / 'log.csv').read_text().splitlines()
    assert len(lines) == 41
    state[-1].unlink()  # as if it had been stopped halfway
    train([*command, '--resume'])
    again = (run / 'log.csv').read_text().splitlines()
    assert len(again) == 41
    assert again[:21] == lines[:21]
    assert json.loads((run / 'run.json').read_text())['device'] == torch.cuda.get_device_name()
    load_model(load_checkpoint(run / 'best.safetensors'))


def test_full_memory_names_the_settings_to_lower(tmp_path: Path) -> None:
    program = f"""
import torch
torch.cuda.set_per_process_memory_fraction(0.002)
from psd_depth_ros.cli.main import main
import sys
sys.exit(main(['train', 'psd', '--data', {CLIP!r}, '--output', {str(tmp_path / 'run')!r},
    '--device', 'cuda', '--set', 'batch=64', '--set', 'data.triplets.mask_fixed_regions=false']))
"""
    done = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 2
    assert 'memory of cuda' in done.stderr
    assert 'lower batch (is 64)' in done.stderr
    assert 'Traceback' not in done.stderr


def train(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
