"""What the last steps gave: losses come to the CPU together, are judged, and are reported."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
import math
import statistics
import time

import torch
from torch import Tensor

from psd_depth_ros.training.progress import Progress
from psd_depth_ros.training.schedule import Clock
from psd_depth_ros.training.state import TrainingState
from psd_depth_ros.training.team import Team

WINDOW = 50  # steps that speed and waiting are averaged over
MEMORY = 100  # losses that the median is taken of
ENOUGH = 20  # losses before a median says anything
EXPLODING = 20.0  # times the median
SMALL = 1e-2  # a loss below this explodes for nobody


class Diverged(Exception):  # noqa: N818 - an event that the loop answers, no error of the user
    """A loss or gradient is no number, or the loss explodes."""


@dataclass(frozen=True)
class _Step:
    step: int
    share: float
    seconds: float
    rates: Mapping[str, float]
    terms: Mapping[str, Tensor]
    norm: Tensor


class Journal:
    """Collects steps until they are settled."""

    def __init__(self, state: TrainingState, clock: Clock, team: Team) -> None:
        self._state, self._clock, self._team = state, clock, team
        self._pending: list[_Step] = []
        self._times: deque[tuple[float, float]] = deque(maxlen=WINDOW)  # of a step, of waiting
        self._first = (state.step, clock.seconds)
        self._begin, self._waited_s = time.perf_counter(), 0.0

    def begin_step(self) -> None:
        """Start the watch."""
        self._begin = time.perf_counter()

    def add(
        self,
        share: float,
        rates: Mapping[str, float],
        terms: Mapping[str, Tensor],
        norm: Tensor,
        waited_s: float,
    ) -> None:
        """Note a step; nothing waits for the device. `waited_s`: for data, of its time."""
        self._waited_s = waited_s
        detached = {name: value.detach() for name, value in terms.items()}
        seconds = self._clock.seconds
        self._pending.append(
            _Step(self._state.step, share, seconds, rates, detached, norm.detach())
        )

    def drop(self) -> None:
        """Forget the steps that were not settled."""
        self._pending.clear()

    def settle(self, due: bool = True) -> list[Progress]:
        """End a step; where `due`, fetch and judge the losses of all steps since the last time.

        Raises Diverged, in every process of the team alike.
        """
        steps, self._pending = (self._pending, []) if due else ([], self._pending)
        values = iter(self._fetch(steps))
        self._times.append((time.perf_counter() - self._begin, self._waited_s))
        settled = []
        for one in steps:
            losses = {name: next(values) for name in one.terms}
            self._judge(one.step, losses, next(values))
            settled.append(self._progress(one, losses))
        return settled

    def _fetch(self, steps: list[_Step]) -> list[float]:
        """Terms and norm of every step, averaged over the team; here a GPU is waited for."""
        if not steps:
            return []
        numbers = torch.stack([v for one in steps for v in (*one.terms.values(), one.norm)])
        return self._team.mean(numbers.double().tolist())

    def _judge(self, step: int, losses: Mapping[str, float], norm: float) -> None:
        wrong = [name for name, value in losses.items() if not math.isfinite(value)]
        if wrong:
            raise Diverged(f'{" and ".join(wrong)} is no finite number at step {step}')
        if not math.isfinite(norm):
            raise Diverged(f'the gradient is not finite at step {step}')
        loss, recent = sum(losses.values()), self._state.recent
        if len(recent) >= ENOUGH:
            usual = statistics.median(recent)
            if loss > EXPLODING * max(usual, SMALL):
                raise Diverged(f'the loss is {loss:.3g} at step {step}, usual was {usual:.3g}')
        self._state.recent = [*recent[-(MEMORY - 1) :], loss]

    def _progress(self, one: _Step, losses: Mapping[str, float]) -> Progress:
        spent = sum(step_s for step_s, _ in self._times)
        waited = sum(waited_s for _, waited_s in self._times)
        first_step, first_s = self._first
        per_step = (one.seconds - first_s) / max(1, one.step - first_step)
        images = self._state.recipe.batch * len(self._times)
        return Progress(
            step=one.step,
            share=one.share,
            seconds=one.seconds,
            images_per_second=images / spent if spent else 0.0,
            waiting_share=waited / spent if spent else 0.0,
            seconds_left=self._clock.seconds_left(one.step, per_step),
            rates=one.rates,
            losses=losses,
            rollbacks=self._state.rollbacks,
        )
