"""Train variants of a recipe with several seeds, and compare them.

    python -m tools.ablate experiments/psd.yaml --output RUN --imagenet mobilenet_v2.npz

All runs learn from the same rendered worlds and are measured on others. After each run RUN gets
results.json (with the command that made it) and results.md: mean and standard deviation over
seeds, and by how much an error is lower, with its 95 % interval over seeds and frames (paired
bootstrap, Efron and Tibshirani 1993). runs/VARIANT_seedN are run folders, and
frames/VARIANT_seedN.json has the errors of every frame. `--resume` leaves out runs that have
ended. Set OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=5000 where other programs want the cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
import json
import math
from pathlib import Path
import shlex
import shutil
import sys
import time
from typing import Any

import numpy as np

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.cli.options import add_setting_option, progress_bar
from psd_depth_ros.data.frames import FrameSource, LoadedFrames
from psd_depth_ros.data.open import open_with_depth
from psd_depth_ros.data.readers.worlds import list_worlds, PREFIX
from psd_depth_ros.data.triplets.prepare import Preparation, prepare_sequences
from psd_depth_ros.errors import EvaluationError, ParseError, PsdDepthError, SettingsError
from psd_depth_ros.evaluation.evaluate import evaluate, Evaluation
from psd_depth_ros.evaluation.protocols import find_protocol
from psd_depth_ros.evaluation.robustness import measure_robustness
from psd_depth_ros.files import write_file
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.networks.encoders import read_encoder_weights
from psd_depth_ros.parsing import read_json_object, read_yaml
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import (
    change_recipe,
    dump_recipe,
    find_recipe,
    read_recipe,
    VideoRecipe,
)
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.task import Start
from psd_depth_ros.training.video_task import FINE_FACTOR, VideoTask
from tools.statistics import bootstrap_gain, Spread, Values
from tools.tables import markdown_table, without_nan

PROTOCOL = 'outdoor'
DISTANT = 'abs_rel_40_80'  # the figure of the comparisons
COLUMNS = {
    'abs_rel': 'AbsRel', 'abs_rel_0_10': '0-10 m', 'abs_rel_10_20': '10-20 m',
    'abs_rel_20_40': '20-40 m', DISTANT: '40-80 m', 'boundary_f1': 'boundary F1',
    'moving_abs_rel': 'movers', 'weather_abs_rel': 'weather',
    'dee': 'DEE, corrupted', 'mrr': 'mRR %', 'unscaled_abs_rel': 'AbsRel, not scaled',
    'scale_spread': 'spread of scale',
}  # fmt: skip
SIGNIFICANT = 2.0  # standard deviations of a difference
OPTIONAL = frozenset({'moving_abs_rel', 'weather_abs_rel', 'dee', 'mrr'})
# The errors of the frames of a run by figure, (C, N); see `tools.statistics.Values`.
Frames = Mapping[str, Values]
Job = tuple[str, int]  # variant and seed


@dataclass(frozen=True)
class Variant:
    """One way to train: changes of the recipe by dotted name.

    With `compute_of` it takes as many steps as fit into the computing time of that variant, at the
    speed of the variant it is based on.
    """

    title: str
    changes: Mapping[str, Any]
    based_on: str = ''
    compute_of: str = ''
    control: bool = False


@dataclass(frozen=True)
class Robust:
    """How robustness is measured: corruptions of every n-th test frame, and worlds in weather."""

    every: int = 10
    severities: tuple[int, ...] = (1, 3, 5)
    weather: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Variants of a recipe, the worlds they are measured on, and what to compare.

    `comparisons` hold the variant that should be better, the other one, and the figure.
    """

    recipe: VideoRecipe
    variants: Mapping[str, Variant]
    test: tuple[str, ...]
    comparisons: tuple[tuple[str, str, str], ...] = ()
    robust: Robust | None = None

    def __post_init__(self) -> None:
        """Raise SettingsError for runs that would not compare fairly."""
        for name, variant in self.variants.items():
            if variant.compute_of and not {variant.based_on, variant.compute_of} <= {
                *self.variants
            }:
                raise SettingsError(
                    f'{name} takes the computing time of {variant.compute_of}: run '
                    f'{variant.based_on} and {variant.compute_of} too'
                )
        worlds = [path for path in self.recipe.data.paths if path.startswith(PREFIX)]
        weather = () if self.robust is None else self.robust.weather
        if _seeds(worlds) & _seeds((*self.test, *weather)):
            raise SettingsError('worlds to train on and to test on share a seed; keep them apart')

    def jobs(self, seeds: int) -> list[Job]:
        """Every run in order: seed by seed, controls last, computing times before their use."""
        ordered = sorted(
            self.variants,
            key=lambda name: (self.variants[name].control, bool(self.variants[name].compute_of)),
        )
        return [
            (name, seed)
            for control in (False, True)
            for seed in range(1, seeds + 1)
            for name in ordered
            if self.variants[name].control == control
        ]

    def recipe_for(self, name: str, seed: int, results: Sequence[Result]) -> VideoRecipe:
        """The recipe of one run; `results` give the computing times of earlier ones."""
        variant = self.variants[name]
        changes: dict[str, Any] = {'name': name, 'seed': seed, **variant.changes}
        if variant.compute_of:
            found = {result.variant: result for result in results if result.seed == seed}
            base, other = found[variant.based_on], found[variant.compute_of]
            changes['steps'] = round(base.steps * max(1.0, other.compute_s / base.compute_s))
        return change_recipe(self.recipe, changes, name)


