"""Networks of unknown scale and shift: what they give is an affine function of 1/Z.

MiDaS, the relative ones of Depth Anything and their kin give disparity d with 1/Z = a d + b, a > 0
and b unknown (Ranftl et al. 2022, "Towards Robust Monocular Depth Estimation", eq. 3). No factor
on 1/d is metres. Both numbers are fitted to points of known depth, frame by frame, and followed as

    1/Z = (1 + k (d - m) / w) / s

with m and w, centre and spread of the d of the first points, held fixed: s is then the depth at
m, and the errors of ln s and ln k are nearly independent. Each has a filter of its own
(`scale_filter`), and both take a measurement or neither does.
"""

from __future__ import annotations

from collections.abc import Sequence
import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.inference.scale_filter import ScaleFilter
from psd_depth_ros.inference.scale_sources import (
    DEPTH_SIGMA,
    MIN_SIGMA,
    Samples,
    ScaleMeasurement,
    Strata,
)
from psd_depth_ros.odometry.lengths import weighted_median

Array = NDArray[np.float64]
Map = NDArray[np.float32]

_PAIRS, _SCORED = 100, 500  # lines tried at the start, and samples that judge them
_STEPS = 8  # of the reweighted fit
_OUTLIER = 3.0  # standard deviations from which on a sample counts no more in a score
_LEAST_AGREEING = 0.6  # of the picture within 2.5 standard deviations of the line
_AGREE = 2.5
FEW_AGREE = 2.0  # the same for a few samples that are exact
_MAX_SLOPE_SIGMA = 0.5  # of ln k
_REACH = 0.015  # of the width: half the window that corners are followed with
_EDGE = 0.15  # step of what the network gives, in deviations of it, that is an edge
_FEWEST = 40  # points
_STRATA = 8  # regions of equally many pixels by d
_MOVES = (0.03, 0.08, 0.2)  # of points in the picture, as a fraction of its width
_MOVED_BETTER = 0.6  # of the score: points that fit so much better elsewhere are misplaced
_NOTABLE = 0.2  # score above which it is asked
_FARTHEST = 1e-3  # of 1/Z at the centre: nothing is put farther
_ALIKE = 'all that is seen is about equally far: scale and shift cannot be told apart'


class Affine(NamedTuple):
    """k with centre m and spread w of d, see above, and the variance of ln k."""

    centre: float
    spread: float
    slope: float
    slope_variance: float = 0.0

    def relative_depth(self, values: Map) -> Map:
        """Z / s of what a network gives, any shape; beyond 1000, as in the sky, it is 1000."""
        line = 1.0 + (self.slope / self.spread) * (values - self.centre)
        depth: Map = (1.0 / np.maximum(line, _FARTHEST)).astype(np.float32)
        return depth

    def values(self, relative_depth: Map) -> Map:
        """What a network gives for Z / s, any shape: the inverse of `relative_depth`."""
        line = 1.0 / relative_depth
        values: Map = (self.centre + (line - 1.0) * (self.spread / self.slope)).astype(np.float32)
        return values


class AffineFit(NamedTuple):
    """1/Z = `rate` d + `offset` as fitted to the samples of one frame.

    `covariance` (2, 2) is that of both; `centre` and `spread` say where the samples are in d.
    """

    rate: float
    offset: float
    covariance: Array
    centre: float
    spread: float
    support: int

    def measurements(
        self, source: str, centre: float, spread: float, log_variance: float
    ) -> tuple[ScaleMeasurement, ScaleMeasurement] | None:
        """ln s and ln k for a centre and a spread of d; None where 1/Z is not above 0 there."""
        inverse = self.rate * centre + self.offset
        if not inverse > 0:
            return None
        slope = self.rate * spread / inverse
        of_inverse = np.array([centre, 1.0]) / inverse  # derivatives of ln(1/s) by rate, offset
        of_slope = np.array([1.0 / self.rate, 0.0]) - of_inverse
        variances = [
            max(float(one @ self.covariance @ one), MIN_SIGMA**2) for one in (of_inverse, of_slope)
        ]
        return (
            ScaleMeasurement(
                source, -math.log(inverse), variances[0] + log_variance, self.support
            ),
            ScaleMeasurement(source, math.log(slope), variances[1], self.support),
        )


def align_least_squares(d: Map, inverse_m: Map) -> tuple[Affine, float]:
    """Affine and s of the least squares fit of 1/Z (N,) to what the network gives (N,)."""
    centre = float(np.mean(d, dtype=np.float64)) if len(d) else 0.0
    spread = float(np.std(d, dtype=np.float64)) if len(d) else 0.0
    if not spread > 0.0:
        middle = float(np.mean(inverse_m)) if len(d) else 1.0
        return Affine(centre, 1.0, 0.0), 1.0 / middle
    x = (d.astype(np.float64) - centre) / spread
    rate, inverse = float(np.mean(x * inverse_m)), float(np.mean(inverse_m, dtype=np.float64))
    return Affine(centre, spread, rate / inverse), 1.0 / inverse


