"""Training as processes of its own: two that train together, and some that are killed."""

import csv
import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.state import parse_state

PROGRAM = Path(__file__).with_name('toy_training.py')
ENVIRONMENT = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'OMP_NUM_THREADS': '1'}
LAUNCHER = ('torch.distributed.run', '--standalone', '--nproc-per-node', '2')


def start(*arguments, launcher=()):
    command = [sys.executable, *(('-m', *launcher) if launcher else ()), str(PROGRAM)]
    return subprocess.Popen(
        [*command, *map(str, arguments)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )


def losses(folder):
    with open(folder / 'log.csv', newline='') as file:
        return {int(row['step']): float(row['loss']) for row in csv.DictReader(file)}


def weights(folder):
    newest = sorted((folder / 'state').glob('*.safetensors'))[-1]
    return parse_state(newest.read_bytes()).tensors


def test_two_processes_give_the_losses_of_one(tmp_path):
    """They also agree on going back, where only one of them meets a loss that is no number."""
    one, two = tmp_path / 'one', tmp_path / 'two'
    runs = [start(one, 'nan_at=8'), start(two, 'nan_at=8', launcher=LAUNCHER)]
    for run in runs:
        _, said = run.communicate(timeout=100)
        assert run.returncode == 0, said
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(two)) == 12
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-6)
    with open(two / 'log.csv', newline='') as file:
        assert [row['rollbacks'] for row in csv.DictReader(file)] == ['0'] * 6 + ['1'] * 6


def test_a_run_killed_at_any_moment_goes_on_as_if_it_never_had_been(toy, tmp_path):
    """Every step writes a state; the kills come at random, most of them in the midst of that."""
    steps, killed, whole = 36, tmp_path / 'killed', tmp_path / 'whole'
    draw = random.Random(3)
    for step in (8, 20):
        resume = 'yes' if killed.exists() else 'no'
        run = start(killed, f'steps={steps}', 'save_every=1', f'resume={resume}', 'delay_s=0.02')
        wait_for(killed, step, run)
        time.sleep(draw.uniform(0.0, 0.05))
        run.send_signal(signal.SIGKILL)
        run.communicate()
    recipe = toy.replace_recipe(steps=steps, save_every=1)
    seen = []
    for folder in (killed, whole):
        run_training(
            toy.ToyTask(recipe), RunFolder(folder), device='cpu', resume=folder is killed,
            report=lambda progress: seen.append(progress.step),
        )  # fmt: skip
    assert 20 <= seen[0] < steps
    assert losses(killed) == losses(whole)
    assert len(losses(killed)) == steps
    assert all(torch.equal(weights(killed)[name], value) for name, value in weights(whole).items())


def wait_for(folder, step, run):
    """Until the run has saved a step."""
    end = time.monotonic() + 100.0
    while not any(path.stem >= f'step_{step:08d}' for path in folder.glob('state/step_*')):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.001)