@dataclass(frozen=True)
class Result:
    """Figures and cost of one run; `compute_s` is CPU time on a CPU, else wall-clock."""

    variant: str
    seed: int
    steps: int
    images: int
    seconds: float
    compute_s: float
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class TestFrames:
    """Rendered frames to measure on."""

    plain: FrameSource
    corrupted: FrameSource | None = None
    weather: FrameSource | None = None


def read_experiment(
    path: Path, runs: Sequence[str] = (), changes: Sequence[str] = ()
) -> Experiment:
    """Read an experiment; `runs` are the variants to train (default: all).

    Raises SettingsError for a file that is no experiment, or an unknown variant.
    """
    try:
        values = read_yaml(path)
        raw = values['variants']
        recipe = read_recipe(find_recipe(values['recipe']))
        variants = {name: Variant(**{**one, 'changes': _changes(raw, name)})
                    for name, one in raw.items()}  # fmt: skip
        comparisons = tuple(
            (low, high, *(figure or [DISTANT]))
            for low, high, *figure in values.get('comparisons', ())
        )
        test = tuple(values['test'])
        robust = values.get('robust')
        if robust is not None:
            robust = Robust(**{k: tuple(v) if isinstance(v, list) else v
                               for k, v in robust.items()})  # fmt: skip
    except ParseError as error:
        raise SettingsError(f'{path}: experiment {error}') from error
    except (TypeError, KeyError, ValueError) as error:
        raise SettingsError(
            f'{path}: is no experiment ({type(error).__name__}: {error}); see experiments/psd.yaml'
        ) from error
    if not isinstance(recipe, VideoRecipe):
        raise SettingsError(f'{path}: recipe is of kind {recipe.kind!r}, expected video')
    unknown = [name for name in runs if name not in variants]
    if unknown:
        raise SettingsError(f'no variant {", ".join(unknown)}; expected {", ".join(variants)}')
    chosen = {name: one for name, one in variants.items() if not runs or name in runs}
    recipe = change_recipe(recipe, values.get('changes', {}), str(path))
    return Experiment(change_recipe(recipe, changes, '--set'), chosen, test, comparisons, robust)


