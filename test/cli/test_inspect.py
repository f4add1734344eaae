"""`psd-depth inspect`: what it says of recordings that are fit for training and of others."""

import cv2
import numpy as np
import pytest

from psd_depth_ros.cli.main import main


def write_drive(folder):
    """40 images of two walls: the lower half moves by 3 pixels, the upper by 1."""
    folder.mkdir()
    (folder / 'camera.yaml').write_text(
        'fx: 70\nfy: 70\ncx: 47.5\ncy: 31.5\nwidth: 96\nheight: 64\ncamera_height_m: 1.2\n'
    )
    rng = np.random.default_rng(0)
    walls = [np.kron(rng.integers(40, 216, (8, 60)), np.ones((4, 4))) for _ in range(2)]
    for index in range(40):
        picture = np.concatenate([walls[0][:, index:][:, :96], walls[1][:, 3 * index :][:, :96]])
        cv2.imwrite(str(folder / f'{index:03d}.png'), picture)
    return folder


def test_inspect_says_whether_a_recording_is_fit(tmp_path, capsys):
    folder = write_drive(tmp_path / 'drive')
    assert main(['inspect', str(folder), '--require-fit']) == 0
    printed = capsys.readouterr().out
    assert '40, 10.0 Hz, 96x64' in printed
    assert '40 frames, 10.0 Hz, 3.9 s, 0 gaps' in printed
    assert 'camera height 1.20 m' in printed
    assert 'to train on, 4 held out, of 40 frames' in printed
    assert printed.endswith('fit for training: yes\n')
    assert main(['inspect', f'{folder}#0:12', '--require-fit']) == 1
    printed = capsys.readouterr().out
    assert 'no: 10 triplets to train on, expected at least 20' in printed
    assert main(['inspect', f'{folder}#0:12']) == 0
    (tmp_path / 'other').mkdir()
    cv2.imwrite(str(tmp_path / 'other' / '0.png'), np.zeros((64, 96, 3), np.uint8))
    capsys.readouterr()
    assert main(['inspect', str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert f'{tmp_path}: 2 recordings' in printed
    assert 'comes without a calibration' in printed
    assert main(['inspect', str(tmp_path / 'other'), '--require-fit']) == 1
    assert 'without a camera there is nothing to learn from' in capsys.readouterr().out


def test_inspect_tells_how_much_of_the_view_is_seen(tmp_path, capsys):
    # An ideal fisheye whose P is five times too wide; see the same camera in the node's tests.
    (tmp_path / 'camera.yaml').write_text(
        'image_width: 64\nimage_height: 48\ndistortion_model: fisheye\n'
        'distortion_coefficients: [0, 0, 0, 0]\n'
        'camera_matrix: [50, 0, 31.5, 0, 50, 23.5, 0, 0, 1]\n'
        'projection_matrix: [10, 0, 31.5, 0, 0, 10, 23.5, 0, 0, 0, 1, 0]\n'
    )
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((48, 64, 3), np.uint8))
    assert main(['inspect', str(tmp_path), '--quick']) == 0
    printed = capsys.readouterr().out
    assert 'view:        5 % of the rectified view is seen, 100 % of the image is in it' in printed
    assert 'careful:     the camera sees only 5 %' in printed
    assert main(['inspect', str(tmp_path), '--quick', '--rectify-alpha', '0']) == 0
    printed = capsys.readouterr().out
    assert 'rectified:   fx 45.14 fy 45.14' in printed
    assert '100 % of the rectified view is seen' in printed
    assert 'careful' not in printed
    assert main(['inspect', str(tmp_path), '--rectified', '--rectify-alpha', '0']) == 2
    assert 'leave out rectify_alpha' in capsys.readouterr().err


def test_inspect_explains_a_camera_on_its_side(tmp_path, capsys):
    (tmp_path / 'camera.yaml').write_text(
        '{fx: 70, fy: 70, cx: 47, cy: 31, width: 96, height: 64}'
    )
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((96, 64, 3), np.uint8))
    assert main(['inspect', str(tmp_path), '--quick']) == 0
    assert 'turned by 90 degrees' in capsys.readouterr().out


def test_inspect_says_what_was_understood_of_a_network_of_others(tmp_path, capsys):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    from teacher_files import write_red

    path = write_red(tmp_path / 'net.onnx', 'out')
    assert main(['inspect', str(path)]) == 2
    assert "'out' of" in capsys.readouterr().err
    (tmp_path / 'net.yaml').write_text(
        'output: depth\nmetric: true\nunit_m: 0.5\nfocal_px: 721\nfocal_width: 1242\n'
    )
    assert main(['inspect', str(path)]) == 0
    printed = capsys.readouterr().out
    assert "network 'net'" in printed
    assert 'input:        6x4 always, RGB, 0 to 1, less (0, 0, 0), over (1, 1, 1)' in printed
    assert 'resampled to 721 px of focal length at 1242 px of width' in printed
    assert 'output:       depth, metric, 0.5 m a unit' in printed
    assert 'confidence:   none' in printed
    assert printed.endswith('live:         yes\n')
    assert main(['inspect', f'{path}?output=disparity&metric=false']) == 0
    assert 'of unknown scale and shift' in capsys.readouterr().out


def test_inspect_keeps_what_it_measured_or_goes_without(tmp_path, capsys, monkeypatch):
    drive = write_drive(tmp_path / 'drive')
    home = tmp_path / 'home'
    monkeypatch.setenv('XDG_CACHE_HOME', str(home))
    for _ in range(2):
        assert main(['inspect', str(drive)]) == 0
        printed = capsys.readouterr().out
        assert (
            f'cache:       decoded frames are kept in {home}/psd_depth_ros/frames: 0.0' in printed
        )
    assert len(list((home / 'psd_depth_ros' / 'frames').iterdir())) == 1
    (tmp_path / 'file').write_text('no folder')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert main(['inspect', str(drive)]) == 0
    assert 'fit for training: ' in capsys.readouterr().out
