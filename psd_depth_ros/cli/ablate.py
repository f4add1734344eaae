"""`psd-depth ablate`: which part of PSD earns what, on rendered worlds."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import add_setting_option, change_settings, progress_bar
from psd_depth_ros.errors import SettingsError

if TYPE_CHECKING:
    from psd_depth_ros.training.ablation import Plan
    from psd_depth_ros.training.ablation_table import RunResult
    from psd_depth_ros.training.logging import StepReport


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        'ablate',
        help='compare PSD with its parts switched off',
        description='Train the baseline (A0), the baseline with the computing time of PSD (A0+), '
        'bin head (A1), far parts judged by fine pixels (A1f), patches (A2), distillation (A3), '
        'PatchMix (A4) and controls (A3r patches anywhere, A3u no mask, A3m metric patches) on '
        'rendered worlds, without labels; measure all on other worlds. RUN gets ablation.md, '
        '.html, .json and .png, anew after each run.',
    )
    parser.add_argument('--output', metavar='RUN', type=Path, required=True, help='new folder')
    parser.add_argument(
        '--recipe', default='ablation', help='what all runs share (default: %(default)s)'
    )
    parser.add_argument('--seeds', type=int, default=3, help='runs of each (%(default)s)')
    parser.add_argument(
        '--runs', metavar='A0,A3,...', help='only some of them (default: all, controls last)'
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--steps', type=int, help='steps of a run (default: of the recipe)')
    length.add_argument(
        '--minutes', type=float, help='length of the first run; all others take as many steps'
    )
    parser.add_argument(
        '--imagenet',
        metavar='NPZ',
        type=Path,
        help='MobileNetV2 weights with folded batch norm to start from (default: random)',
    )
    parser.add_argument(
        '--processes', type=int, default=1, help='seeds trained beside each other (%(default)s)'
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on: runs in RUN that have ended are kept'
    )
    parser.add_argument(
        '--worlds', metavar='DIR', type=Path, help='keep rendered frames here (default: RUN)'
    )
    parser.add_argument(
        '--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)'
    )
    add_setting_option(parser)
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Train what is not there yet; print a line after each run, and the table at the end."""
    from psd_depth_ros.runtime import use_passive_waiting

    use_passive_waiting()
    from psd_depth_ros.networks.encoders import read_encoder_weights
    from psd_depth_ros.runtime import configure_training
    from psd_depth_ros.training.ablation_runs import run_ablation

    if options.processes < 1:
        raise SettingsError(f'--processes is {options.processes}, expected 1 or more')
    plan = _make_plan(options)
    start = None if options.imagenet is None else read_encoder_weights(options.imagenet)
    start_id = '' if start is None else f'imagenet {start.id}'
    configure_training()
    done = len(plan.jobs)
    with progress_bar('ablation', options.quiet) as advance:

        def report(name: str, seed: int, how: StepReport) -> None:
            total = how.total_steps
            advance(how.step, total, f'{name}, seed {seed}: {how.images_per_second:.1f} images/s')

        run_ablation(
            plan,
            options.output,
            start,
            start_id=start_id,
            worlds=options.worlds,
            device=options.device,
            processes=options.processes,
            resume=options.resume,
            rendering=lambda name, done, total: advance(done, total, f'rendering {name}'),
            report=report,
            ended=lambda result: _say(result),
        )
    print((options.output / 'ablation.md').read_text(encoding='utf-8'))
    print(f'{done} runs; written to {options.output}/ablation.html, .md, .json and .png')
    return 0


def _make_plan(options: argparse.Namespace) -> Plan:
    from psd_depth_ros.training.ablation import Plan, VARIANTS
    from psd_depth_ros.training.recipe import find_recipe, read_recipe, VideoRecipe

    recipe = change_settings(read_recipe(find_recipe(options.recipe)), options.changes)
    if not isinstance(recipe, VideoRecipe):
        raise SettingsError(
            f'recipe {options.recipe} is of kind {recipe.kind!r}; an ablation needs one of kind '
            'video'
        )
    if options.steps is not None:
        recipe = replace(recipe, steps=options.steps)
    runs = tuple(options.runs.split(',')) if options.runs else tuple(VARIANTS)
    return Plan(recipe, runs, options.seeds, options.minutes)


def _say(result: RunResult) -> None:
    from psd_depth_ros.training.ablation_table import COLUMNS

    figures = [
        f'{figure.title} {value:.{figure.digits}f}'
        for figure in COLUMNS
        if (value := result.figures.get(figure.name)) is not None
    ]
    figures = figures or ['nothing can be measured']
    cost = f'{result.images} images in {result.seconds / 60:.1f} min'
    print(f'{result.variant}, seed {result.seed}: {", ".join(figures)}; {cost}', flush=True)
