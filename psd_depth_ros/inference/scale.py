"""The factor s that makes the network's depth metric, and how well it is known.

`ScaleFilter` is a Kalman filter on ln s; `ScaleTracker` feeds it from the one source its settings
name. The sources themselves are in `scale_sources`. Multiplying depth by s is left to `engine`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
# Of a checkpoint that says nothing about metres: e^2 either way is one standard deviation.
UNKNOWN_SIGMA = 2.0
# A robot's camera may be ten times lower than those a checkpoint has learned from; centimetres and
# millimetres are off by a hundred and a thousand.
_MOST_LOG_SCALE = math.log(30.0)
_ESTIMATED = (
    'it is estimated from the measurements; what they all err alike is scale.systematic_sigma'
)


@dataclass(frozen=True)
class ScaleSettings:
    """Where metres come from."""

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
        """Refuse poses that are none."""
        for name in ('lidar_pose', 'camera_pose'):
            _parse_pose(name, getattr(self, name))

    def extrinsics(self, rotation: Rotation = from_quaternion) -> Extrinsics:
        """What these settings say of the camera's surroundings, for its optical frame.

        `rotation` turns the quaternions of poses.
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
        """Which setting the mode cannot do without unless TF knows it, with advice; '' if none."""
        if self.mode == 'camera_height' and self.camera_height_m == 0:
            return 'camera_height_m; measure the height of the lens above the ground in metres'
        if self.mode == 'lidar' and not self.lidar_pose:
            return 'lidar_pose; give x y z qx qy qz qw of the lidar in the optical frame'
        return ''

    @property
    def needs_metric_checkpoint(self) -> bool:
        """True where nothing but the checkpoint itself can make depth metric."""
        return self.mode == 'fixed' and self.factor == 0


class MeasuredScale(NamedTuple):
    """What a frame itself has told: its stamp, its factor s and the variance of ln s."""

    stamp_ns: int
    factor: float
    variance: float


@dataclass(frozen=True)
class SourceState:
    """What one source has given so far."""

    accepted: int = 0
    refused: int = 0
    last_scale: float = math.nan


class ScatterEstimate:
    """How measurements of ln s scatter and how fast ln s wanders, from the measurements alone.

    Of a random walk seen through white noise, differences over a time t have the mean square
    2 R + q t (a variogram; D. Allan's variance is its kin). The medians of the squares over one
    and over three measurements give both, and neither an outlier nor a jump moves them. A few
    of made-up differences stand for what is usual of a network until there are real ones.
    """

    _USUAL_WHITE = 0.03**2
    _USUAL_RATE = 0.002  # per second
    _MADE_UP = 3

    def __init__(self) -> None:
        self._recent: deque[tuple[int, float]] = deque(maxlen=40)
        self._white = self._rate = math.nan

    def add(self, stamp_ns: int, log_scale: float) -> None:
        """Take in a measurement, whether it was believed or not."""
        self._recent.append((stamp_ns, log_scale))
        self._white = self._rate = math.nan

    def estimate(self, variance: float) -> tuple[float, float]:
        """White variance R of a measurement and rate q in 1/s.

        `variance` is what the source says of R itself; it counts while little was measured.
        """
        usual_white = variance + self._USUAL_WHITE
        stamps = np.array([stamp for stamp, _ in self._recent], np.int64)
        values = np.array([value for _, value in self._recent])
        count = len(values) - 3
        if count < 2:
            return usual_white, self._USUAL_RATE
        (short_s, short), (long_s, long) = (_differences(stamps, values, lag) for lag in (1, 3))
        rate = max(0.0, long - short) / max(long_s - short_s, 1e-3)
        white = max(0.0, short - rate * short_s) / 2.0
        believed = count / (count + self._MADE_UP)
        return (
            believed * white + (1.0 - believed) * usual_white,
            believed * rate + (1.0 - believed) * self._USUAL_RATE,
        )


def _differences(stamps: NDArray[np.int64], values: Array, lag: int) -> tuple[float, float]:
    """Median time in seconds between measurements `lag` apart, and their robust mean square."""
    seconds = float(np.median(stamps[lag:] - stamps[:-lag])) * 1e-9
    return seconds, (1.4826 * float(np.median(np.abs(values[lag:] - values[:-lag])))) ** 2


