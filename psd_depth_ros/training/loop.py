"""The training loop: batch, step, averaged weights, validation, saving; roll back on divergence.

The objective belongs to the task (`training.task`), the files to the run folder. Progress goes to
a callback; argv, progress bars and signals are left to the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, ExitStack
from dataclasses import dataclass, replace
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.errors import CheckpointError, TrainingError
from psd_depth_ros.runtime import autocast, is_out_of_memory
from psd_depth_ros.training.distributed import Distributed, explained_peers
from psd_depth_ros.training.loading import BatchLoader
from psd_depth_ros.training.logging import (
    CsvLog,
    Diverged,
    RunClock,
    StepLog,
    StepReport,
    TensorBoardLog,
)
from psd_depth_ros.training.recipe import flatten_recipe, Recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.state import parse_state, read_state, RunState, Snapshot, write_state
from psd_depth_ros.training.task import Task

MAX_ROLLBACKS = 3
COLLECT_EVERY = {'cpu': 1, 'cuda': 10}  # steps; fetching a loss waits for a GPU
# Settings that a resumed run may change.
NOT_IN_IDENTITY = ('save_every', 'preview_every', 'data.cache', 'data.cache_gb')
# Settings that memory grows with, the most effective first.
MEMORY_SETTINGS = (
    'batch', 'pixel_budget', 'objective.patch.width', 'objective.patch.height',
    'objective.mix.fraction',
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    path: Path | None  # the kept checkpoint; None where a run was stopped before a validation
    step: int
    seconds: float
    scores: Mapping[str, float]  # of the kept checkpoint
    stopped: bool = False  # ended early on request; the run can be resumed
    notes: tuple[str, ...] = ()  # damaged files of the folder and how they were repaired


@contextmanager
def explained_memory(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Turn out-of-memory errors into a TrainingError that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        text = str(error)
        raise TrainingError(
            f'memory of {device} is full: lower {_memory_settings(recipe)}; '
            f'({text.splitlines()[0] if text else type(error).__name__})'
        ) from error


def _memory_settings(recipe: Recipe) -> str:
    values: dict[str, Any] = flatten_recipe(recipe)
    return ', '.join(f'{name} (is {values[name]:g})' for name in MEMORY_SETTINGS if name in values)


def run_training(
    task: Task,
    folder: RunFolder,
    *,
    device: str = 'auto',
    resume: bool = False,
    report: Callable[[StepReport], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a task until the steps or minutes of its recipe are used up.

    Every process of a launch calls this. A resumed run on a CPU gives the same weights as one
    that was never stopped, provided that steps and not minutes end it.

    Args:
        task: modules, batches, losses and validation.
        folder: gets best.safetensors (the averaged network with the lowest score), run.json,
            log.csv, tensorboard/, previews/ and state/. Damaged files in it are repaired from the
            last state and mentioned in the notes of the outcome.
        device: auto, cpu, cuda or cuda:N.
        resume: continue from the last state in the folder.
        report: called for each step in the main process (on a GPU, ten steps at a time).
        stop: asked before each step; where it returns true, the state is saved and the run ends.

    Raises:
        SettingsError: the folder is in use, or the run to resume is another one.
        TrainingError: the run keeps diverging, memory or disk is full, or another process is
            lost.
        CheckpointError: the run to resume has no state that can be read.
    """
    distributed = Distributed(device)
    distributed.check_batch(task.recipe.batch)
    with (
        explained_memory(task.recipe, distributed.device),
        explained_peers(),
        ExitStack() as stack,
    ):
        stack.callback(folder.release)
        if distributed.is_main:
            folder.claim(resume)
        run = _Run(task, folder, distributed, resume, report, stack)
        while not run.state.finished:
            progress, is_stopped = run.next_progress(stop())
            if is_stopped:
                break
            run.train_step(progress)
            try:
                reports = run.collect()
            except Diverged as event:
                run.roll_back(event)
                continue
            scores = run.validate_and_keep() if run.is_due('validate_every') else None
            run.report(reports, scores)
            if run.is_due('preview_every'):
                run.write_previews()
            if run.is_due('save_every'):
                run.save()
        return run.finish()


