"""Folders for hubs of models: what is in them, and that they are read back."""

import json

import cv2
import numpy as np
import pytest

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint
from psd_depth_ros.cli.main import main
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.sharing import package


def test_a_run_becomes_a_folder_that_is_read_back(tmp_path, capsys):
    run, folder = tmp_path / 'run', tmp_path / 'shared'
    (run / 'previews').mkdir(parents=True)
    (run / 'best.safetensors').write_bytes(default_checkpoint().read_bytes())
    for step in (1, 2):
        picture = np.full((4, 4, 3), 100 * step, np.uint8)
        cv2.imwrite(str(run / 'previews' / f'step_{step}.jpg'), picture)
    assert main(['package', str(run), '--output', str(folder)]) == 0
    assert 'licences of the data bind the weights' in capsys.readouterr().out
    names = sorted(path.name for path in folder.iterdir())
    assert names == ['README.md', 'config.json', 'model.safetensors', 'preview.jpg']
    assert cv2.imread(str(folder / 'preview.jpg'))[0, 0, 0] == 200
    text = (folder / 'README.md').read_text()
    info = load_checkpoint().info
    assert text.startswith('---\nlicense: ')
    assert all(str(entry['name']).split('/')[0] in text for entry in info.data)
    assert f'{info.name}: {info.training["steps"]} steps' in text
    engine = DepthEngine.from_checkpoint(folder, 'cpu', 'torch')
    assert engine.checkpoint.id == load_checkpoint().id
    camera = Camera(64, 64, 60.0, 60.0, 31.5, 31.5)
    assert np.isfinite(engine.infer(np.zeros((64, 64, 3), np.uint8), camera).confidence).all()


def test_files_are_not_overwritten_and_lacking_weights_are_told(tmp_path):
    package(default_checkpoint(), tmp_path / 'shared')
    assert not (tmp_path / 'shared' / 'preview.jpg').exists()
    with pytest.raises(SettingsError, match='shared is not empty'):
        package(default_checkpoint(), tmp_path / 'shared')
    (tmp_path / 'shared' / 'model.safetensors').unlink()
    with pytest.raises(SettingsError, match=r'has no model\.safetensors; package it again'):
        DepthEngine.from_checkpoint(tmp_path / 'shared')


def test_an_unknown_licence_is_named_as_such(tmp_path):
    package(default_checkpoint(), tmp_path / 'shared')
    lines = (tmp_path / 'shared' / 'README.md').read_text().splitlines()
    licence = load_checkpoint().info.licence
    expected = ['license: apache-2.0'] if licence == 'Apache-2.0' else [
        'license: other', f'license_name: {json.dumps(licence or "not stated")}'
    ]  # fmt: skip
    assert lines[1 : 1 + len(expected)] == expected
