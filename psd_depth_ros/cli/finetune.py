"""`psd-depth finetune`: fine-tune a checkpoint on recordings; a worse result is not accepted.

The options are settings of `FinetuneSettings`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import ExitStack
import sys
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import add_setting_option, Advance, asked_to_stop, progress_bar
from psd_depth_ros.config import SettingSpec, specs
from psd_depth_ros.finetune.report import PREPARING
from psd_depth_ros.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from psd_depth_ros.finetune.report import FinetuneStatus

# Option, its setting, and the name of its value in the help.
OPTIONS = (
    ('--image-topic', 'image_topic', 'TOPIC'),
    ('--camera-info-topic', 'camera_info_topic', 'TOPIC'),
    ('--camera', 'camera', 'YAML'),
    ('--fov', 'horizontal_fov_deg', 'DEGREES'),
    ('--rectify-alpha', 'rectify_alpha', 'A'),
    ('--checkpoint', 'checkpoint', 'START'),
    ('--student', 'student', 'PRESET'),
    ('--imagenet', 'imagenet', 'NPZ'),
    ('--recipe', 'recipe', 'R'),
    ('--steps', 'steps', 'N'),
    ('--minutes', 'minutes', 'M'),
    ('--device', 'device', 'D'),
)

_SPECS = {spec.name: spec for spec in specs(FinetuneSettings)}


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'finetune',
        help='make the weights better on recordings of your own, without labels',
        description='Learn from recordings by their images alone. New weights are taken only '
        'where they are better on the end of the recordings, which is held out; either way RUN '
        'gets best.safetensors, the weights to use, and report.json, which says why. Ctrl-C saves '
        'the state first.',
    )
    parser.add_argument('--teacher', metavar='NETWORK', help=_help(_SPECS['teacher']))
    add_options(parser)
    parser.set_defaults(execute=execute)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what all commands that fine-tune have in common."""
    known = _SPECS
    parser.add_argument('bags', metavar='BAG', nargs='+', help=known['bags'].description)
    parser.add_argument('--output', metavar='RUN', required=True, help=known['output'].description)
    for option, name, metavar in OPTIONS:
        spec = known[name]
        parser.add_argument(option, dest=name, metavar=metavar, type=spec.type, help=_help(spec))
    parser.add_argument(
        '--strict', action='store_true', default=None, help=known['strict'].description
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on with the run in RUN, from its last state'
    )
    add_setting_option(parser, 'objective.patch=off')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')


def execute(options: argparse.Namespace) -> int:
    """Fine-tune and print the report; 130 or 143 where a signal ended the run early."""
    from psd_depth_ros.runtime import use_passive_waiting

    use_passive_waiting()
    from psd_depth_ros.finetune.report import report_lines, STOPPED
    from psd_depth_ros.finetune.run import finetune
    from psd_depth_ros.runtime import configure_runtime

    settings = read_settings(options)
    configure_runtime('torch')
    with asked_to_stop() as asked, _Stages(options.quiet) as stages:
        report = finetune(
            settings, resume=options.resume, report=stages.show, stop=lambda: bool(asked)
        )
    print('\n'.join(report_lines(report)))
    if report.state == STOPPED:
        print('the same command with --resume goes on')
        return 128 + asked[0] if asked else 0
    return 0


def read_settings(options: argparse.Namespace) -> FinetuneSettings:
    """Settings from the options; --set also changes the recipe. Raises SettingsError."""
    from psd_depth_ros.config import build, parse_changes

    given = parse_changes(options.changes, '--set')
    own = {name: value for name, value in given.items() if name in _SPECS}
    recipe = [text for text in options.changes if text.partition('=')[0].strip() not in own]
    named = ('bags', 'output', 'strict', 'teacher', *(name for _, name, _ in OPTIONS))
    values = {name: getattr(options, name) for name in named}
    said = {name: value for name, value in values.items() if value is not None}
    return build(FinetuneSettings, {'changes': recipe, **own, **said}, 'finetune')


class _Stages:
    """Shows a progress bar for each stage of a run, and a line after each validation."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar = ExitStack()
        self._advance: Advance | None = None
        self._state = ''
        self._scores: Mapping[str, float] = {}

    def __enter__(self) -> _Stages:
        """Show nothing yet."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Take the bar away."""
        self._bar.close()

    def show(self, status: FinetuneStatus) -> None:
        """Draw where the run stands."""
        if status.state != self._state or self._advance is None:
            self._bar.close()
            self._state = status.state
            unit = 'frames' if status.state == PREPARING else ''
            self._advance = self._bar.enter_context(progress_bar(status.state, self._quiet, unit))
        if status.of:
            rate = status.images_per_second
            note = f'{rate:.1f} images/s' if rate else ''
            self._advance(status.step, status.of, note, status.seconds_left, status.detail)
        if status.scores and status.scores != self._scores:
            self._scores = status.scores
            if not self._quiet:
                score = status.scores['score']
                print(f'{status}; held-out score {score:.5f}', file=sys.stderr)


def _help(spec: SettingSpec) -> str:
    unit = f' [{spec.unit}]' if spec.unit else ''
    default = f' (default: {spec.default})' if spec.default else ''
    return f'{spec.description}{unit}{default}'.replace('%', '%%')
