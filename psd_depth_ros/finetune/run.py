"""Fine-tuning on recordings: train, measure old and new weights, keep the better ones.

`finetune` serves the command line and the process that the ROS node starts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from psd_depth_ros.config import dump, parse_changes, specs, validate
from psd_depth_ros.errors import BagError, CheckpointError, SettingsError
from psd_depth_ros.external.hub import find_start
from psd_depth_ros.external.options import HUB
from psd_depth_ros.files import explained_disk, set_aside
from psd_depth_ros.finetune.acceptance import check_acceptance, HeldOutScores
from psd_depth_ros.finetune.folder import FinetuneFolder
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
from psd_depth_ros.inference.choose import choose_device
from psd_depth_ros.networks import load_model, preset
from psd_depth_ros.networks.depth_model import PRESETS
from psd_depth_ros.networks.encoders import read_encoder_weights
from psd_depth_ros.objectives.ss_mde import PSEUDO_DEPTH
from psd_depth_ros.parsing import user_path
from psd_depth_ros.teachers import open_depth_teacher
from psd_depth_ros.training.logging import StepReport
from psd_depth_ros.training.loop import Outcome, run_training
from psd_depth_ros.training.recipe import (
    change_recipe,
    find_recipe,
    read_finetune_recipe,
    VideoRecipe,
)
from psd_depth_ros.training.run_folder import has_state, RunFolder
from psd_depth_ros.training.task import has_shape, NewStudent, Task
from psd_depth_ros.training.video_task import VideoTask


def make_recipe(settings: FinetuneSettings) -> VideoRecipe:
    """The recipe, changed by the settings. Raises SettingsError."""
    validate(settings)
    for name in ('bags', 'output'):
        if not getattr(settings, name):
            raise SettingsError(f'{name} is empty; expected {_describe(name)}')
    if settings.camera and settings.horizontal_fov_deg:
        raise SettingsError(
            'camera and horizontal_fov_deg both say what the lens is; give one of them'
        )
    if settings.checkpoint and not settings.checkpoint.startswith(HUB):
        find_start(settings.checkpoint)  # told at once; the hub is asked when the run begins
    recipe = read_finetune_recipe(find_recipe(settings.recipe))
    if not isinstance(recipe, VideoRecipe):
        raise SettingsError(
            f'recipe {settings.recipe} is of kind {recipe.kind!r}, expected video, which learns '
            'from recordings'
        )
    recipe = change_recipe(recipe, [*_teach(settings.teacher), *settings.changes], 'changes')
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


def _teach(spec: str) -> list[str]:
    """Changes of a recipe that name its teacher, and what its maps lack."""
    if not spec:
        return []
    teacher = open_depth_teacher(spec)
    alignment = 'scale' if teacher.gives_depth else 'affine'
    name = f'objective.{PSEUDO_DEPTH}'
    return [f'{name}.teacher={json.dumps(spec)}', f'{name}.alignment={alignment}']


def _describe(name: str) -> str:
    return next(spec.description for spec in specs(FinetuneSettings) if spec.name == name)


Report = Callable[[FinetuneStatus], None]


class _StoppedError(Exception):
    """Stopped while recordings were decoded."""


def finetune(
    settings: FinetuneSettings,
    *,
    resume: bool = False,
    report: Report = lambda status: None,
    stop: Callable[[], bool] = lambda: False,
) -> FinetuneReport:
    """Fine-tune a network; writes OUTPUT/best.safetensors and OUTPUT/report.json.

    best.safetensors holds the old weights until the new ones are accepted.

    Args:
        settings: recordings, start weights, length and acceptance limits.
        resume: continue the run in the output folder.
        report: called with the status of each step of preparing, training and judging.
        stop: where it returns true, the run ends at the next step and can be resumed.

    Raises:
        PsdDepthError: unusable settings, recordings, weights or disk. A run that could not begin
            leaves nothing behind.
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
    matched = _match_start(recipe, settings, start)
    student = _make_student(matched, settings, start)
    if student is not None:
        notes = (*notes, _describe_student(matched, student, start))
    trained = has_state(RunFolder(folder.training).states)
    run = _Run(settings, matched, start, device, folder, notes, student, resumed=trained)
    try:
        folder.begin(Path(start.path), dump(settings), trained=trained)
        task = _prepare(run, report, stop)
    except _StoppedError:
        return run.end(STOPPED, 'asked to, while the recordings were decoded')
    except BaseException:
        folder.undo()
        raise
    early = EarlyStopping(settings, run.recipe.steps, run.newest_preview, report)
    outcome = run_training(
        task,
        run.training,
        device=settings.device,
        resume=has_state(run.training.states),
        report=early.update,
        stop=lambda: stop() or early.is_over,
    )
    if outcome.path is None or (outcome.stopped and not early.is_over):
        return run.end(STOPPED, f'asked to, at step {outcome.step}', task, outcome, early)
    return _judge(run, task, outcome, early, report)


