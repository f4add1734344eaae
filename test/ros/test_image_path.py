from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parents[2]


def test_an_image_crosses_few_files(ros_domains: Iterator[int]) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'tools.image_path', '--outputs', 'depth', '--limit', '12'],
        cwd=ROOT,
        env={**os.environ, 'ROS_DOMAIN_ID': str(next(ros_domains)), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'ros/depth_node/outputs.py' in done.stdout
