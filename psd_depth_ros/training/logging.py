"""The log of a run: losses of recent steps, divergence checks, log.csv and TensorBoard."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
import csv
from dataclasses import dataclass
import importlib.util
import io
import math
from pathlib import Path
import statistics
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from psd_depth_ros.files import explained_disk, set_aside, write_file
from psd_depth_ros.training.distributed import Distributed
from psd_depth_ros.training.recipe import Recipe
from psd_depth_ros.training.state import RunState

SPEED_WINDOW = 50  # steps over which speed and data wait are averaged
LOSS_HISTORY = 100  # losses over which the median is taken
MINIMUM_HISTORY = 20  # losses needed before the median is used
EXPLOSION_FACTOR = 20.0  # a loss above this multiple of the median has exploded
NEGLIGIBLE_LOSS = 1e-2  # the median is not taken as smaller than this

Row = dict[str, Any]


@dataclass(frozen=True)
class StepReport:
    """The state of a run after a step."""

    step: int
    progress: float  # 0 at the start of the schedule, 1 at its end
    seconds: float  # of training so far, including those before a resume
    images_per_second: float  # over the last steps, without validation and saving
    data_wait_fraction: float  # of the time of the last steps
    seconds_left: float
    rates: Mapping[str, float]  # learning rate by parameter group
    losses: Mapping[str, float]  # weighted terms, averaged over all processes
    scores: Mapping[str, float] | None = None  # where a validation followed the step
    rollbacks: int = 0  # returns to an earlier state with halved learning rates

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, at the speed so far where minutes end it."""
        return max(self.step, round(self.step / self.progress))

    @property
    def loss(self) -> float:
        """Sum of all terms."""
        return sum(self.losses.values())

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return max(self.rates.values(), default=0.0)


class RunClock:
    """Progress of the schedule, by steps or by minutes, whichever is farther.

    Args:
        recipe: gives `steps` and `max_minutes`.
        before_s: seconds that a resumed run had trained before.
    """

    def __init__(self, recipe: Recipe, before_s: float = 0.0) -> None:
        self._recipe = recipe
        self._start = time.monotonic() - before_s

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """Progress at a step, 0 at the start and 1 at the end."""
        by_time = self.seconds / (60.0 * self._recipe.max_minutes)
        return min(1.0, max(step / self._recipe.steps, by_time))

    def seconds_left(self, step: int, seconds_per_step: float) -> float:
        """Seconds until the end of the run at this speed."""
        by_steps = (self._recipe.steps - step) * seconds_per_step
        return max(0.0, min(by_steps, 60.0 * self._recipe.max_minutes - self.seconds))


class Diverged(Exception):  # noqa: N818 - an event that the loop handles, not an error of the user
    """A loss, gradient or weight is not finite, or the loss explodes."""


@dataclass(frozen=True)
class _Step:
    step: int
    progress: float
    seconds: float
    rates: Mapping[str, float]
    terms: Mapping[str, Tensor]
    norm: Tensor


