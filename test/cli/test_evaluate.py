"""`psd-depth evaluate` as a person calls it."""

from dataclasses import asdict
import json

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import CheckpointInfo, InputInfo, OutputInfo, save_checkpoint
from psd_depth_ros.cli.main import main
from psd_depth_ros.networks.depth_model import DepthModel, preset


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    path = tmp_path_factory.mktemp('evaluate') / 'drive.mcap'
    assert main(['synth', str(path), '--frames', '3', '--size', '96x64', '--seed', '4']) == 0
    return path


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('evaluate') / 'random.safetensors'
    torch.manual_seed(0)
    architecture = preset('lite')
    info = CheckpointInfo(
        'random', asdict(architecture), input=InputInfo(64, 96), output=OutputInfo(metric=True)
    )
    save_checkpoint(path, info, DepthModel(architecture).state_dict())
    return path


def test_a_rendered_drive_is_measured_and_reported(drive, checkpoint, tmp_path, capsys):
    figures, page = tmp_path / 'out' / 'f.json', tmp_path / 'out' / 'f.html'
    arguments = ['evaluate', checkpoint, drive, '--json', figures, '--html', page]
    assert main([*map(str, arguments), '--backend', 'torch', '--device', 'cpu']) == 0
    found = json.loads(figures.read_text())
    assert found['frames'] == 3
    assert found['protocol'] == 'outdoor'
    for way in ('median_scaled', 'unscaled'):
        assert {'abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'a1', 'a2', 'a3'} <= set(found[way])
    assert set(found['by_distance']) == {'0-10', '10-20', '20-40', '40-80'}
    assert found['boundary_f1'] is not None
    assert found['ause']['abs_rel'] > 0
    assert found['temporal']['method'] == 'poses'
    assert found['temporal']['pairs'] == 2
    assert len(found['checkpoint']) == 12
    assert page.read_text().count('<img') == 12
    printed = capsys.readouterr().out
    assert f'{found["median_scaled"]["abs_rel"]:.3f}' in printed
    assert '3 images' in printed


def test_a_budget_is_taken_and_reported(drive, checkpoint, tmp_path, capsys):
    figures = tmp_path / 'f.json'
    arguments = ['evaluate', checkpoint, drive, '--json', figures, '--backend', 'torch']
    assert main([*map(str, arguments), '--frames', ':1', '--pixel-budget', '2048']) == 0
    assert json.loads(figures.read_text())['pixel_budget'] == 2048
    assert 'careful: pixel_budget is 2048' in capsys.readouterr().err


def test_fewer_frames_and_a_nearer_cap(drive, checkpoint, tmp_path):
    figures = tmp_path / 'f.json'
    arguments = ['evaluate', checkpoint, drive, '--json', figures, '--backend', 'torch']
    assert main([*map(str, arguments), '--frames', '1:', '--max-depth', '15']) == 0
    found = json.loads(figures.read_text())
    assert found['frames'] == 2
    assert found['by_distance']['20-40']['abs_rel'] is None


def test_corrupted_images_are_measured_and_compared(drive, checkpoint, tmp_path, capsys):
    figures, page = tmp_path / 'f.json', tmp_path / 'f.html'
    arguments = ['evaluate', checkpoint, drive, '--robust', '--corruptions', 'fog,contrast']
    arguments += ['--severities', '1,5', '--frames', ':2', '--backend', 'torch', '--device', 'cpu']
    assert main([*map(str, arguments), '--json', str(figures), '--html', str(page)]) == 0
    found = json.loads(figures.read_text())['robustness']
    assert found['corruptions'] == ['fog', 'contrast']
    assert found['frames'] == 2
    assert np.shape(found['per_frame']['corrupted']['fog']['abs_rel']) == (2, 2)
    assert page.read_text().count('<img') == 8 + 3
    assert f'mRR {found["mrr"]:.1f} %' in capsys.readouterr().out
    again = [*map(str, arguments), '--baseline', str(figures)]
    assert main(again) == 0
    assert 'mCE 100.0 %' in capsys.readouterr().out
    assert main([*again, '--severities', '1,3']) == 2
    assert 'same --severities' in capsys.readouterr().err
    assert main([*again, '--frames', '1:3']) == 2
    assert 'same DATA and --frames' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('more', 'said'),
    [
        (['--corruptions', 'fog'], 'add --robust'),
        (['--severities', '1'], 'add --robust'),
        (['--robust', '--corruptions', 'fogg'], "did you mean 'fog'"),
        (['--robust', '--severities', '1,6'], 'from 1 to 5'),
        (['--robust', '--baseline', '/none.json'], '--baseline /none.json'),
        (['--temporal', '0.2', '--flip'], 'leave out one of them'),
        (['--temporal', '-1'], 'temporal_s is -1.0, expected 0 .. 10 s'),
        (['--protocol', 'eigen'], 'nyuv2'),
        (['--frames', '3'], 'START:STOP'),
        (['--frames', '9:'], 'leaves no images'),
        (['--depth-scale', '0'], '--depth-scale'),
        (['--max-depth', '0'], '--max-depth'),
        (['--depth-topic', '/none'], '/ground_truth/depth'),
        (['--json', '/'], 'cannot be written'),
    ],
)
def test_wrong_options_say_what_was_expected(drive, checkpoint, capsys, more, said):
    assert main(['evaluate', str(checkpoint), str(drive), *more]) == 2
    assert said in capsys.readouterr().err
