"""`psd-depth replay`: publish a recording as live topics with /clock.

The node replaces this process, so that signals and exit code are its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import sys
from typing import Any, NoReturn

from psd_depth_ros.cli.options import add_lens_options, add_recording_options, add_stamps_option
from psd_depth_ros.errors import PsdDepthError, SettingsError

_NAMESPACE = re.compile(r'[A-Za-z_]\w*(/[A-Za-z_]\w*)*', re.ASCII)
NODE = 'psd_depth_ros.ros.replay_node'


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'replay',
        help='publish a recording as live topics',
        description='Publish camera, CameraInfo, odometry, TF and clouds of a recording with '
        '/clock. Listeners need use_sim_time. Needs ROS 2.',
    )
    add_recording_options(parser)
    add_lens_options(parser)
    add_stamps_option(parser)
    parser.add_argument(
        '--topics', metavar='TOPIC', nargs='+', default=[], help='only these topics of the bag'
    )
    parser.add_argument('--rate', type=float, default=1.0, help='speed (default: %(default)s)')
    parser.add_argument('--loop', action='store_true', help='start again at the end')
    parser.add_argument('--start', metavar='S', type=float, default=0.0, help='skip this much')
    parser.add_argument(
        '--duration', metavar='S', type=float, default=0.0, help='play this much (0: all)'
    )
    parser.add_argument(
        '--wait',
        metavar='S',
        type=float,
        default=0.0,
        help='wait this long for a subscriber of the camera',
    )
    parser.add_argument(
        '--namespace',
        metavar='NAME',
        default='',
        help='publish all topics below this name, such as robot1 (not /clock)',
    )
    parser.add_argument(
        '--no-clock',
        action='store_true',
        help='leave /clock to another node; listeners that use the time of this computer are '
        'served too',
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> NoReturn:
    """Replace this process by the node."""
    if importlib.util.find_spec('rclpy') is None:
        raise PsdDepthError(
            'replay needs ROS 2 (rclpy), which this Python does not have; source '
            '/opt/ros/jazzy/setup.bash, or pip install "psd_depth_ros[ros]"'
        )
    from psd_depth_ros.data.open import kind_of

    kind_of(options.recording)
    if options.camera is not None and options.fov is not None:
        raise SettingsError('--camera and --fov both say what the lens is; give one of them')
    environment = dict(os.environ)
    # The wheels of rclpy leave it unset, a ROS distribution does not.
    environment.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    command = [sys.executable, '-m', NODE, '--ros-args', *node_arguments(options)]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)


def node_arguments(options: argparse.Namespace) -> list[str]:
    """Options as ROS parameters; values are JSON, which ROS parses unambiguously as YAML."""
    given = {
        'recording': str(options.recording),
        'image_topic': options.image_topic,
        'camera_info_topic': options.camera_info_topic,
        'camera': None if options.camera is None else str(options.camera),
        'horizontal_fov_deg': options.fov,
        'stamps': options.stamps,
        'topics': options.topics or None,
        'rate': options.rate,
        'loop': options.loop,
        'start_s': options.start,
        'duration_s': options.duration,
        'wait_for_subscribers_s': options.wait,
        'topic_prefix': _full_name(options.namespace) or None,
        'clock': not options.no_clock,
    }
    pairs = [f'{name}:={json.dumps(value)}' for name, value in given.items() if value is not None]
    arguments = [argument for pair in pairs for argument in ('-p', pair)]
    if options.namespace:
        arguments += ['-r', f'__ns:={_full_name(options.namespace)}']
    return arguments


def _full_name(namespace: str) -> str:
    """A topic with a leading slash; '' stays ''. Raises SettingsError for an invalid name."""
    name = namespace.strip('/')
    if name and not _NAMESPACE.fullmatch(name):
        raise SettingsError(
            f'--namespace {namespace}: expected letters, digits, _ and / with no digit after a '
            'slash, such as robot1 or fleet/robot1'
        )
    return f'/{name}' if name else ''
