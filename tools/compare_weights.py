"""Measure checkpoints on several sets of images with true depth, and compare them.

    python -m tools.compare_weights old=weights/lite.safetensors new=NEW.safetensors --data DIR

Every set of experiments/measuring_sets.yaml is decoded once, and every network is loaded once.
What is measured is what `psd-depth evaluate` measures. The tables have 95 % intervals over the
frames; the second one has the ratio of errors of each later network to the first one, paired by
frame. `--json` keeps the errors of every frame, and `--earlier` takes them in place of measuring
again. `--page docs/weights.md` writes tables and pictures into the documentation, of the pictures
those that may be shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
import hashlib
import json
import math
from pathlib import Path
import shlex
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.cli.options import progress_bar
from psd_depth_ros.config import build, setting
from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.frames import (
    FrameSource,
    LensChoice,
    LoadedFrames,
    SourceOptions,
    TimedFrame,
)
from psd_depth_ros.data.readers.worlds import list_worlds, PREFIX
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.evaluation.evaluate import (
    DENSE_FRACTION,
    evaluate,
    Evaluation,
    Example,
    measure_frame,
    name_frame,
    open_data,
    parse_range,
)
from psd_depth_ros.evaluation.protocols import find_protocol, Protocol
from psd_depth_ros.files import make_folder, write_file
from psd_depth_ros.geometry.resample import resize
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.parsing import ParseError, read_json_object, read_yaml
from psd_depth_ros.preprocess import network_size
from psd_depth_ros.runtime import configure_runtime
from tools.statistics import (
    estimate_geometric_mean,
    estimate_mean,
    estimate_ratio,
    PairedErrors,
    Values,
)
from tools.tables import markdown_table, replace_table, without_nan
from tools.weights_pictures import draw_networks, encode_small

Map = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
SETS = ROOT / 'experiments' / 'measuring_sets.yaml'
SCALED, METRIC = 'abs_rel', 'unscaled_abs_rel'
COLUMNS = {
    SCALED: 'AbsRel, scaled', METRIC: 'AbsRel, metric', 'a1': 'delta1',
    'boundary_f1': 'boundary F1', 'aurg': 'AURG',
}  # fmt: skip
TRUTH = 'truth'  # in place of a checkpoint
OUTPUT_STRIDE = 2  # pixels of the network's input for one of its output
FEWEST_TIMED = 5  # frames of a set, of which the first ones also load the network


@dataclass(frozen=True)
class MeasuringSet:
    """Images with true depth, and how they are measured."""

    path: str = setting('', 'Below the folder of data, or rendered worlds (synth:...)')
    title: str = setting('', 'For the tables')
    group: str = setting('', 'Sets that share a geometric mean')
    frames: str = setting(':', 'START:STOP:STEP')
    protocol: str = setting('auto', 'Of psd-depth evaluate')
    camera: str = setting('', 'Calibration beside the file of sets, in place of that of the data')
    depth_camera: str = setting('', 'Calibration of a depth that is not registered to the images')
    block: int = setting(1, 'Frames in a row that resemble each other', minimum=1)
    picture: int = setting(0, 'The frame that is drawn', minimum=0)
    shown: bool = setting(False, 'Whether the licence allows showing that picture')
    credit: str = setting('', 'Origin and licence, under the picture')

    def __post_init__(self) -> None:
        """Raise SettingsError for a set that cannot be measured or shown."""
        if not self.path or not self.group:
            raise SettingsError('a set needs path and group')
        if self.shown and not self.credit:
            raise SettingsError('a picture that is shown needs its credit')


@dataclass(frozen=True)
class LoadedSet:
    """The decoded frames of a set; `content` is a hash of images and depth."""

    frames: FrameSource
    protocol: Protocol
    content: str


@dataclass(frozen=True)
class Measured:
    """The errors of every frame (N,) of every set under one network, by set and figure.

    `contents` are the hashes of what was measured, `milliseconds` the median time of a frame.
    """

    name: str
    checkpoint: str
    pixel_budget: int
    device: str
    contents: Mapping[str, str]
    frames: Mapping[str, Sequence[str]]
    errors: Mapping[str, Mapping[str, Values]]
    milliseconds: Mapping[str, float]


def read_sets(path: Path, only: Sequence[str] = ()) -> dict[str, MeasuringSet]:
    """Read the measuring sets of a YAML file, all or `only` some. Raises SettingsError."""
    try:
        raw = read_yaml(path)
    except ParseError as error:
        raise SettingsError(f'{path}: measuring sets: {error}') from error
    values = raw.get('sets') if isinstance(raw, dict) else None
    if not isinstance(values, dict) or not all(isinstance(one, dict) for one in values.values()):
        raise SettingsError(f'{path}: has no measuring sets; expected `sets:` with sets by name')
    unknown = [name for name in only if name not in values]
    if unknown:
        raise SettingsError(f'no set {", ".join(unknown)}; expected {", ".join(values)}')
    return {
        name: build(MeasuringSet, one, f'{path}: {name}')
        for name, one in values.items()
        if not only or name in only
    }


def load_set(one: MeasuringSet, data: Path, calibrations: Path) -> LoadedSet:
    """Decode or render the frames of a set; they stay in memory. Raises EvaluationError.

    Args:
        one: The set.
        data: The folder that its path is below.
        calibrations: The folder of its calibrations.
    """
    options = SourceOptions(
        LensChoice(load_camera(calibrations / one.camera) if one.camera else None),
        depth_camera=calibrations / one.depth_camera if one.depth_camera else None,
    )
    is_rendered = one.path.startswith(PREFIX)
    paths = list_worlds(one.path) if is_rendered else [str(data / one.path)]
    frames: list[TimedFrame] = []
    protocol = find_protocol('outdoor')
    for path in paths:
        source, protocol = open_data(path, one.protocol, options)
        with source:
            source.select(parse_range(one.frames))
            frames += [
                replace(frame, name=_name(path, frame) if is_rendered else frame.name)
                for frame in source.frames()
            ]
    content = hashlib.sha256()
    for frame in frames:
        content.update(np.ascontiguousarray(frame.rgb))
        if frame.depth_m is not None:
            content.update(np.ascontiguousarray(frame.depth_m))
    source = LoadedFrames(data / one.path, frames, lambda _, frame: frame, protocol.name)
    return LoadedSet(source, protocol, content.hexdigest()[:12])


def _name(path: str, frame: TimedFrame) -> str:
    world = path.partition('?')[0].removeprefix(PREFIX).replace(':', '-')
    return f'{world}-{frame.index}'


def measure(
    name: str, engine: DepthEngine, sets: Mapping[str, LoadedSet], quiet: bool = True
) -> Measured:
    """Measure a network on every set. Raises EvaluationError."""
    found = {}
    for called, one in sets.items():
        with progress_bar(f'{name}: {called}', quiet) as advance:
            found[called] = evaluate(engine, one.frames, one.protocol, progress=advance)
    return Measured(
        name,
        engine.checkpoint.id,
        engine.pixel_budget,
        engine.device,
        {called: one.content for called, one in sets.items()},
        {called: [frame.name for frame in one.frames] for called, one in found.items()},
        {called: _errors(one) for called, one in found.items()},
        {called: _milliseconds(one) for called, one in found.items()},
    )


def measure_truth(pixel_budget: int, sets: Mapping[str, LoadedSet]) -> Measured:
    """Measure the truth itself at the resolution of a network's output, on sets where it is dense.

    That is half of the input that a network of this budget gets. What no network can exceed by
    more than chance, above all of boundary F1.
    """
    found = {}
    for name, one in sets.items():
        frames = [
            measure_frame(_coarse(frame, pixel_budget, one.protocol), frame.depth_m, one.protocol,
                          name_frame(frame))
            for frame in one.frames.frames()
            if frame.depth_m is not None and np.mean(frame.depth_m > 0) >= DENSE_FRACTION
        ]  # fmt: skip
        measured = tuple(frame for frame in frames if frame is not None)
        if measured:
            found[name] = Evaluation(one.protocol, measured)
    return Measured(
        f'truth@{pixel_budget}',
        TRUTH,
        pixel_budget,
        'cpu',
        {name: sets[name].content for name in found},
        {name: [frame.name for frame in one.frames] for name, one in found.items()},
        {name: _errors(one) for name, one in found.items()},
        dict.fromkeys(found, math.nan),
    )


def _coarse(frame: TimedFrame, pixel_budget: int, protocol: Protocol) -> Map:
    """True depth (H, W), reduced in ln Z and enlarged as the engine does, NaN where unknown."""
    assert frame.depth_m is not None, 'only what is measured is reduced'
    height, width = network_size(frame.camera, pixel_budget)
    capped = np.minimum(np.where(frame.depth_m > 0, frame.depth_m, np.nan), protocol.maximum_m)
    small = resize(np.log(capped), (height // OUTPUT_STRIDE, width // OUTPUT_STRIDE))
    return np.exp(resize(small, capped.shape))


def _errors(evaluation: Evaluation) -> dict[str, Values]:
    """The errors of every frame by figure of `COLUMNS`."""
    rows = [
        (
            one.errors.median_scaled.abs_rel,
            one.errors.unscaled.abs_rel,
            one.errors.median_scaled.a1,
            math.nan if one.edges is None else one.edges.boundary_f1,
            math.nan if one.confidence is None else one.confidence[SCALED].aurg,
        )
        for one in evaluation.frames
    ]
    return dict(zip(COLUMNS, np.array(rows, np.float64).T, strict=True))


def _milliseconds(evaluation: Evaluation) -> float:
    times = [one.seconds for one in evaluation.frames]
    return 1e3 * float(np.median(times)) if len(times) >= FEWEST_TIMED else math.nan


def write_measured(path: Path, command: str, measured: Sequence[Measured]) -> None:
    """Write networks with the errors of every frame as JSON. Raises TrainingError."""
    networks = []
    for one in measured:
        sets = {
            name: {
                'content': one.contents[name],
                'milliseconds': round(one.milliseconds[name], 1),
                'frames': list(one.frames[name]),
                **{figure: np.round(values, 5).tolist() for figure, values in errors.items()},
            }
            for name, errors in one.errors.items()
        }
        networks.append({
            'name': one.name, 'checkpoint': one.checkpoint, 'pixel_budget': one.pixel_budget,
            'device': one.device, 'sets': sets,
        })  # fmt: skip
    text = json.dumps(without_nan({'command': command, 'networks': networks}))
    write_file(path, (text.replace('], "', '],\n"').replace('}, "', '},\n"') + '\n').encode())


def read_measured(path: Path, only: Sequence[str] = ()) -> list[Measured]:
    """Read what `write_measured` wrote, of all sets or `only` some. Raises SettingsError."""
    try:
        return [
            _read_network(one, {k: v for k, v in one['sets'].items() if not only or k in only})
            for one in read_json_object(path)['networks']
        ]
    except (ParseError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f'{path}: is no --json of an earlier run ({type(error).__name__}: {error}); measure '
            'its checkpoints again'
        ) from error


def _read_network(values: Mapping[str, Any], sets: Mapping[str, Any]) -> Measured:
    return Measured(
        str(values['name']),
        str(values['checkpoint']),
        int(values['pixel_budget']),
        str(values['device']),
        {name: one['content'] for name, one in sets.items()},
        {name: tuple(one['frames']) for name, one in sets.items()},
        {
            name: {figure: np.array(one[figure], np.float64) for figure in COLUMNS}
            for name, one in sets.items()
        },
        {
            name: math.nan if one['milliseconds'] is None else float(one['milliseconds'])
            for name, one in sets.items()
        },
    )


def check_comparable(measured: Sequence[Measured]) -> None:
    """Raise SettingsError where networks saw other images, or share a name."""
    names = [one.name for one in measured]
    if len(set(names)) < len(names):
        raise SettingsError(
            f'networks are called {", ".join(names)}; give each a name of its own, NAME=FILE'
        )
    for one in measured[1:]:
        for name, content in one.contents.items():
            if measured[0].contents.get(name, content) != content:
                raise SettingsError(
                    f'{measured[0].name} and {one.name} saw different images or depth of '
                    f'{name}; measure both again'
                )


def render(sets: Mapping[str, MeasuringSet], measured: Sequence[Measured]) -> str:
    """The tables as Markdown: every network on every set, and the later ones against the first."""
    rows = [
        [
            sets[name].title or name,
            one.name,
            str(len(one.frames[name])),
            *_cells(one, name, single),
        ]
        for name, single in sets.items()
        for one in measured
        if name in one.errors
    ]
    heads = ['images of', 'network', 'images', *COLUMNS.values(), 'metric / scaled', 'ms']
    lines = [
        'Mean over the images and its 95 % interval. Scaled: each image by the ratio of medians; '
        'metric: as the network gives it. Boundary F1 where the truth is dense; AURG: what the '
        'confidence is worth, of AbsRel, 0 is worthless; ms: an image, the machine being as busy '
        'as it was; truth@N: the truth itself, as coarse as the output of a network of N pixels.',
        '', *markdown_table(heads, rows), '',
    ]  # fmt: skip
    for one in measured[1:]:
        if one.checkpoint == TRUTH:
            continue
        lines += [
            f'Errors of {one.name} over those of {measured[0].name}, the same images (below 1: '
            'better):',
            '',
            *markdown_table(
                ['images of', 'AbsRel, scaled', 'AbsRel, metric'],
                comparison_rows(sets, one, measured[0]),
            ),
            '',
        ]
    return '\n'.join(lines)


def _cells(one: Measured, name: str, single: MeasuringSet) -> list[str]:
    errors, time = one.errors[name], one.milliseconds[name]
    both = PairedErrors(errors[METRIC], errors[SCALED], single.block)
    return [
        *(str(estimate_mean(errors[figure], single.block)) for figure in COLUMNS),
        str(estimate_ratio(both)),
        '-' if math.isnan(time) else f'{time:.0f}',
    ]


def comparison_rows(
    sets: Mapping[str, MeasuringSet], new: Measured, old: Measured
) -> list[list[str]]:
    """Ratio of errors on each set, then geometric means of each group, and of all sets."""
    shared = [name for name in sets if name in new.errors and name in old.errors]

    def pair(name: str, figure: str) -> PairedErrors:
        errors = (one.errors[name][figure] for one in (new, old))
        return PairedErrors(*errors, sets[name].block)

    def row(title: str, names: Sequence[str]) -> list[str]:
        return [
            title,
            *(
                str(estimate_geometric_mean([pair(name, figure) for name in names]))
                for figure in (SCALED, METRIC)
            ),
        ]

    groups: dict[str, list[str]] = {}
    for name in shared:
        groups.setdefault(sets[name].group, []).append(name)
    means = {f'**{group}**, geometric mean': names for group, names in groups.items()}
    if len(groups) > 1:
        means['**all**, geometric mean'] = shared
    return [
        *(row(sets[name].title or name, [name]) for name in shared),
        *(row(title, names) for title, names in means.items()),
    ]


def parse_network(text: str) -> tuple[str, Path]:
    """Name and file of `NAME=FILE`, or of a file alone. Raises SettingsError."""
    name, separator, file = text.rpartition('=')
    path = Path(file)
    if separator and not name:
        raise SettingsError(f'{text}: expected NAME=FILE, such as old=weights/lite.safetensors')
    return name or path.stem, path


def parse_budgets(text: str) -> list[int]:
    """Pixel budgets `N,N,...`; 0 is that of a checkpoint. Raises SettingsError."""
    parts = text.split(',')
    if not all(part.isdecimal() for part in parts):
        raise SettingsError(
            f'--pixel-budget is {text}, expected whole numbers, such as 53248,106496; 0 is that '
            'of the checkpoint'
        )
    return [int(part) for part in parts]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure, print the tables."""
    parser = argparse.ArgumentParser(
        prog='python -m tools.compare_weights',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'networks', metavar='NAME=FILE', nargs='*', help='checkpoints, the first to compare with'
    )
    parser.add_argument('--data', metavar='DIR', type=Path, default=Path(),
                        help='folder of the measuring sets')  # fmt: skip
    parser.add_argument('--sets', metavar='F', type=Path, default=SETS,
                        help='default: experiments/measuring_sets.yaml')  # fmt: skip
    parser.add_argument('--only', metavar='A,B,...', default='', help='only some sets')
    parser.add_argument('--earlier', metavar='F', type=Path, action='append', default=[],
                        help='--json of an earlier run: its networks come first')  # fmt: skip
    parser.add_argument('--pixel-budget', metavar='N,N,...', default='0',
                        help='measure with each of these, as NAME@N; 0: its own')  # fmt: skip
    parser.add_argument('--truth', metavar='N,N,...', default='',
                        help='measure the truth as coarse as the output for N px')  # fmt: skip
    parser.add_argument('--json', metavar='F', type=Path, help='write the errors of every frame')
    parser.add_argument('--markdown', metavar='F', type=Path, help='write the tables here, too')
    parser.add_argument('--pictures', metavar='DIR', type=Path,
                        help='draw a frame of every set, for your eyes only')  # fmt: skip
    parser.add_argument('--page', metavar='F', type=Path,
                        help='put tables and shown pictures there: docs/weights.md')  # fmt: skip
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--backend', default='auto', help='auto, torch, openvino or onnxruntime')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    options = parser.parse_args(arguments)
    try:
        print(run(options, shlex.join(['python', '-m', 'tools.compare_weights', *sys.argv[1:]])))
    except PsdDepthError as error:
        print(f'tools.compare_weights: error: {error}', file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace, command: str) -> str:
    """Measure what is not measured yet, write what was asked for; returns the tables."""
    only = tuple(options.only.split(',')) if options.only else ()
    sets = read_sets(options.sets, only)
    files = [parse_network(text) for text in options.networks]
    measured = [one for path in options.earlier for one in read_measured(path, tuple(sets))]
    if not files and not measured and not options.truth:
        raise SettingsError('there is no network to measure; give NAME=FILE')
    budgets = parse_budgets(options.pixel_budget)
    truths = parse_budgets(options.truth) if options.truth else []
    is_loaded = files or truths
    folder = options.sets.parent
    loaded = {name: load_set(one, options.data, folder) for name, one in sets.items() if is_loaded}
    examples: dict[str, dict[str, Example]] = {name: {} for name in loaded}
    draws = options.pictures is not None or options.page is not None
    for name, path in files:
        for budget in budgets:
            engine = DepthEngine.from_checkpoint(
                path, options.device, options.backend, pixel_budget=budget
            )
            configure_runtime(engine.backend)
            called = name if len(budgets) == 1 else f'{name}@{engine.pixel_budget}'
            try:
                measured.append(measure(called, engine, loaded, options.quiet))
                for single, one in loaded.items() if draws else ():
                    examples[single][called] = pick_example(engine, one, sets[single])
            finally:
                engine.close()
    measured += [measure_truth(budget, loaded) for budget in truths]
    check_comparable(measured)
    text = render(sets, measured)
    for path in (options.json, options.markdown):
        if path is not None:
            make_folder(path.parent)
    if options.json is not None:
        write_measured(options.json, command, measured)
    if options.markdown is not None:
        write_file(options.markdown, text.encode())
    pictures = {
        name: encode_small(draw_networks(found, loaded[name].protocol, sets[name].title or name))
        for name, found in examples.items()
        if found
    }
    if options.pictures is not None:
        _write_pictures(options.pictures, pictures)
    if options.page is not None:
        write_page(options.page, sets, text, pictures)
    return text


