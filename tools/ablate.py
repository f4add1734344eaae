"""Train variants of a recipe with several seeds, and compare them.

    python -m tools.ablate experiments/psd.yaml --output RUN --imagenet mobilenet_v2.npz

All runs learn from the same rendered worlds and are measured on others. After each run RUN gets
results.json (with the command that made it) and results.md (mean and standard deviation over
seeds, differences paired by seed); runs/VARIANT_seedN are run folders. `--resume` leaves out runs
that have ended. Set OMP_WAIT_POLICY=PASSIVE where other programs want the cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
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

from psd_depth_ros.cli.options import add_setting_option, progress_bar
from psd_depth_ros.data.frames import FrameSource, LoadedFrames, TimedFrame
from psd_depth_ros.data.frames import Sequence as Frames
from psd_depth_ros.data.readers.worlds import list_worlds, PREFIX
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.prepare import Preparation, prepare_sequences
from psd_depth_ros.errors import EvaluationError, ParseError, PsdDepthError, SettingsError
from psd_depth_ros.evaluation.evaluate import evaluate
from psd_depth_ros.evaluation.protocols import find_protocol
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
from psd_depth_ros.training.video_task import FINE_FACTOR, VideoTask

PROTOCOL = 'outdoor'
DISTANT = 'abs_rel_40_80'  # the figure of the comparisons
COLUMNS = {
    'abs_rel': 'AbsRel', 'abs_rel_0_10': '0-10 m', 'abs_rel_10_20': '10-20 m',
    'abs_rel_20_40': '20-40 m', DISTANT: '40-80 m', 'boundary_f1': 'boundary F1',
}  # fmt: skip
SIGNIFICANT = 2.0  # standard deviations of a difference
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
class Experiment:
    """Variants of a recipe, the worlds they are measured on, and the pairs to compare."""

    recipe: VideoRecipe
    variants: Mapping[str, Variant]
    test: tuple[str, ...]
    comparisons: tuple[tuple[str, str], ...] = ()

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
        if _seeds(worlds) & _seeds(self.test):
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
        comparisons = tuple((low, high) for low, high in values.get('comparisons', ()))
        test = tuple(values['test'])
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
    return Experiment(change_recipe(recipe, changes, '--set'), chosen, test, comparisons)


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
    start: Any = None,
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
        })
    )  # fmt: skip
    results = _read_results(output, plan) if resume else _begin(output)
    jobs = [
        job
        for job in experiment.jobs(seeds)
        if job not in {(result.variant, result.seed) for result in results}
    ]
    with progress_bar('worlds', quiet) as advance:
        data, test = (
            prepare_sequences(
                settings,
                pixel_budget=experiment.recipe.pixel_budget,
                cache=worlds or output / 'worlds',
                fine_factor=FINE_FACTOR,
                report=lambda name, done, total: advance(done, total, f'rendering {name}'),
            )
            for settings in (
                experiment.recipe.data,
                replace(DataSettings(), paths=experiment.test),
            )
        )
    data.check()
    samples = as_source(test)
    for name, seed in jobs:
        recipe = experiment.recipe_for(name, seed, results)
        folder = output / 'runs' / f'{name}_seed{seed}'
        result = train_and_measure(
            recipe, data, samples, folder, start, start_id, device, f'{name}, seed {seed}', quiet
        )
        results.append(result)
        write_results(experiment, output, plan, results)
    return results


def train_and_measure(
    recipe: VideoRecipe,
    data: Preparation,
    samples: FrameSource,
    folder: Path,
    start: Any,
    start_id: str,
    device: str,
    title: str,
    quiet: bool,
) -> Result:
    """One run; one that was broken off begins anew, since its computing time is not known."""
    shutil.rmtree(folder, ignore_errors=True)
    task = VideoTask(recipe, data, start)
    task.start_id = start_id
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
    figures = measure(outcome.path, samples, device)
    images = recipe.batch * outcome.step
    return Result(
        recipe.name, recipe.seed, outcome.step, images, outcome.seconds, compute_s, figures
    )


def measure(checkpoint: Path | None, samples: FrameSource, device: str) -> dict[str, float | None]:
    """Figures by name over all test frames; None each for a network that collapsed."""
    if checkpoint is None:
        return dict.fromkeys(COLUMNS)
    engine = DepthEngine.from_checkpoint(checkpoint, device, 'torch')
    try:
        report = evaluate(engine, samples, find_protocol(PROTOCOL)).as_dict()
    except EvaluationError:
        return dict.fromkeys(COLUMNS)
    finally:
        engine.close()
    bands = {
        f'abs_rel_{name.replace("-", "_")}': band['abs_rel']
        for name, band in report['by_distance'].items()
    }
    found = {
        'abs_rel': report['median_scaled']['abs_rel'],
        'boundary_f1': report['boundary_f1'],
        **bands,
    }
    return {name: found.get(name) for name in COLUMNS}


def as_source(data: Preparation) -> FrameSource:
    """Rendered frames with their exact depth. Raises SettingsError for recordings without."""
    for sequence in data.sequences:
        if sequence.depth is None:
            raise SettingsError(f'{sequence.name} has no true depth; test on synth:street:...')
    items = [(one, index) for one in data.sequences for index in range(len(one.rgb))]
    return LoadedFrames(Path('test'), items, _load)


def _load(place: int, item: tuple[Frames, int]) -> TimedFrame:
    sequence, index = item
    assert sequence.depth is not None, 'checked before'
    depth = np.asarray(sequence.depth[index], np.float32)
    rgb = np.ascontiguousarray(sequence.rgb[index])
    name = f'{sequence.name}-{index}'
    stamp_ns = int(sequence.stamps_ns[index])
    return TimedFrame(place, stamp_ns, '', rgb, sequence.camera, depth_m=depth, name=name)


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
class Spread:
    """Mean and standard deviation of a sample; NaN where it is too small."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of numbers; NaN of none."""
        mean = float(np.mean(values)) if values else math.nan
        return cls(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)

    def __str__(self) -> str:
        """`0.123 ± 0.004`, or the mean alone."""
        if math.isnan(self.mean):
            return '-'
        return f'{self.mean:.3f}' + ('' if math.isnan(self.sd) else f' ± {self.sd:.3f}')


