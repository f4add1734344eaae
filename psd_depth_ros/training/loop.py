"""The training loop, top to bottom: batch, step, average, judge, save; back where it diverges.

What is learned is the task's (`task`); what is on disk is the run folder's. Progress goes to a
callback; reading argv, drawing bars and signals are left to the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, ExitStack
from dataclasses import replace
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.config import flatten
from psd_depth_ros.errors import CheckpointError, TrainingError
from psd_depth_ros.training.distributed import Team
from psd_depth_ros.training.loading import TaskLoader
from psd_depth_ros.training.logging import Board, Diverged, Journal, RunLog
from psd_depth_ros.training.recipe import Recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.schedule import Clock, Outcome, Progress
from psd_depth_ros.training.state import (
    parse_state,
    read_state,
    Snapshot,
    TrainingState,
    write_state,
)
from psd_depth_ros.training.task import Task

# What memory grows with, the most effective first.
HUNGRY = ('batch', 'pixel_budget', 'patch.width_share', 'patch.height_share', 'patch_mix.share')
_SIGNS = ('out of memory', "can't allocate memory", 'not enough memory', 'insufficient memory')


@contextmanager
def explained_memory(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Turn out-of-memory errors into a TrainingError that says which settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not _is_about_memory(text):
            raise
        raise TrainingError(
            f'memory of {device} is full: lower {_present_values(recipe)}; '
            f'({text.splitlines()[0] if text else type(error).__name__})'
        ) from error


def _is_about_memory(text: str) -> bool:
    return any(sign in text.lower() for sign in _SIGNS)


def _present_values(recipe: Recipe) -> str:
    values: dict[str, Any] = flatten(recipe)
    if not values.get('patch.enabled', True):
        values = {name: value for name, value in values.items() if not name.startswith('patch.')}
    return ', '.join(f'{name} (is {values[name]:g})' for name in HUNGRY if name in values)


ROLLBACKS = 3
SETTLE_EVERY = {'cpu': 1, 'cuda': 10}  # steps; fetching a loss makes a GPU wait
HARMLESS = ('save_every', 'preview_every')  # settings that a resumed run may change


def run_training(
    task: Task,
    folder: RunFolder,
    *,
    device: str = 'auto',
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train a task into a folder until its recipe's steps or minutes are used up.

    `folder`/best.safetensors is the averaged network with the lowest score. `report` is called
    for each step, in the main process only (on a GPU, ten steps at a time). Where `stop` says so,
    the state is saved and the run ends early; `resume` goes on from the last state, on a CPU with
    the very numbers of a run that never stopped, as long as steps and not minutes end it. What is
    damaged in the folder is made good as far as the state allows it, and told in `notes`.

    Every process of a launch calls this. Raises SettingsError where the folder is in use, or the
    run to resume is another one; TrainingError where the run keeps diverging, or memory or disk
    is full; CheckpointError where no state of a run can be read.
    """
    team = Team(device)
    team.check_batch(task.recipe.batch)
    with explained_memory(task.recipe, team.device), ExitStack() as stack:
        stack.callback(folder.release)
        if team.is_main:
            folder.claim(resume)
        run = _Run(task, folder, team, resume, report, stack)
        while not run.state.finished:
            share, is_stopped = run.agree(stop())
            if is_stopped:
                break
            run.learn(share)
            try:
                settled = run.settle()
            except Diverged as event:
                run.go_back(event)
                continue
            run.report(settled, run.judge() if run.is_due('validate_every') else None)
            if run.is_due('preview_every'):
                run.show()
            if run.is_due('save_every'):
                run.save()
        return run.end()


