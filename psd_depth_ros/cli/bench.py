"""`psd-depth bench`: run the benchmarks of a source tree; they are not installed."""

from __future__ import annotations

import argparse
from pathlib import Path
import subprocess
import sys
from typing import Any

from psd_depth_ros.cli.options import add_budget_option
from psd_depth_ros.errors import PsdDepthError

PROGRAM = Path('benchmarks') / 'run.py'


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'bench',
        help='measure this machine',
        description='Measure the network, the steps of a frame, the nodes end to end and '
        'training; write bench.json. To be called in the source tree.',
    )
    parser.add_argument(
        '--output', metavar='FOLDER', type=Path, default=Path('bench_out'), help='for bench.json'
    )
    parser.add_argument('--quick', action='store_true', help='rough figures in a few minutes')
    parser.add_argument(
        '--only',
        metavar='PART',
        nargs='+',
        default=[],
        help='network, pipeline, end_to_end, training',
    )
    add_budget_option(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Run the benchmarks in a process of their own; returns their exit code."""
    from psd_depth_ros.checkpoint import check_pixel_budget

    if not PROGRAM.is_file():
        raise PsdDepthError(
            f'{PROGRAM} is not in {Path.cwd()}; call `psd-depth bench` where the source of '
            'psd_depth_ros is'
        )
    check_pixel_budget(options.pixel_budget)
    command = [sys.executable, str(PROGRAM), '--output', str(options.output)]
    command += ['--quick'] if options.quick else []
    command += ['--only', *options.only] if options.only else []
    command += ['--pixel-budget', str(options.pixel_budget)] if options.pixel_budget else []
    return subprocess.run(command, check=False).returncode
