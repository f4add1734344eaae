"""What a run tells while it goes on, and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


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