class StepLog:
    """Losses of the steps that were not fetched from the device yet."""

    def __init__(self, state: RunState, clock: RunClock, distributed: Distributed) -> None:
        self._state, self._clock, self._distributed = state, clock, distributed
        self._pending: list[_Step] = []
        self._times: deque[tuple[float, float]] = deque(maxlen=SPEED_WINDOW)  # step, data wait
        self._first = (state.step, clock.seconds)
        self._start, self._waited_s = time.perf_counter(), 0.0

    def start_step(self) -> None:
        """Start to measure the time of a step."""
        self._start = time.perf_counter()

    def add(
        self,
        progress: float,
        rates: Mapping[str, float],
        terms: Mapping[str, Tensor],
        norm: Tensor,
        waited_s: float,
    ) -> None:
        """Add a step without waiting for the device.

        Args:
            progress: of the run, 0 .. 1.
            rates: learning rate by parameter group.
            terms: weighted loss terms, 0-dim.
            norm: gradient norm before clipping, 0-dim.
            waited_s: seconds for which the step waited for its batch.
        """
        self._waited_s = waited_s
        detached = {name: value.detach() for name, value in terms.items()}
        seconds = self._clock.seconds
        self._pending.append(
            _Step(self._state.step, progress, seconds, rates, detached, norm.detach())
        )

    def discard(self) -> None:
        """Drop the steps that were not collected."""
        self._pending.clear()

    def collect(self, due: bool = True) -> list[StepReport]:
        """End a step; where `due`, fetch and check the losses of all steps since the last time.

        Raises Diverged, in every process alike.
        """
        steps, self._pending = (self._pending, []) if due else ([], self._pending)
        values = iter(self._fetch(steps))
        self._times.append((time.perf_counter() - self._start, self._waited_s))
        reports = []
        for one in steps:
            losses = {name: next(values) for name in one.terms}
            self._check(one.step, losses, next(values))
            reports.append(self._report(one, losses))
        return reports

    def _fetch(self, steps: list[_Step]) -> list[float]:
        """Terms and norm of every step, averaged over the processes; waits for a GPU."""
        if not steps:
            return []
        numbers = torch.stack([v for one in steps for v in (*one.terms.values(), one.norm)])
        return self._distributed.all_reduce_mean(numbers.double().tolist())

    def _check(self, step: int, losses: Mapping[str, float], norm: float) -> None:
        wrong = [name for name, value in losses.items() if not math.isfinite(value)]
        if wrong:
            raise Diverged(f'{" and ".join(wrong)} is no finite number at step {step}')
        if not math.isfinite(norm):
            raise Diverged(f'the gradient is not finite at step {step}')
        loss, recent = sum(losses.values()), self._state.recent
        if len(recent) >= MINIMUM_HISTORY:
            usual = statistics.median(recent)
            if loss > EXPLOSION_FACTOR * max(usual, NEGLIGIBLE_LOSS):
                raise Diverged(f'the loss is {loss:.3g} at step {step}, usual was {usual:.3g}')
        self._state.recent = [*recent[-(LOSS_HISTORY - 1) :], loss]

    def _report(self, one: _Step, losses: Mapping[str, float]) -> StepReport:
        spent = sum(step_s for step_s, _ in self._times)
        waited = sum(waited_s for _, waited_s in self._times)
        first_step, first_s = self._first
        per_step = (one.seconds - first_s) / max(1, one.step - first_step)
        images = self._state.recipe.batch * len(self._times)
        return StepReport(
            step=one.step,
            progress=one.progress,
            seconds=one.seconds,
            images_per_second=images / spent if spent else 0.0,
            data_wait_fraction=waited / spent if spent else 0.0,
            seconds_left=self._clock.seconds_left(one.step, per_step),
            rates=one.rates,
            losses=losses,
            rollbacks=self._state.rollbacks,
        )