def _changes(variants: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The changes of a variant, after those of the variant it is based on."""
    one = variants[name] or {}
    base = one.get('based_on')
    return {**(_changes(variants, base) if base else {}), **one.get('changes', {})}


def _seeds(paths: Sequence[str]) -> set[str]:
    """KIND:SEED of every world."""
    return {name.partition('?')[0] for path in paths for name in list_worlds(path)}


def run_experiment(
    experiment: Experiment,
    output: Path,
    *,
    seeds: int = 3,
    start: Callable[[int], Start] = lambda seed: None,
    start_id: str = '',
    worlds: Path | None = None,
    device: str = 'auto',
    resume: bool = False,
    quiet: bool = False,
) -> list[Result]:
    """Train and measure what is missing in `output`; returns all results, old and new.

    Raises SettingsError where the folder holds something else.
    """
    plan = json.loads(
        json.dumps({
            'recipe': dump_recipe(experiment.recipe), 'test': experiment.test, 'start': start_id,
            **({} if experiment.robust is None else {'robust': asdict(experiment.robust)}),
        })
    )  # fmt: skip
    results = _read_results(output, plan) if resume else _begin(output)
    jobs = [
        job
        for job in experiment.jobs(seeds)
        if job not in {(result.variant, result.seed) for result in results}
    ]
    with progress_bar('worlds', quiet) as advance:
        data = prepare_sequences(
            experiment.recipe.data,
            pixel_budget=experiment.recipe.pixel_budget,
            cache=worlds or output / 'worlds',
            fine_factor=FINE_FACTOR,
            report=lambda name, done, total: advance(done, total, f'rendering {name}'),
        )
        data.check()
        test = render_test(experiment, advance)
    for name, seed in jobs:
        recipe = experiment.recipe_for(name, seed, results)
        folder = output / 'runs' / f'{name}_seed{seed}'
        result, frames = train_and_measure(
            recipe, data, test, folder, start(seed), start_id, device, f'{name}, seed {seed}',
            quiet,
            () if experiment.robust is None else experiment.robust.severities,
            worlds or output / 'worlds',
        )  # fmt: skip
        results.append(result)
        _write_frames(output, result, frames)
        write_results(experiment, output, plan, results)
    return results


def render_test(experiment: Experiment, advance: Callable[[int, int, str], None]) -> TestFrames:
    """Render the frames to measure on; they stay in memory."""

    def load(paths: Sequence[str], every: int = 1) -> FrameSource:
        frames = []
        names = [name for path in paths for name in list_worlds(path)]
        for done, name in enumerate(names, 1):
            with open_with_depth(name) as source:
                world = name.partition('?')[0].removeprefix(PREFIX).replace(':', '-')
                frames += [replace(one, name=f'{world}-{one.index}') for one in source.frames()]
            advance(done, len(names), f'rendering {name}')
        return LoadedFrames(Path('test'), frames[::every], lambda _, frame: frame)

    robust = experiment.robust
    if robust is None:
        return TestFrames(load(experiment.test))
    return TestFrames(
        load(experiment.test), load(experiment.test, robust.every), load(robust.weather)
    )


def train_and_measure(
    recipe: VideoRecipe,
    data: Preparation,
    test: TestFrames,
    folder: Path,
    start: Start,
    start_id: str,
    device: str,
    title: str,
    quiet: bool,
    severities: Sequence[int] = (),
    cache: Path | None = None,
) -> tuple[Result, Frames]:
    """One run; one that was broken off begins anew, since its computing time is not known."""
    shutil.rmtree(folder, ignore_errors=True)
    task = VideoTask(recipe, data, start, cache=cache)
    task.start_id = start_id or task.start_id
    before_s = time.process_time()
    with progress_bar(title, quiet) as advance:
        outcome = run_training(
            task,
            RunFolder(folder),
            device=device,
            report=lambda step: advance(step.step, step.total_steps, '', step.seconds_left),
        )
    compute_s = outcome.seconds
    if next(task.module.parameters()).device.type == 'cpu':
        compute_s = time.process_time() - before_s  # the same whatever else the machine does
    figures, frames = measure(outcome.path, test, device, severities)
    images = recipe.batch * outcome.step
    result = Result(
        recipe.name, recipe.seed, outcome.step, images, outcome.seconds, compute_s, figures
    )
    return result, frames


def measure(
    checkpoint: Path | None, test: TestFrames, device: str, severities: Sequence[int] = ()
) -> tuple[dict[str, float | None], Frames]:
    """Figures by name, and the errors of every frame; None each for a network that collapsed."""
    nothing: dict[str, float | None] = dict.fromkeys(COLUMNS)
    if checkpoint is None:
        return nothing, {}
    engine = DepthEngine.from_checkpoint(checkpoint, device, 'torch')
    protocol = find_protocol(PROTOCOL)
    try:
        found = evaluate(engine, test.plain, protocol)
        frames = _frame_errors(found)
        if test.weather is not None:
            weather = _frame_errors(evaluate(engine, test.weather, protocol))
            frames['weather_abs_rel'] = weather['abs_rel']
        figures = {name: _mean(frames[name]) for name in COLUMNS if name in frames}
        figures['scale_spread'] = float(np.std(np.log(found.ratios)))
        if test.corrupted is not None:
            robust = measure_robustness(engine, test.corrupted, protocol, severities=severities)
            frames['dee'] = np.stack([one.dee.mean(axis=0) for one in robust.corrupted.values()])
            figures['dee'], figures['mrr'] = _mean(frames['dee']), robust.mrr
    except EvaluationError:
        return nothing, {}
    finally:
        engine.close()
    return {**nothing, **figures}, frames


def _frame_errors(evaluation: Evaluation) -> dict[str, Values]:
    """The errors of every frame by figure, (1, N)."""
    rows = []
    for frame in evaluation.frames:
        bands = {f'abs_rel_{name.replace("-", "_")}': one.abs_rel
                 for name, one in frame.bands.items()}  # fmt: skip
        rows.append(
            {
                'abs_rel': frame.errors.median_scaled.abs_rel,
                'unscaled_abs_rel': frame.errors.unscaled.abs_rel,
                'boundary_f1': math.nan if frame.edges is None else frame.edges.boundary_f1,
                'moving_abs_rel': math.nan if frame.moving is None else frame.moving.abs_rel,
                **bands,
            }
        )
    names = {name for row in rows for name in row}
    return {name: np.array([[row.get(name, math.nan) for row in rows]]) for name in names}


def _mean(values: Values) -> float | None:
    return float(np.nanmean(values)) if np.isfinite(values).any() else None


def _frames_path(output: Path, variant: str, seed: int) -> Path:
    return output / 'frames' / f'{variant}_seed{seed}.json'


def _write_frames(output: Path, result: Result, frames: Frames) -> None:
    path = _frames_path(output, result.variant, result.seed)
    path.parent.mkdir(exist_ok=True)
    rounded = {name: np.round(values, 5).tolist() for name, values in frames.items()}
    write_file(path, json.dumps(without_nan(rounded)).encode())


def _read_frames(output: Path, results: Sequence[Result]) -> dict[Job, Frames]:
    found = {}
    for one in results:
        path = _frames_path(output, one.variant, one.seed)
        if path.exists():
            values = read_json_object(path)
            found[one.variant, one.seed] = {
                name: np.array(rows, np.float64) for name, rows in values.items()
            }
    return found


def _begin(output: Path) -> list[Result]:
    if output.exists() and any(output.iterdir()):
        raise SettingsError(
            f'{output}: the output folder is not empty; name a new one, or resume what is in it'
        )
    output.mkdir(parents=True, exist_ok=True)
    return []


def _read_results(output: Path, plan: Mapping[str, Any]) -> list[Result]:
    """The runs that have ended. Raises SettingsError where they are of another experiment."""
    path = output / 'results.json'
    if not path.exists():
        return []
    try:
        values = read_json_object(path)
        results = [Result(**one) for one in values['runs']]
    except (ParseError, KeyError, TypeError) as error:
        raise SettingsError(f'{path}: holds no results ({error}); name a new folder') from error
    changed = [name for name in plan if values.get(name) != plan[name]]
    if changed:
        raise SettingsError(
            f'{output}: holds another experiment: {", ".join(changed)} differ; give the same '
            'again, or name a new folder'
        )
    return results


@dataclass(frozen=True)
class Comparison:
    """How much lower a figure is in `better` than in `worse`, over the seeds that both have.

    `gain` is a fraction of the figure of `worse`, and `interval` holds its 2.5th and 97.5th
    percentile over resampled seeds and frames, NaN where frames are not known. `difference` is
    that of each seed; `significant` where its mean exceeds two standard deviations, None with one
    seed.
    """

    better: str
    worse: str
    figure: str
    gain: float
    interval: tuple[float, float]
    difference: Spread

    @property
    def significant(self) -> bool | None:
        """Whether the difference is more than chance."""
        if math.isnan(self.difference.sd):
            return None
        return self.difference.mean > SIGNIFICANT * self.difference.sd


def compare(
    results: Sequence[Result],
    wanted: Sequence[tuple[str, str, str]],
    frames: Mapping[Job, Frames] | None = None,
) -> list[Comparison]:
    """Compare pairs of variants by a figure, paired by seed, and by frame where these are known.

    The gain of `dee` is 1 - mCE of one variant to the other.
    """
    jobs = {(one.variant, one.seed): one for one in results}
    comparisons = []
    for better, worse, figure in wanted:
        found = [
            (low, high, seed)
            for name, seed in jobs
            if name == better and (worse, seed) in jobs
            if (low := jobs[better, seed].figures.get(figure)) is not None
            if (high := jobs[worse, seed].figures.get(figure)) is not None
        ]
        if not found:
            continue
        gain = 1.0 - sum(low for low, _, _ in found) / sum(high for _, high, _ in found)
        interval = (math.nan, math.nan)
        difference = Spread.of([high - low for low, high, _ in found])
        by_frame = [
            [(frames or {}).get((name, seed), {}).get(figure) for _, _, seed in found]
            for name in (better, worse)
        ]
        low_rows, high_rows = ([one for one in row if one is not None] for row in by_frame)
        if len(low_rows) == len(high_rows) == len(found):
            gain, interval = bootstrap_gain(np.stack(low_rows), np.stack(high_rows))
        comparisons.append(Comparison(better, worse, figure, gain, interval, difference))
    return comparisons


def summarise(results: Sequence[Result], name: str) -> dict[str, Spread]:
    """Mean and spread of every figure of a variant over its seeds."""
    runs = [result for result in results if result.variant == name]
    return {
        figure: Spread.of([v for run in runs if (v := run.figures.get(figure)) is not None])
        for figure in COLUMNS
    }


def write_results(
    experiment: Experiment, output: Path, plan: Mapping[str, Any], results: Sequence[Result]
) -> None:
    """Write results.json and results.md."""
    frames = _read_frames(output, results)
    values = {
        'command': shlex.join(['python', '-m', 'tools.ablate', *sys.argv[1:]]),
        **plan,
        'variants': {
            name: {
                'title': variant.title,
                'figures': {k: asdict(v) for k, v in summarise(results, name).items()},
            }
            for name, variant in experiment.variants.items()
        },
        'comparisons': [
            {**asdict(one), 'significant': one.significant}
            for one in compare(results, experiment.comparisons, frames)
        ],
        'runs': [asdict(result) for result in results],
    }
    text = json.dumps(without_nan(values), indent=2) + '\n'
    write_file(output / 'results.json', text.encode())
    write_file(output / 'results.md', render(experiment, results, frames).encode())


def render(
    experiment: Experiment,
    results: Sequence[Result],
    frames: Mapping[Job, Frames] | None = None,
) -> str:
    """The tables as Markdown; columns of which no run has a figure are left out."""
    recipe = experiment.recipe
    shown = {
        figure: title
        for figure, title in COLUMNS.items()
        if figure not in OPTIONAL or any(run.figures.get(figure) is not None for run in results)
    }
    rows = []
    for name, variant in experiment.variants.items():
        runs = [result for result in results if result.variant == name]
        if runs:
            images, compute_s = (
                np.mean([getattr(run, key) for run in runs]) for key in ('images', 'compute_s')
            )
            spreads = summarise(results, name)
            figures = [str(spreads[figure]) for figure in shown]
            rows.append([
                name, variant.title, *figures, str(len(runs)), f'{images:.0f}',
                f'{compute_s / 60:.1f}',
            ])  # fmt: skip
    verdicts = {None: 'one seed: cannot be told from chance', True: 'yes', False: 'no'}
    pairs = [
        [
            one.better,
            one.worse,
            COLUMNS[one.figure],
            f'{one.gain:+.1%}',
            '-'
            if math.isnan(one.interval[0])
            else f'{one.interval[0]:+.1%} to {one.interval[1]:+.1%}',
            str(one.difference),
            verdicts[one.significant],
        ]
        for one in compare(results, experiment.comparisons, frames)
    ]
    heads = ['run', 'variant', *shown.values(), 'seeds', 'images', 'compute min']
    pair_heads = ['run', 'against', 'figure', 'lower by', '95 % interval', 'difference',
                  'more than 2 sd']  # fmt: skip
    return '\n'.join([
        'Mean ± standard deviation over seeds, on rendered worlds that were not trained on. '
        'AbsRel after scaling each image by its median, over all pixels up to 80 m and by true '
        'distance.',
        f'{recipe.steps} steps of {recipe.batch} images of {recipe.pixel_budget} px, preset '
        f'{recipe.preset}; worlds {", ".join(recipe.data.paths)}; tested on '
        f'{", ".join(experiment.test)}.',
        '', *markdown_table(heads, rows), '',
        'Paired by seed and frame:', '', *markdown_table(pair_heads, pairs), '',
    ])  # fmt: skip


def _read_start(options: argparse.Namespace) -> tuple[Callable[[int], Start], str]:
    """What each seed starts from, and a name of it."""
    if options.imagenet is not None:
        weights = read_encoder_weights(options.imagenet)
        return lambda seed: weights, f'imagenet {weights.id}'
    if options.checkpoint is not None:
        checkpoint = load_checkpoint(options.checkpoint)
        return lambda seed: checkpoint, f'checkpoint {checkpoint.id}'
    if options.pretrained is not None:
        runs, variant = options.pretrained.parent / 'runs', options.pretrained.name
        return (
            lambda seed: load_checkpoint(runs / f'{variant}_seed{seed}' / 'best.safetensors'),
            f'pretrained {variant}',
        )
    return lambda seed: None, ''


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the experiment, print its tables."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.ablate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('experiment', type=Path, help='such as experiments/psd.yaml')
    parser.add_argument('--output', metavar='RUN', type=Path, required=True, help='new folder')
    parser.add_argument('--seeds', type=int, default=3, help='runs of each variant (%(default)s)')
    parser.add_argument('--runs', metavar='A0,A3,...', default='', help='only some variants')
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument('--imagenet', metavar='NPZ', type=Path,
                       help='encoder weights to start from (default: random)')  # fmt: skip
    begin.add_argument(
        '--checkpoint', metavar='FILE', help='checkpoint to start from; default: of the package'
    )
    begin.add_argument(
        '--pretrained',
        metavar='RUN/VARIANT',
        type=Path,
        help='start each seed from that seed of a variant of another ablation',
    )
    parser.add_argument('--worlds', metavar='DIR', type=Path, help='keep rendered frames here')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--resume', action='store_true', help='leave out runs that have ended')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    add_setting_option(parser, 'steps=100')
    options = parser.parse_args(arguments)
    try:
        runs = tuple(options.runs.split(',')) if options.runs else ()
        experiment = read_experiment(options.experiment, runs, options.changes)
        start, start_id = _read_start(options)
        results = run_experiment(
            experiment,
            options.output,
            seeds=options.seeds,
            start=start,
            start_id=start_id,
            worlds=options.worlds,
            device=options.device,
            resume=options.resume,
            quiet=options.quiet,
        )
    except PsdDepthError as error:
        print(f'tools.ablate: error: {error}', file=sys.stderr)
        return 2
    print(render(experiment, results, _read_frames(options.output, results)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
