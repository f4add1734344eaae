"""Train the weights that come with the package: one command for each stage, each resumable.

    python -m tools.train_default_weights train lite --imagenet NPZ --output RUN
    python -m tools.train_default_weights train lite_research --checkpoint lite
        --data DIR --teachers DIR --output RUN
    python -m tools.train_default_weights calibrate RUN/best.safetensors lite_research --data DIR
        --output weights/lite-research.safetensors
    python -m tools.train_default_weights last RUN --output LAST.safetensors
    python -m tools.train_default_weights average LAST.safetensors=0.92 BEFORE.safetensors=0.08
        --output AVERAGE.safetensors
    python -m tools.train_default_weights compare RUN ANOTHER

A stage is a recipe of config/recipes. Paths of recordings in it are below `--data`, those of
teachers below `--teachers`, whatever the machine. `calibrate` fits the confidence on frames held
out of several sources, each of which counts the same, and writes the file in half precision.
`last` writes the averaged network of the last state, which may be better than best.safetensors:
where the rate ends near zero it has learned for longer, and scores of few images vary by chance.
`average` averages networks that went on from each other (WiSE-FT, Wortsman et al., CVPR 2022): a
little of the start keeps what a run forgot.
`compare` tells whether two runs took the same steps, bit for bit: losses of every step that both
logged, and every tensor of their last states.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
import csv
from dataclasses import replace
from pathlib import Path
import sys
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.checkpoint import CheckpointInfo, InputInfo, load_checkpoint, save_checkpoint
from psd_depth_ros.cli.main import main as run_command
from psd_depth_ros.config import build
from psd_depth_ros.data.open import open_with_depth
from psd_depth_ros.data.readers.worlds import list_worlds, PREFIX
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.evaluation.evaluate import parse_range
from psd_depth_ros.evaluation.metrics import match, measure_confidence
from psd_depth_ros.networks import Architecture, DepthModel, load_model
from psd_depth_ros.parsing import ARRAY_BYTES, read_bytes
from psd_depth_ros.preprocess import network_size, Preprocessor
from psd_depth_ros.runtime import autocast
from psd_depth_ros.teachers.frozen import AND
from psd_depth_ros.training.recipe import find_recipe, MixedRecipe, read_recipe, VideoRecipe
from psd_depth_ros.training.run_folder import STATE_PATTERN
from psd_depth_ros.training.state import parse_state, Snapshot
from psd_depth_ros.training.task import describe_input
from psd_depth_ros.training.worlds_task import fit_confidence

RENDERED = (
    'synth:street:900000-900019?frames=1&size=624x192&condition=any',
    'synth:street:900100-900119?frames=1&size=480x360&condition=any',
    'synth:room:900200-900239?frames=1&size=480x360&condition=any',
)
# Sources of the calibration by stage: paths, frames of them.
CALIBRATION: Mapping[str, tuple[str, ...]] = {
    'lite': RENDERED,
    'lite_research': (*RENDERED, 'rgbd_kitchen#204:240:2'),
}
PIXELS_PER_FRAME = 2000
OWN = 'weights/'  # of the repository, from whose root the commands are run


def train_arguments(stage: str, data: Path | None, teachers: Path | None) -> list[str]:
    """The arguments of `psd-depth train` that put the folders before the paths of a recipe.

    Raises SettingsError where the recipe needs a folder that is not given.
    """
    recipe = read_recipe(find_recipe(stage))
    if not isinstance(recipe, MixedRecipe):
        return []
    changes: list[str] = []
    for source in recipe.sources:
        if not isinstance(source.recipe, VideoRecipe):
            continue
        paths = [_below(one, data, '--data') for one in source.recipe.data.paths]
        listed = ', '.join(f'"{one}"' for one in paths)
        changes.append(f'sources.{source.name}.data.paths=[{listed}]')
        for term in source.recipe.objective:
            teacher: str = getattr(term.settings, 'teacher', '')
            if '/' in teacher:
                files = [_below(one.strip(), teachers, '--teachers') for one in teacher.split(AND)]
                name = f'sources.{source.name}.objective.{term.name}.teacher'
                changes.append(f'{name}="{AND.join(files)}"')
    return [argument for change in changes for argument in ('--set', change)]


def _below(path: str, folder: Path | None, option: str) -> str:
    if path.startswith((PREFIX, OWN)):
        return path
    if folder is None:
        raise SettingsError(f'the recipe learns from {path}; say with {option} where it is')
    return f'{folder.resolve()}/{path}'


def calibrate(
    checkpoint: Path, paths: Sequence[str], output: Path, name: str, pixel_budget: int = 0
) -> Iterator[str]:
    """Write a checkpoint with its confidence fitted to some sources; give a line for each.

    Args:
        checkpoint: What training kept.
        paths: RGB-D folders or rendered worlds, `PATH#START:STOP:STEP` for some of their frames.
        output: Gets the file, in half precision.
        name: Of the weights.
        pixel_budget: Their nominal input, of those that training covered; 0 leaves it.

    Raises SettingsError where training did not cover that size.
    """
    start = load_checkpoint(checkpoint)
    model = load_model(start)
    given = _with_budget(start.info.input, model, pixel_budget)
    budget = given.pixel_budget
    focal_px = start.info.output.canonical_focal_px
    errors, sigmas = [], []
    for path in paths:
        farthest_m = start.info.output.max_depth_m
        rows = [
            row
            for one in (list_worlds(path) if path.startswith(PREFIX) else [path])
            for row in _measure(model, str(one), budget, focal_px, farthest_m)
        ]
        own_errors, own_sigmas = (torch.cat([row[place] for row in rows]) for place in (0, 1))
        worth = float(np.nanmean([row[2] for row in rows]))
        yield f'{path}: {len(rows)} images, AURG {worth:+.3f}'
        few = min(100_000, len(own_errors))  # each source counts the same
        chosen = torch.from_numpy(np.random.default_rng(1).choice(len(own_errors), few))
        repeated = torch.arange(100_000) % few
        errors.append(own_errors[chosen][repeated])
        sigmas.append(own_sigmas[chosen][repeated])
    found = fit_confidence(torch.cat(errors), torch.cat(sigmas))
    info = replace(
        start.info,
        name=name,
        input=given,
        output=replace(start.info.output, sigma_gain=found.gain, sigma_floor=found.floor),
    )
    save_checkpoint(output, info, start.tensors, half=True)
    yield f'confidence: gain {found.gain:g}, floor {found.floor:g}; written to {output}'


def _with_budget(given: InputInfo, model: DepthModel, pixel_budget: int) -> InputInfo:
    """The same input with another nominal size."""
    if not pixel_budget:
        return given
    smallest, largest = given.trained_pixels
    if not smallest <= pixel_budget <= largest:
        raise SettingsError(
            f'--pixel-budget is {pixel_budget}, and the checkpoint {given.describe_range()}; '
            'choose a size that it knows'
        )
    wanted = describe_input(model, pixel_budget)
    return replace(wanted, smallest_pixels=smallest, largest_pixels=largest)


@torch.inference_mode()
def _measure(
    model: DepthModel, path: str, budget: int, focal_px: float, farthest_m: float
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Errors and sigmas of log-depth of some pixels, and AURG, of every image."""
    where, _, frames = path.partition('#')
    source = open_with_depth(where)
    if frames:
        source.select(parse_range(frames))
    with source:
        for frame in source.frames():
            assert frame.depth_m is not None, 'opened with depth'
            size = network_size(frame.camera, budget)
            normalisation = model.normalisation
            prepare = Preprocessor(frame.camera, size, normalisation.mean, normalisation.std)
            camera = prepare.camera
            intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]]).float()
            with autocast('cpu'):
                output = model(torch.from_numpy(prepare(frame.rgb)), intrinsics)
            log_depth, sigma = (
                F.interpolate(one.float(), size, mode='bilinear') for one in output[:2]
            )
            truth = cv2.resize(frame.depth_m, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            truth = np.where(truth > farthest_m, np.inf, truth)
            metres = (log_depth[0, 0].exp() * (camera.fx / focal_px)).numpy()
            matched = match(metres, truth, median_scaled=True, maximum_m=1e4)
            if matched is None:
                continue
            worth = measure_confidence(matched, -sigma[0, 0].numpy())['abs_rel'].aurg
            known = np.isfinite(truth) & (truth > 0)
            error = torch.from_numpy(np.abs(np.log(metres[known] / truth[known]))).float()
            step = max(1, len(error) // PIXELS_PER_FRAME)
            yield error[::step], sigma[0, 0][torch.from_numpy(known)][::step], worth


def write_last(run: Path, output: Path) -> str:
    """Write the averaged network of the last state of a run, and say which that is.

    Raises SettingsError where a folder holds no run, ParseError where its state is damaged.
    """
    state = _read_state(run)
    info = load_checkpoint(run / 'best.safetensors').info
    kept, step = int(info.training['steps']), int(state.facts['step'])
    record = {
        **info.training,
        'steps': step,
        'images': int(info.training['images']) * step // kept,
        'minutes': round(float(state.facts['seconds']) / 60.0, 1),
        'validation': {},  # of the network that was kept
    }
    start = 'average.'
    tensors = {
        name.removeprefix(start): tensor
        for name, tensor in state.tensors.items()
        if name.startswith(start)
    }
    save_checkpoint(output, replace(info, training=record), tensors)
    return f'step {step} (best.safetensors is of step {kept}) written to {output}'


def average_checkpoints(parts: Mapping[str, float], output: Path) -> str:
    """Write the weighted mean of checkpoints, described as the first one, and say of what it is.

    Args:
        parts: Weights by file or name; they add up to 1.
        output: Gets the file.

    Raises SettingsError for other weights, and for networks of different architectures.
    """
    if len(parts) < 2 or not np.isclose(sum(parts.values()), 1.0) or min(parts.values()) <= 0:
        raise SettingsError(
            f'the weights are {", ".join(map(str, parts.values()))}, expected two or more above 0 '
            'that add up to 1'
        )
    loaded = {name: load_checkpoint(name) for name in parts}
    first, *others = loaded.values()
    for other in others:
        if _describe_network(first.info) != _describe_network(other.info):
            raise SettingsError(f'{other.path} is of another network than {first.path}')
    tensors = {
        name: sum(weight * loaded[part].tensors[name] for part, weight in parts.items())
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.tensors.items()
    }
    record = {
        **first.info.training,
        'averaged': [
            {'name': one.info.name, 'id': one.id, 'weight': parts[name]}
            for name, one in loaded.items()
        ],
    }
    sources = {str(source): source for one in loaded.values() for source in one.info.data}
    info = replace(first.info, training=record, data=tuple(sources.values()))
    save_checkpoint(output, info, tensors)
    told = ' + '.join(f'{weight:g} of {loaded[name].id}' for name, weight in parts.items())
    return f'{told} written to {output}'


def _describe_network(info: CheckpointInfo) -> tuple[Any, ...]:
    """What averaged networks have in common; settings of later versions have defaults."""
    architecture = build(Architecture, info.architecture, 'architecture')
    return architecture, dict(info.encoder_options), info.input.mean, info.input.std


def compare_runs(first: Path, second: Path) -> tuple[bool, str]:
    """Whether two run folders hold the same losses and the same state, and that in words.

    Raises SettingsError where a folder holds no run, ParseError where its state is damaged.
    """
    losses, states = zip(*(_read_run(folder) for folder in (first, second)), strict=True)
    steps = losses[0].keys() & losses[1].keys()
    wrong = sorted(step for step in steps if losses[0][step] != losses[1][step])
    names = states[0].keys() | states[1].keys()
    other = sorted(
        name
        for name in names
        if name not in states[0]
        or name not in states[1]
        or not torch.equal(states[0][name], states[1][name])
    )
    told = f'{len(steps)} steps with losses, {len(names)} tensors in the last states: '
    if not steps or losses[0].keys() != losses[1].keys():
        return False, f'{told}the runs are of {len(losses[0])} and {len(losses[1])} steps'
    if not wrong and not other:
        return True, f'{told}all equal bit for bit'
    first_loss = f', first at step {wrong[0]}' if wrong else ''
    example = f', such as {other[0]}' if other else ''
    return False, f'{told}{len(wrong)} losses differ{first_loss}; {len(other)} tensors{example}'


def _read_run(folder: Path) -> tuple[dict[int, tuple[str, ...]], dict[str, Tensor]]:
    """Losses by step as they were logged, and the tensors of the last state."""
    state = _read_state(folder)
    with (folder / 'log.csv').open(encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    losses = {
        int(row['step']): tuple(value for name, value in row.items() if name.startswith('loss'))
        for row in rows
    }
    return losses, dict(state.tensors)


def _read_state(run: Path) -> Snapshot:
    """The last state of a run."""
    states = sorted((run / 'state').glob(STATE_PATTERN))
    if not states or not (run / 'log.csv').is_file():
        raise SettingsError(
            f'{run} holds no log.csv with a state, expected the --output of a training'
        )
    return parse_state(read_bytes(states[-1], ARRAY_BYTES))


def _read_parts(texts: Sequence[str]) -> dict[str, float]:
    """FILE=WEIGHT to weights by file. Raises SettingsError."""
    parts = {}
    for text in texts:
        name, _, weight = text.rpartition('=')
        try:
            parts[name] = float(weight)
        except ValueError as error:
            raise SettingsError(f'{text} is no FILE=WEIGHT, such as lite=0.9') from error
    return parts


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line; run a stage or calibrate what it made."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.train_default_weights',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest='command', required=True)
    train = commands.add_parser('train', help='all further arguments are those of psd-depth train')
    train.add_argument('stage', help='a recipe: lite or lite_research')
    train.add_argument('--data', type=Path, help='folder of the recordings')
    train.add_argument('--teachers', type=Path, help='folder of the depth teachers')
    fit = commands.add_parser('calibrate', help='fit the confidence, write in half precision')
    fit.add_argument('checkpoint', type=Path)
    fit.add_argument('stage', choices=sorted(CALIBRATION))
    fit.add_argument('--data', type=Path)
    fit.add_argument('--output', type=Path, required=True)
    fit.add_argument(
        '--pixel-budget', type=int, default=0, help='nominal input (default: as it is)'
    )
    last = commands.add_parser('last', help='the averaged network of the last state')
    last.add_argument('run', type=Path)
    last.add_argument('--output', type=Path, required=True)
    mean = commands.add_parser('average', help='the weighted mean of networks')
    mean.add_argument('parts', nargs='+', metavar='FILE=WEIGHT')
    mean.add_argument('--output', type=Path, required=True)
    same = commands.add_parser('compare', help='whether two runs took the same steps')
    same.add_argument('runs', type=Path, nargs=2, metavar='RUN')
    options, rest = parser.parse_known_args(arguments)
    try:
        if options.command == 'train':
            paths = train_arguments(options.stage, options.data, options.teachers)
            return run_command(['train', options.stage, *paths, *rest])
        if rest:
            parser.error(f'unknown arguments {" ".join(rest)}')
        if options.command == 'last':
            print(write_last(options.run, options.output))
            return 0
        if options.command == 'average':
            print(average_checkpoints(_read_parts(options.parts), options.output))
            return 0
        if options.command == 'compare':
            is_same, told = compare_runs(*options.runs)
            print(told)
            return int(not is_same)
        sources = [_below(one, options.data, '--data') for one in CALIBRATION[options.stage]]
        for line in calibrate(
            options.checkpoint,
            sources,
            options.output,
            options.stage.replace('_', '-'),
            options.pixel_budget,
        ):
            print(line, flush=True)
    except PsdDepthError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