class CsvLog:
    """Appends to log.csv: one row per step, however often a run is resumed or rolled back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []

    def truncate(self, step: int) -> str:
        """Remove the rows after a step, and an unfinished last row.

        A damaged file is renamed and its readable rows are written again. Returns a note about
        it, '' where nothing was damaged.
        """
        rows, is_whole = self._whole_rows(step)
        note = ''
        if not is_whole:
            note = (
                f'{self._path.name} was damaged: what could be read of it goes on, all of it is '
                f'in {self._set_aside()}'
            )
        self._columns = list(rows[0]) if rows else []
        self._rewrite(rows)
        return note

    def add(self, reports: list[StepReport]) -> None:
        """Append rows; a new column (a loss that starts later) is added to the earlier rows."""
        rows = [_row(report) for report in reports]
        new = [name for row in rows for name in row if name not in self._columns]
        if new:
            former = self._read() if self._columns else []
            self._columns += dict.fromkeys(new)
            self._rewrite(former)
        text = self._text(rows)
        with (
            explained_disk(self._path, len(text)),
            open(self._path, 'a', newline='', encoding='utf-8') as file,
        ):
            file.write(text)

    def _whole_rows(self, step: int) -> tuple[list[Row], bool]:
        """The rows up to a step, and whether no row was damaged."""
        try:
            table = self._read()
        except (OSError, ValueError, csv.Error):
            return [], False
        rows: list[Row] = []
        is_whole, last = True, 0
        for row in table:
            number = _step_of(row)
            if number is None or number <= last:
                is_whole = False
                continue
            last = number
            if number <= step:
                rows.append(row)
        return rows, is_whole

    def _set_aside(self) -> str:
        with explained_disk(self._path, 0):
            return set_aside(self._path).name

    def _read(self) -> list[Row]:
        if not self._path.exists():
            return []
        with open(self._path, newline='', encoding='utf-8') as file:
            text = file.read()
        whole = text[: text.rfind('\n') + 1]
        return list(csv.DictReader(io.StringIO(whole)))

    def _rewrite(self, rows: list[Row]) -> None:
        header = ','.join(self._columns) + '\r\n' if self._columns else ''
        write_file(self._path, (header + self._text(rows)).encode())

    def _text(self, rows: list[Row]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self._columns, restval='').writerows(rows)
        return buffer.getvalue()


def _step_of(row: Row) -> int | None:
    """The step of a row, None for a damaged row."""
    try:
        values = list(row.values())
        is_whole = None not in row and None not in values and math.isfinite(float(row['loss']))
        return int(row['step']) if is_whole else None
    except (KeyError, TypeError, ValueError):
        return None


def _row(report: StepReport) -> Row:
    scores = report.scores or {}
    return {
        'step': report.step,
        'progress': f'{report.progress:.5f}',
        'seconds': f'{report.seconds:.2f}',
        'images_per_second': f'{report.images_per_second:.3f}',
        'data_wait_fraction': f'{report.data_wait_fraction:.4f}',
        'rollbacks': report.rollbacks,
        **{f'rate.{name}': f'{value:.4g}' for name, value in report.rates.items()},
        'loss': repr(report.loss),
        **{f'loss.{name}': repr(value) for name, value in report.losses.items()},
        **{f'score.{name}': f'{value:.6g}' for name, value in scores.items()},
    }


class TensorBoardLog:
    """TensorBoard event files; without the `tensorboard` extra nothing is written."""

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._folder = folder
        self._is_enabled = enabled and importlib.util.find_spec('tensorboard') is not None
        self._writer: Any = None

    def truncate(self, step: int) -> None:
        """Start writing after a step; TensorBoard hides what was written beyond it."""
        self.close()
        if self._is_enabled:
            from torch.utils.tensorboard import SummaryWriter

            with explained_disk(self._folder, 0):
                self._writer = SummaryWriter(self._folder, purge_step=step + 1)

    def add(self, reports: list[StepReport]) -> None:
        """Write the curves of some steps."""
        if self._writer is None:
            return
        with explained_disk(self._folder, 0):
            for report in reports:
                for tag, value in _curves(report).items():
                    self._writer.add_scalar(tag, value, report.step)

    def add_images(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write previews (H, W, 3) RGB."""
        if self._writer is None:
            return
        with explained_disk(self._folder, 0):
            for name, image in images.items():
                self._writer.add_image(name, image, step, dataformats='HWC')

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            with explained_disk(self._folder, 0):
                self._writer.close()


def _curves(report: StepReport) -> dict[str, float]:
    return {
        'loss/total': report.loss,
        **{f'loss/{name}': value for name, value in report.losses.items()},
        **{f'rate/{name}': value for name, value in report.rates.items()},
        **{f'score/{name}': value for name, value in (report.scores or {}).items()},
        'speed/images_per_second': report.images_per_second,
        'speed/data_wait_fraction': report.data_wait_fraction,
    }