@dataclass(frozen=True)
class Comparison:
    """How much lower an error is in `better` than in `worse`, over the seeds that both have.

    `gain` is a fraction of the error of `worse`, `difference` that of each seed; `significant`
    where its mean exceeds two standard deviations, None with one seed.
    """

    better: str
    worse: str
    gain: float
    difference: Spread

    @property
    def significant(self) -> bool | None:
        """Whether the difference is more than chance."""
        if math.isnan(self.difference.sd):
            return None
        return self.difference.mean > SIGNIFICANT * self.difference.sd


def compare(
    results: Sequence[Result], pairs: Sequence[tuple[str, str]], figure: str = DISTANT
) -> list[Comparison]:
    """Compare the pairs for which there are results, paired by seed."""
    found = {
        (result.variant, result.seed): error
        for result in results
        if (error := result.figures.get(figure)) is not None
    }
    comparisons = []
    for better, worse in pairs:
        both = [
            (low, found[worse, seed])
            for (name, seed), low in found.items()
            if name == better and (worse, seed) in found
        ]
        if both:
            low, high = np.array(both).T
            gain = 1.0 - float(low.mean() / high.mean())
            comparisons.append(Comparison(better, worse, gain, Spread.of(list(high - low))))
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
            {**asdict(one), 'figure': DISTANT, 'significant': one.significant}
            for one in compare(results, experiment.comparisons)
        ],
        'runs': [asdict(result) for result in results],
    }
    text = json.dumps(_without_nan(values), indent=2) + '\n'
    write_file(output / 'results.json', text.encode())
    write_file(output / 'results.md', render(experiment, results).encode())


def render(experiment: Experiment, results: Sequence[Result]) -> str:
    """The tables as Markdown."""
    recipe = experiment.recipe
    rows = []
    for name, variant in experiment.variants.items():
        runs = [result for result in results if result.variant == name]
        if runs:
            images, compute_s = (
                np.mean([getattr(run, key) for run in runs]) for key in ('images', 'compute_s')
            )
            figures = map(str, summarise(results, name).values())
            rows.append([
                name, variant.title, *figures, str(len(runs)), f'{images:.0f}',
                f'{compute_s / 60:.1f}',
            ])  # fmt: skip
    verdicts = {None: 'one seed: cannot be told from chance', True: 'yes', False: 'no'}
    pairs = [
        [one.better, one.worse, f'{one.gain:+.1%}', str(one.difference), verdicts[one.significant]]
        for one in compare(results, experiment.comparisons)
    ]
    heads = ['run', 'variant', *COLUMNS.values(), 'seeds', 'images', 'compute min']
    pair_heads = ['run', 'against', 'lower by', 'difference', 'more than 2 sd']
    return '\n'.join([
        'Mean ± standard deviation over seeds, on rendered worlds that were not trained on. '
        'AbsRel after scaling each image by its median, over all pixels up to 80 m and by true '
        'distance.',
        f'{recipe.steps} steps of {recipe.batch} images of {recipe.pixel_budget} px, preset '
        f'{recipe.preset}; worlds {", ".join(recipe.data.paths)}; tested on '
        f'{", ".join(experiment.test)}.',
        '', *_table(heads, rows), '',
        'Error at 40-80 m, paired by seed:', '', *_table(pair_heads, pairs), '',
    ])  # fmt: skip


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ['---'] * len(heads), *rows]
    return ['| ' + ' | '.join(cells) + ' |' for cells in lines]


def _without_nan(value: Any) -> Any:
    """NaN as None, all the way down: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


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
    parser.add_argument('--imagenet', metavar='NPZ', type=Path,
                        help='encoder weights to start from (default: random)')  # fmt: skip
    parser.add_argument('--worlds', metavar='DIR', type=Path, help='keep rendered frames here')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--resume', action='store_true', help='leave out runs that have ended')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    add_setting_option(parser, 'steps=100')
    options = parser.parse_args(arguments)
    try:
        runs = tuple(options.runs.split(',')) if options.runs else ()
        experiment = read_experiment(options.experiment, runs, options.changes)
        start = None if options.imagenet is None else read_encoder_weights(options.imagenet)
        results = run_experiment(
            experiment,
            options.output,
            seeds=options.seeds,
            start=start,
            start_id='' if start is None else f'imagenet {start.id}',
            worlds=options.worlds,
            device=options.device,
            resume=options.resume,
            quiet=options.quiet,
        )
    except PsdDepthError as error:
        print(f'tools.ablate: error: {error}', file=sys.stderr)
        return 2
    print(render(experiment, results))
    return 0


if __name__ == '__main__':
    sys.exit(main())
