"""`psd-depth calibrate-scale` on pictures of which a tiny network says what is known by hand."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from psd_depth_ros.cli.main import main
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.inference.scale_calibration import CalibrationFile
from psd_depth_ros.messages import decode_depth

pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')

from teacher_files import write_red


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Red is 0.2 of white on the left, 0.4 in the middle, 0.8 on the right; a third is black."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    (folder / 'camera.yaml').write_text(
        'fx: 60\nfy: 60\ncx: 29.5\ncy: 19.5\nwidth: 60\nheight: 40\n'
    )
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :20, 2], picture[:, 20:40, 2], picture[:, 40:, 2] = 51, 102, 204
    for index in range(3):
        cv2.imwrite(str(folder / f'{index}.png'), picture)
    return folder


def test_a_wall_and_a_tape_measure_give_the_factor(pictures: Path, tmp_path: Path, capsys: Any):
    network = f'{write_red(tmp_path / "net.onnx", "depth", shape=(1, 3, 40, 60))}?metric=true'
    file = tmp_path / 'scale.yaml'
    given = [str(pictures), '--checkpoint', network, '--output', str(file)]
    more = ['--wall', '2', '--sample', 'left=0,0,18,40,1.0', '--sample', 'right=50,20,9']
    assert main(['calibrate-scale', *given, *more]) == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
    assert lines['wall'] == ['2.000', 'm', '0.4', '2.000', 'm', '+0.0%']
    assert lines['left'] == ['1.000', 'm', '0.2', '1.000', 'm', '+0.0%']
    assert lines['right'] == ['9.000', 'm', '0.8', '4.000', 'm', '-55.6%', 'left', 'out']
    assert f'by the median of 3 images; written to {file} for camera' in printed
    out = tmp_path / 'depth.mcap'
    run = ['run', str(pictures), '--checkpoint', network, '--output', str(out)]
    assert main([*run, '--set', f'scale.calibration={file}', '--set', 'scale.factor=0']) == 0
    with BagReader(out) as bag:
        depth = decode_depth([one.message for one in bag.messages(['/depth/image_rect'])][-1])
    np.testing.assert_allclose(depth[20, [5, 30, 55]], [1.0, 2.0, 4.0], rtol=1e-4)
    missing = ['--overwrite', '--set', f'scale.calibration={tmp_path / "none.yaml"}']
    assert main([*run, *missing]) == 2
    assert 'none.yaml has no calibration of camera' in capsys.readouterr().err


def test_a_network_of_scale_and_shift_needs_two_distances(
    pictures: Path, tmp_path: Path, capsys: Any
):
    """1/Z = 2.5 d: 2 m, 1 m and 0.5 m."""
    network = str(write_red(tmp_path / 'net.onnx', 'disparity', shape=(1, 3, 40, 60)))
    file = tmp_path / 'scale.yaml'
    given = [str(pictures), '--checkpoint', network, '--output', str(file)]
    assert main(['calibrate-scale', *given, '--wall', '1']) == 2
    assert 'need two samples at least, at different distances' in capsys.readouterr().err
    assert not file.exists()
    assert main(['calibrate-scale', *given, '--wall', '1', '--sample', 'left=10,20,2']) == 0
    out = tmp_path / 'depth.mcap'
    run = ['run', str(pictures), '--checkpoint', network, '--output', str(out)]
    assert main([*run, '--set', f'scale.calibration={file}']) == 0
    with BagReader(out) as bag:
        depth = decode_depth([one.message for one in bag.messages(['/depth/image_rect'])][-1])
    np.testing.assert_allclose(depth[20, [5, 30, 55]], [2.0, 1.0, 0.5], rtol=1e-3)
    assert list(CalibrationFile.load(file).cameras) == ['camera']


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ([], 'give --sample NAME=U,V,METRES or --wall METRES'),
        (['--wall', '1', '--sample', 'wall=1,1,2'], 'each name once'),
        (['--sample', 'a=1,1'], "--sample 'a=1,1': 2 numbers, expected u v METRES"),
        (['--sample', 'a=1,b,2'], "--sample 'a=1,b,2': could not convert"),
        (['--wall', '1', '--images', '0'], '--images is 0'),
        (['--sample', 'a=100,1,2'], 'no sample can be used'),
    ],
)
def test_what_cannot_be_measured_is_refused(
    pictures: Path, tmp_path: Path, capsys: Any, options: list[str], words: str
):
    network = f'{write_red(tmp_path / "net.onnx", "depth")}?metric=true'
    given = [str(pictures), '--checkpoint', network, '--output', str(tmp_path / 'scale.yaml')]
    assert main(['calibrate-scale', *given, *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'scale.yaml').exists()
