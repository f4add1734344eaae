"""Which part of PSD earns what: one recipe with parts switched on and off, trained and compared.

Every run sees the same rendered worlds; every network is measured on worlds that none has seen.
What was found is in `ablation_table`, what it looks like in `ablation_sheet`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.config import build, flatten
from psd_depth_ros.data.frames import Sequence as Recording
from psd_depth_ros.data.readers.worlds import list_worlds, PREFIX
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.prepare import Preparation, prepare_sequences
from psd_depth_ros.errors import EvaluationError, SettingsError
from psd_depth_ros.evaluation.evaluate import evaluate, EVERYTHING
from psd_depth_ros.evaluation.protocols import find_protocol
from psd_depth_ros.evaluation.samples import Sample, SampleList
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.training.ablation_folder import AblationFolder
from psd_depth_ros.training.ablation_table import FIGURES, RunResult
from psd_depth_ros.training.clip_task import ClipTask, FINE_FACTOR
from psd_depth_ros.training.logging import StepReport
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.start import Start

SHOWN_FRAMES = 4
PROTOCOL = 'outdoor'
FOREVER = 10_000_000  # steps, where minutes end a run

Map = NDArray[np.float32]
Report = Callable[[str, int, StepReport], None]


@dataclass(frozen=True)
class Variant:
    """One way to train: what it changes in the recipe.

    It takes as many steps as the others, or with `as_long_as` as many as fit into the computing
    time of that variant.
    """

    name: str
    title: str
    changes: Mapping[str, Any]
    as_long_as: str = ''
    is_control: bool = False


_FAR = {
    'patch.share': 0.0, 'patch.weight': 0.0, 'distillation.enabled': False,
    'patch_mix.enabled': False,
}  # fmt: skip
_BINS = {**_FAR, 'patch.enabled': False, 'far.fine_weight': 0.0, 'far.unmasked_px': 0.0}
_BASELINE = {
    **_BINS, 'head': 'disparity', 'objective.uniformity': 0.0, 'objective.bin_usage': 0.0,
}  # fmt: skip
_PATCHES = {'distillation.enabled': False, 'patch_mix.enabled': False}
_FULL = {'patch_mix.enabled': False}
# In the order in which they are trained.
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant('A0', 'baseline (monodepth2)', _BASELINE),
        Variant('A3', 'A2 + distillation (full PSD)', _FULL),
        Variant('A0+', 'baseline, computing time of A3', _BASELINE, as_long_as='A3'),
        Variant('A1', 'A0 + bin head', _BINS),
        Variant('A1f', 'A1 + far parts of the image judged by fine pixels', _FAR),
        Variant('A2', 'A1f + patch branch', _PATCHES),
        Variant('A4', 'A3 + PatchMix', {}),
        Variant('A3r', 'A3, patches anywhere', {**_FULL, 'patch.choice': 'random'},
                is_control=True),
        Variant('A3u', 'A3, distillation without mask', {**_FULL, 'distillation.masked': False},
                is_control=True),
        Variant('A3m', 'A3, metric patches', {
            **_FULL, 'patch.convention': 'metric', 'patch.largest_offset': 10.0,
        }, is_control=True),
    )
}  # fmt: skip
_WORLD = 'frames=2&frame_rate_hz=0.5&size=896x256&focal_px=560&camera_height_m=1.5'
# Seeds of worlds to train on are below 1 000 000.
TEST_WORLDS = (
    f'synth:street:2000000-2000019?{_WORLD}',
    f'synth:street:2000020-2000023?{_WORLD}&condition=any',
)


@dataclass(frozen=True)
class Plan:
    """What is compared: variants of a recipe, and the worlds they are measured on.

    With `minutes` the first baseline takes that long, and all others take its number of steps.
    """

    recipe: VideoRecipe
    runs: tuple[str, ...] = tuple(VARIANTS)
    seeds: int = 3
    minutes: float | None = None
    test: tuple[str, ...] = TEST_WORLDS

    def __post_init__(self) -> None:
        """Raise SettingsError where nothing, or nothing fair, can come out."""
        unknown = [name for name in self.runs if name not in VARIANTS]
        if unknown or not self.runs:
            raise SettingsError(
                f'runs are {", ".join(self.runs) or "none"}, expected some of '
                f'{", ".join(VARIANTS)}'
            )
        if self.minutes is not None and 'A0' not in self.runs:
            raise SettingsError('with minutes, A0 says how many steps the others take: run it too')
        for name in self.runs:
            other = VARIANTS[name].as_long_as
            if other and not {'A0', other} <= set(self.runs):
                raise SettingsError(f'{name} takes as long as {other}: run A0 and {other} too')
        paths = [path for path in self.recipe.data.paths if path.startswith(PREFIX)]
        if _places(paths) & _places(self.test):
            raise SettingsError('worlds to train on and to test on share a seed; keep them apart')

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """Variant and seed of every run in order: one seed after the other, controls last."""
        ordered = [variant for variant in VARIANTS.values() if variant.name in self.runs]
        return [
            (variant.name, seed)
            for is_control in (False, True)
            for seed in range(1, self.seeds + 1)
            for variant in ordered
            if variant.is_control == is_control
        ]


class Ablation:
    """Trains the runs of a plan into RUN/runs, and measures them.

    `worlds` keeps rendered frames. Raises BagError or SettingsError for worlds of no use.
    """

    def __init__(
        self,
        plan: Plan,
        folder: AblationFolder,
        start: Start,
        start_id: str = '',
        *,
        worlds: Path | None = None,
        device: str = 'auto',
        report: Callable[[str, int, int], None] = lambda name, done, total: None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self._start, self._start_id = start, start_id
        self._device = device
        worlds = worlds or folder.worlds
        self._data = self._prepare(plan.recipe.data, worlds, report)
        self._data.check()
        if not self._data.held_out:
            raise SettingsError(
                'nothing is held out, so that no run can be judged: more frames per world, or a '
                f'larger data.clips.held_out (is {plan.recipe.data.clips.held_out:g})'
            )
        test = replace(DataSettings(), paths=plan.test)
        self.samples = as_samples(self._prepare(test, worlds, report))
        folder.keep_frames(
            [(one.rgb, one.truth) for one in shown_samples(self.samples) if one.truth is not None]
        )

    def _prepare(
        self, data: DataSettings, worlds: Path, report: Callable[[str, int, int], None]
    ) -> Preparation:
        budget = self.plan.recipe.pixel_budget
        return prepare_sequences(
            data, pixel_budget=budget, cache=worlds, fine_factor=FINE_FACTOR, report=report
        )

    def run(
        self, name: str, seed: int, report: Report = lambda name, seed, how: None
    ) -> RunResult:
        """Train and measure one variant; a run that was broken off begins anew."""
        self.folder.clear(name, seed)
        recipe = self.recipe_for(name, seed)
        task = ClipTask(recipe, self._data, self._start)
        task.start_id = self._start_id
        before = time.process_time()
        outcome = run_training(
            task,
            RunFolder(self.folder.run(name, seed)),
            device=self._device,
            report=lambda how: report(name, seed, how),
        )
        compute_s = outcome.seconds
        if next(task.module.parameters()).device.type == 'cpu':
            # the same whatever else the machine does
            compute_s = time.process_time() - before
        figures, depths = self._measure(outcome.path)
        result = RunResult(
            name, seed, outcome.step, recipe.batch * outcome.step, outcome.seconds, compute_s,
            figures,
        )  # fmt: skip
        self.folder.keep(result, depths)
        return result

    def recipe_for(self, name: str, seed: int) -> VideoRecipe:
        """The recipe of one run."""
        plan, variant = self.plan, VARIANTS[name]
        changes: dict[str, Any] = {'name': name, 'seed': seed, **variant.changes}
        if variant.as_long_as:
            one, other = (self._find(run, seed) for run in ('A0', variant.as_long_as))
            ratio = max(1.0, other.compute_s / one.compute_s)
            changes['steps'] = round(one.steps * ratio)
        elif plan.minutes is not None and (name, seed) == plan.jobs[0]:
            changes |= {'steps': FOREVER, 'max_minutes': plan.minutes}
        elif plan.minutes is not None:
            changes['steps'] = self._find(*plan.jobs[0]).steps
        return build(VideoRecipe, {**flatten(plan.recipe), **changes}, f'ablation {name}')

    def _find(self, name: str, seed: int) -> RunResult:
        result = self.folder.result(name, seed)
        if result is None:
            raise SettingsError(f'run {name} of seed {seed} has to come first')
        return result

    def _measure(self, checkpoint: Path | None) -> tuple[dict[str, float | None], list[Map]]:
        """Figures by name over all test frames, and the depth of those that are drawn.

        A network that collapsed, to infinite depth everywhere, has neither.
        """
        nothing = dict.fromkeys([figure.name for figure in FIGURES])
        if checkpoint is None:
            return nothing, []
        engine = DepthEngine.from_checkpoint(checkpoint, self._device, 'torch')
        try:
            found = evaluate(engine, self.samples, find_protocol(PROTOCOL)).as_dict()
            shown = [
                engine.infer_batch([(sample.rgb, sample.camera)], settings=EVERYTHING)[0].depth_m
                for sample in shown_samples(self.samples)
            ]
        except EvaluationError:
            return nothing, []
        finally:
            engine.close()
        return {figure.name: figure.of(found) for figure in FIGURES}, shown


def as_samples(data: Preparation) -> SampleList[tuple[Recording, int]]:
    """Rendered frames with their truth, each on its own. Raises SettingsError without a truth."""
    for recording in data.sequences:
        if recording.depth is None:
            raise SettingsError(f'{recording.name} has no true depth; test on synth:street:...')
    items = [(one, index) for one in data.sequences for index in range(len(one.rgb))]
    return SampleList(items, _load)


def _load(item: tuple[Recording, int]) -> Sample:
    recording, index = item
    assert recording.depth is not None, 'checked before'
    truth = np.asarray(recording.depth[index], np.float32)
    rgb = np.ascontiguousarray(recording.rgb[index])
    return Sample(f'{recording.name}-{index}', rgb, recording.camera, truth)


def shown_samples(samples: SampleList[tuple[Recording, int]]) -> list[Sample]:
    """Some frames from all over, to be drawn."""
    step = max(1, samples.count // SHOWN_FRAMES)
    return list(samples.part(slice(step // 2, None, step)))[:SHOWN_FRAMES]


def _places(paths: Sequence[str]) -> set[str]:
    """KIND:SEED of every world."""
    return {name.partition('?')[0] for path in paths for name in list_worlds(path)}
