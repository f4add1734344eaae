"""`psd-depth train`: train a network by a recipe, on recordings or on rendered worlds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
import importlib.util
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import (
    add_alpha_option,
    add_setting_option,
    asked_to_stop,
    progress_bar,
    SubjectProgress,
)
from psd_depth_ros.errors import SettingsError

if TYPE_CHECKING:
    from psd_depth_ros.training.distributed import Distributed
    from psd_depth_ros.training.logging import StepReport
    from psd_depth_ros.training.loop import Outcome
    from psd_depth_ros.training.recipe import Recipe
    from psd_depth_ros.training.run_folder import RunFolder
    from psd_depth_ros.training.task import Start, Task


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'train',
        help='train a network by a recipe',
        description='Train a network on recordings without labels (recipes of kind video), on '
        'rendered worlds (kind worlds), or on both at once (kind mixed). RUN gets '
        'best.safetensors, run.json (all that repeats the run), log.csv, tensorboard/, previews/ '
        'and state/ (for --resume). Ctrl-C saves the state first. On several GPUs or machines: '
        '`accelerate launch -m psd_depth_ros.cli.main train ...`, or torchrun in its place.',
    )
    parser.add_argument('recipe', metavar='RECIPE', help='YAML file, or a name such as starter')
    parser.add_argument('--output', metavar='RUN', type=Path, required=True, help='new folder')
    parser.add_argument(
        '--data',
        metavar='PATH',
        nargs='+',
        help='bags, videos or folders to learn from, instead of data.paths of the recipe',
    )
    add_alpha_option(parser, default=None)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--imagenet',
        metavar='NPZ',
        type=Path,
        help='ImageNet weights of the encoder to start from, with the names of torchvision; '
        'MobileNetV2 may have its batch norm folded. The file may state its name, licence, mean '
        'and std (default: random weights)',
    )
    start.add_argument(
        '--checkpoint',
        metavar='START',
        help='checkpoint to go on from: a file, a name (default is that of the package), or '
        'hf:OWNER/NAME of shared weights of this package',
    )
    parser.add_argument(
        '--resume', action='store_true', help='go on with the run in RUN, from its last state'
    )
    parser.add_argument(
        '--worlds', metavar='DIR', type=Path, help='keep rendered frames here (default: RUN)'
    )
    parser.add_argument('--processes', type=int, default=2, help='renderers (%(default)s)')
    parser.add_argument(
        '--device', default='auto', help='auto, cpu, cuda or cuda:N (default: %(default)s)'
    )
    add_setting_option(parser, 'steps=3000 or objective.patch=off')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Prepare the data and train; returns 130 or 143 where a signal ended the run early."""
    from psd_depth_ros.runtime import use_passive_waiting

    use_passive_waiting()
    from psd_depth_ros.networks.encoders import EncoderWeights
    from psd_depth_ros.runtime import configure_training
    from psd_depth_ros.training.distributed import Distributed
    from psd_depth_ros.training.run_folder import RunFolder

    recipe = _read_recipe(options)
    start = _read_start(options)
    distributed = Distributed(options.device)
    folder = RunFolder(options.output)
    if distributed.is_main:
        folder.claim(options.resume)
    options.quiet |= not distributed.is_main
    try:
        with distributed.main_first():
            task = _make_task(options, recipe, folder, start)
        if isinstance(start, EncoderWeights):
            task.start_id = f'imagenet {start.id}'
        configure_training()
        with asked_to_stop() as asked:
            outcome = _train(options, task, folder, distributed, lambda: bool(asked))
    finally:
        folder.release()
    if distributed.is_main:
        _say(outcome, options.output, task.describe_cache(resumed=options.resume))
    return 128 + asked[0] if outcome.stopped and asked else 0


def _train(
    options: argparse.Namespace,
    task: Task,
    folder: RunFolder,
    distributed: Distributed,
    stop: Callable[[], bool],
) -> Outcome:
    from psd_depth_ros.training.loop import run_training

    title = f'training on {distributed.device}' + (
        f' x {distributed.world_size}' if distributed.world_size > 1 else ''
    )
    with progress_bar(title, options.quiet) as advance:

        def report(step: StepReport) -> None:
            note = f'{step.images_per_second:.1f} images/s'
            advance(step.step, step.total_steps, note, step.seconds_left)
            if step.scores and not options.quiet:
                print(_line(step), file=sys.stderr)

        return run_training(
            task, folder, device=options.device, resume=options.resume, report=report, stop=stop
        )


