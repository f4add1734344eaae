"""The factor s that makes the network's depth metric, and how well it is known.

`ScaleFilter` is a Kalman filter on ln s; `ScaleTracker` feeds it from the one source its settings
name. The sources themselves are in `scale_sources`. Multiplying depth by s is left to `engine`.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.config import setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import from_quaternion, make_pose
from psd_depth_ros.inference.scale_sources import (
    CameraHeightSource,
    LidarSource,
    OdometrySource,
    ScaleMeasurement,
    ScaleView,
)

Array = NDArray[np.float64]

MODES = ('fixed', 'odometry', 'camera_height', 'lidar', 'relative')
# Of a checkpoint that says nothing about metres: e^2 either way is one standard deviation.
UNKNOWN_SIGMA = 2.0


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
        'mode camera_height: how far the camera looks down; 0 takes it from TF, else is level',
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
        'mode odometry: pose of the optical frame in the frame that odometry moves, '
        'x y z qx qy qz qw; empty takes it from TF; where that is unknown turns count less',
        'm',
        minimum=-1000.0,
        maximum=1000.0,
    )
    odometry_sigma: float = setting(
        0.03, 'standard deviation of ln s of one odometry measurement', minimum=1e-4, maximum=1.0
    )
    camera_height_sigma: float = setting(
        0.05, 'standard deviation of ln s of one height measurement', minimum=1e-4, maximum=1.0
    )
    lidar_sigma: float = setting(
        0.01, 'standard deviation of ln s of one lidar measurement', minimum=1e-4, maximum=1.0
    )
    drift_sigma: float = setting(
        0.01, 'standard deviation that ln s gains in a second', '', minimum=0.0, maximum=1.0
    )
    gate_sigmas: float = setting(
        3.0, 'refuse measurements farther off than this', '', minimum=1.0, maximum=100.0
    )

    def __post_init__(self) -> None:
        """Refuse poses that are none."""
        for name in ('lidar_pose', 'camera_pose'):
            _parse_pose(name, getattr(self, name))

    @property
    def extrinsics(self) -> Extrinsics:
        """What these settings say of the camera's surroundings, for its optical frame."""
        pitch = math.radians(self.camera_pitch_deg)
        up = np.array([0.0, -math.cos(pitch), -math.sin(pitch)])
        return Extrinsics(
            _parse_pose('camera_pose', self.camera_pose),
            _parse_pose('lidar_pose', self.lidar_pose),
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


@dataclass(frozen=True)
class SourceState:
    """What one source has given so far."""

    accepted: int = 0
    refused: int = 0
    last_scale: float = math.nan


class ScaleFilter:
    """Kalman filter on ln s, a random walk, with gating.

    `prior_sigma` is the standard deviation of ln s before the first measurement, around s = 1.
    Measurements farther off than `gate_sigmas` are refused; but `recovery` refusals in a row that
    agree with each other are believed, and the filter starts anew from them. Stamps are integer
    nanoseconds and must not run backwards: `reset` after a jump. Not thread-safe.
    """

    def __init__(
        self,
        prior_sigma: float,
        drift_sigma: float = 0.01,
        gate_sigmas: float = 3.0,
        recovery: int = 5,
    ) -> None:
        self._prior_variance = prior_sigma**2
        self._drift_variance = drift_sigma**2
        self._gate_sigmas = gate_sigmas
        self._recovery = recovery
        self.reset()

    def reset(self) -> None:
        """Forget all measurements."""
        self._log_scale = 0.0
        self._variance = self._prior_variance
        self._stamp_ns: int | None = None
        self._refused: list[float] = []
        self._sources: dict[str, SourceState] = {}

    @property
    def scale(self) -> float:
        """Most likely s."""
        return math.exp(self._log_scale)

    @property
    def variance(self) -> float:
        """Variance of ln s."""
        return self._variance

    @property
    def sources(self) -> dict[str, SourceState]:
        """What every source that was heard has given."""
        return dict(self._sources)

    @property
    def has_measured(self) -> bool:
        """True once a measurement was accepted."""
        return any(state.accepted for state in self._sources.values())

    def update(self, measurement: ScaleMeasurement, stamp_ns: int) -> bool:
        """Take in one measurement; False where the gate refused it."""
        self._predict(stamp_ns)
        error = measurement.log_scale - self._log_scale
        spread = self._variance + measurement.variance
        accepted = abs(error) <= self._gate_sigmas * math.sqrt(spread)
        if accepted:
            gain = self._variance / spread
            self._log_scale += gain * error
            self._variance *= 1.0 - gain
            self._refused.clear()
        else:
            accepted = self._recover(measurement)
        self._count(measurement, accepted)
        return accepted

    def _predict(self, stamp_ns: int) -> None:
        """Let the variance grow with time; before the first measurement it is the prior's."""
        if self._stamp_ns is not None:
            seconds = max(0, stamp_ns - self._stamp_ns) * 1e-9
            self._variance += self._drift_variance * seconds
        self._stamp_ns = stamp_ns

    def _recover(self, measurement: ScaleMeasurement) -> bool:
        """Start anew from refused measurements that agree; True where that happened."""
        self._refused = [*self._refused, measurement.log_scale][-self._recovery :]
        middle = float(np.median(self._refused))
        limit = self._gate_sigmas * math.sqrt(2.0 * measurement.variance)
        agree = all(abs(value - middle) <= limit for value in self._refused)
        if len(self._refused) < self._recovery or not agree:
            return False
        self._log_scale, self._variance = middle, measurement.variance
        self._refused.clear()
        return True

    def _count(self, measurement: ScaleMeasurement, accepted: bool) -> None:
        old = self._sources.get(measurement.source, SourceState())
        self._sources[measurement.source] = SourceState(
            old.accepted + accepted, old.refused + (not accepted), math.exp(measurement.log_scale)
        )


class ScaleTracker:
    """The scale of one camera, whichever way the settings obtain it.

    `checkpoint_sigma` is the standard deviation of ln s of a metric checkpoint, None for one that
    is not metric. In mode fixed with a factor, and in mode relative, s never changes.
    """

    def __init__(self, settings: ScaleSettings, checkpoint_sigma: float | None) -> None:
        self.settings = settings
        self._sigma = checkpoint_sigma
        prior = UNKNOWN_SIGMA if checkpoint_sigma is None else checkpoint_sigma
        self._filter = ScaleFilter(prior, settings.drift_sigma, settings.gate_sigmas)
        self._source = _make_source(settings)
        self._extrinsics = settings.extrinsics

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
        known = self._extrinsics if extrinsics is None else extrinsics
        view = ScaleView(stamp_ns, rgb, depth_m, camera.rectified(), odometry, lidar, known)
        found = self._source.measure(view)
        if found is None:
            return None
        found = found.scaled(applied_scale)
        self._filter.update(found, stamp_ns)
        return found


def _make_source(
    settings: ScaleSettings,
) -> OdometrySource | CameraHeightSource | LidarSource | None:
    """The source of a mode; None where s is not measured."""
    if settings.mode == 'odometry':
        return OdometrySource(settings.odometry_sigma)
    if settings.mode == 'camera_height':
        return CameraHeightSource(settings.camera_height_sigma)
    if settings.mode == 'lidar':
        return LidarSource(settings.lidar_sigma)
    return None


def _parse_pose(name: str, values: tuple[float, ...]) -> Array | None:
    """4x4 matrix of x y z qx qy qz qw, None of nothing; SettingsError where that fails."""
    if not values:
        return None
    if len(values) != 7:
        raise SettingsError(
            f'{name} has {len(values)} numbers, expected 7: x y z in metres and qx qy qz qw'
        )
    try:
        return make_pose(from_quaternion(values[3:]), values[:3])
    except ValueError as error:
        raise SettingsError(f'{name}: {error}; the identity is 0 0 0 1') from error
