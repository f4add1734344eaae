"""Metric scale: the factor s that makes the network's depth metric, and its uncertainty.

`ScaleFilter` is a Kalman filter on ln s; `ScaleTracker` feeds it from the source that the settings
name (`scale_sources`). `engine` multiplies depth by s.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.config import setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import from_quaternion, make_pose, Rotation
from psd_depth_ros.inference.scale_sources import (
    CameraHeightSource,
    LidarSource,
    OdometrySource,
    ScaleMeasurement,
    ScaleView,
)

Array = NDArray[np.float64]

SOURCES = (OdometrySource, CameraHeightSource, LidarSource)
MODES = ('fixed', 'odometry', 'camera_height', 'lidar', 'relative')
# Standard deviation of ln s for a checkpoint that is not metric: a factor e^2 either way.
UNKNOWN_SIGMA = 2.0
# A robot's camera may be ten times lower than those of the training data; wrong units are a factor
# of 100 or 1000.
_MAX_LOG_SCALE = math.log(30.0)
_ESTIMATED = (
    'it is estimated from the measurements; what they all err alike is scale.systematic_sigma'
)


@dataclass(frozen=True)
class ScaleSettings:
    """Where the metric scale comes from."""

    mode: str = setting(
        'fixed',
        'what makes depth metric; relative publishes depth up to an unknown factor',
        choices=MODES,
    )
    factor: float = setting(
        0.0,
        'mode fixed: multiply depth by this; 0 takes the metres of a metric checkpoint',
        '',
        minimum=0.0,
        maximum=1000.0,
    )
    camera_height_m: float = setting(
        0.0,
        'mode camera_height: height of the camera above the ground; 0 takes it from TF',
        'm',
        minimum=0.0,
        maximum=100.0,
    )
    camera_pitch_deg: float = setting(
        0.0,
        'mode camera_height: pitch, downwards positive; 0 takes it from TF, or level without TF',
        'deg',
        minimum=-80.0,
        maximum=80.0,
    )
    lidar_pose: tuple[float, ...] = setting(
        (),
        'mode lidar: pose of the lidar in the optical frame, x y z qx qy qz qw; empty takes it '
        'from TF',
        'm',
        minimum=-1000.0,
        maximum=1000.0,
    )
    camera_pose: tuple[float, ...] = setting(
        (),
        'mode odometry: pose of the optical frame in the body frame of the odometry, '
        'x y z qx qy qz qw; empty takes it from TF; if unknown, turns get less weight',
        'm',
        minimum=-1000.0,
        maximum=1000.0,
    )
    camera_frame: str = setting(
        '', 'frame of the camera in TF; empty is the frame_id of the images'
    )
    body_frame: str = setting(
        '', 'body frame of the odometry in TF; empty: child_frame_id of the odometry'
    )
    lidar_frame: str = setting('', 'frame of the lidar in TF; empty is the frame_id of its clouds')
    ground_frame: str = setting(
        '', 'frame on the ground, z up, in TF; empty is base_footprint, else base_link'
    )
    timeout_s: float = setting(
        5.0,
        'warn when the scale could not be measured for this long',
        's',
        minimum=0.1,
        maximum=3600.0,
    )
    systematic_sigma: float = setting(
        0.0,
        'standard deviation of the error of ln s common to all measurements, such as 0.05 for '
        'an odometry that is 5 % off; 0: the usual one of the mode, '
        + ', '.join(f'{one.systematic_sigma:g} {one.name}' for one in SOURCES),
        minimum=0.0,
        maximum=1.0,
    )

    removed_settings: ClassVar[dict[str, str]] = {
        'odometry_sigma': _ESTIMATED,
        'camera_height_sigma': _ESTIMATED,
        'lidar_sigma': _ESTIMATED,
        'drift_sigma': _ESTIMATED,
        'gate_sigmas': 'measurements are refused by how they scatter themselves',
    }

    def __post_init__(self) -> None:
        """Raise SettingsError for an invalid pose."""
        for name in ('lidar_pose', 'camera_pose'):
            _parse_pose(name, getattr(self, name))

    def extrinsics(self, rotation: Rotation = from_quaternion) -> Extrinsics:
        """The extrinsics that these settings state, for the raw optical frame.

        `rotation` converts the quaternions of the poses.
        """
        pitch = math.radians(self.camera_pitch_deg)
        up = np.array([0.0, -math.cos(pitch), -math.sin(pitch)])
        return Extrinsics(
            _parse_pose('camera_pose', self.camera_pose, rotation),
            _parse_pose('lidar_pose', self.lidar_pose, rotation),
            self.camera_height_m or None,
            up if self.camera_pitch_deg else None,
        )

    @property
    def missing(self) -> str:
        """The setting that the mode needs unless TF provides it, with advice; '' without one."""
        if self.mode == 'camera_height' and self.camera_height_m == 0:
            return 'camera_height_m; measure the height of the lens above the ground in metres'
        if self.mode == 'lidar' and not self.lidar_pose:
            return 'lidar_pose; give x y z qx qy qz qw of the lidar in the optical frame'
        return ''

    @property
    def needs_metric_checkpoint(self) -> bool:
        """Whether only a metric checkpoint makes depth metric in this mode."""
        return self.mode == 'fixed' and self.factor == 0

    def refuse_unscaled(self, checkpoint: Checkpoint) -> None:
        """Raise SettingsError where depth would be called metres without being metric."""
        if self.needs_metric_checkpoint and not checkpoint.info.output.metric:
            raise SettingsError(
                f'checkpoint {checkpoint.path or "of the package"} is not metric and scale.mode '
                'is fixed without a scale.factor, so its depth is not metres. Choose scale.mode '
                'odometry, camera_height or lidar, give scale.factor, or choose scale.mode '
                'relative (topics depth_relative/...)'
            )


class MeasuredScale(NamedTuple):
    """Scale of a measured frame: its stamp, factor s and the variance of ln s."""

    stamp_ns: int
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
        self._rate = 0.0
        self._refused: list[tuple[int, float]] = []
        self._sources: dict[str, SourceState] = {}
        self._scatter_variance = 0.0
        self.normalised_innovation = math.nan
        self.measured: MeasuredScale | None = None

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
        self._scatter.add(stamp_ns, measurement.log_scale)
        white, self._rate = self._scatter.estimate(measurement.variance)
        self.advance(stamp_ns)
        self._stamp_ns = stamp_ns
        shared = self._covariance.sum(axis=1)  # with the measurement
        spread = float(shared.sum()) + white
        error = measurement.log_scale - float(self._state.sum())
        self.normalised_innovation = error / math.sqrt(spread)
        accepted = abs(self.normalised_innovation) <= self._GATE
        if not accepted:
            accepted = self._recover(stamp_ns, measurement.log_scale, white)
        self._scatter_variance = max(0.0, white - measurement.variance)
        self.measured = None
        if accepted:
            self._correct(stamp_ns, measurement.log_scale, white)
            self._refused.clear()
        self._count(measurement, accepted)
        return accepted

    def _correct(self, stamp_ns: int, log_scale: float, white: float) -> None:
        """Kalman update; `measured` also contains e of the frame itself."""
        shared = self._covariance.sum(axis=1)
        spread = float(shared.sum()) + white
        error = log_scale - float(self._state.sum())
        own = float(shared[0]) + self._scatter_variance
        self.measured = MeasuredScale(
            stamp_ns,
            math.exp(self._state[0] + own * error / spread),
            max(0.0, self.variance - own**2 / spread),
        )
        self._state = self._state + shared * (error / spread)
        self._covariance = self._covariance - np.outer(shared, shared) / spread

    def _recover(self, stamp_ns: int, log_scale: float, white: float) -> bool:
        """Restart from the prior where refused measurements agree; True where it did."""
        self._refused = [*self._refused, (stamp_ns, log_scale)][-self._MAX_REFUSED :]
        recent = [value for _, value in self._refused[-self._RECOVERY :]]
        middle = float(np.median(recent))
        doubt = min(max(1.0, abs(middle) / math.sqrt(self._prior.sum())), self._MAX_DOUBT)
        lasting = stamp_ns - self._refused[0][0] >= doubt * self._RECOVERY_NS
        limit = self._GATE * math.sqrt(2.0 * white)
        agree = max(abs(value - middle) for value in recent) <= limit
        if len(recent) < self._RECOVERY or not lasting or not agree:
            return False
        self._state, self._covariance = np.zeros(2), self._prior.copy()
        return True

    def _count(self, measurement: ScaleMeasurement, accepted: bool) -> None:
        old = self._sources.get(measurement.source, SourceState())
        self._sources[measurement.source] = SourceState(
            old.accepted + accepted, old.refused + (not accepted), math.exp(measurement.log_scale)
        )


class ScaleTracker:
    """Metric scale of one camera in any mode.

    Args:
        settings: Mode and source of the scale.
        checkpoint_sigma: Standard deviation of ln s of a metric checkpoint, None for one that is
            not metric.
        rotation: Converts the quaternions of the settings.
    """

    def __init__(
        self,
        settings: ScaleSettings,
        checkpoint_sigma: float | None,
        rotation: Rotation = from_quaternion,
    ) -> None:
        self.settings = settings
        self._sigma = checkpoint_sigma
        prior = UNKNOWN_SIGMA if checkpoint_sigma is None else checkpoint_sigma
        self._source = _make_source(settings)
        systematic = settings.systematic_sigma
        if self._source is not None and systematic == 0:
            systematic = self._source.systematic_sigma
        self._filter = ScaleFilter(prior, systematic)
        self._measured: MeasuredScale | None = None
        self._problem = ''
        self._extrinsics = settings.extrinsics(rotation)

    @property
    def scale(self) -> float:
        """Factor s on the network's depth."""
        if self._source is None:
            return self.settings.factor or 1.0
        return self._filter.scale

    @property
    def variance(self) -> float:
        """Variance of ln s, for the confidence; 0 where s is fixed by the user or not wanted.

        It is also 0 until s is known: depth is not metric then, but must not be masked for lack of
        confidence, because s is measured from it.
        """
        if not self.is_known:
            return 0.0
        if self._source is not None:
            return self._filter.variance
        if self.settings.needs_metric_checkpoint and self._sigma is not None:
            return self._sigma**2
        return 0.0

    @property
    def is_known(self) -> bool:
        """Whether depth multiplied by `scale` is metric."""
        if self.settings.mode == 'relative':
            return False
        if self.settings.mode == 'fixed' and self.settings.factor > 0:
            return True
        return self._sigma is not None or self._filter.has_measured

    @property
    def sources(self) -> dict[str, SourceState]:
        """State of every source that has measured, by name."""
        return self._filter.sources

    def reset(self) -> None:
        """Drop the history, after a jump of the clock or of the odometry."""
        self._filter.reset()
        if self._source is not None:
            self._source.reset()

    def locate(self, camera: Camera, found: Extrinsics | None = None) -> Extrinsics:
        """Extrinsics of the rectified view of a camera: from the settings, else `found` (TF)."""
        known = self._extrinsics if found is None else self._extrinsics.or_else(found)
        return known.rectified(camera)

    def observe(
        self,
        stamp_ns: int,
        rgb: NDArray[np.uint8],
        depth_m: NDArray[np.float32],
        camera: Camera,
        *,
        applied_scale: float = 1.0,
        odometry: Array | None = None,
        lidar: NDArray[np.float32] | None = None,
        extrinsics: Extrinsics | None = None,
    ) -> ScaleMeasurement | None:
        """Measure the scale on one frame and update the filter.

        Args:
            stamp_ns: Stamp of the image.
            rgb: (H, W, 3) rectified image.
            depth_m: (H, W) its depth, `applied_scale` times the network's.
            camera: Camera of both.
            applied_scale: Scale that is already in `depth_m`.
            odometry: (4, 4) pose of the body in the odometry frame at `stamp_ns`; mode odometry.
            lidar: (N, 3) points in the lidar frame, metres; mode lidar.
            extrinsics: Result of `locate`; by default those of the settings.

        Returns:
            The measurement, accepted or not; None where nothing was measured (`problem` says why).
        """
        if self._source is None:
            return None
        self._measured, self._problem = None, ''
        self._filter.advance(stamp_ns)
        known = self._extrinsics if extrinsics is None else extrinsics
        view = ScaleView(stamp_ns, rgb, depth_m, camera.rectified(), odometry, lidar, known)
        found = self._source.measure(view)
        if isinstance(found, str):
            self._problem = found
            return None
        found = found.scaled(applied_scale)
        self._problem = self._implausible(found)
        if self._problem:
            return None
        self._filter.update(found, stamp_ns)
        self._measured = self._filter.measured
        return found

    @property
    def measured(self) -> MeasuredScale | None:
        """Scale of the last observed frame including its own measurement, None without one.

        More precise than the prediction for that frame; see `is_prompt`.
        """
        return self._measured

    @property
    def is_prompt(self) -> bool:
        """Whether depth should wait for the measurement on its own frame.

        True for sources that take little time and need no input that arrives late.
        """
        return self._source is not None and self._source.is_prompt

    @property
    def problem(self) -> str:
        """Why the last observed frame gave no measurement, '' where it did."""
        return self._problem

    def _implausible(self, found: ScaleMeasurement) -> str:
        """Error text where a measurement contradicts a metric checkpoint grossly, else ''."""
        if self._sigma is None or abs(found.log_scale) <= _MAX_LOG_SCALE:
            return ''
        return (
            f'{found.source} says {math.exp(found.log_scale):.3g} times the metres of the '
            'checkpoint; is it another unit, or a wrong pose of the sensor?'
        )


def _make_source(
    settings: ScaleSettings,
) -> OdometrySource | CameraHeightSource | LidarSource | None:
    """Measurement source of a mode; None where s is not measured."""
    if settings.mode == 'odometry':
        return OdometrySource()
    if settings.mode == 'camera_height':
        return CameraHeightSource()
    if settings.mode == 'lidar':
        return LidarSource()
    return None


def _parse_pose(
    name: str, values: tuple[float, ...], rotation: Rotation = from_quaternion
) -> Array | None:
    """4x4 matrix of x y z qx qy qz qw, None for (). Raises SettingsError."""
    if not values:
        return None
    if len(values) != 7:
        raise SettingsError(
            f'{name} has {len(values)} numbers, expected 7: x y z in metres and qx qy qz qw'
        )
    try:
        return make_pose(rotation(values[3:]), values[:3])
    except ValueError as error:
        raise SettingsError(f'{name}: {error}; the identity is 0 0 0 1') from error
