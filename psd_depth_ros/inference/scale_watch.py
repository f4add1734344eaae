"""One way from a frame and its surroundings to the scale, and why there is no measurement.

What is wrong with the inputs (no topic, another clock, no transform) is said by whoever reads
them; here it is remembered, and joined by what the pictures did not give.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
import re

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.surroundings import Asked, Seen
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker

Array = NDArray[np.float64]

MEASURING_MODES = ('odometry', 'camera_height', 'lidar')
_REMEMBERED = 25


@dataclass(frozen=True)
class ScaleFrame:
    """What the scale needs of a frame.

    `rgb` (H, W, 3), `depth_m` (H, W) and `camera` are the rectified view, the depth being
    `applied_scale` times the network's; `lens` is the camera as it was before.
    """

    stamp_ns: int
    rgb: NDArray[np.uint8]
    depth_m: NDArray[np.float32]
    camera: Camera
    lens: Camera
    applied_scale: float

    @property
    def bytes(self) -> int:
        """Memory that is held by it."""
        return self.rgb.nbytes + self.depth_m.nbytes


def asked_by(settings: ScaleSettings) -> Asked:
    """What a mode wants to know; what parameters say is not asked of TF."""
    mode = settings.mode
    levelled = settings.camera_height_m > 0 and settings.camera_pitch_deg != 0
    return Asked(
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


class ScaleWatch:
    """Feeds the tracker of one camera; times are seconds of any steady clock. Not thread-safe."""

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
        """How many measurements were taken in."""
        return sum(state.accepted for state in self.tracker.sources.values())

    def observe(self, now_s: float, frame: ScaleFrame, around: Seen) -> None:
        """Let the tracker learn from a frame, and take note of what came of it."""
        known = self.tracker.locate(frame.lens, around.extrinsics)
        problem = around.problem or _unlocated(self.tracker.settings, known, around.remark)
        found = self.tracker.observe(
            frame.stamp_ns,
            frame.rgb,
            frame.depth_m,
            frame.camera,
            applied_scale=frame.applied_scale,
            odometry=around.pose,
            lidar=around.points,
            extrinsics=known,
        )
        self._now_s = now_s
        if not self.frames or (not problem and self.accepted):
            self._since_s = now_s
            self._problems.clear()
        self.frames += 1
        self.measured += found is not None
        self._count(problem or self.tracker.problem)
        self._follow(around.pose)
        self._has_inputs = not problem
        self.remark = self.remark if problem else around.remark

    @property
    def silent_s(self) -> float:
        """For how long there was nothing to measure by, or no measurement at all since the start.

        Time passes from frame to frame. A robot at rest whose scale is known is not silent.
        """
        return self._now_s - self._since_s

    @property
    def reason(self) -> str:
        """What was wrong most often of late, '' where measurements come."""
        if self._has_inputs and (self.accepted or not self.frames):
            return ''
        if self.measured and not self.accepted:
            return self._disbelieved()
        often = Counter(kind for kind, _ in self._problems).most_common(1)
        text = dict(self._problems)[often[0][0]] if often else ''
        if self._has_inputs and self.tracker.settings.mode == 'odometry':
            return f'{text} (it has moved {self._moved_m:.2f} m in all)'
        return text

    def _count(self, problem: str) -> None:
        """Count problems by their kind, whatever the figures in them."""
        if problem and not problem.startswith('waits'):
            self._problems.append((re.sub(r'[0-9.]+', '', problem), problem))

    def _follow(self, pose: Array | None) -> None:
        if pose is None:
            return
        if self._first_pose is None:
            self._first_pose = pose
        moved = pose[:3, 3] - self._first_pose[:3, 3]
        self._moved_m = max(self._moved_m, float(np.linalg.norm(moved)))

    def _disbelieved(self) -> str:
        last = ', '.join(f'{one.last_scale:.3g}' for one in self.tracker.sources.values())
        return (
            f'all {self.measured} measurements were refused, for they disagree with the '
            f'checkpoint or with each other; the last one says {last}'
        )


def _unlocated(settings: ScaleSettings, known: Extrinsics, remark: str) -> str:
    """Why a mode cannot measure though its inputs are there, '' where it can."""
    nothing = remark or 'there are no transforms'
    if settings.mode == 'lidar' and known.T_camera_lidar is None:
        return f'where the lidar is, is not known: {nothing}; set scale.lidar_pose'
    if settings.mode == 'camera_height' and known.camera_height_m is None:
        return f'the height of the camera is not known: {nothing}; set scale.camera_height_m'
    return ''