def _line(step: StepReport) -> str:
    """State of the run after a validation."""
    assert step.scores is not None
    parts = [
        f'step {step.step} of {step.total_steps}',
        f'loss {step.loss:.4f}',
        f'score {step.scores["score"]:.4f}',
        f'{step.images_per_second:.1f} images/s',
        f'{100 * step.data_wait_fraction:.0f} % of it waiting for data',
        f'{step.seconds_left / 60:.0f} min left',
    ]
    if step.rollbacks:
        parts.append(f'went back {step.rollbacks} times, rates halved each time')
    return ', '.join(parts)


def _make_task(
    options: argparse.Namespace,
    recipe: Recipe,
    folder: RunFolder,
    start: Start,
) -> Task:
    from psd_depth_ros.training.recipe import MixedRecipe, VideoRecipe, WorldsRecipe

    task: Task
    worlds = options.worlds or folder.path / 'worlds'
    if isinstance(recipe, MixedRecipe):
        from psd_depth_ros.training.mixed_task import MixedTask

        with progress_bar('preparing sources', options.quiet, 'frames') as advance:
            progress = SubjectProgress(advance)
            task = MixedTask.from_recipe(
                recipe,
                start,
                progress.report,
                worlds=worlds,
                processes=options.processes,
                announce=progress.announce,
            )
        return task
    if isinstance(recipe, WorldsRecipe):
        from psd_depth_ros.training.worlds_task import WorldsTask

        with progress_bar('rendering worlds', options.quiet, 'frames') as advance:
            task = WorldsTask.from_recipe(
                recipe, worlds, start, advance, processes=options.processes
            )
        return task
    assert isinstance(recipe, VideoRecipe), f'no task for recipes of kind {recipe.kind}'
    from psd_depth_ros.training.video_task import VideoTask

    with progress_bar('preparing recordings', options.quiet, 'frames') as advance:
        progress = SubjectProgress(advance)
        task = VideoTask.from_recipe(recipe, start, progress.report, announce=progress.announce)
    return task


def _say(outcome: Outcome, output: Path, cache: tuple[str, ...]) -> None:
    for note in outcome.notes:
        print(f'note: {note}')
    if outcome.stopped:
        print(f'stopped after step {outcome.step}; the same command with --resume goes on')
    else:
        score = outcome.scores.get('score', float('nan'))
        print(f'written to {outcome.path} (score {score:.4f}); {output}/log.csv tells how it went')
    print(*cache, sep='\n', end='\n' if cache else '')
    if importlib.util.find_spec('tensorboard') is None:
        print('for curves: pip install "psd_depth_ros[tensorboard]" before the next run')


def _read_start(options: argparse.Namespace) -> Start:
    from psd_depth_ros.checkpoint import load_checkpoint
    from psd_depth_ros.external.hub import find_start
    from psd_depth_ros.networks.encoders import read_encoder_weights

    if options.checkpoint is not None:
        return load_checkpoint(find_start(options.checkpoint))
    return None if options.imagenet is None else read_encoder_weights(options.imagenet)


def _read_recipe(options: argparse.Namespace) -> Recipe:
    from psd_depth_ros.training.recipe import (
        change_recipe,
        find_recipe,
        MixedRecipe,
        read_recipe,
        VideoRecipe,
    )

    shipped = read_recipe(find_recipe(options.recipe))
    recipe = change_recipe(shipped, options.changes or (), '--set')
    if options.data is None and options.rectify_alpha is None:
        return recipe
    if not isinstance(recipe, VideoRecipe):
        option = '--data' if options.data is not None else '--rectify-alpha'
        if isinstance(recipe, MixedRecipe):
            name = next((one.name for one in recipe.sources if one.recipe.kind == 'video'), 'NAME')
            raise SettingsError(
                f'recipe {options.recipe} has several sources, and {option} does not say for '
                f'which; give --set sources.{name}.data.paths=["PATH"] and the like'
            )
        raise SettingsError(
            f'recipe {options.recipe} is of kind {recipe.kind!r}, which makes its own data; '
            f'{option} belongs to recipes of kind video'
        )
    data = recipe.data
    if options.data is not None:
        data = replace(data, paths=tuple(options.data))
    if options.rectify_alpha is not None:
        data = replace(data, rectify_alpha=options.rectify_alpha)
    return replace(recipe, data=data)