def pick_example(engine: DepthEngine, loaded: LoadedSet, one: MeasuringSet) -> Example:
    """The frame of a set that is drawn, or its last one where it has fewer."""
    place = min(one.picture, loaded.frames.count - 1)
    loaded.frames.select(slice(place, place + 1))
    try:
        return evaluate(engine, loaded.frames, loaded.protocol, examples=1).examples.best[0]
    finally:
        loaded.frames.select(slice(None))


def write_page(
    page: Path, sets: Mapping[str, MeasuringSet], tables: str, pictures: Mapping[str, bytes]
) -> None:
    """Put tables and pictures into a page between its marks, pictures beside it.

    Only pictures that may be shown, into a folder of the page's name. Raises SettingsError for a
    page without marks.
    """
    shown = {name: data for name, data in pictures.items() if sets[name].shown}
    entries = [
        f'![{sets[name].title or name}]({page.stem}/{name}.jpg)\n\n'
        f'{sets[name].title or name}. Images: {sets[name].credit}.\n'
        for name in shown
    ]
    try:
        text = page.read_text(encoding='utf-8')
        text = replace_table(text, 'figures of weights', tables)
        text = replace_table(text, 'pictures of weights', '\n'.join(entries))
    except (OSError, ValueError) as error:
        raise SettingsError(f'{page}: cannot take the figures: {error}') from error
    _write_pictures(page.with_suffix(''), shown)
    write_file(page, text.encode())


def _write_pictures(folder: Path, pictures: Mapping[str, bytes]) -> None:
    make_folder(folder)
    for name, data in pictures.items():
        write_file(folder / f'{name}.jpg', data)


if __name__ == '__main__':
    sys.exit(main())