class Readings(NamedTuple):
    """Points of known depth with what the network gives there, N of them, of one or more frames.

    `d`, `inverse_m`, `sigma` and `row` are (N,); the rest as in `Samples`.
    """

    d: Array
    inverse_m: Array
    sigma: Array
    row: NDArray[np.intp]
    log_variance: float

    @classmethod
    def join(cls, parts: Sequence[Readings]) -> Readings:
        """Those of several frames."""
        return cls(
            np.concatenate([part.d for part in parts]),
            np.concatenate([part.inverse_m for part in parts]),
            np.concatenate([part.sigma for part in parts]),
            np.concatenate([part.row for part in parts]),
            float(np.mean([part.log_variance for part in parts])),
        )


def read_off(samples: Samples, values: Map) -> Readings:
    """Readings of samples on `values` (H, W), where these are finite and off the edges of depth.

    At edges a corner, or a point that another sensor sees, may belong to either side, which would
    make the line less steep.
    """
    d = values[samples.row, samples.column].astype(np.float64)
    spread = float(np.nanstd(d)) if np.isfinite(d).any() else 0.0
    smooth = _roughness(values, samples.row, samples.column) <= _EDGE * spread
    use = np.isfinite(d) & smooth
    return Readings(
        d[use],
        samples.inverse_m[use],
        samples.sigma[use],
        samples.row[use],
        samples.log_variance,
    )


def fit_inverse_depth(readings: Readings, values: Map) -> AffineFit | str:
    """Fit scale and shift to readings, or say why they tell nothing.

    Args:
        readings: Points of known depth.
        values: (H, W) what the network gives in the frame, or the last of the frames.

    The line begins as the best of 100 through two samples, and is fitted by reweighted least
    squares with Cauchy's loss. A sample weighs by its own error and that of the network, a fixed
    share of 1/Z, and regions of the picture count by their pixels (`Strata`).
    """
    d, inverse, sigma, row, _ = readings
    if len(d) < _FEWEST:
        return f'fewer than {_FEWEST} points lie where the network gives something, off edges'
    middle = float(np.median(d))
    spread = float(np.sqrt(np.mean((d - middle) ** 2)))
    if not spread > 1e-6 * max(1.0, abs(middle)):
        return 'what the network gives is the same everywhere'
    x = (d - middle) / spread
    line = _start(x, inverse, sigma)
    # Of a sample that is known much better than the network knows anything: 1. Nothing here may
    # depend on the measured 1/Z itself, whose errors would choose their own weight.
    clear = 1.0 - sigma**2 / _noise(line, x, sigma)
    balanced, unseen = _strata(values).balance(clear, row, d)
    line = _refine(line, x, inverse, sigma, balanced)
    if not line[0] > 0:
        return 'depth does not grow where that of the points does'
    off = _residuals(line, x, inverse, sigma)
    agreeing = float(balanced[np.abs(off) <= _AGREE].sum())
    if agreeing < _LEAST_AGREEING:
        return (
            f'only {agreeing:.0%} of the picture agree with any scale and shift; is the pose of '
            'the sensor wrong?'
        )
    width = max(1.4826 * weighted_median(np.abs(off), balanced), MIN_SIGMA / DEPTH_SIGMA)
    weight = balanced / _noise(line, x, sigma) / (1.0 + (off / 2.0) ** 2)
    variance = width**2 * (float(np.sum(balanced**2)) + unseen)
    return _describe_line(line, x, weight, variance, middle, spread)


