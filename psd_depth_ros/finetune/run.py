"""Fine-tuning on recordings, top to bottom: learn, measure old and new, take the better.

The same function serves the command line and the process that the node starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any

import torch

from psd_depth_ros import __version__
from psd_depth_ros.checkpoint import Checkpoint, default_checkpoint, load_checkpoint
from psd_depth_ros.config import change, dump, parse_changes, specs, validate
from psd_depth_ros.errors import BagError, CheckpointError, SettingsError
from psd_depth_ros.files import FolderLock, is_temporary, remove_temporaries, set_aside
from psd_depth_ros.finetune.acceptance import HeldOut, judge, Verdict
from psd_depth_ros.finetune.report import (
    ACCEPTED,
    FinetuneReport,
    FinetuneStatus,
    JUDGING,
    KEPT,
    PREPARING,
    STOPPED,
    TRAINING,
)
from psd_depth_ros.finetune.settings import FinetuneSettings
from psd_depth_ros.inference.backends import choose_device
from psd_depth_ros.networks import load_model, preset
from psd_depth_ros.networks.depth_model import PRESETS
from psd_depth_ros.parsing import ParseError, read_json_object, user_path
from psd_depth_ros.training.clip_task import ClipTask
from psd_depth_ros.training.logging import StepReport
from psd_depth_ros.training.loop import Outcome, run_training
from psd_depth_ros.training.recipe import find_recipe, read_recipe, VideoRecipe
from psd_depth_ros.training.run_folder import (
    explained_disk,
    has_state,
    lock_folder,
    make_folder,
    RunFolder,
    write_file,
)
from psd_depth_ros.training.start import has_shape
from psd_depth_ros.training.task import Task


def make_recipe(settings: FinetuneSettings) -> VideoRecipe:
    """The recipe with everything that the settings say about it. Raises SettingsError."""
    validate(settings)
    for name in ('bags', 'output'):
        if not getattr(settings, name):
            raise SettingsError(f'{name} is empty; expected {_describe(name)}')
    if settings.camera and settings.horizontal_fov_deg:
        raise SettingsError(
            'camera and horizontal_fov_deg both say what the lens is; give one of them'
        )
    recipe = read_recipe(find_recipe(settings.recipe))
    if not isinstance(recipe, VideoRecipe):
        raise SettingsError(
            f'recipe {settings.recipe} is of kind {recipe.kind!r}, expected video, which learns '
            'from recordings'
        )
    recipe = change(recipe, settings.changes, 'changes')
    data = replace(
        recipe.data,
        paths=settings.bags,
        image_topic=settings.image_topic or recipe.data.image_topic,
        camera_info_topic=settings.camera_info_topic or recipe.data.camera_info_topic,
        camera=settings.camera or recipe.data.camera,
        horizontal_fov_deg=settings.horizontal_fov_deg or recipe.data.horizontal_fov_deg,
        rectify_alpha=(
            settings.rectify_alpha if settings.rectify_alpha >= 0 else recipe.data.rectify_alpha
        ),
        strict=settings.strict or recipe.data.strict,
    )
    return replace(
        recipe,
        data=data,
        steps=settings.steps or recipe.steps,
        max_minutes=settings.minutes or recipe.max_minutes,
    )


def _describe(name: str) -> str:
    return next(spec.description for spec in specs(FinetuneSettings) if spec.name == name)


NEW, UNFINISHED, FINISHED, FOREIGN = 'new', 'unfinished', 'finished', 'foreign'


def folder_state(path: Path) -> str:
    """Tell what is in a folder: new, unfinished, finished, or foreign where it is no run.

    What is only half-written does not count. Raises TrainingError where nobody may look.
    """
    with explained_disk(path, 0):
        if not path.exists() or (path.is_dir() and all(map(is_temporary, path.iterdir()))):
            return NEW
        if not (path / 'settings.json').is_file():
            return FOREIGN
    try:
        state = read_json_object(path / 'report.json').get('state')
    except ParseError:
        return UNFINISHED
    return FINISHED if state in (ACCEPTED, KEPT) else UNFINISHED


class FinetuneFolder:
    """Opens `path` for a run, which has it alone until `close`.

    Raises SettingsError where `resume` and what is in it disagree, or another process has it.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._existed = path.is_dir()
        self._lock: FolderLock | None = lock_folder(path) if self._existed else None
        try:
            self._is_new = self._check(resume)
        except BaseException:
            self.close()
            raise

    def _check(self, resume: bool) -> bool:
        """Whether the folder is new, where it is one that may be used."""
        path = self.path
        state = folder_state(path)
        if resume and state != UNFINISHED:
            raise SettingsError(f'{path}: there is nothing to resume here; {next_step(state)}')
        if not resume and state != NEW:
            raise SettingsError(f'{path}: the output folder is not empty; {next_step(state)}')
        return state == NEW

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def best(self) -> Path:
        """The weights to use."""
        return self.path / 'best.safetensors'

    @property
    def frames(self) -> Path:
        """Where recordings are kept decoded."""
        return self.path / 'frames'

    @property
    def training(self) -> Path:
        """The folder of the training itself."""
        return self.path / 'training'

    def begin(self, start: Path, settings: Mapping[str, Any]) -> None:
        """Keep what was asked for and put the start in the place of the best.

        Whatever a run that never came to train had been asked for is forgotten.
        """
        make_folder(self.path)
        if self._lock is None:
            self._lock = lock_folder(self.path)
            if folder_state(self.path) != NEW:  # another process was faster, and has ended
                self.close()
                raise SettingsError(
                    f'{self.path}: the output folder is not empty; {next_step(UNFINISHED)}'
                )
        remove_temporaries(self.path)
        if self._is_new or not has_state(self.training / 'state'):
            self._write('settings.json', json.dumps(settings, indent=2) + '\n')
        if not self.best.is_file():
            self.promote(start)

    @property
    def start_id(self) -> str | None:
        """Content id of the weights that the training began with; None where nobody knows."""
        try:
            start = read_json_object(self.training / 'run.json').get('start')
        except ParseError:
            return None
        return start if isinstance(start, str) else None

    def promote(self, weights: Path) -> None:
        """Make a checkpoint the one to use."""
        with explained_disk(self.best, 0):
            content = weights.read_bytes()
        write_file(self.best, content)

    def finish(self, report: FinetuneReport) -> None:
        """Write report.json."""
        self._write('report.json', report.as_json())

    def undo(self) -> None:
        """Take a run that could not begin away again: the next try finds the place as it was."""
        if not self._is_new or self._lock is None:
            return
        for name in ('best.safetensors', 'settings.json', 'report.json'):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.training, self.frames):
            shutil.rmtree(folder, ignore_errors=True)
        if not self._existed:
            with suppress(OSError):
                self.path.rmdir()

    def _write(self, name: str, text: str) -> None:
        write_file(self.path / name, text.encode())


def next_step(state: str) -> str:
    """What a person can do about a folder in such a state."""
    return {
        NEW: 'start a new run there without resuming',
        UNFINISHED: 'resume the run in it (--resume), or name another folder',
        FINISHED: 'the run in it is over (report.json tells what came of it); name another folder',
        FOREIGN: 'it holds something else; name another folder',
    }[state]


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

    def tell(self, step: StepReport) -> None:
        """Pass a step on."""
        self.images_per_second = step.images_per_second
        if step.scores:
            self._scores = step.scores
            better = step.scores['score'] < self._best
            self._best = min(self._best, step.scores['score'])
            self._vain = 0 if better else self._vain + 1
        self._report(
            FinetuneStatus(
                TRAINING,
                step=step.step,
                of=step.total_steps,
                losses=dict(step.losses),
                scores=dict(self._scores),
                images_per_second=step.images_per_second,
                seconds=step.seconds,
                seconds_left=step.seconds_left,
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