class _Run:
    """The parts of a run, and the steps of the loop in their order."""

    def __init__(
        self,
        task: Task,
        folder: RunFolder,
        distributed: Distributed,
        resume: bool,
        report: Callable[[StepReport], None],
        stack: ExitStack,
    ) -> None:
        self.task, self.folder, self.distributed = task, folder, distributed
        self.recipe = task.recipe
        self.state = RunState(task, distributed.device)
        self._on_step = report
        self._identity = _identity(task)
        self._notes: list[str] = []
        self._last_good = self._begin(resume)
        self._module = distributed.wrap(task.module)
        self._step_log = StepLog(self.state, self._clock, distributed)
        loader = BatchLoader(task, distributed.rank, distributed.world_size, distributed.device)
        self._loader = stack.enter_context(loader)
        self._csv = CsvLog(folder.path / 'log.csv')
        self._tensorboard = TensorBoardLog(folder.path / 'tensorboard', distributed.is_main)
        stack.callback(self._tensorboard.close)
        self._truncate_logs()

    def _begin(self, resume: bool) -> Snapshot:
        """Save the state that a new run starts from, or restore that of an old one."""
        if resume:
            content = b''
            if self.distributed.is_main:
                content, notes = read_state(self.folder.states, self._identity)
                self._notes += notes
            self.state.restore(parse_state(self.distributed.broadcast_bytes(content)))
        self._clock = RunClock(self.recipe, self.state.seconds)
        good = self.state.snapshot() if resume else self._write_state()
        if self.distributed.is_main:
            place = self.distributed.describe()
            self._note(self.folder.write_settings(self.task, place, self.state.step))
            self._restore_best()
        return good

    def _note(self, text: str) -> None:
        if text:
            self._notes.append(text)

    def _restore_best(self) -> None:
        """Write the kept checkpoint again where a resumed run has lost it."""
        step = self.state.step
        if step < self.recipe.validate_every and not self.state.finished:
            return
        try:
            load_checkpoint(self.folder.best)
        except CheckpointError as error:
            self.state.best = {}
            self.validate_and_keep()
            self._note(f'{error}: the averaged network of step {step} took its place')

    def next_progress(self, stop: bool) -> tuple[float, bool]:
        """Progress at the next step, and whether to stop before it, as the main process says."""
        progress = self._clock.progress(self.state.step + 1)
        progress, is_stopped = self.distributed.broadcast([progress, float(stop)])
        return progress, bool(is_stopped)

    def train_step(self, progress: float) -> None:
        """One step: autocast networks, float32 losses, clipped gradients, averaged weights."""
        state, device = self.state, self.distributed.device
        self._step_log.start_step()
        state.step += 1
        state.finished = progress >= 1.0
        rates = state.set_rates(progress)
        self._seed_step()
        self.task.prepare(progress)
        batch, waited_s = self._loader.take(state.step)
        with autocast(device.type, self.recipe.precision):
            terms = self.task.losses(self._module, batch, progress)
        state.optimiser.zero_grad(set_to_none=True)
        self.distributed.backward(_total(terms))
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, self.recipe.clip)
        state.optimiser.step()
        state.update_average()
        self.task.after_step(state.step)
        self._step_log.add(progress, rates, terms, norm, waited_s)

    def _seed_step(self) -> None:
        """Seed torch, so that what a step draws does not depend on the steps before it."""
        seed = np.random.SeedSequence((self.recipe.seed, self.state.step, self.distributed.rank))
        torch.manual_seed(int(seed.generate_state(1, np.uint32)[0]))

    def is_due(self, setting: str) -> bool:
        """Whether an event follows this step; `setting` is the recipe's number of steps."""
        every = int(getattr(self.recipe, setting))
        return every > 0 and (self.state.finished or self.state.step % every == 0)

    def collect(self) -> list[StepReport]:
        """Fetch the losses when due. Raises Diverged where a loss or weight is not finite."""
        important = self.is_due('validate_every') or self.is_due('save_every')
        is_time = self.state.step % COLLECT_EVERY[self.distributed.device.type] == 0
        reports = self._step_log.collect(important or is_time)
        if important and not self.state.is_finite():
            raise Diverged(f'a weight is not finite after step {self.state.step}')
        return reports

    def roll_back(self, event: Diverged) -> None:
        """Return to the last good state with halved rates; TrainingError after three times."""
        rollbacks = self.state.rollbacks + 1
        if rollbacks > MAX_ROLLBACKS:
            raise TrainingError(
                f'the run diverges: {event}, though the rates were halved {MAX_ROLLBACKS} times; '
                f'lower rate (is {self.recipe.rate:g}), encoder_rate '
                f'(is {self.recipe.encoder_rate:g}) or clip (is {self.recipe.clip:g}), or raise '
                f'warmup (is {self.recipe.warmup:g})'
            )
        self.state.restore(self._last_good)
        self.state.rollbacks = rollbacks
        self._step_log.discard()
        self._truncate_logs()

    def _truncate_logs(self) -> None:
        """Remove the log of steps that will be taken again."""
        if self.distributed.is_main:
            self._note(self._csv.truncate(self.state.step))
            self._tensorboard.truncate(self.state.step)

    def validate_and_keep(self) -> dict[str, float] | None:
        """Score the averaged network, and keep it where it is the best so far.

        Without held-out data (no finite score) the newest network is kept.
        """
        if not self.distributed.is_main:
            return None
        state = self.state
        scores = self.task.validate(state.average)
        known = {name: value for name, value in scores.items() if math.isfinite(value)}
        is_better = known.get('score', math.inf) < state.best.get('score', math.inf)
        if is_better or 'score' not in {**known, **state.best}:
            state.best = known
            info = self.task.describe(state.average, state.step, known)
            place = {
                'minutes': round(self._clock.seconds / 60.0, 1),
                'device': self.distributed.describe()['device'],
            }
            info = replace(info, training={**info.training, **place})
            self.folder.write_best(info, state.average.state_dict())
        return scores

    def report(self, reports: list[StepReport], scores: dict[str, float] | None) -> None:
        """Log and report the collected steps, the last one with the scores."""
        if not self.distributed.is_main or not reports:
            return
        reports[-1] = replace(reports[-1], scores=scores)
        self._csv.add(reports)
        self._tensorboard.add(reports)
        for report in reports:
            self._on_step(report)

    def write_previews(self) -> None:
        """Write the preview images."""
        if self.distributed.is_main:
            images = self.task.previews(self.state.average)
            self.folder.write_previews(self.state.step, images)
            self._tensorboard.add_images(self.state.step, images)

    def save(self) -> None:
        """Save the state, from which a resumed or diverging run continues."""
        self.state.seconds = self._clock.seconds
        self._last_good = self._write_state()

    def _write_state(self) -> Snapshot:
        snapshot = self.state.snapshot()
        if self.distributed.is_main:
            write_state(self.folder.states, snapshot, self._identity)
        return snapshot

    def finish(self) -> Outcome:
        """Save a stopped run, or check that the weights of a finished one are there."""
        state = self.state
        stopped = not state.finished
        if stopped:
            try:
                self.report(self._step_log.collect(), None)
                self.save()
            except Diverged:  # the last good state is on disk already
                state.restore(self._last_good)
        path = self.folder.best if self.folder.best.is_file() else None
        if self.distributed.is_main and state.finished:
            self._check_best()
        notes = tuple(self._notes)
        return Outcome(path, state.step, state.seconds, dict(state.best), stopped, notes)

    def _check_best(self) -> None:
        """Raise TrainingError where the kept checkpoint was removed meanwhile."""
        try:
            load_checkpoint(self.folder.best)
        except CheckpointError as error:
            raise TrainingError(
                f'the run has ended, but its weights are not there: {error}. Resume the run: they '
                'are made anew from its state'
            ) from error


def _identity(task: Task) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was stopped, as JSON."""
    recipe = flatten_recipe(task.recipe)
    recipe = {k: v for k, v in recipe.items() if not k.endswith(NOT_IN_IDENTITY)}
    return {'recipe': recipe, 'data': task.data_description(), 'start': task.start_id}


def _total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()