def fit_few(d: Array, inverse_m: Array) -> tuple[AffineFit | str, Array, NDArray[np.bool_]]:
    """Fit scale and shift to some exact distances, as of a tape measure, or say why it cannot be.

    Args:
        d: (N,) what the network gives there.
        inverse_m: (N,) 1/Z in 1/m.

    Returns:
        The fit, 1/Z (N,) by the line (NaN without one), and which samples it is made of (N,). That
        is the line through two samples which most of them agree with, to two standard deviations
        of the network's own error; then least squares. More than half have to agree, and of more
        than two at least three, because any two lie on a line.
    """
    count, exact = len(d), np.zeros(len(d))
    unknown, none = np.full(count, math.nan), np.zeros(count, bool)
    middle, spread = float(np.mean(d)), float(np.std(d))
    if count < 2 or not spread > 1e-6 * max(1.0, abs(middle)):
        return _ALIKE, unknown, none
    x = (d - middle) / spread
    lines = [
        np.array([rate, inverse_m[one] - rate * x[one]])
        for one, other in itertools.combinations(range(count), 2)
        if x[other] != x[one]
        and (rate := (inverse_m[other] - inverse_m[one]) / (x[other] - x[one])) > 0
    ]
    if not lines:
        return 'depth does not grow where that of the samples does', unknown, none
    line = min(lines, key=lambda one: _score(one, x, inverse_m, exact, np.ones(count)))
    used = np.abs(_residuals(line, x, inverse_m, exact)) <= FEW_AGREE
    is_agreed = 2 * used.sum() > count and used.sum() >= min(count, 3)
    if is_agreed:
        line = _refine(line, x[used], inverse_m[used], exact[used], np.ones(int(used.sum())))
    by_line = line[0] * x + line[1]
    if not (is_agreed and line[0] > 0):
        return 'the samples agree with no scale and shift', by_line, none
    off = _residuals(line, x, inverse_m, exact)[used]
    # The network's own error counts like one more sample.
    variance = (1.0 + float(np.sum(off**2))) / len(off)
    weight = 1.0 / _noise(line, x[used], exact[used])
    found = _describe_line(line, x[used], weight, variance, middle, spread)
    return found, by_line, used


def _describe_line(
    line: Array, x: Array, weight: Array, variance: float, middle: float, spread: float
) -> AffineFit | str:
    """The fit of 1/Z = line[0] x + line[1] with x = (d - middle) / spread to weighted samples.

    `variance` is that of unit weight. Gives the reason where the slope is not known from these.
    """
    design = np.column_stack([x, np.ones_like(x)])
    information = design.T @ (design * weight[:, None])
    covariance = np.linalg.inv(information) * variance
    weight = weight / weight.sum()
    centre = float(weight @ x)
    deviation = math.sqrt(float(weight @ (x - centre) ** 2))
    rate, offset = float(line[0]), float(line[1])
    # from x to d: rate' = rate / spread, offset' = offset - rate middle / spread
    change = np.array([[1.0 / spread, 0.0], [-middle / spread, 1.0]])
    found = AffineFit(
        rate / spread,
        offset - rate * middle / spread,
        change @ covariance @ change.T,
        middle + spread * centre,
        spread * max(deviation, 1e-3),
        len(x),
    )
    pair = found.measurements('', found.centre, found.spread, 0.0)
    if pair is None or pair[1].variance > _MAX_SLOPE_SIGMA**2:
        return _ALIKE
    return found


