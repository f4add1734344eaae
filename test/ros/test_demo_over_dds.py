"""The demo as a person runs it: every node in a process of its own, over DDS."""

import json
import os
from pathlib import Path
import sys

import cv2
import pytest

from psd_depth_ros.data.bags import BagReader

ROOT = Path(__file__).parents[2]
FRAMES = 6


@pytest.mark.timeout(300)
def test_demo_accounts_for_every_frame_and_reaches_for_nothing(tmp_path, network_watch):
    command = [sys.executable, '-m', 'psd_depth_ros.cli.main', 'demo']
    command += ['--output', str(tmp_path), '--frames', str(FRAMES), '--rate', '0.5']
    command += ['--log-level', 'fatal']  # no step may depend on what a node logs
    done, attempts = network_watch.run(
        command,
        tmp_path / 'network',
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
    )
    logs = ''.join(path.read_text() for path in (tmp_path / 'logs').glob('*.log'))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    assert not logs
    report = json.loads((tmp_path / 'report.json').read_text())
    assert report['frames_in'] == FRAMES
    assert report['frames_in'] == report['frames_out'] + report['dropped']
    assert report['dropped'] == sum(report['dropped_by_reason'].values())
    assert report['frames_out'] >= 1
    assert 0 < report['absrel'] < 1
    assert report['latency_ms_p50'] <= report['latency_ms_p95']
    with BagReader(tmp_path / 'depth.mcap') as bag:
        assert bag.topics['/depth/image_rect'].count == report['frames_out']
        assert bag.topics['/points'].count == report['frames_out']
        infos = bag.topics['/depth/camera_info']
        assert infos.count == report['frames_out']
        assert '/replay_node/status' in bag.topics
    assert cv2.imread(str(tmp_path / 'preview.png')) is not None
    assert 'frames_out' in done.stdout
    assert attempts == []