class _Run:
    """The parts of a run, and the steps of the loop in the order they are taken."""

    def __init__(
        self,
        task: Task,
        folder: RunFolder,
        team: Team,
        resume: bool,
        report: Callable[[Progress], None],
        stack: ExitStack,
    ) -> None:
        self.task, self.folder, self.team = task, folder, team
        self.recipe = task.recipe
        self.state = TrainingState(task, team.device)
        self._tell = report
        self._identity = _identity(task)
        self._notes: list[str] = []
        self._good = self._begin(resume)
        self._module = team.wrap(task.module)
        self._clock = Clock(self.recipe, self.state.seconds)
        self._journal = Journal(self.state, self._clock, team)
        self._loader = stack.enter_context(TaskLoader(task, team.rank, team.count, team.device))
        self._log = RunLog(folder.path / 'log.csv')
        self._board = Board(folder.path / 'tensorboard', team.is_main)
        stack.callback(self._board.close)
        self._cut_logs()

    def _begin(self, resume: bool) -> Snapshot:
        """Write what a new run starts from, or take back where an old one was."""
        if resume:
            content = b''
            if self.team.is_main:
                content, notes = read_state(self.folder.states, self._identity)
                self._notes += notes
            self.state.restore(parse_state(self.team.bytes_from_main(content)))
        good = self.state.snapshot() if resume else self._keep()
        if self.team.is_main:
            place = self.team.describe()
            self._note(self.folder.write_settings(self.task, place, self.state.step))
            self._restore_best()
        return good

    def _note(self, text: str) -> None:
        if text:
            self._notes.append(text)

    def _restore_best(self) -> None:
        """Make the kept checkpoint anew where a resumed run has lost it."""
        step = self.state.step
        if step < self.recipe.validate_every and not self.state.finished:
            return
        try:
            load_checkpoint(self.folder.best)
        except CheckpointError as error:
            self.state.best = {}
            self.judge()
            self._note(f'{error}: the averaged network of step {step} took its place')

    def agree(self, stop: bool) -> tuple[float, bool]:
        """How far the next step is in the run, and whether to stop before it: the main's word."""
        share = self._clock.share(self.state.step + 1)
        share, is_stopped = self.team.from_main([share, float(stop)])
        return share, bool(is_stopped)

    def learn(self, share: float) -> None:
        """One step: half-precision networks, float32 losses, clipped gradients, average."""
        state, device = self.state, self.team.device
        self._journal.begin_step()
        state.step += 1
        state.finished = share >= 1.0
        rates = state.set_rates(share)
        self._sow()
        self.task.prepare(share)
        batch, waited_s = self._loader.take(state.step)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.recipe.precision == 'bf16'):
            terms = self.task.losses(self._module, batch, share)
        state.optimiser.zero_grad(set_to_none=True)
        self.team.backward(_total(terms))
        norm = torch.nn.utils.clip_grad_norm_(state.parameters, self.recipe.clip)
        state.optimiser.step()
        state.update_average()
        self._journal.add(share, rates, terms, norm, waited_s)

    def _sow(self) -> None:
        """Seed torch for the step: whatever is drawn in it does not depend on what was before."""
        seed = np.random.SeedSequence((self.recipe.seed, self.state.step, self.team.rank))
        torch.manual_seed(int(seed.generate_state(1, np.uint32)[0]))

    def is_due(self, what: str) -> bool:
        """Whether something happens after this step, `what` being the setting that says so."""
        every = int(getattr(self.recipe, what))
        return every > 0 and (self.state.finished or self.state.step % every == 0)

    def settle(self) -> list[Progress]:
        """Fetch the losses when it is time, and raise Diverged where they cannot be trusted."""
        important = self.is_due('validate_every') or self.is_due('save_every')
        is_time = self.state.step % SETTLE_EVERY[self.team.device.type] == 0
        settled = self._journal.settle(important or is_time)
        if important and not self.state.is_finite():
            raise Diverged(f'a weight is not finite after step {self.state.step}')
        return settled

    def go_back(self, event: Diverged) -> None:
        """Return to the last good state with the rates halved; TrainingError after three times."""
        rollbacks = self.state.rollbacks + 1
        if rollbacks > ROLLBACKS:
            raise TrainingError(
                f'the run diverges: {event}, though the rates were halved {ROLLBACKS} times; '
                f'lower rate (is {self.recipe.rate:g}), encoder_rate '
                f'(is {self.recipe.encoder_rate:g}) or clip (is {self.recipe.clip:g}), or raise '
                f'warmup (is {self.recipe.warmup:g})'
            )
        self.state.restore(self._good)
        self.state.rollbacks = rollbacks
        self._journal.drop()
        self._cut_logs()

    def _cut_logs(self) -> None:
        """Remove what was written of steps that will be taken again."""
        if self.team.is_main:
            self._note(self._log.cut(self.state.step))
            self._board.cut(self.state.step)

    def judge(self) -> dict[str, float] | None:
        """Score the averaged network, and keep it where it is the best so far.

        Where nothing is held out, and so no score a number, the newest is kept.
        """
        if not self.team.is_main:
            return None
        state = self.state
        scores = self.task.validate(state.average)
        known = {name: value for name, value in scores.items() if math.isfinite(value)}
        is_better = known.get('score', math.inf) < state.best.get('score', math.inf)
        if is_better or 'score' not in {**known, **state.best}:
            state.best = known
            info = self.task.describe(state.average, state.step, known)
            self.folder.write_best(info, state.average.state_dict())
        return scores

    def report(self, settled: list[Progress], scores: dict[str, float] | None) -> None:
        """Write and tell the steps that were settled, the last one with the scores."""
        if not self.team.is_main or not settled:
            return
        settled[-1] = replace(settled[-1], scores=scores)
        self._log.add(settled)
        self._board.add(settled)
        for progress in settled:
            self._tell(progress)

    def show(self) -> None:
        """Write the preview pictures."""
        if self.team.is_main:
            pictures = self.task.previews(self.state.average)
            self.folder.write_previews(self.state.step, pictures)
            self._board.add_pictures(self.state.step, pictures)

    def save(self) -> None:
        """Save the state, from which a resume or a diverging run goes on."""
        self.state.seconds = self._clock.seconds
        self._good = self._keep()

    def _keep(self) -> Snapshot:
        snapshot = self.state.snapshot()
        if self.team.is_main:
            write_state(self.folder.states, snapshot, self._identity)
        return snapshot

    def end(self) -> Outcome:
        """Save what was not saved yet; say what came out."""
        state = self.state
        stopped = not state.finished
        if stopped:
            try:
                self.report(self._journal.settle(), None)
                self.save()
            except Diverged:  # the last good state is on disk already
                state.restore(self._good)
        path = self.folder.best if self.folder.best.is_file() else None
        if self.team.is_main and state.finished:
            self._check_best()
        notes = tuple(self._notes)
        return Outcome(path, state.step, state.seconds, dict(state.best), stopped, notes)

    def _check_best(self) -> None:
        """Raise TrainingError where what came out was taken away meanwhile."""
        try:
            load_checkpoint(self.folder.best)
        except CheckpointError as error:
            raise TrainingError(
                f'the run has ended, but its weights are not there: {error}. Resume the run: they '
                'are made anew from its state'
            ) from error


def _identity(task: Task) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was stopped."""
    recipe = {k: v for k, v in flatten(task.recipe).items() if k not in HARMLESS}
    return {'recipe': recipe, 'data': task.data_description(), 'start': task.start_id}


def _total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()
