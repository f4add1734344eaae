"""Statistics of errors: spread over runs, and 95 % intervals by the bootstrap.

Means, ratios and their intervals follow Efron and Tibshirani 1993, An Introduction to the
Bootstrap, chapters 8 and 13: samples are drawn with replacement, and the 2.5th and 97.5th
percentile of what they give are the interval. Networks are compared on the same frames, drawn
together. Frames of a video resemble their neighbours, so blocks of them are drawn (Politis and
Romano 1992, "A circular block-resampling procedure for stationary data").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)
# Errors by frame, NaN where a frame has none. With several rows, as DEE has one of each
# corruption, the ratio of two runs is the mean of the rows' ratios: that of DEE is the mCE of one
# run to the other.
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a sample; NaN where it is too small."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of numbers; NaN of none."""
        mean = float(np.mean(values)) if values else math.nan
        return cls(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)

    def __str__(self) -> str:
        """`0.123 ± 0.004`, or the mean alone."""
        if math.isnan(self.mean):
            return '-'
        return f'{self.mean:.3f}' + ('' if math.isnan(self.sd) else f' ± {self.sd:.3f}')


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, value: float, draws: Values) -> Estimate:
        """A figure and what resamples gave in its place (R,); NaN among these does not count."""
        known = draws[np.isfinite(draws)]
        if not known.size or math.isnan(value):
            return cls(value)
        low, high = np.percentile(known, PERCENTILES)
        return cls(value, float(low), float(high))

    def __str__(self) -> str:
        """`0.123 (0.110 to 0.135)`, or the figure alone."""
        if math.isnan(self.value):
            return '-'
        interval = '' if math.isnan(self.low) else f' ({self.low:.3f} to {self.high:.3f})'
        return f'{self.value:.3f}{interval}'


@dataclass(frozen=True)
class PairedErrors:
    """Errors (N,) of the frames of one set under two networks; `block`: see `draw_blocks`."""

    new: Values
    old: Values
    block: int = 1


def draw_blocks(
    count: int, block: int, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Values:
    """How often each of `count` frames is in each resample, (resamples, count).

    Every resample has `count` frames, in blocks of `block` that follow each other; after the last
    frame comes the first.
    """
    blocks = math.ceil(count / block)
    starts = rng.integers(0, count, (resamples, blocks, 1))
    chosen = ((starts + np.arange(block)) % count).reshape(resamples, -1)[:, :count]
    drawn = np.zeros((resamples, count))
    np.add.at(drawn, (np.arange(resamples)[:, None], chosen), 1.0)
    return drawn


def estimate_mean(values: Values, block: int = 1, resamples: int = RESAMPLES) -> Estimate:
    """The mean of (N,) errors; of a single frame or block without interval."""
    known = np.isfinite(values)
    if not known.any():
        return Estimate(math.nan)
    drawn = draw_blocks(len(values), block, np.random.default_rng(0), resamples)
    with np.errstate(invalid='ignore'):
        draws = (drawn @ np.where(known, values, 0.0)) / (drawn @ known.astype(np.float64))
    varies = len(values) > block
    return Estimate.of(float(values[known].mean()), draws if varies else np.array([]))


def estimate_ratio(errors: PairedErrors, resamples: int = RESAMPLES) -> Estimate:
    """Mean of the new errors over mean of the old ones, of the frames that have both.

    All errors must be above 0.
    """
    return estimate_geometric_mean([errors], resamples)


def estimate_geometric_mean(sets: Sequence[PairedErrors], resamples: int = RESAMPLES) -> Estimate:
    """The geometric mean of the ratios of several sets, all of the same weight.

    The frames of every set are drawn on their own. A set with one frame or block adds nothing to
    the width of the interval; where all are such, or a set has no frame with both, there is none.
    """
    rng = np.random.default_rng(0)
    logs = np.zeros(resamples + 1)
    varies = False
    for one in sets:
        both = np.isfinite(one.new) & np.isfinite(one.old)
        new, old = (np.where(both, errors, 0.0) for errors in (one.new, one.old))
        count = len(both)
        drawn = np.vstack([np.ones((1, count)), draw_blocks(count, one.block, rng, resamples)])
        with np.errstate(invalid='ignore', divide='ignore'):
            logs += np.log((drawn @ new) / (drawn @ old)) / len(sets)
        varies |= count > one.block
    value, *draws = np.exp(logs) if sets else [math.nan]
    return Estimate.of(float(value), np.array(draws) if varies else np.array([]))


def bootstrap_gain(
    low: Values, high: Values, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """1 - mean_c (mean low_c / mean high_c), and its 95 % interval.

    Seeds and frames are drawn with replacement, the same for both.

    Args:
        low: (S, C, N) errors of S seeds, C rows and N frames; NaN where a frame has none.
        high: The same of the other variant.
        resamples: How often to draw.
    """
    both = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(both, low, 0.0), np.where(both, high, 0.0)
    rng = np.random.default_rng(0)
    seeds, _, count = low.shape

    def gain(weight_s: Values, weight_n: Values) -> float:
        sums = [np.einsum('scn,s,n->c', one, weight_s, weight_n) for one in (low, high)]
        return 1.0 - float(np.mean(sums[0] / sums[1]))

    draws = [
        gain(
            np.bincount(rng.integers(0, seeds, seeds), minlength=seeds).astype(float),
            np.bincount(rng.integers(0, count, count), minlength=count).astype(float),
        )
        for _ in range(resamples)
    ]
    interval = np.percentile(draws, PERCENTILES)
    return gain(np.ones(seeds), np.ones(count)), (float(interval[0]), float(interval[1]))
