"""`psd-depth`: runs a command and turns errors into one line and an exit code.

Exit codes: 0 done, 1 the recording is not fit (`inspect --require-fit`), 2 an error of the user
(the message says what to do), 130 stopped by Ctrl-C, 143 by SIGTERM, 141 the reader of the output
has closed it. Commands import what they need when they run, so that `--help` is quick.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import importlib
import os
import signal
import sys

from psd_depth_ros import __version__
from psd_depth_ros.cli.options import silence_decoders
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.parsing import shorten

COMMANDS = (
    'demo',
    'run',
    'replay',
    'synth',
    'inspect',
    'calibrate-scale',
    'train',
    'finetune',
    'distil',
    'evaluate',
    'export',
    'package',
    'bench',
)
# Commands of earlier versions, and what takes their place.
REMOVED = {
    'ablate': 'in a checkout, python -m tools.ablate experiments/psd.yaml --output RUN does it'
}
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
        module = name.replace('-', '_')
        importlib.import_module(f'psd_depth_ros.cli.{module}').add_parser(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in REMOVED:
        name = arguments[0]
        print(f'psd-depth {name}: error: {name} is no command any more; {REMOVED[name]}',
              file=sys.stderr)  # fmt: skip
        return USER_ERROR
    options = make_parser().parse_args(arguments)
    if getattr(options, 'quiet', False):
        silence_decoders()
    try:
        with tidy_end():
            return int(options.execute(options) or 0)
    except PsdDepthError as error:
        print(f'psd-depth {options.command}: error: {error}', file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a name that is too long, a folder without permission
        where = '' if error.filename is None else f' {shorten(error.filename)}:'
        print(
            f'psd-depth {options.command}: error:{where} {error.strerror or error}; name another '
            'file or folder, or mend this one',
            file=sys.stderr,
        )
        return USER_ERROR
    except KeyboardInterrupt:
        print(f'psd-depth {options.command}: stopped', file=sys.stderr)
        return INTERRUPTED


@contextmanager
def tidy_end() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does, so that no half-written file is left."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


if __name__ == '__main__':
    sys.exit(main())
