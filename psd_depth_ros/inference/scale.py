"""Metric scale: the factor s that makes the network's depth metric, and its uncertainty.

`ScaleTracker` feeds a filter of ln s (`scale_filter`) from the source that the settings name
(`scale_sources`); networks of disparity up to scale and shift get one of both (`affine`). `engine`
multiplies depth by s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.config import setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import from_quaternion, make_pose, Rotation
from psd_depth_ros.inference.affine import (
    Affine,
    AffineFilter,
    find_misplacement,
    fit_inverse_depth,
    read_off,
    Readings,
)
from psd_depth_ros.inference.scale_filter import ScaleFilter, SourceState
from psd_depth_ros.inference.scale_sources import (
    CameraHeightSource,
    LidarSource,
    OdometrySource,
    ScaleMeasurement,
    ScaleView,
)

Array = NDArray[np.float64]

SOURCES = (OdometrySource, CameraHeightSource, LidarSource)
AFFINE_SOURCES = (OdometrySource, LidarSource)  # that give samples
AFFINE_MODES = tuple(source.name for source in AFFINE_SOURCES)
MODES = ('fixed', 'odometry', 'camera_height', 'lidar', 'relative')
# Standard deviation of ln s for a checkpoint that is not metric: a factor e^2 either way.
UNKNOWN_SIGMA = 2.0
# A robot's camera may be ten times lower than those of the training data; wrong units are a factor
# of 100 or 1000.
_MAX_LOG_SCALE = math.log(30.0)
# Corners that one fit of scale and shift is made of, if they come in time.
_POOLED, _POOLED_NS = 400, 1_500_000_000
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
        'mode fixed: multiply depth by this; 0 takes the calibration below where there is one, '
        'else the metres of a metric checkpoint',
        '',
        minimum=0.0,
        maximum=1000.0,
    )
    calibration: str = setting(
        '',
        'mode fixed without a factor: file with what ~/calibrate_scale or psd-depth '
        'calibrate-scale has measured; empty is $ROS_HOME/psd_depth_ros/scale/NODE.yaml, in '
        '~/.ros without ROS_HOME, and for psd-depth run none',
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
    hold_after: int = setting(
        0,
        'keep the scale as it is after this many accepted measurements, for mapping; '
        '~/reset_scale and jumps of the stamps begin anew; 0: follow it for ever',
        minimum=0,
        maximum=1_000_000,
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
        """Whether only a metric checkpoint, or a calibration, makes depth metric in this mode."""
        return self.mode == 'fixed' and self.factor == 0

    def refuse_unscaled(self, checkpoint: Checkpoint, is_calibrated: bool = False) -> None:
        """Raise SettingsError where depth would be called metres without being metric.

        `is_calibrated`: there is a calibration of the checkpoint for every camera.
        """
        if self.needs_metric_checkpoint and is_calibrated:
            return
        if checkpoint.affine and self.mode not in (*AFFINE_MODES, 'relative'):
            raise SettingsError(
                f'checkpoint {checkpoint.path} gives disparity of unknown scale and shift, and '
                f'scale.mode is {self.mode}, which finds no shift. Choose scale.mode '
                f'{" or ".join(AFFINE_MODES)}, or relative (topics depth_relative/...); or '
                'calibrate both with ~/calibrate_scale, in mode relative, or psd-depth '
                'calibrate-scale'
            )
        if self.needs_metric_checkpoint and not checkpoint.info.output.metric:
            raise SettingsError(
                f'checkpoint {checkpoint.path or "of the package"} is not metric and scale.mode '
                'is fixed without a scale.factor, so its depth is not metres. Choose scale.mode '
                'odometry, camera_height or lidar, give scale.factor, calibrate it with '
                '~/calibrate_scale, in mode relative, or psd-depth calibrate-scale, or choose '
                'scale.mode relative (topics depth_relative/...)'
            )


class Scale(NamedTuple):
    """Metric scale: a factor on the network's depth, and the variance of its logarithm.

    `affine` says what that depth is, for networks of disparity up to scale and shift.
    """

    factor: float = 1.0
    variance: float = 0.0
    affine: Affine | None = None


class MeasuredScale(NamedTuple):
    """Scale of a frame that was measured itself, and the stamp of that frame."""

    stamp_ns: int
    scale: Scale


class ScaleTracker:
    """Metric scale of one camera in any mode.

    Args:
        settings: Mode and source of the scale.
        checkpoint_sigma: Standard deviation of ln s of a metric checkpoint, None for one that is
            not metric.
        rotation: Converts the quaternions of the settings.
        affine: Whether the network gives disparity of unknown scale and shift.
        calibrated: Scale that was measured before, for mode fixed without a factor.
    """

    def __init__(
        self,
        settings: ScaleSettings,
        checkpoint_sigma: float | None,
        rotation: Rotation = from_quaternion,
        *,
        affine: bool = False,
        calibrated: Scale | None = None,
    ) -> None:
        self.settings = settings
        self._calibrated = calibrated if settings.needs_metric_checkpoint else None
        self._sigma = checkpoint_sigma
        prior = UNKNOWN_SIGMA if checkpoint_sigma is None else checkpoint_sigma
        self._source = _make_source(settings)
        systematic = settings.systematic_sigma
        if self._source is not None and systematic == 0:
            systematic = self._source.systematic_sigma
        self._affine = AffineFilter(prior, systematic) if affine else None
        self._filter = (
            ScaleFilter(prior, systematic) if self._affine is None else self._affine.scale
        )
        self._measured: MeasuredScale | None = None
        self._held: Scale | None = None
        self._problem = ''
        self._readings: list[tuple[int, Readings]] = []
        self._extrinsics = settings.extrinsics(rotation)

    @classmethod
    def for_checkpoint(
        cls,
        settings: ScaleSettings,
        checkpoint: Checkpoint,
        rotation: Rotation = from_quaternion,
        calibrated: Scale | None = None,
    ) -> ScaleTracker:
        """The tracker for what a checkpoint gives."""
        output = checkpoint.info.output
        sigma = output.scale_sigma if output.metric else None
        return cls(settings, sigma, rotation, affine=checkpoint.affine, calibrated=calibrated)

    @property
    def estimate(self) -> Scale:
        """What is known for the next frame."""
        if self._held is not None:
            return self._held
        if self._calibrated is not None:
            return self._calibrated
        shape = None if self._affine is None else self._affine.affine
        return Scale(self.scale, self.variance, shape)

    @property
    def is_held(self) -> bool:
        """Whether the scale stays as it is, see `ScaleSettings.hold_after`."""
        return self._held is not None

    @property
    def scale(self) -> float:
        """Factor s on the network's depth."""
        if self._held is not None:
            return self._held.factor
        if self._calibrated is not None:
            return self._calibrated.factor
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
        if self._calibrated is not None:
            return self._calibrated.variance
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
        if self._calibrated is not None:
            return True
        return self._sigma is not None or self._filter.has_measured

    @property
    def sources(self) -> dict[str, SourceState]:
        """State of every source that has measured, by name."""
        return self._filter.sources

    def reset(self) -> None:
        """Drop the history, after a jump of the clock or of the odometry."""
        self._held = self._measured = None
        self._filter.reset()
        if self._affine is not None:
            self._affine.reset()
        self._readings.clear()
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
        values: NDArray[np.float32] | None = None,
    ) -> bool:
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
            values: (H, W) what the network gives; needed where scale and shift are unknown.

        Returns:
            Whether something was measured, accepted or not; else `problem` says why.
        """
        if self._source is None or self.is_held:
            return False
        self._measured, self._problem = None, ''
        known = self._extrinsics if extrinsics is None else extrinsics
        view = ScaleView(stamp_ns, rgb, depth_m, camera.rectified(), odometry, lidar, known)
        if self._affine is None:
            self._problem = self._measure(view, applied_scale)
        elif values is not None:
            self._problem = self._measure_affine(replace(view, depth=values), self._affine)
        wanted = self.settings.hold_after
        if wanted and sum(one.accepted for one in self.sources.values()) >= wanted:
            self._held, self._measured = self.estimate, None
        return not self._problem

    def _measure(self, view: ScaleView, applied_scale: float) -> str:
        """Measure a factor; gives the reason where there is none, else ''."""
        assert self._source is not None, 'modes without a source measure nothing'
        self._filter.advance(view.stamp_ns)
        found = self._source.measure(view)
        if isinstance(found, str):
            return found
        found = found.scaled(applied_scale)
        if problem := self._implausible(found):
            return problem
        self._filter.update(found, view.stamp_ns)
        if (own := self._filter.measured) is not None:
            self._measured = MeasuredScale(view.stamp_ns, Scale(own.factor, own.variance))
        return ''

    def _measure_affine(self, view: ScaleView, follow: AffineFilter) -> str:
        """Measure scale and shift; gives the reason where there is none, else ''."""
        source = self._source
        assert isinstance(source, AFFINE_SOURCES), 'refuse_unscaled knows the modes'
        follow.advance(view.stamp_ns)
        samples = source.sample(view)
        if isinstance(samples, str):
            return samples
        self._readings.append((view.stamp_ns, read_off(samples, view.depth)))
        if not source.is_prompt and follow.affine is not None and not self._is_enough():
            return 'waits for more corners'
        readings = Readings.join([part for _, part in self._readings])
        self._readings.clear()
        fit = fit_inverse_depth(readings, view.depth)
        if isinstance(fit, str):
            return fit
        if source.is_prompt and (problem := find_misplacement(samples, view.depth, fit)):
            return problem
        if problem := follow.update(source.name, fit, view.stamp_ns, readings.log_variance):
            return problem
        if (own := follow.scale.measured) is not None and follow.measured is not None:
            scale = Scale(own.factor, own.variance, follow.measured)
            self._measured = MeasuredScale(view.stamp_ns, scale)
        return ''

    def _is_enough(self) -> bool:
        """Whether the readings since the last fit, of several frames, are worth one."""
        count = sum(len(part.d) for _, part in self._readings)
        return count >= _POOLED or self._readings[-1][0] - self._readings[0][0] >= _POOLED_NS

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
        return self._source is not None and self._source.is_prompt and not self.is_held

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
