"""`psd-depth`: finds the command, runs it, and turns errors into one line and an exit code.

Exit codes: 0 done, 2 the user can mend it (a message says how), 130 stopped by Ctrl-C. Commands
import what they need when they run, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import importlib
import sys

from psd_depth_ros import __version__
from psd_depth_ros.errors import PsdDepthError

COMMANDS = ('demo', 'run', 'replay', 'synth', 'inspect', 'train', 'bench')
USER_ERROR = 2
INTERRUPTED = 130


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog='psd-depth', description='Metric depth and point clouds from one camera.'
    )
    parser.add_argument('--version', action='version', version=f'psd_depth_ros {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for name in COMMANDS:
        importlib.import_module(f'psd_depth_ros.cli.{name}').add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    options = make_parser().parse_args(arguments)
    try:
        return int(options.execute(options) or 0)
    except PsdDepthError as error:
        print(f'psd-depth {options.command}: error: {error}', file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f'psd-depth {options.command}: stopped', file=sys.stderr)
        return INTERRUPTED


if __name__ == '__main__':
    sys.exit(main())
