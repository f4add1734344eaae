"""`psd-depth synth`: render a drive through a synthetic world into a bag with ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from psd_depth_ros.cli.options import (
    add_overwrite_option,
    add_setting_option,
    build_settings,
    check_output,
    progress_bar,
)
from psd_depth_ros.errors import SettingsError


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'synth',
        help='render a synthetic drive into a bag',
        description='Render a drive through a procedural world into an .mcap bag: camera, '
        'CameraInfo, odometry, TF, exact depth and a mask of what moves.',
    )
    parser.add_argument('output', metavar='OUT.mcap', type=Path, help='bag to write')
    parser.add_argument('--seed', type=int, default=0, help='which world (default: %(default)s)')
    parser.add_argument(
        '--frames', type=int, default=100, help='how many frames (default: %(default)s)'
    )
    parser.add_argument('--kind', default='street', help='street, room or mixed')
    parser.add_argument('--condition', default='clear', help='clear, fog, rain, night, blur, any')
    parser.add_argument('--size', metavar='WxH', default='640x480', help='default: %(default)s')
    parser.add_argument(
        '--rate', metavar='HZ', type=float, default=10.0, help='frames per second of the drive'
    )
    parser.add_argument(
        '--jpeg',
        metavar='QUALITY',
        type=int,
        nargs='?',
        const=92,
        help='write compressed images (default quality: %(const)s)',
    )
    add_overwrite_option(parser)
    add_setting_option(parser, 'speed_mps=2')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Render the world."""
    from psd_depth_ros.replay.rendering import write_world
    from psd_depth_ros.synth import World, WorldSettings

    width, height = _parse_size(options.size)
    if options.frames < 1:
        raise SettingsError(f'--frames is {options.frames}, expected at least 1')
    if options.jpeg is not None and not 1 <= options.jpeg <= 100:
        raise SettingsError(f'--jpeg is {options.jpeg}, expected a quality of 1 to 100')
    changes = [
        f'kind={options.kind}',
        f'condition={options.condition}',
        f'width={width}',
        f'height={height}',
        f'frame_rate_hz={options.rate}',
        *options.changes,
    ]
    check_output(options.output, options.overwrite)
    world = World(options.seed, build_settings(WorldSettings, changes))
    with progress_bar('rendering', options.quiet) as advance:
        write_world(world, options.output, options.frames, options.jpeg, advance)
    print(
        f'{options.frames} frames of a {world.kind} ({world.condition}), seed {options.seed}, '
        f'{width}x{height}, focal length {world.camera.fx:.0f} px; written to {options.output}'
    )
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise SettingsError(f'--size is {text}, expected WIDTHxHEIGHT such as 640x480')
    return int(parts[0]), int(parts[1])