@dataclass(frozen=True)
class _Run:
    """The constants of a run."""

    settings: FinetuneSettings
    recipe: VideoRecipe
    start: Checkpoint
    device: str
    folder: FinetuneFolder
    notes: tuple[str, ...] = ()
    student: NewStudent | None = None  # where the network is made anew
    resumed: bool = False

    @property
    def training(self) -> RunFolder:
        return RunFolder(self.folder.training)

    def newest_preview(self) -> str:
        """The newest preview image, '' before the first."""
        pictures = sorted((self.training.path / 'previews').glob('*.jpg'))
        return str(pictures[-1]) if pictures else ''

    def end(
        self,
        state: str,
        reason: str,
        task: Task | None = None,
        outcome: Outcome | None = None,
        early: EarlyStopping | None = None,
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
            images_per_second=round(early.images_per_second, 2) if early else 0.0,
            device=_name(self.device),
            ended=early.reason(outcome) if early and outcome else '',
            data=tuple(recordings.get('recordings', ())),
            unreadable=tuple(recordings.get('unreadable', ())),
            rejected=recordings.get('rejected', {}),
            notes=(
                *recordings.get('notes', ()),
                *self.notes,
                *(task.describe_cache(resumed=self.resumed) if task else ()),
                *(outcome.notes if outcome else ()),
            ),
            run={'settings': dump(self.settings), 'psd_depth_ros': __version__},
            **measured,
        )
        self.folder.finish(report)
        return report


class EarlyStopping:
    """Reports the steps of a training, and ends it after validations without improvement."""

    def __init__(
        self, settings: FinetuneSettings, steps: int, preview: Callable[[], str], report: Report
    ) -> None:
        self._patience = settings.patience
        self._steps = steps
        self._preview = preview
        self._report = report
        self._best = math.inf
        self._without_gain = 0
        self._scores: Mapping[str, float] = {}
        self.images_per_second = 0.0

    @property
    def is_over(self) -> bool:
        """Whether `patience` validations in a row brought no improvement."""
        return 0 < self._patience <= self._without_gain

    def update(self, step: StepReport) -> None:
        """Report a step and count validations."""
        self.images_per_second = step.images_per_second
        if step.scores:
            self._scores = step.scores
            better = step.scores['score'] < self._best
            self._best = min(self._best, step.scores['score'])
            self._without_gain = 0 if better else self._without_gain + 1
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

    def reason(self, outcome: Outcome) -> str:
        """Why the training ended, for the report."""
        if self.is_over:
            return f'nothing better in {self._patience} validations'
        if outcome.stopped:
            return 'stopped'
        done = outcome.step >= self._steps
        return 'all steps done' if done else 'the time was over'


def _load_start(
    settings: FinetuneSettings, folder: FinetuneFolder
) -> tuple[Checkpoint, tuple[str, ...]]:
    """The start weights (of a resumed run, those in its folder), and notes about damage.

    Raises CheckpointError where the run was started from other weights.
    """
    damage = ''
    if folder.best.exists():
        try:
            return load_checkpoint(folder.best), ()
        except CheckpointError as error:
            damage = str(error)
    start = load_checkpoint(find_start(settings.checkpoint or str(default_checkpoint())))
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