def find_misplacement(samples: Samples, values: Map, fit: AffineFit) -> str:
    """Why the samples cannot belong to these pixels, '' where they can.

    They fit much better when all are moved across the picture by the same pixels: the sensor is
    turned against what its pose says.
    """
    step = max(1, len(samples.row) // 1000)
    row, column = samples.row[::step], samples.column[::step]
    inverse, sigma = samples.inverse_m[::step], samples.sigma[::step]
    start = np.array([fit.rate, fit.offset])
    here = values[row, column].astype(np.float64)
    best = (1.0, 0, 0)
    height, width = values.shape
    for fraction in _MOVES:
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            move = round(fraction * width)
            down, right = down * move, right * move
            inside = (row + down >= 0) & (row + down < height)
            inside &= (column + right >= 0) & (column + right < width) & np.isfinite(here)
            there = values[row[inside] + down, column[inside] + right].astype(np.float64)
            inside[inside] = is_known = np.isfinite(there)
            there, given = there[is_known], (inverse[inside], sigma[inside])
            if len(there) < max(40, len(row) // 3):
                continue
            equal = np.ones(len(there))
            now = float(_score(start, here[inside], *given, equal))
            if now > _NOTABLE:
                line = _refine(start, there, *given, equal, steps=3)
                best = min(best, (float(_score(line, there, *given, equal)) / now, down, right))
    ratio, down, right = best
    if ratio > _MOVED_BETTER:
        return ''
    where = (
        f'{abs(right)} px {"right" if right > 0 else "left"}'
        if right
        else (f'{abs(down)} px {"down" if down > 0 else "up"}')
    )
    return f'the points fit the picture far better {where}: the pose of the sensor is wrong'


class AffineFilter:
    """Follows ln s and ln k over time; see `ScaleFilter`, which each of them has.

    `prior_sigma` is that of ln s, that of ln k is half of it.
    """

    def __init__(self, prior_sigma: float, systematic_sigma: float) -> None:
        self.scale = ScaleFilter(prior_sigma, systematic_sigma)
        self._slope = ScaleFilter(0.5 * prior_sigma)
        self._place: tuple[float, float] | None = None

    def reset(self) -> None:
        """Forget all measurements."""
        self.scale.reset()
        self._slope.reset()
        self._place = None

    def advance(self, stamp_ns: int) -> None:
        """See `ScaleFilter.advance`."""
        self.scale.advance(stamp_ns)
        self._slope.advance(stamp_ns)

    @property
    def affine(self) -> Affine | None:
        """Centre, spread and k for a frame that is not measured itself; None before the first."""
        if self._place is None:
            return None
        return Affine(*self._place, self._slope.scale, self._slope.variance)

    @property
    def measured(self) -> Affine | None:
        """The same for the frame that was measured last, None where that was refused."""
        own = self._slope.measured
        if self._place is None or own is None:
            return None
        return Affine(*self._place, own.factor, own.variance)

    def update(self, source: str, fit: AffineFit, stamp_ns: int, log_variance: float = 0.0) -> str:
        """Update both filters; gives the reason where the fit cannot be used, else ''.

        What a gate refuses is counted, and is no reason.
        """
        place = (fit.centre, fit.spread) if self._place is None else self._place
        pair = fit.measurements(source, *place, log_variance)
        if pair is None:
            return 'what the network gives has jumped: nothing is seen where the scale is known'
        filters = (self.scale, self._slope)
        verdicts = [one.judge(found, stamp_ns) for one, found in zip(filters, pair, strict=True)]
        for one, found in zip(filters, pair, strict=True):
            one.settle(found, stamp_ns, all(verdicts))
        if all(verdicts):
            self._place = place
        return ''


def _roughness(values: Map, row: NDArray[np.intp], column: NDArray[np.intp]) -> Array:
    """Largest second difference (N,) of what the network gives around pixels, along 4 lines.

    It is 0 on planes of 1/Z, and the height of the step at edges.
    """
    height, width = values.shape
    reach = max(2, round(_REACH * width))
    largest = np.zeros(len(row))
    middle = values[row, column]
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        ends = [
            values[
                (row + sign * down * reach).clip(0, height - 1),
                (column + sign * right * reach).clip(0, width - 1),
            ]
            for sign in (-1, 1)
        ]
        with np.errstate(invalid='ignore'):
            largest = np.fmax(largest, np.abs(ends[0] + ends[1] - 2.0 * middle))
    return largest


def _strata(values: Map) -> Strata:
    """Regions of the picture of equally many pixels by what the network gives."""
    finite = values[np.isfinite(values)]
    few = finite[:: max(1, finite.size // 4096)]
    return Strata(values, np.unique(np.quantile(few, np.arange(1, _STRATA) / _STRATA)))


def _start(x: Array, inverse: Array, sigma: Array) -> Array:
    """The best line (2,) through two samples."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(len(x), size=(2, _PAIRS))
    judges = rng.choice(len(x), min(len(x), _SCORED), replace=False)
    run = x[second] - x[first]
    use = np.abs(run) > 1e-3
    if not use.any():
        return np.array([0.0, float(np.median(inverse))])
    first, second, run = first[use], second[use], run[use]
    rate = (inverse[second] - inverse[first]) / run
    lines = np.stack([rate, inverse[first] - rate * x[first]])
    given = (x[judges, None], inverse[judges, None], sigma[judges, None])
    scores = _score(lines, *given, np.ones((len(judges), 1)))
    scores = np.where(rate > 0, scores, np.inf)
    return lines[:, int(np.argmin(scores))]


def _refine(
    line: Array, x: Array, inverse: Array, sigma: Array, weights: Array, steps: int = _STEPS
) -> Array:
    """Reweighted least squares from a line (2,) of rate and offset."""
    design = np.column_stack([x, np.ones_like(x)])
    for _ in range(steps):
        off = _residuals(line, x, inverse, sigma)
        weight = weights / _noise(line, x, sigma) / (1.0 + (off / 2.0) ** 2)
        weighted = design * weight[:, None]
        line = np.linalg.lstsq(weighted.T @ design, weighted.T @ inverse, rcond=None)[0]
    return line


def _noise(line: Array, x: Array, sigma: Array) -> Array:
    """Variance of 1/Z against the line: of the sample, and of the network."""
    level = np.maximum(line[0] * x + line[1], 1e-3)
    variance: Array = sigma**2 + (DEPTH_SIGMA * level) ** 2
    return variance


def _residuals(line: Array, x: Array, inverse: Array, sigma: Array) -> Array:
    """Distances from the line in standard deviations."""
    off: Array = (line[0] * x + line[1] - inverse) / np.sqrt(_noise(line, x, sigma))
    return off


def _score(line: Array, x: Array, inverse: Array, sigma: Array, weights: Array) -> Array:
    """Mean square of the distances, outliers cut off: of one line, or of many in columns."""
    square = _residuals(line, x, inverse, sigma) ** 2
    total: Array = np.sum(weights * np.minimum(square, _OUTLIER**2), axis=0) / weights.sum(axis=0)
    return total
