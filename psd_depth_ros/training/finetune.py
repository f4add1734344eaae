"""Fine-tuning on recordings, top to bottom: learn, measure old and new, take the better.

The same function serves the command line and the process that the node starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
import math
import os
from pathlib import Path
import shutil
from typing import Any

import torch

from psd_depth_ros import __version__
from psd_depth_ros.checkpoint import Checkpoint, default_checkpoint, load_checkpoint
from psd_depth_ros.config import dump, parse_changes
from psd_depth_ros.errors import BagError, CheckpointError, SettingsError
from psd_depth_ros.files import set_aside
from psd_depth_ros.inference.backends import choose_device
from psd_depth_ros.networks import load_model, preset
from psd_depth_ros.networks.depth_model import PRESETS
from psd_depth_ros.parsing import user_path
from psd_depth_ros.training.acceptance import HeldOut, judge, Verdict
from psd_depth_ros.training.checkpoints import has_state
from psd_depth_ros.training.clip_task import ClipTask
from psd_depth_ros.training.files import explained_disk
from psd_depth_ros.training.finetune_folder import FinetuneFolder
from psd_depth_ros.training.finetune_recipe import make_recipe
from psd_depth_ros.training.finetune_report import (
    ACCEPTED,
    FinetuneReport,
    FinetuneStatus,
    JUDGING,
    KEPT,
    PREPARING,
    STOPPED,
    TRAINING,
)
from psd_depth_ros.training.finetune_settings import FinetuneSettings
from psd_depth_ros.training.progress import Outcome, Progress
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.start import has_shape
from psd_depth_ros.training.task import Task
from psd_depth_ros.training.trainer import run_training

Report = Callable[[FinetuneStatus], None]


class _StoppedError(Exception):
    """Asked to end while recordings were being decoded."""


def finetune(
    settings: FinetuneSettings,
    *,
    resume: bool = False,
    report: Report = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> FinetuneReport:
    """Fine-tune a network and leave OUTPUT/best.safetensors and OUTPUT/report.json.

    best.safetensors holds the old weights until the new ones have passed the gate. Where `stop()`
    becomes true, the run ends at the next step and can be resumed. Raises PsdDepthError where
    settings, recordings, weights or disk are no good; a run that could not begin leaves nothing.
    """
    if int(os.environ.get('WORLD_SIZE', '1')) > 1:
        raise SettingsError(
            'fine-tuning runs in one process, without accelerate launch or torchrun; '
            '`psd-depth train` uses several'
        )
    recipe = make_recipe(settings)
    device = choose_device(settings.device)
    folder = FinetuneFolder(user_path(settings.output), resume=resume)
    try:
        return _finetune(settings, recipe, str(device), folder, report, stop)
    finally:
        folder.close()


def _finetune(
    settings: FinetuneSettings,
    recipe: VideoRecipe,
    device: str,
    folder: FinetuneFolder,
    report: Report,
    stop: Callable[[], bool],
) -> FinetuneReport:
    start, notes = _load_start(settings, folder)
    run = _Run(settings, _follow(recipe, settings, start), start, device, folder, notes)
    try:
        folder.begin(Path(start.path), dump(settings))
        task = _prepare(run, report, stop)
    except _StoppedError:
        return run.end(STOPPED, 'asked to, while the recordings were decoded')
    except BaseException:
        folder.undo()
        raise
    watch = Watch(settings, run.recipe.steps, run.newest_preview, report)
    outcome = run_training(
        task,
        run.training,
        device=settings.device,
        resume=has_state(run.training.states),
        report=watch.tell,
        stop=lambda: stop() or watch.is_patience_over,
    )
    if outcome.path is None or (outcome.stopped and not watch.is_patience_over):
        return run.end(STOPPED, f'asked to, at step {outcome.step}', task, outcome, watch)
    return _judge(run, task, outcome, watch, report)


@dataclass(frozen=True)
class _Run:
    """What does not change in a run."""

    settings: FinetuneSettings
    recipe: VideoRecipe
    start: Checkpoint
    device: str
    folder: FinetuneFolder
    notes: tuple[str, ...] = ()

    @property
    def training(self) -> RunFolder:
        return RunFolder(self.folder.training)

    def newest_preview(self) -> str:
        """The newest picture, '' before the first."""
        pictures = sorted((self.training.path / 'previews').glob('*.jpg'))
        return str(pictures[-1]) if pictures else ''

    def end(
        self,
        state: str,
        reason: str,
        task: Task | None = None,
        outcome: Outcome | None = None,
        watch: Watch | None = None,
        **measured: Any,
    ) -> FinetuneReport:
        """Write report.json."""
        recordings = task.data_description() if task is not None else {}
        report = FinetuneReport(
            state=state,
            reason=reason,
            best=str(self.folder.best.absolute()),
            checkpoint=load_checkpoint(self.folder.best).id,
            start=f'{self.start.info.name} {self.start.id}',
            steps=outcome.step if outcome else 0,
            of=self.recipe.steps,
            minutes=round(outcome.seconds / 60.0, 2) if outcome else 0.0,
            images_per_second=round(watch.images_per_second, 2) if watch else 0.0,
            device=_name(self.device),
            ended=watch.ended(outcome) if watch and outcome else '',
            data=tuple(recordings.get('recordings', ())),
            unreadable=tuple(recordings.get('unreadable', ())),
            rejected=recordings.get('rejected', {}),
            notes=(
                *recordings.get('notes', ()),
                *self.notes,
                *(outcome.notes if outcome else ()),
            ),
            run={'settings': dump(self.settings), 'psd_depth_ros': __version__},
            **measured,
        )
        self.folder.finish(report)
        return report


class Watch:
    """Follows a training: tells how it goes, and when there is nothing more to hope for."""

    def __init__(
        self, settings: FinetuneSettings, steps: int, preview: Callable[[], str], report: Report
    ) -> None:
        self._patience = settings.patience
        self._steps = steps
        self._preview = preview
        self._report = report
        self._best = math.inf
        self._vain = 0
        self._scores: Mapping[str, float] = {}
        self.images_per_second = 0.0

    @property
    def is_patience_over(self) -> bool:
        """Whether enough validations in a row brought nothing better."""
        return 0 < self._patience <= self._vain

    def tell(self, progress: Progress) -> None:
        """Pass a step on."""
        self.images_per_second = progress.images_per_second
        if progress.scores:
            self._scores = progress.scores
            better = progress.scores['score'] < self._best
            self._best = min(self._best, progress.scores['score'])
            self._vain = 0 if better else self._vain + 1
        self._report(
            FinetuneStatus(
                TRAINING,
                step=progress.step,
                of=max(progress.step, round(progress.step / progress.share)),
                losses=dict(progress.losses),
                scores=dict(self._scores),
                images_per_second=progress.images_per_second,
                seconds=progress.seconds,
                seconds_left=progress.seconds_left,
                preview=self._preview(),
            )
        )

    def ended(self, outcome: Outcome) -> str:
        """Why the training ended."""
        if self.is_patience_over:
            return f'nothing better in {self._patience} validations'
        if outcome.stopped:
            return 'stopped'
        done = outcome.step >= self._steps
        return 'all steps done' if done else 'the time was over'


def _load_start(
    settings: FinetuneSettings, folder: FinetuneFolder
) -> tuple[Checkpoint, tuple[str, ...]]:
    """The weights a run starts from: a resumed one has them in its folder, else asks for them.

    What was damaged is told. Raises CheckpointError where the run began with others.
    """
    damage = ''
    if folder.best.exists():
        try:
            return load_checkpoint(folder.best), ()
        except CheckpointError as error:
            damage = str(error)
    start = load_checkpoint(settings.checkpoint or default_checkpoint())
    if not damage:
        return start, ()
    if folder.start_id not in (None, start.id):
        raise CheckpointError(
            f'{damage}. The run began with the weights {folder.start_id}, and {start.path} is '
            f'{start.id}: give --checkpoint (the parameter checkpoint) as at the start, and resume'
        )
    with explained_disk(folder.best, 0):
        aside = set_aside(folder.best).name
    return start, (f'{damage}: {start.path} took its place, the old one is {aside}',)


def _follow(recipe: VideoRecipe, settings: FinetuneSettings, start: Checkpoint) -> VideoRecipe:
    """Let the recipe want the network that it starts from, unless told otherwise by `changes`."""
    architecture = load_model(start).architecture
    focal_px = start.info.output.canonical_focal_px
    found: dict[str, Any] = {'head': architecture.head, 'canonical_focal_px': focal_px}
    for name in PRESETS:
        if has_shape(architecture, preset(name, architecture.head)):
            found['preset'] = name
    asked = parse_changes(settings.changes, 'changes')
    return replace(recipe, **{name: one for name, one in found.items() if name not in asked})


def _prepare(run: _Run, report: Report, stop: Callable[[], bool]) -> ClipTask:
    """Decode the recordings and build what is trained."""

    def advance(done: int, total: int) -> None:
        if stop():
            raise _StoppedError
        report(FinetuneStatus(PREPARING, done, total, 'preparing recordings'))

    report(FinetuneStatus(PREPARING, detail='looking at the recordings'))
    resumable = has_state(run.training.states)
    if not resumable:
        shutil.rmtree(run.folder.training, ignore_errors=True)
    task = ClipTask.from_recipe(run.recipe, run.folder.path, run.start, advance)
    recordings = task.data_description()['recordings']
    if not sum(one['held_out'] for one in recordings):
        names = ', '.join(f'{one["name"]} ({one["frames"]} frames)' for one in recordings)
        raise BagError(
            f'nothing is held out of {names}, so nobody could tell whether new weights are '
            'better; give longer recordings, or a larger data.clips.held_out (is '
            f'{run.recipe.data.clips.held_out:g})'
        )
    return task


def _judge(
    run: _Run, task: ClipTask, outcome: Outcome, watch: Watch, report: Report
) -> FinetuneReport:
    """Measure old and new on the held-out tail and take the better."""
    assert outcome.path is not None
    of = 2 * task.held_out_count
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        report(FinetuneStatus(JUDGING, done, of, 'old and new weights on the held-out tail'))

    advance(0)
    weights = (run.start, load_checkpoint(outcome.path))
    before, after = (_measure(task, one, advance) for one in weights)
    held_out = (HeldOut.from_scores(before), HeldOut.from_scores(after))
    verdict: Verdict = judge(*held_out, run.settings.acceptance)
    if verdict.accepted:
        run.folder.promote(outcome.path)
    return run.end(
        ACCEPTED if verdict.accepted else KEPT,
        verdict.reason,
        task,
        outcome,
        watch,
        before=before,
        after=after,
        checks=tuple(asdict(check) for check in verdict.checks),
    )


def _measure(
    task: ClipTask, checkpoint: Checkpoint, advance: Callable[[int], None]
) -> dict[str, float]:
    device = next(task.module.parameters()).device
    return task.validate(load_model(checkpoint).to(device).eval(), advance)


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith('cuda') else device
