"""The filters of the metric scale: Kalman filters on ln s, whose noise is estimated as they go."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.inference.scale_sources import ScaleMeasurement

Array = NDArray[np.float64]


class OwnScale(NamedTuple):
    """Scale of a measured frame: factor s and the variance of ln s."""

    factor: float
    variance: float


@dataclass(frozen=True)
class SourceState:
    """Counts of the measurements of one source, and the last s."""

    accepted: int = 0
    refused: int = 0
    last_scale: float = math.nan


class ScatterEstimate:
    """Estimates white noise R and random-walk rate q of ln s from the measurements alone.

    For a random walk observed through white noise, squared differences over a time t have the mean
    2 R + q t (a variogram, akin to the Allan variance). The medians of the squared differences
    over one and over three measurements give both, robust against outliers and jumps. A prior with
    the weight of a few differences takes the place of missing ones.
    """

    _PRIOR_WHITE = 0.03**2
    _PRIOR_RATE = 0.002  # per second
    _PRIOR_COUNT = 3

    def __init__(self) -> None:
        self._recent: deque[tuple[int, float]] = deque(maxlen=40)

    def add(self, stamp_ns: int, log_scale: float) -> None:
        """Add a measurement, accepted or refused."""
        self._recent.append((stamp_ns, log_scale))

    def estimate(self, variance: float) -> tuple[float, float]:
        """White variance R of a measurement, and rate q in 1/s.

        `variance` is the source's own estimate of R, for the prior.
        """
        prior_white = variance + self._PRIOR_WHITE
        stamps = np.array([stamp for stamp, _ in self._recent], np.int64)
        values = np.array([value for _, value in self._recent])
        count = len(values) - 3
        if count < 2:
            return prior_white, self._PRIOR_RATE
        (short_s, short), (long_s, long) = (_differences(stamps, values, lag) for lag in (1, 3))
        rate = max(0.0, long - short) / max(long_s - short_s, 1e-3)
        white = max(0.0, short - rate * short_s) / 2.0
        weight = count / (count + self._PRIOR_COUNT)
        return (
            weight * white + (1.0 - weight) * prior_white,
            weight * rate + (1.0 - weight) * self._PRIOR_RATE,
        )


def _differences(stamps: NDArray[np.int64], values: Array, lag: int) -> tuple[float, float]:
    """Median time (s) between measurements `lag` apart, and the robust mean squared difference."""
    seconds = float(np.median(stamps[lag:] - stamps[:-lag])) * 1e-9
    return seconds, (1.4826 * float(np.median(np.abs(values[lag:] - values[:-lag])))) ** 2


class ScaleFilter:
    """Kalman filter on ln s with adaptive noise and a systematic error of the source.

    Model: ln s of a frame is m + e, where m is a random walk and e the network's scatter from
    frame to frame; a measurement is z = m + e + b + noise, where b, the systematic error of the
    source, is the same in all its measurements and does not average out. The state is (m, b).
    `prior_sigma` is the standard deviation of ln s before the first measurement, around s = 1;
    `systematic_sigma` is that of b. However many measurements agree, the variance of ln s stays
    above that of b given the prior (a consider state, Schmidt 1966). Noise and rate of the walk
    are estimated from the measurements (`ScatterEstimate`); what exceeds the source's own noise is
    e. A frame that was measured itself is therefore known better than the next one: `measured`.

    Gate: measurements more than four standard deviations off are refused. When only such come and
    the last five agree with each other, the filter restarts from the prior: after 0.5 s for every
    standard deviation that they are off the prior, at most 2 s. Stamps are integer nanoseconds and
    must not decrease: `reset` after a jump. Not thread-safe.
    """

    _GATE = 4.0
    _RECOVERY, _MAX_REFUSED = 5, 100
    _RECOVERY_NS, _MAX_DOUBT = 500_000_000, 4.0

    def __init__(self, prior_sigma: float, systematic_sigma: float = 0.0) -> None:
        self._prior = np.diag([prior_sigma**2, systematic_sigma**2])
        self.reset()

    def reset(self) -> None:
        """Forget all measurements."""
        self._state = np.zeros(2)
        self._covariance = self._prior.copy()
        self._scatter = ScatterEstimate()
        self._stamp_ns: int | None = None
        self._rate = self._white = 0.0
        self._restarts = False
        self._refused: list[tuple[int, float]] = []
        self._sources: dict[str, SourceState] = {}
        self._scatter_variance = 0.0
        self.normalised_innovation = math.nan
        self.measured: OwnScale | None = None

    @property
    def scale(self) -> float:
        """Estimate of s."""
        return math.exp(self._state[0])

    @property
    def variance(self) -> float:
        """Variance of ln s for a frame that is not measured itself."""
        return float(self._covariance[0, 0]) + self._scatter_variance

    @property
    def sources(self) -> dict[str, SourceState]:
        """State of every source that has measured, by name."""
        return dict(self._sources)

    @property
    def has_measured(self) -> bool:
        """Whether a measurement was accepted."""
        return any(state.accepted for state in self._sources.values())

    def advance(self, stamp_ns: int) -> None:
        """Predict: the variance grows with time, up to the prior, after the first measurement."""
        if self._stamp_ns is None:
            return
        grown = self._rate * max(0, stamp_ns - self._stamp_ns) * 1e-9
        now = float(self._covariance[0, 0])
        self._covariance[0, 0] = max(now, min(now + grown, float(self._prior[0, 0])))
        self._stamp_ns = stamp_ns

    def update(self, measurement: ScaleMeasurement, stamp_ns: int) -> bool:
        """Update with a measurement; False where the gate refused it."""
        accepted = self.judge(measurement, stamp_ns)
        self.settle(measurement, stamp_ns, accepted)
        return accepted

    def judge(self, measurement: ScaleMeasurement, stamp_ns: int) -> bool:
        """Whether the gate lets a measurement pass, which `settle` must be told next."""
        self._scatter.add(stamp_ns, measurement.log_scale)
        self._white, self._rate = self._scatter.estimate(measurement.variance)
        self.advance(stamp_ns)
        self._stamp_ns = stamp_ns
        spread = float(self._covariance.sum()) + self._white
        error = measurement.log_scale - float(self._state.sum())
        self.normalised_innovation = error / math.sqrt(spread)
        self._restarts = False
        if abs(self.normalised_innovation) <= self._GATE:
            return True
        self._restarts = self._must_restart(stamp_ns, measurement.log_scale, self._white)
        return self._restarts

    def settle(self, measurement: ScaleMeasurement, stamp_ns: int, accepted: bool) -> None:
        """Take the measurement that was just judged, or leave it."""
        if accepted and self._restarts:
            self._state, self._covariance = np.zeros(2), self._prior.copy()
        self._scatter_variance = max(0.0, self._white - measurement.variance)
        self.measured = None
        if accepted:
            self._correct(measurement.log_scale, self._white)
            self._refused.clear()
        self._count(measurement, accepted)

    def _correct(self, log_scale: float, white: float) -> None:
        """Kalman update; `measured` also contains e of the frame itself."""
        shared = self._covariance.sum(axis=1)
        spread = float(shared.sum()) + white
        error = log_scale - float(self._state.sum())
        own = float(shared[0]) + self._scatter_variance
        self.measured = OwnScale(
            math.exp(self._state[0] + own * error / spread),
            max(0.0, self.variance - own**2 / spread),
        )
        self._state = self._state + shared * (error / spread)
        self._covariance = self._covariance - np.outer(shared, shared) / spread

    def _must_restart(self, stamp_ns: int, log_scale: float, white: float) -> bool:
        """Whether to begin from the prior again, for refused measurements agree."""
        self._refused = [*self._refused, (stamp_ns, log_scale)][-self._MAX_REFUSED :]
        recent = [value for _, value in self._refused[-self._RECOVERY :]]
        middle = float(np.median(recent))
        doubt = min(max(1.0, abs(middle) / math.sqrt(self._prior.sum())), self._MAX_DOUBT)
        lasting = stamp_ns - self._refused[0][0] >= doubt * self._RECOVERY_NS
        limit = self._GATE * math.sqrt(2.0 * white)
        agree = max(abs(value - middle) for value in recent) <= limit
        return len(recent) >= self._RECOVERY and lasting and agree

    def _count(self, measurement: ScaleMeasurement, accepted: bool) -> None:
        old = self._sources.get(measurement.source, SourceState())
        self._sources[measurement.source] = SourceState(
            old.accepted + accepted, old.refused + (not accepted), math.exp(measurement.log_scale)
        )
