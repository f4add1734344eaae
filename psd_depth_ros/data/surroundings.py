"""What is measured around a camera at the time of an image: pose, points, and where things sit.

One class for bags and for live topics, so that both give a frame the same. It takes messages as
they come, and says of an image what belongs to it, whether more may come, and what is wrong where
there is nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.data.tracks import CloudTrack, has_jumped, PoseTrack, Track
from psd_depth_ros.data.transforms import FrameNames, GROUND_FRAMES, locate, TransformBuffer
from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry import Extrinsics
from psd_depth_ros.geometry.pose import from_quaternion, Rotation
from psd_depth_ros.messages import decode_points, odometry_pose, stamp_ns

PATIENCE_NS = 2_000_000_000
_STILL_NS = 1_000_000_000
_MOVING_MPS = 0.05
_REPLACED_NS = 2_000_000_000
_FARTHEST_M = 400.0
_SAMPLE = 2000


@dataclass(frozen=True)
class Seen:
    """What belongs to an image.

    `pose` is T_odom_body, `points` (N, 3) metres in the frame of the lidar, None where there is
    none. With `is_final` nothing that is still to come can change it. `problem` says why there is
    nothing to measure by, '' where there is; `remark` what else a person should know.
    """

    pose: npt.NDArray[np.float64] | None
    points: npt.NDArray[np.float32] | None
    extrinsics: Extrinsics
    is_final: bool = True
    problem: str = ''
    remark: str = ''


@dataclass
class _Stream:
    """What has come on one topic."""

    received: int = 0
    refused: int = 0
    error: str = ''
    newest_ns: int | None = None  # the stamp of the last good message, and when it came
    arrived_ns: int = 0
    stamps: Track[int] = field(default_factory=Track)  # by the time of arrival
    was_missed: bool = False  # an image waited in vain: until one comes, no other does
    frames: Counter[str] = field(default_factory=Counter)

    def take(self, stamp: int, arrived_ns: int) -> None:
        self.newest_ns, self.arrived_ns, self.was_missed = stamp, arrived_ns, False
        self.stamps.add(arrived_ns, stamp)

    def forget(self) -> None:
        self.newest_ns, self.was_missed = None, False
        self.stamps.clear()

    def lead_ns(self, time_ns: int, arrived_ns: int) -> int:
        """How far the stamps are ahead of that of an image which came at the same time."""
        beside = [one for one in self.stamps.around(arrived_ns) if one is not None]
        leads = [one[1] - time_ns for one in beside if abs(one[0] - arrived_ns) <= PATIENCE_NS]
        return min(leads, key=abs, default=0)

    def refuse(self, error: MessageError) -> None:
        self.refused += 1
        self.error = str(error)

    def is_at(self, time_ns: int) -> bool:
        """Whether what belongs to a time has come, or will not come any more."""
        if self.newest_ns is None:
            return self.was_missed
        # Much later than the image: its time may be that after a jump which this topic has ahead.
        return 0 <= self.newest_ns - time_ns <= PATIENCE_NS


@dataclass(frozen=True)
class Asked:
    """What somebody wants to know, and the names of frames where messages do not tell them."""

    poses: bool = False
    points: bool = False
    body: bool = False
    lidar: bool = False
    ground: bool = False
    camera_frame: str = ''
    body_frame: str = ''
    lidar_frame: str = ''
    ground_frame: str = ''

    @property
    def transforms(self) -> bool:
        """Whether anything is asked of TF."""
        return self.body or self.lidar or self.ground


@dataclass(frozen=True)
class Readers:
    """How clouds become points and quaternions rotations; a node has libraries of ROS for it."""

    points: Callable[[Any], npt.NDArray[np.float32]] = decode_points
    rotation: Rotation = from_quaternion


class Surroundings:
    """Odometry, clouds and transforms of the last seconds. Safe between threads.

    Stamps are integer nanoseconds of the messages; `arrived_ns` are those of one other clock, on
    which messages and images came (or were recorded).
    """

    def __init__(self, asked: Asked, readers: Readers | None = None) -> None:
        self.asked = asked
        self._readers = readers or Readers()
        self.transforms = TransformBuffer(self._readers.rotation)
        self._lock = threading.Lock()
        self._poses, self._clouds = PoseTrack(), CloudTrack()
        self._odometry, self._lidar = _Stream(), _Stream()
        self._odometry_frames: tuple[str, str] = ('', '')
        self._lidar_frame = ''
        self._still: tuple[int, npt.NDArray[np.float64]] | None = None
        self._speed_mps = 0.0

    @property
    def has_received(self) -> bool:
        """Whether any odometry or cloud has come, good or bad."""
        with self._lock:
            return bool(self._odometry.received or self._lidar.received)

    def add_odometry(self, message: Any, arrived_ns: int, time_ns: int | None = None) -> None:
        """Take a nav_msgs/Odometry, `time_ns` in place of its stamp where it is given.

        Raises MessageError where its pose is none.
        """
        stamp = stamp_ns(message.header) if time_ns is None else time_ns
        frames = (message.header.frame_id.lstrip('/'), message.child_frame_id.lstrip('/'))
        with self._lock:
            stream = self._odometry
            stream.received += 1
            try:
                pose = odometry_pose(message, self._readers.rotation)
            except MessageError as error:
                stream.refuse(error)
                raise
            if frames != self._odometry_frames:
                recent = arrived_ns - stream.arrived_ns < _REPLACED_NS
                if stream.newest_ns is not None and recent:
                    stream.frames[' -> '.join(frames)] += 1
                    return  # two sources on one topic: one of them is followed
                self._odometry_frames = frames
                self._poses.clear()
            stream.take(stamp, arrived_ns)
            self._poses.add(stamp, pose)
            self._watch_twist(stamp, pose, message.twist.twist.linear)

    def add_cloud(self, message: Any, arrived_ns: int, time_ns: int | None = None) -> None:
        """Take a sensor_msgs/PointCloud2, `time_ns` in place of its stamp where it is given.

        Its points are decoded when they are asked for.
        """
        stamp = stamp_ns(message.header) if time_ns is None else time_ns
        with self._lock:
            self._lidar.received += 1
            self._lidar.take(stamp, arrived_ns)
            self._lidar_frame = message.header.frame_id.lstrip('/')
            self._clouds.add(stamp, message)

    def forget(self) -> None:
        """Forget the past, after a jump of the clock; fixed transforms stay."""
        self.transforms.forget()
        with self._lock:
            self._poses.clear()
            self._clouds.clear()
            self._still = None
            self._odometry.forget()
            self._lidar.forget()

    def is_final(self, time_ns: int, camera_frame: str) -> bool:
        """Whether nothing that is still to come can add to an image of this time."""
        with self._lock:
            asked = self.asked
            if asked.poses and not self._odometry.is_at(time_ns):
                return False
            if asked.points and not self._lidar.is_at(time_ns):
                return False
            names = self._names(camera_frame)
        return not locate(self.transforms, names, time_ns).may_come

    def at(self, time_ns: int, camera_frame: str, arrived_ns: int) -> Seen:
        """What belongs to an image of this stamp and frame that came at `arrived_ns`."""
        pose, message, problem, remark = None, None, '', ''
        with self._lock:
            asked, names = self.asked, self._names(camera_frame)
            final = True
            if asked.poses:
                final = self._odometry.is_at(time_ns)
                problem = self._judge_odometry(time_ns, arrived_ns)
                pose = None if problem else self._poses.at(time_ns)
                remark = self._remark()
                if asked.body and not names.body and self._odometry_frames[0]:
                    unnamed = 'odometry names no child_frame_id: set scale.body_frame'
                    remark = '; '.join(text for text in (remark, unnamed) if text)
                if pose is None:
                    problem = problem or _gap(self._poses, time_ns, 'odometry poses', 0.5)
            if asked.points:
                final = final and self._lidar.is_at(time_ns)
                problem = self._judge_stream(self._lidar, 'the lidar', time_ns, arrived_ns)
                message = None if problem else self._clouds.at(time_ns)
                if message is None:
                    problem = problem or _gap(self._clouds, time_ns, 'clouds of the lidar', 0.1)
        located = locate(self.transforms, names, time_ns)
        points = None
        if message is not None:
            try:
                points = _check_points(self._readers.points(message))
            except MessageError as error:
                problem = str(error)
        return Seen(
            pose,
            points,
            located.extrinsics,
            final and not located.may_come,
            problem,
            '; '.join(text for text in (remark, located.problem) if text),
        )

    def _names(self, camera_frame: str) -> FrameNames:
        asked = self.asked
        return FrameNames(
            asked.camera_frame or camera_frame,
            (asked.body_frame or self._odometry_frames[1]) if asked.body else '',
            (asked.lidar_frame or self._lidar_frame) if asked.lidar else '',
            _grounds(asked.ground_frame) if asked.ground else (),
        )

    def _judge_odometry(self, time_ns: int, arrived_ns: int) -> str:
        problem = self._judge_stream(self._odometry, 'odometry', time_ns, arrived_ns)
        if problem or self._still is None:
            return problem
        since_ns, newest_ns = self._still[0], self._odometry.newest_ns or 0
        if self._speed_mps > _MOVING_MPS and newest_ns - since_ns >= _STILL_NS:
            return (
                f'the pose of odometry does not change, though its twist says '
                f'{self._speed_mps:.2f} m/s: a source that fills the twist only cannot be used'
            )
        return ''

    def _judge_stream(self, stream: _Stream, name: str, time_ns: int, arrived_ns: int) -> str:
        """Why nothing of a stream can belong to an image, '' where it may."""
        if stream.newest_ns is None:
            stream.was_missed = True
            if stream.refused:
                return f'all {stream.refused} messages of {name} were refused: {stream.error}'
            return f'no message of {name} has come'
        lead_ns = stream.lead_ns(time_ns, arrived_ns)
        if stream.newest_ns == 0 and (lead_ns or stream.received > 1):
            return f'the stamps of {name} are 0'
        if abs(lead_ns) > PATIENCE_NS:
            if time_ns == 0:
                return 'the stamps of the images are 0'
            side = 'ahead of' if lead_ns > 0 else 'behind'
            return (
                f'the stamps of {name} are {abs(lead_ns) * 1e-9:.1f} s {side} those of the '
                'images: they are of another clock'
            )
        if time_ns - stream.newest_ns > PATIENCE_NS:
            late_s = (time_ns - stream.newest_ns) * 1e-9
            refused = f'; {stream.refused} messages were refused: {stream.error}'
            return (
                f'{name} has stopped: its last message is {late_s:.1f} s older than the image'
                f'{refused if stream.refused else ""}'
            )
        return ''

    def _remark(self) -> str:
        others = ', '.join(f'{name} ({count})' for name, count in self._odometry.frames.items())
        used = ' -> '.join(self._odometry_frames)
        return f'odometry of {used} is used, not {others}' if others else ''

    def _watch_twist(self, stamp: int, pose: npt.NDArray[np.float64], linear: Any) -> None:
        """Note since when the pose has not changed, and the highest speed since then."""
        still = self._still
        if still is None or has_jumped(still[0], stamp) or not np.array_equal(still[1], pose):
            self._still, self._speed_mps = (stamp, pose), 0.0
        speed = float(np.linalg.norm([linear.x, linear.y, linear.z]))
        if np.isfinite(speed):
            self._speed_mps = max(self._speed_mps, speed)


def _grounds(name: str) -> tuple[str, ...]:
    return (name,) if name else GROUND_FRAMES


def _gap(track: PoseTrack | CloudTrack, time_ns: int, what: str, gap_s: float) -> str:
    before, after = track.around(time_ns)
    if before is not None and after is not None:
        apart_s = (after[0] - before[0]) * 1e-9
        return f'{what} are {apart_s:.2f} s apart around the image, expected {gap_s:g} s at most'
    one = before or after
    if one is None:
        return f'there are no {what} yet'
    off_s = abs(one[0] - time_ns) * 1e-9
    side = 'older' if after is None else 'newer'
    return f'the nearest of the {what} is {off_s:.2f} s {side} than the image'


def _check_points(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The points. Raises MessageError where they can hardly be metres."""
    sample = points[:: max(1, len(points) // _SAMPLE)]
    ranges = np.linalg.norm(sample, axis=1)
    ranges = ranges[np.isfinite(ranges)]
    middle = float(np.median(ranges)) if len(ranges) else 0.0
    if middle > _FARTHEST_M:
        raise MessageError(
            f'half of the points of the lidar are over {middle:.0f} m away, expected metres '
            '(REP 103); are they millimetres?'
        )
    return points