class ScaleFilter:
    """Kalman filter on ln s, a random walk, that learns its own noise and mistrusts its source.

    ln s of a frame is m + e: m wanders slowly, e is the network's scatter from frame to frame. The
    state is m and the source's own error b, which is the same in all its measurements and so does
    not average out: z = m + e + b + noise. `prior_sigma` is the standard deviation of ln s
    before the first measurement, around s = 1, `systematic_sigma` that of b. However many
    measurements agree, the variance of ln s never falls below that of b given the prior, and ln s
    keeps that share of the prior (S. F. Schmidt's consider state, solved for). Noise and rate of
    the walk come from the measurements: see `ScatterEstimate`; what is more than the source's own
    noise is e. So a frame that was measured itself is known better than the next: see `measured`.

    Measurements farther off than four standard deviations are refused. Where only such come, and
    the last five agree with each other, they are believed in the end: after half a second for
    every standard deviation that they are off the prior (two seconds at most). Then the filter
    starts anew from the prior and the last of them. Stamps are integer nanoseconds and must not
    run backwards: `reset` after a jump. Not thread-safe.
    """

    _GATE = 4.0
    _RECOVERY, _MOST_REFUSED = 5, 100
    _RECOVERY_NS, _MOST_DOUBT = 500_000_000, 4.0

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
        """Most likely s."""
        return math.exp(self._state[0])

    @property
    def variance(self) -> float:
        """Variance of ln s of a frame that is not measured itself."""
        return float(self._covariance[0, 0]) + self._scatter_variance

    @property
    def sources(self) -> dict[str, SourceState]:
        """What every source that was heard has given."""
        return dict(self._sources)

    @property
    def has_measured(self) -> bool:
        """True once a measurement was accepted."""
        return any(state.accepted for state in self._sources.values())

    def advance(self, stamp_ns: int) -> None:
        """Let the variance grow with time, up to that of the prior; not before any measurement."""
        if self._stamp_ns is None:
            return
        grown = self._rate * max(0, stamp_ns - self._stamp_ns) * 1e-9
        now = float(self._covariance[0, 0])
        self._covariance[0, 0] = max(now, min(now + grown, float(self._prior[0, 0])))
        self._stamp_ns = stamp_ns

    def update(self, measurement: ScaleMeasurement, stamp_ns: int) -> bool:
        """Take in one measurement; False where the gate refused it."""
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
            self._take_in(stamp_ns, measurement.log_scale, white)
            self._refused.clear()
        self._count(measurement, accepted)
        return accepted

    def _take_in(self, stamp_ns: int, log_scale: float, white: float) -> None:
        """The Kalman step; of the frame itself e is known as well."""
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
        """Start anew from the prior where refused measurements agree; True where that happened."""
        self._refused = [*self._refused, (stamp_ns, log_scale)][-self._MOST_REFUSED :]
        recent = [value for _, value in self._refused[-self._RECOVERY :]]
        middle = float(np.median(recent))
        doubt = min(max(1.0, abs(middle) / math.sqrt(self._prior.sum())), self._MOST_DOUBT)
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
    """The scale of one camera, whichever way the settings obtain it.

    `checkpoint_sigma` is the standard deviation of ln s of a metric checkpoint, None for one that
    is not metric. In mode fixed with a factor, and in mode relative, s never changes. `rotation`
    turns the quaternions of the settings.
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
        """What the network's depth is to be multiplied by."""
        if self._source is None:
            return self.settings.factor or 1.0
        return self._filter.scale

    @property
    def variance(self) -> float:
        """Variance of ln s, for the confidence; 0 where the user fixed s or wants none.

        It also is 0 until s is known: such depth is not called metric, but it must not be masked
        for want of confidence either, for it is what s is measured from.
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
        """False while depth must not be called metric."""
        if self.settings.mode == 'relative':
            return False
        if self.settings.mode == 'fixed' and self.settings.factor > 0:
            return True
        return self._sigma is not None or self._filter.has_measured

    @property
    def sources(self) -> dict[str, SourceState]:
        """What every source that was heard has given."""
        return self._filter.sources

    def reset(self) -> None:
        """Forget what was learned over time: after a jump of the clock or of the odometry."""
        self._filter.reset()
        if self._source is not None:
            self._source.reset()

    def locate(self, camera: Camera, found: Extrinsics | None = None) -> Extrinsics:
        """Extrinsics for the rectified view of a camera: the settings', else those found (TF)."""
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
        """Learn from one frame; gives the measurement, or None where there was none.

        `rgb` (H, W, 3) and `depth_m` (H, W) are the rectified view of `camera`, depth being
        `applied_scale` times the network's. `odometry` is the pose of the moving frame in a fixed
        one at `stamp_ns`, `lidar` (N, 3) are points in the lidar's frame; each only in its mode.
        `extrinsics` are what `locate` gives, by default the settings' alone.
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
        """Scale of the frame observed last, None where it gave nothing.

        It is better than what was foretold for that frame; see `is_prompt`.
        """
        return self._measured

    @property
    def is_prompt(self) -> bool:
        """Whether depth should wait for what its own frame measures.

        So it is where the measurement takes little time and needs nothing that comes late.
        """
        return self._source is not None and self._source.is_prompt

    @property
    def problem(self) -> str:
        """Why the frame observed last gave no measurement, '' where it did."""
        return self._problem

    def _implausible(self, found: ScaleMeasurement) -> str:
        """Tell where a measurement contradicts a metric checkpoint beyond belief, else ''."""
        if self._sigma is None or abs(found.log_scale) <= _MOST_LOG_SCALE:
            return ''
        return (
            f'{found.source} says {math.exp(found.log_scale):.3g} times the metres of the '
            'checkpoint; is it another unit, or a wrong pose of the sensor?'
        )


def _make_source(
    settings: ScaleSettings,
) -> OdometrySource | CameraHeightSource | LidarSource | None:
    """The source of a mode; None where s is not measured."""
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
    """4x4 matrix of x y z qx qy qz qw, None of nothing; SettingsError where that fails."""
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
