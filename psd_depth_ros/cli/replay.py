"""`psd-depth replay`: a recording as live topics with /clock.

The node runs in its own process, which takes this one's place: signals and exit code are its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
import sys
from typing import Any

from psd_depth_ros.cli.options import add_camera_options
from psd_depth_ros.errors import PsdDepthError

NODE = 'psd_depth_ros.ros.replay_node'


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        'replay',
        help='publish a recording as live topics',
        description='Publish camera, CameraInfo, odometry, TF and clouds of a recording with '
        '/clock. Listeners need use_sim_time. Needs ROS 2.',
    )
    parser.add_argument(
        'recording', metavar='BAG', type=Path, help='bag, video file or folder of images'
    )
    parser.add_argument('--rate', type=float, default=1.0, help='speed (default: %(default)s)')
    parser.add_argument('--loop', action='store_true', help='start again at the end')
    parser.add_argument('--start', metavar='S', type=float, default=0.0, help='skip this much')
    parser.add_argument(
        '--duration', metavar='S', type=float, default=0.0, help='play this much (0: all)'
    )
    parser.add_argument(
        '--topics', metavar='TOPIC', nargs='+', default=[], help='only these topics of the bag'
    )
    add_camera_options(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Replace this process by the node."""
    if importlib.util.find_spec('rclpy') is None:
        raise PsdDepthError(
            'replay needs ROS 2 (rclpy), which this Python does not have; source '
            '/opt/ros/jazzy/setup.bash, or pip install "psd_depth_ros[ros]"'
        )
    environment = dict(os.environ)
    environment.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    command = [sys.executable, '-m', NODE, *node_arguments(options)]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def node_arguments(options: argparse.Namespace) -> list[str]:
    """Turn options into ROS parameters."""
    return []
