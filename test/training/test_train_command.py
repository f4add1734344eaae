"""`psd-depth train` around the loop: argv in, signals, exit codes."""

import os
import signal

import numpy as np
import pytest

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.cli import train
from psd_depth_ros.cli.main import main
from psd_depth_ros.errors import BagError
from psd_depth_ros.training.recipe import flatten_recipe, VideoRecipe


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / 'toy.yaml'
    path.write_text(
        'kind: video\nsteps: 9\nbatch: 4\nvalidate_every: 4\nprecision: fp32\n'
        'objective: [{term: photometric}, {term: patch}]\n'
    )
    return str(path)


@pytest.fixture
def made(toy, monkeypatch):
    """The tasks that the command made; `interrupt` of the list maps a step to a signal."""

    class Made(list):
        interrupt = None

    class Interrupted(toy.ToyTask):
        def prepare(self, progress):
            super().prepare(progress)
            if self.step in (tasks.interrupt or {}):
                os.kill(os.getpid(), tasks.interrupt[self.step])

    def make(options, recipe, folder, start):
        tasks.append(Interrupted(recipe))
        return tasks[-1]

    tasks = Made()
    monkeypatch.setattr(train, '_make_task', make)
    return tasks


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_the_state_and_resume_goes_on(tmp_path, recipe, made, number, capsys):
    command = ['train', recipe, '--output', str(tmp_path / 'run'), '--device', 'cpu']
    made.interrupt = {5: number}
    assert main(command) == 128 + number
    assert (tmp_path / 'run' / 'state' / 'step_00000005.safetensors').is_file()
    assert 'the same command with --resume goes on' in capsys.readouterr().out
    made.interrupt = None
    assert main(command) == 2
    assert main([*command, '--resume']) == 0
    said = capsys.readouterr()
    assert 'best.safetensors (score 0.' in said.out
    assert 'step 9 of 9, loss 0.' in said.err


def test_settings_and_recordings_of_the_command_go_before_the_recipe(tmp_path, recipe, made):
    command = ['train', recipe, '--output', str(tmp_path / 'run'), '--device', 'cpu', '--quiet']
    asked = ['--data', 'a.mcap', 'b', '--rectify-alpha', '0', '--set', 'steps=2']
    assert main([*command, *asked, '--set', 'objective.patch.fraction=0.5']) == 0
    used = made[0].recipe
    assert isinstance(used, VideoRecipe)
    assert (used.steps, used.data.paths) == (2, ('a.mcap', 'b'))
    assert flatten_recipe(used)['objective.patch.fraction'] == 0.5
    assert used.data.rectify_alpha == 0.0


def test_a_resume_needs_the_weights_the_run_started_from(tmp_path, recipe, made, capsys):
    np.savez(tmp_path / 'weights.npz', x=np.zeros(3))
    command = ['train', recipe, '--output', str(tmp_path / 'run'), '--device', 'cpu', '--quiet']
    assert main([*command, '--imagenet', str(tmp_path / 'weights.npz')]) == 0
    assert main([*command, '--resume']) == 2
    assert 'start was imagenet ' in capsys.readouterr().err


def test_training_starts_from_the_weights_of_the_package_by_name(tmp_path, recipe, monkeypatch):
    starts = []

    def make(options, recipe, folder, start):
        starts.append(start)
        raise BagError('enough')

    monkeypatch.setattr(train, '_make_task', make)
    command = ['train', recipe, '--output', str(tmp_path / 'run'), '--device', 'cpu', '--quiet']
    assert main([*command, '--checkpoint', 'default']) == 2
    assert starts[0].id == load_checkpoint().id
    assert main([*command, '--checkpoint', 'gone.safetensors']) == 2
    assert len(starts) == 1


def test_recordings_are_no_use_to_rendered_worlds(tmp_path, capsys):
    assert main(['train', 'starter', '--output', str(tmp_path / 'run'), '--data', 'a']) == 2
    assert '--data belongs to recipes of kind video' in capsys.readouterr().err
    assert main(['train', 'lite', '--output', str(tmp_path / 'run'), '--data', 'a']) == 2
    assert 'give --set sources.recordings.data.paths=["PATH"]' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
