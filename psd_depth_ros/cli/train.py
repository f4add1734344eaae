"""`psd-depth train`: a network from rendered worlds, such as the starter weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import add_setting_option
from psd_depth_ros.cli.progress import progress_bar
from psd_depth_ros.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from psd_depth_ros.checkpoint import Checkpoint
    from psd_depth_ros.training.recipe import Recipe


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        'train',
        help='train a network on rendered worlds',
        description='Render worlds with exact depth and train a network on them. RUN gets '
        'best.safetensors, run.json (all that repeats the run) and log.csv.',
    )
    parser.add_argument('recipe', metavar='RECIPE', help='YAML file, or a name such as starter')
    parser.add_argument('--output', metavar='RUN', type=Path, required=True, help='new folder')
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--imagenet',
        metavar='NPZ',
        type=Path,
        help='MobileNetV2 weights with folded batch norm to start from (default: random)',
    )
    start.add_argument('--checkpoint', metavar='START', type=Path, help='checkpoint to go on from')
    parser.add_argument(
        '--worlds', metavar='DIR', type=Path, help='keep rendered frames here (default: RUN)'
    )
    parser.add_argument('--processes', type=int, default=2, help='renderers (%(default)s)')
    parser.add_argument('--device', default='auto', help='auto, cpu or cuda (%(default)s)')
    add_setting_option(parser)
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Render, then train."""
    from psd_depth_ros.inference.backends import choose_device
    from psd_depth_ros.inference.process import reuse_freed_memory
    from psd_depth_ros.training.run_folder import RunFolder
    from psd_depth_ros.training.trainer import Progress, train
    from psd_depth_ros.training.worlds import load_shard, plan_shards, render_shards

    recipe = _read_recipe(options.recipe, options.changes)
    device = choose_device(options.device)
    start = _read_start(options)
    reuse_freed_memory()
    run = RunFolder(options.output, recipe)
    worlds = options.worlds or options.output / 'worlds'
    validation = plan_shards(recipe, worlds, validation=True)
    training = plan_shards(recipe, worlds, validation=False)
    with progress_bar('rendering worlds', options.quiet) as advance:
        render_shards([*validation, *training], options.processes, advance)
    with progress_bar(f'training on {device}', options.quiet) as advance:

        def report(progress: Progress) -> None:
            run.write(progress)
            advance(progress.step, max(progress.step, round(progress.step / progress.share)))

        frames = [load_shard(shard) for shard in training]
        held_out = [load_shard(shard) for shard in validation]
        path = train(recipe, frames, held_out, start, run.path, report, str(device))
    print(f'written to {path}; how it went is in {run.path / "log.csv"}')
    return 0


def _read_start(options: argparse.Namespace) -> Checkpoint | dict[str, Tensor] | None:
    from psd_depth_ros.checkpoint import load_checkpoint

    if options.checkpoint is not None:
        return load_checkpoint(options.checkpoint)
    return None if options.imagenet is None else read_folded(options.imagenet)


def read_folded(path: Path) -> dict[str, Tensor]:
    """Read folded MobileNetV2 weights from an .npz file; CheckpointError where they cannot be."""
    import numpy as np
    import torch

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {
                name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files
            }
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(
            f'{path}: cannot be read as .npz weights ({error}); expected arrays named '
            'features.0.0.weight, features.0.0.bias, ...'
        ) from error


def _read_recipe(name: str, changes: list[str]) -> Recipe:
    from psd_depth_ros.cli.options import change_settings
    from psd_depth_ros.training.recipe import find_recipe, read_recipe

    return change_settings(read_recipe(find_recipe(name)), changes)
