"""What an ablation found: mean and spread over seeds, and which difference is more than chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from psd_depth_ros.errors import TrainingError
from psd_depth_ros.parsing import ParseError, read_json_object
from psd_depth_ros.training.run_folder import write_whole

SURE = 2.0  # standard deviations that a difference has to exceed


@dataclass(frozen=True)
class Figure:
    """One column: its name in JSON, its title, where an evaluation has it."""

    name: str
    title: str
    of: Callable[[Mapping[str, Any]], float | None]
    digits: int = 3
    in_table: bool = True


def _band(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda report: report['by_distance'][name]['abs_rel']


FAR = 'abs_rel_40_80'
FIGURES = (
    Figure('abs_rel', 'AbsRel', lambda report: report['median_scaled']['abs_rel']),
    Figure('abs_rel_0_10', '0-10 m', _band('0-10')),
    Figure('abs_rel_10_20', '10-20 m', _band('10-20')),
    Figure('abs_rel_20_40', '20-40 m', _band('20-40')),
    Figure(FAR, '40-80 m', _band('40-80')),
    Figure('boundary_f1', 'boundary F1', lambda report: report['boundary_f1']),
    Figure('rmse', 'RMSE', lambda report: report['median_scaled']['rmse'], in_table=False),
    Figure('a1', 'a1', lambda report: report['median_scaled']['a1'], in_table=False),
    Figure('frames', 'frames', lambda report: report['frames'], in_table=False),
    Figure('ause', 'AUSE', lambda report: (report['ause'] or {}).get('abs_rel'), in_table=False),
)
COLUMNS = tuple(figure for figure in FIGURES if figure.in_table)
# What is held against what, the most important first.
QUESTIONS = (
    ('A3', 'A0+'), ('A3', 'A0'), ('A1', 'A0'), ('A1f', 'A1'), ('A2', 'A1f'), ('A3', 'A2'),
    ('A4', 'A3'), ('A3', 'A3r'), ('A3', 'A3u'), ('A3', 'A3m'),
)  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """What came out of one run. `compute_s` is CPU time on a CPU, else like `seconds`."""

    variant: str
    seed: int
    steps: int
    images: int
    seconds: float
    compute_s: float
    figures: Mapping[str, float | None]

    def write(self, path: Path) -> None:
        """Write it as JSON. Raises TrainingError."""
        write_whole(path, (json.dumps(asdict(self), indent=2) + '\n').encode())

    @classmethod
    def read(cls, path: Path) -> RunResult | None:
        """Read it back; None where it is not there."""
        if not path.exists():
            return None
        try:
            return cls(**read_json_object(path))._checked()
        except (ParseError, TypeError) as error:
            raise TrainingError(f'{path}: {error}; remove its folder and resume') from error

    def _checked(self) -> RunResult:
        """Raise ParseError where a value is of no use."""
        numbers = (self.steps, self.images, self.seconds, self.compute_s)
        is_right = isinstance(self.variant, str) and isinstance(self.figures, Mapping)
        is_right = is_right and type(self.seed) is int
        if not is_right or not all(_is_positive(one) for one in numbers):
            raise ParseError('holds no result of a run')
        if not all(one is None or type(one) in (int, float) for one in self.figures.values()):
            raise ParseError('holds figures that are no numbers')
        return self


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of a sample; NaN for one) of some numbers."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of numbers; NaN of none."""
        if not values:
            return cls(math.nan, math.nan)
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return cls(float(np.mean(values)), sd)

    def text(self, digits: int) -> str:
        """`0.123 ± 0.004`, or the mean alone."""
        if math.isnan(self.mean):
            return '-'
        spread = '' if math.isnan(self.sd) else f' ± {self.sd:.{digits}f}'
        return f'{self.mean:.{digits}f}{spread}'


@dataclass(frozen=True)
class Row:
    """One variant over its seeds."""

    variant: str
    seeds: int
    figures: Mapping[str, Spread]
    images: float
    minutes: float
    compute_minutes: float


@dataclass(frozen=True)
class Gain:
    """How much lower an error is in `better` than in `worse`, over the seeds that both have.

    `share` is of the error of `worse`; `difference` is that of each seed. `is_sure` where it
    exceeds two standard deviations, None with one seed.
    """

    better: str
    worse: str
    share: float
    difference: Spread

    @property
    def is_sure(self) -> bool | None:
        """Whether there is more than chance in it."""
        if math.isnan(self.difference.sd):
            return None
        return self.difference.mean > SURE * self.difference.sd

    @property
    def verdict(self) -> str:
        """`is_sure` in words."""
        if self.is_sure is None:
            return 'one seed: cannot be told from chance'
        return 'more than 2 sd' if self.is_sure else 'not more than 2 sd'


def summarise(results: Sequence[RunResult], order: Sequence[str]) -> list[Row]:
    """One row for every variant that has results, in `order`."""
    rows = []
    for name in order:
        runs = [result for result in results if result.variant == name]
        if not runs:
            continue
        figures = {
            figure.name: Spread.of(_known(run.figures.get(figure.name) for run in runs))
            for figure in FIGURES
        }
        images, minutes, compute = (
            float(np.mean([getattr(run, field) for run in runs]))
            for field in ('images', 'seconds', 'compute_s')
        )
        rows.append(Row(name, len(runs), figures, images, minutes / 60, compute / 60))
    return rows


def find_gains(results: Sequence[RunResult], figure: str) -> list[Gain]:
    """Answer the questions for which there are results."""
    by_run = {(run.variant, run.seed): run.figures.get(figure) for run in results}
    gains = []
    for better, worse in QUESTIONS:
        pairs = [
            (low, high)
            for (name, seed), low in by_run.items()
            if name == better and low is not None
            and (high := by_run.get((worse, seed))) is not None
        ]  # fmt: skip
        if pairs:
            low, high = np.array(pairs).T
            share = 1.0 - float(low.mean() / high.mean())
            gains.append(Gain(better, worse, share, Spread.of(list(high - low))))
    return gains


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]
