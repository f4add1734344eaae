from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(('output', 'limit'), [('depth', 12), ('points', 13)])
def test_an_image_crosses_few_files(ros_domains: Iterator[int], output: str, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'tools.image_path', '--outputs', output, '--limit', str(limit)],
        cwd=ROOT,
        env={**os.environ, 'ROS_DOMAIN_ID': str(next(ros_domains)), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'ros/depth_node/outputs.py' in done.stdout
