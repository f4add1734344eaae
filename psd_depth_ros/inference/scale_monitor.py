"""Runs the scale tracker of one camera and reports why there is no measurement.

Problems of the inputs (no topic, another clock, no transform) come from the Synchronizer; they are
collected here together with those of the measurements themselves.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
import re

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.synchronizer import ImageInputs, RequiredInputs
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker

Array = NDArray[np.float64]

MEASURING_MODES = ('odometry', 'camera_height', 'lidar')
_REMEMBERED = 25


@dataclass(frozen=True)
class ScaleFrame:
    """The part of a frame that the scale is measured on.

    `rgb` (H, W, 3), `depth_m` (H, W) and `camera` are the rectified view, the depth being
    `applied_scale` times the network's; `raw_camera` is the camera of the raw image. `values`
    (H, W) is what the network gives, where that lacks a shift, too.
    """

    stamp_ns: int
    rgb: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    camera: Camera
    raw_camera: Camera
    applied_scale: float
    values: NDArray[np.float32] | None = None

    @property
    def bytes(self) -> int:
        """Memory of its arrays."""
        own = 0 if self.values is None else self.values.nbytes
        return self.rgb.nbytes + self.depth_m.nbytes + own


def required_inputs(settings: ScaleSettings) -> RequiredInputs:
    """Inputs that a mode needs, except those that the settings already state."""
    mode = settings.mode
    levelled = settings.camera_height_m > 0 and settings.camera_pitch_deg != 0
    return RequiredInputs(
        poses=mode == 'odometry',
        points=mode == 'lidar',
        body=mode == 'odometry' and not settings.camera_pose,
        lidar=mode == 'lidar' and not settings.lidar_pose,
        ground=mode == 'camera_height' and not levelled,
        camera_frame=settings.camera_frame,
        body_frame=settings.body_frame,
        lidar_frame=settings.lidar_frame,
        ground_frame=settings.ground_frame,
    )


class ScaleMonitor:
    """Feeds the scale tracker of one camera. Not thread-safe.

    Times are seconds of any monotonic clock.
    """

    def __init__(self, tracker: ScaleTracker) -> None:
        self.tracker = tracker
        self.frames = 0
        self.measured = 0
        self.remark = ''
        self._has_inputs = True
        self._since_s = self._now_s = 0.0
        self._problems: deque[tuple[str, str]] = deque(maxlen=_REMEMBERED)
        self._first_pose: Array | None = None
        self._moved_m = 0.0

    @property
    def accepted(self) -> int:
        """Number of accepted measurements."""
        return sum(state.accepted for state in self.tracker.sources.values())

    def observe(self, now_s: float, frame: ScaleFrame, inputs: ImageInputs) -> None:
        """Measure on a frame and record the result."""
        known = self.tracker.locate(frame.raw_camera, inputs.extrinsics)
        problem = inputs.problem or _missing_extrinsics(
            self.tracker.settings, known, inputs.remark
        )
        has_measured = self.tracker.observe(
            frame.stamp_ns,
            frame.rgb,
            frame.depth_m,
            frame.camera,
            applied_scale=frame.applied_scale,
            odometry=inputs.pose,
            lidar=inputs.points,
            extrinsics=known,
            values=frame.values,
        )
        self._now_s = now_s
        if not self.frames or (not problem and self.accepted):
            self._since_s = now_s
            self._problems.clear()
        self.frames += 1
        self.measured += has_measured
        self._record(problem or self.tracker.problem)
        self._track_motion(inputs.pose)
        self._has_inputs = not problem
        self.remark = self.remark if problem else inputs.remark

    @property
    def silent_s(self) -> float:
        """Seconds without inputs, or without any measurement since the start.

        Counted from frame to frame. A robot at rest whose scale is known is not silent.
        """
        return self._now_s - self._since_s

    @property
    def reason(self) -> str:
        """The most frequent recent problem, '' where measurements are made."""
        if self._has_inputs and (self.accepted or not self.frames):
            return ''
        if self.measured and not self.accepted:
            return self._refused_text()
        often = Counter(kind for kind, _ in self._problems).most_common(1)
        text = dict(self._problems)[often[0][0]] if often else ''
        if self._has_inputs and self.tracker.settings.mode == 'odometry':
            return f'{text} (it has moved {self._moved_m:.2f} m in all)'
        return text

    def _record(self, problem: str) -> None:
        """Record a problem by its kind: its text without numbers."""
        if problem and not problem.startswith('waits'):
            self._problems.append((re.sub(r'[0-9.]+', '', problem), problem))

    def _track_motion(self, pose: Array | None) -> None:
        if pose is None:
            return
        if self._first_pose is None:
            self._first_pose = pose
        moved = pose[:3, 3] - self._first_pose[:3, 3]
        self._moved_m = max(self._moved_m, float(np.linalg.norm(moved)))

    def _refused_text(self) -> str:
        last = ', '.join(f'{source.last_scale:.3g}' for source in self.tracker.sources.values())
        return (
            f'all {self.measured} measurements were refused, for they disagree with the '
            f'checkpoint or with each other; the last one says {last}'
        )


def _missing_extrinsics(settings: ScaleSettings, known: Extrinsics, remark: str) -> str:
    """Which extrinsics a mode lacks although its inputs are there, '' where it has all."""
    nothing = remark or 'there are no transforms'
    if settings.mode == 'lidar' and known.T_camera_lidar is None:
        return f'where the lidar is, is not known: {nothing}; set scale.lidar_pose'
    if settings.mode == 'camera_height' and known.camera_height_m is None:
        return f'the height of the camera is not known: {nothing}; set scale.camera_height_m'
    return ''