def _match_start(
    recipe: VideoRecipe, settings: FinetuneSettings, start: Checkpoint
) -> VideoRecipe:
    """Set the architecture in the recipe to that of the start, except what the settings say."""
    architecture = load_model(start).architecture
    found: dict[str, Any] = {'head': architecture.head}
    for name in PRESETS:
        if has_shape(architecture, preset(name, architecture.head)):
            found['preset'] = name
    asked = parse_changes(settings.changes, 'changes')
    if settings.student:
        if asked.get('preset', settings.student) != settings.student:
            raise SettingsError(
                f'student is {settings.student}, and changes say preset={asked["preset"]}; give '
                'one of them'
            )
        found['preset'] = settings.student
        asked.pop('preset', None)
    return replace(recipe, **{name: one for name, one in found.items() if name not in asked})


def _make_student(
    recipe: VideoRecipe, settings: FinetuneSettings, start: Checkpoint
) -> NewStudent | None:
    """The student that is made anew; None where the start weights are trained on."""
    is_new = bool(settings.student) and not has_shape(
        load_model(start).architecture, preset(recipe.preset, recipe.head)
    )
    if not is_new and settings.imagenet:
        raise SettingsError(
            f'imagenet starts a student that is made anew, and {start.info.name} is trained on '
            'here; leave it out, or give student=base (or lite), where the start has another shape'
        )
    if not is_new:
        return None
    path = settings.imagenet
    return NewStudent(read_encoder_weights(user_path(path)) if path else None)


def _describe_student(recipe: VideoRecipe, student: NewStudent, start: Checkpoint) -> str:
    return (
        f'the student {recipe.preset} is made anew ({student.origin}); it learns the scale of '
        f'{start.info.name} {start.id}, which stays unless the student is better'
    )


def _prepare(run: _Run, report: Report, stop: Callable[[], bool]) -> VideoTask:
    """Decode the recordings and make the training task."""
    subject = 'preparing recordings'

    def announce(begun: str) -> None:
        nonlocal subject
        subject = begun

    def advance(done: int, total: int) -> None:
        if stop():
            raise _StoppedError
        report(FinetuneStatus(PREPARING, done, total, subject))

    said = '' if run.student is None else f'; {run.notes[-1]}'
    report(FinetuneStatus(PREPARING, detail=f'looking at the recordings{said}'))
    resumable = has_state(run.training.states)
    if not resumable:
        shutil.rmtree(run.folder.training, ignore_errors=True)
    task = VideoTask.from_recipe(
        run.recipe, run.start, advance, student=run.student, announce=announce
    )
    recordings = task.data_description()['recordings']
    if not sum(one['held_out'] for one in recordings):
        names = ', '.join(f'{one["name"]} ({one["frames"]} frames)' for one in recordings)
        raise BagError(
            f'nothing is held out of {names}, so nobody could tell whether new weights are '
            'better; give longer recordings, or a larger data.triplets.held_out (is '
            f'{run.recipe.data.triplets.held_out:g})'
        )
    return task


def _judge(
    run: _Run, task: VideoTask, outcome: Outcome, early: EarlyStopping, report: Report
) -> FinetuneReport:
    """Measure old and new weights on the held-out frames and keep the better ones."""
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
    held_out = (HeldOutScores.from_scores(before), HeldOutScores.from_scores(after))
    verdict = check_acceptance(*held_out, run.settings.acceptance)
    if verdict.accepted:
        run.folder.promote(outcome.path)
    return run.end(
        ACCEPTED if verdict.accepted else KEPT,
        verdict.reason,
        task,
        outcome,
        early,
        before=before,
        after=after,
        checks=tuple(asdict(check) for check in verdict.checks),
    )


def _measure(
    task: VideoTask, checkpoint: Checkpoint, advance: Callable[[int], None]
) -> dict[str, float]:
    device = next(task.module.parameters()).device
    return task.validate(load_model(checkpoint).to(device).eval(), advance)


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith('cuda') else device
