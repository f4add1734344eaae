"""What the last steps gave: losses come to the CPU together, are judged, and are reported."""

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

from psd_depth_ros.files import set_aside
from psd_depth_ros.training.distributed import Team
from psd_depth_ros.training.schedule import Clock, Progress
from psd_depth_ros.training.state import explained_disk, TrainingState, write_whole

Row = dict[str, Any]


class RunLog:
    """Appends to log.csv; one row per step, however often a run is resumed or goes back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []

    def cut(self, step: int) -> str:
        """Remove the rows after a step, and one that was never finished.

        Where rows are damaged, the file is kept beside under another name, and the rest goes on;
        what was done is returned, '' where there was nothing to do.
        """
        rows, is_whole = self._whole_rows(step)
        said = ''
        if not is_whole:
            said = (
                f'{self._path.name} was damaged: what could be read of it goes on, all of it is '
                f'in {self._set_aside()}'
            )
        self._columns = list(rows[0]) if rows else []
        self._rewrite(rows)
        return said

    def add(self, progress: list[Progress]) -> None:
        """Append rows; a column that is new (a loss that starts later) is given to all of them."""
        rows = [_row(one) for one in progress]
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
        """The rows up to a step, and whether every one of them was as it had been written."""
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
        write_whole(self._path, (header + self._text(rows)).encode())

    def _text(self, rows: list[Row]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self._columns, restval='').writerows(rows)
        return buffer.getvalue()


def _step_of(row: Row) -> int | None:
    """The step of a row, None where the row is not one that was written here."""
    try:
        values = list(row.values())
        is_whole = None not in row and None not in values and math.isfinite(float(row['loss']))
        return int(row['step']) if is_whole else None
    except (KeyError, TypeError, ValueError):
        return None


def _row(progress: Progress) -> Row:
    scores = progress.scores or {}
    return {
        'step': progress.step,
        'share': f'{progress.share:.5f}',
        'seconds': f'{progress.seconds:.2f}',
        'images_per_second': f'{progress.images_per_second:.3f}',
        'waiting_share': f'{progress.waiting_share:.4f}',
        'rollbacks': progress.rollbacks,
        **{f'rate.{name}': f'{value:.4g}' for name, value in progress.rates.items()},
        'loss': repr(progress.loss),
        **{f'loss.{name}': repr(value) for name, value in progress.losses.items()},
        **{f'score.{name}': f'{value:.6g}' for name, value in scores.items()},
    }


class Board:
    """TensorBoard event files; without the `tensorboard` extra nothing is written."""

    def __init__(self, folder: Path, enabled: bool) -> None:
        self._folder = folder
        self._is_enabled = enabled and importlib.util.find_spec('tensorboard') is not None
        self._writer: Any = None

    def cut(self, step: int) -> None:
        """Begin after a step: what was written beyond it is hidden."""
        self.close()
        if self._is_enabled:
            from torch.utils.tensorboard import SummaryWriter

            with explained_disk(self._folder, 0):
                self._writer = SummaryWriter(self._folder, purge_step=step + 1)

    def add(self, progress: list[Progress]) -> None:
        """Write the curves of some steps."""
        if self._writer is None:
            return
        with explained_disk(self._folder, 0):
            for one in progress:
                for tag, value in _curves(one).items():
                    self._writer.add_scalar(tag, value, one.step)

    def add_pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write previews."""
        if self._writer is None:
            return
        with explained_disk(self._folder, 0):
            for name, picture in pictures.items():
                self._writer.add_image(name, picture, step, dataformats='HWC')

    def close(self) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            with explained_disk(self._folder, 0):
                self._writer.close()


def _curves(progress: Progress) -> dict[str, float]:
    return {
        'loss/total': progress.loss,
        **{f'loss/{name}': value for name, value in progress.losses.items()},
        **{f'rate/{name}': value for name, value in progress.rates.items()},
        **{f'score/{name}': value for name, value in (progress.scores or {}).items()},
        'speed/images_per_second': progress.images_per_second,
        'speed/waiting_share': progress.waiting_share,
    }


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
