"""How far a run is, and how fast it learns there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from pathlib import Path
import time

from psd_depth_ros.training.recipe import LOW, Recipe


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step."""

    step: int
    share: float  # of the schedule, 0 .. 1
    seconds: float  # of training so far, those before a resume included
    images_per_second: float  # over the last steps, validation and saving left out
    waiting_share: float  # of the time of the last steps that was spent waiting for data
    seconds_left: float
    rates: Mapping[str, float]  # by parameter group
    losses: Mapping[str, float]  # weighted terms, averaged over all processes
    scores: Mapping[str, float] | None = None  # where the step was followed by a validation
    rollbacks: int = 0  # how often the run went back to a good state with the rates halved

    @property
    def loss(self) -> float:
        """The sum of all terms."""
        return sum(self.losses.values())

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return max(self.rates.values(), default=0.0)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    path: Path | None  # the kept checkpoint; None where a run was stopped before a validation
    step: int
    seconds: float
    scores: Mapping[str, float]  # of the kept checkpoint
    stopped: bool = False  # asked to end early; the run can be resumed
    notes: tuple[str, ...] = ()  # what was damaged in the folder, and made good


class Clock:
    """Says how far the schedule is: by steps or by minutes, whichever is farther.

    `before_s` are the seconds that a resumed run had spent before.
    """

    def __init__(self, recipe: Recipe, before_s: float = 0.0) -> None:
        self._recipe = recipe
        self._start = time.monotonic() - before_s

    @property
    def seconds(self) -> float:
        """Spent training so far."""
        return time.monotonic() - self._start

    def share(self, step: int) -> float:
        """0 at the start, 1 at the end."""
        by_time = self.seconds / (60.0 * self._recipe.max_minutes)
        return min(1.0, max(step / self._recipe.steps, by_time))

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """What remains if steps go on taking this long."""
        by_steps = (self._recipe.steps - step) * seconds_per_step
        return max(0.0, min(by_steps, 60.0 * self._recipe.max_minutes - self.seconds))


def rate_factor(recipe: Recipe, share: float) -> float:
    """By what the learning rates are multiplied at `share` (0 .. 1) of the run.

    They rise linearly over the warm-up; then `step` falls to a tenth at `drop_at`, `cosine` falls
    smoothly to a hundredth, and `constant` stays.
    """
    if share < recipe.warmup:
        return share / recipe.warmup + 1e-3
    low = LOW[recipe.schedule]
    if recipe.schedule == 'step':
        return 1.0 if share < recipe.drop_at else low
    phase = (share - recipe.warmup) / (1.0 - recipe.warmup)
    return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * phase))
