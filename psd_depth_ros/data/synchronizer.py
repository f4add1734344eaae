"""Odometry, lidar points and transforms synchronised with the images of a camera.

One set of classes for bags and for live topics, so that both give a frame the same:

- `Track`: items with stamps that come in a stream. Clocks jump and messages overtake each other:
  what is a little older than the newest is put in its place; what is much older begins a new time,
  and the past is forgotten.
- `TransformBuffer`: the tree of frames of a robot as its transforms tell it. Its rules are those
  of tf2 (`BufferCore`): a fixed transform holds at any time, a moving one between two of its
  stamps, where it is interpolated, and nothing is extrapolated; a frame that is fixed once stays
  so.
- `Synchronizer`: takes messages as they come and finds the inputs of an image: which pose, which
  points, which transforms, whether more may come, and what is wrong where something is missing.

The three are one file because they have one notion of time: a jump of the clock, the order of late
messages and the wait for them mean the same to poses, clouds and transforms.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
import threading
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import MessageError, TransformError
from psd_depth_ros.geometry import Extrinsics
from psd_depth_ros.geometry.pose import (
    exponential,
    from_quaternion,
    interpolate,
    invert,
    logarithm,
    Rotation,
)
from psd_depth_ros.messages import decode_points, odometry_pose, stamp_ns, transform_pose

Item = TypeVar('Item')
Array = npt.NDArray[np.float64]

KEPT_NS = 10_000_000_000  # as tf2 does
DISORDER_NS = 500_000_000  # what is older than the newest by less is late, not of another time
_MAX_POSE_GAP_NS = 500_000_000  # between two poses that are interpolated
_MAX_CLOUD_GAP_NS = 100_000_000  # between an image and its points
_MAX_ITEMS = 10_000
_MAX_CLOUDS = 8

TF_TYPE = 'tf2_msgs/msg/TFMessage'
# REP 120: on the ground below the robot. Many robots have but a base_link, often on the ground.
GROUND_FRAMES = ('base_footprint', 'base_link')
_MAX_CLIMB = 100  # links from a frame to the root of its tree
_SAME = 1e-6  # difference of two transforms that are equal
_LOWEST_M = 0.05  # a camera that is lower above a frame says that this is not the ground

PATIENCE_NS = 2_000_000_000  # how long an image waits for its inputs
_STILL_NS = 1_000_000_000  # a pose that stays for so long at such a speed is not filled in
_MOVING_MPS = 0.05
_REPLACED_NS = 2_000_000_000  # a source silent for so long gives way to another one
_FARTHEST_M = 400.0  # a lidar half of whose points are farther does not give metres
_SAMPLE = 2000  # points looked at for that


def has_jumped(before_ns: int, now_ns: int) -> bool:
    """Whether a stamp is so far before an earlier one that time must have been set back."""
    return now_ns < before_ns - DISORDER_NS


class Track(Generic[Item]):
    """The items of the last 10 s of stamps, `kept` at most. Not thread-safe."""

    def __init__(self, kept: int = _MAX_ITEMS) -> None:
        self._kept = kept
        self._stamps: list[int] = []
        self._items: list[Item] = []

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._stamps)

    @property
    def newest_ns(self) -> int | None:
        """The last stamp, None where nothing has come."""
        return self._stamps[-1] if self._stamps else None

    def clear(self) -> None:
        """Forget everything."""
        self._stamps.clear()
        self._items.clear()

    def add(self, stamp_ns: int, item: Item) -> None:
        """Take an item; of two with one stamp the first stays, as in tf2."""
        if self._stamps and has_jumped(self._stamps[-1], stamp_ns):
            self.clear()
        place = bisect_left(self._stamps, stamp_ns)
        if place < len(self._stamps) and self._stamps[place] == stamp_ns:
            return
        self._stamps.insert(place, stamp_ns)
        self._items.insert(place, item)
        old = bisect_left(self._stamps, self._stamps[-1] - KEPT_NS)
        old = max(old, len(self._stamps) - self._kept)
        if old > 0:
            del self._stamps[:old], self._items[:old]

    def around(self, stamp_ns: int) -> tuple[tuple[int, Item] | None, tuple[int, Item] | None]:
        """The last item up to a stamp and the first from it on, the same where one fits."""
        after = bisect_left(self._stamps, stamp_ns)
        before = bisect_right(self._stamps, stamp_ns) - 1
        return self._at(before), self._at(after)

    def _at(self, place: int) -> tuple[int, Item] | None:
        if not 0 <= place < len(self._stamps):
            return None
        return self._stamps[place], self._items[place]


class PoseTrack(Track[Array]):
    """The newest odometry poses, interpolated in between."""

    def at(self, stamp_ns: int) -> Array | None:
        """Give the pose at a time, None where there is a gap of over 0.5 s, or nothing yet."""
        before, after = self.around(stamp_ns)
        if before is None or after is None:
            return None
        (start_ns, start), (end_ns, end) = before, after
        if end_ns == start_ns:
            return end
        if end_ns - start_ns > _MAX_POSE_GAP_NS:
            return None
        fraction = (stamp_ns - start_ns) / (end_ns - start_ns)
        return start @ exponential(fraction * logarithm(invert(start) @ end))


class CloudTrack(Track[Any]):
    """The newest messages of points."""

    def __init__(self) -> None:
        super().__init__(_MAX_CLOUDS)

    def at(self, stamp_ns: int) -> Any | None:
        """Give the message nearest in time, None where no message is within 0.1 s."""
        candidates = [item for item in self.around(stamp_ns) if item is not None]
        if not candidates:
            return None
        nearest_ns, message = min(candidates, key=lambda item: abs(item[0] - stamp_ns))
        return message if abs(nearest_ns - stamp_ns) <= _MAX_CLOUD_GAP_NS else None


@dataclass(frozen=True)
class _Link:
    """T_parent_child as it came; it is decoded when it is asked for."""

    parent: str
    transform: Any
    rotation: Rotation = from_quaternion

    @property
    def pose(self) -> Array:
        return transform_pose(self.transform, self.rotation)


class TransformBuffer:
    """Transforms of the last 10 s, and all fixed ones. Safe between threads.

    `rotation` turns their quaternions.
    """

    def __init__(self, rotation: Rotation = from_quaternion) -> None:
        self._rotation = rotation
        self._lock = threading.Lock()
        self._fixed: dict[str, _Link] = {}
        self._moving: dict[str, Track[_Link]] = {}

    @property
    def frames(self) -> list[str]:
        """Names of all frames."""
        with self._lock:
            tracks = [track.around(track.newest_ns or 0)[0] for track in self._moving.values()]
            links = [*self._fixed.values(), *(item[1] for item in tracks if item is not None)]
            return sorted({*self._fixed, *self._moving, *(link.parent for link in links)})

    def add(self, message: Any, *, fixed: bool = False, time_ns: int | None = None) -> None:
        """Take a TFMessage of /tf, or with `fixed` of /tf_static.

        `time_ns` is in place of the stamps where it is given.
        """
        with self._lock:
            for stamped in message.transforms:
                child = stamped.child_frame_id.lstrip('/')
                link = _Link(
                    stamped.header.frame_id.lstrip('/'), stamped.transform, self._rotation
                )
                if fixed:
                    self._fixed[child] = link
                    self._moving.pop(child, None)
                elif child not in self._fixed:
                    track = self._moving.setdefault(child, Track())
                    track.add(stamp_ns(stamped.header) if time_ns is None else time_ns, link)

    def forget(self) -> None:
        """Forget all moving transforms, after a jump of the clock."""
        with self._lock:
            self._moving.clear()

    def lookup(self, target: str, source: str, time_ns: int) -> Array:
        """T_target_source at a time: takes points of frame `source` into frame `target`.

        Raises TransformError where the frames are not connected at that time, and MessageError
        where a transform on the way is not one.
        """
        target, source = target.lstrip('/'), source.lstrip('/')
        if target == source:
            return np.eye(4)
        with self._lock:
            from_target, end_of_target = self._climb(target, time_ns)
            from_source, end_of_source = self._climb(source, time_ns)
        common = next((frame for frame in from_source if frame in from_target), None)
        if common is None:
            self._refuse(target, source, time_ns, end_of_target, end_of_source)
        assert common is not None, 'refused above'
        return invert(from_target[common]) @ from_source[common]

    def _climb(self, frame: str, time_ns: int) -> tuple[dict[str, Array], str]:
        """T_ancestor_frame by ancestor, the frame itself first, and where the way up ends."""
        poses = {frame: np.eye(4)}
        pose = poses[frame]
        for _ in range(_MAX_CLIMB):
            link = self._fixed.get(frame)
            if link is not None:
                parent, step = link.parent, link.pose
            else:
                between = self._between(frame, time_ns)
                if between is None:
                    break
                parent, step = between
            if parent in poses:  # a loop, which no tree has
                break
            pose = step @ pose
            frame = parent
            poses[frame] = pose
        return poses, frame

    def _between(self, frame: str, time_ns: int) -> tuple[str, Array] | None:
        """Parent of a moving frame at a time, and its pose in it; None where it is not known."""
        if frame not in self._moving:
            return None
        before, after = self._moving[frame].around(time_ns)
        if before is None or after is None:
            return None
        (start_ns, start), (end_ns, end) = before, after
        if start_ns == end_ns or start.parent != end.parent:
            return start.parent, start.pose
        fraction = (time_ns - start_ns) / (end_ns - start_ns)
        return start.parent, interpolate(start.pose, end.pose, fraction)

    def _refuse(self, target: str, source: str, time_ns: int, *ends: str) -> None:
        """Raise TransformError with the reason."""
        what = f'no transform from {source} to {target}'
        with self._lock:
            for end in ends:
                newest_ns = self._moving[end].newest_ns if end in self._moving else None
                if newest_ns is None:
                    continue
                seconds = (time_ns - newest_ns) * 1e-9
                side = 'after the newest' if seconds > 0 else 'before the oldest'
                raise TransformError(
                    f'{what} at {time_ns * 1e-9:.3f} s: that is {side} transform of {end} '
                    f'(its newest is of {newest_ns * 1e-9:.3f} s)',
                    may_come=seconds > 0,
                )
        known = self.frames
        for frame in (source, target):
            if frame not in known:
                there = f'the frames are {", ".join(known)}' if known else 'no transforms came'
                raise TransformError(f'{what}: there is no frame {frame!r}; {there}')
        raise TransformError(f'{what}: both are known, but in separate trees')


@dataclass(frozen=True)
class FrameNames:
    """Names of the frames of a camera and its robot; empty: not required."""

    camera: str
    body: str = ''
    lidar: str = ''
    ground: tuple[str, ...] = ()


@dataclass(frozen=True)
class Located:
    """Extrinsics of a camera at a time, as transforms tell them.

    `problem` says which required transform is missing, `may_come` whether it may come soon, and
    `source` which frames the extrinsics are from.
    """

    extrinsics: Extrinsics
    problem: str = ''
    may_come: bool = False
    source: str = ''


def locate(buffer: TransformBuffer, names: FrameNames, time_ns: int) -> Located:
    """Look up the transforms between the frames of `names`."""
    known: dict[str, Any] = {}
    sources: list[str] = []
    problems: list[Exception] = []
    for name, target, source in _wanted(names):
        try:
            known[name] = buffer.lookup(target, source, time_ns)
            sources.append(f'{source} in {target}')
        except (TransformError, MessageError) as error:
            problems.append(error)
    for frame in names.ground:
        try:
            T_ground_camera = buffer.lookup(frame, names.camera, time_ns)
        except (TransformError, MessageError) as error:
            if not problems:
                problems.append(error)
            continue
        height_m = float(T_ground_camera[2, 3])
        if height_m < _LOWEST_M:
            text = f'{names.camera} is {height_m:.3f} m above {frame}, which is not the ground'
            problems.append(TransformError(text))
            continue
        known['camera_height_m'] = height_m
        known['up'] = T_ground_camera[2, :3].copy()
        sources.append(f'{names.camera} above {frame}')
        problems.clear()
        break
    return Located(
        Extrinsics(**known),
        '; '.join(str(error) for error in problems),
        any(getattr(error, 'may_come', False) for error in problems),
        ', '.join(sources),
    )


def _wanted(names: FrameNames) -> Iterator[tuple[str, str, str]]:
    if names.body:
        yield 'T_body_camera', names.body, names.camera
    if names.lidar:
        yield 'T_camera_lidar', names.camera, names.lidar


def fixed_transforms(messages: Iterable[Any]) -> TransformBuffer:
    """A buffer of the transforms among messages that never change, wherever they were published.

    A camera that pans has no one pose on the robot.
    """
    first: dict[str, tuple[str, Array, Any]] = {}
    loose: set[str] = set()
    for message in messages:
        for stamped in message.transforms:
            child, parent = stamped.child_frame_id.lstrip('/'), stamped.header.frame_id.lstrip('/')
            try:
                pose = transform_pose(stamped.transform)
            except MessageError:
                continue
            known = first.setdefault(child, (parent, pose, stamped.transform))
            if known[0] != parent or np.abs(known[1] - pose).max() > _SAME:
                loose.add(child)
    buffer = TransformBuffer()
    buffer._fixed = {
        child: _Link(parent, transform)
        for child, (parent, _, transform) in first.items()
        if child not in loose
    }
    return buffer


@dataclass(frozen=True)
class ImageInputs:
    """Inputs synchronised with an image.

    Attributes:
        pose: T_odom_body (4, 4), None where it is missing.
        points: (N, 3) metres in the frame of the lidar, None where they are missing.
        extrinsics: what transforms say at the stamp.
        is_final: whether messages that are still to come cannot change it.
        problem: why a required input is missing; empty: nothing is missing.
        remark: anything else to report to the user.
    """

    pose: Array | None
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
        beside = [item for item in self.stamps.around(arrived_ns) if item is not None]
        leads = [item[1] - time_ns for item in beside if abs(item[0] - arrived_ns) <= PATIENCE_NS]
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
class RequiredInputs:
    """Which inputs are required, and the names of frames where messages do not tell them."""

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
        """Whether transforms are required."""
        return self.body or self.lidar or self.ground


@dataclass(frozen=True)
class MessageDecoders:
    """Functions that decode clouds and quaternions; a node uses faster ones."""

    points: Callable[[Any], npt.NDArray[np.float32]] = decode_points
    rotation: Rotation = from_quaternion


class Synchronizer:
    """Odometry, clouds and transforms of the last seconds. Safe between threads.

    Stamps are integer nanoseconds of the messages; `arrived_ns` are those of one other clock, on
    which messages and images came (or were recorded).
    """

    def __init__(self, required: RequiredInputs, decoders: MessageDecoders | None = None) -> None:
        self.required = required
        self._decoders = decoders or MessageDecoders()
        self.transforms = TransformBuffer(self._decoders.rotation)
        self._lock = threading.Lock()
        self._poses, self._clouds = PoseTrack(), CloudTrack()
        self._odometry, self._lidar = _Stream(), _Stream()
        self._odometry_frames: tuple[str, str] = ('', '')
        self._lidar_frame = ''
        self._still: tuple[int, Array] | None = None
        self._speed_mps = 0.0

    @property
    def has_received(self) -> bool:
        """Whether any odometry or cloud has come, good or bad."""
        with self._lock:
            return bool(self._odometry.received or self._lidar.received)

    def add_odometry(self, message: Any, arrived_ns: int, time_ns: int | None = None) -> None:
        """Take a nav_msgs/Odometry, `time_ns` in place of its stamp where it is given.

        Raises MessageError where its pose is not finite or not a rotation.
        """
        stamp = stamp_ns(message.header) if time_ns is None else time_ns
        frames = (message.header.frame_id.lstrip('/'), message.child_frame_id.lstrip('/'))
        with self._lock:
            stream = self._odometry
            stream.received += 1
            try:
                pose = odometry_pose(message, self._decoders.rotation)
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
            required = self.required
            if required.poses and not self._odometry.is_at(time_ns):
                return False
            if required.points and not self._lidar.is_at(time_ns):
                return False
            names = self._names(camera_frame)
        return not locate(self.transforms, names, time_ns).may_come

    def at(self, time_ns: int, camera_frame: str, arrived_ns: int) -> ImageInputs:
        """What belongs to an image of this stamp and frame that came at `arrived_ns`."""
        pose, message, problem, remark = None, None, '', ''
        with self._lock:
            required, names = self.required, self._names(camera_frame)
            final = True
            if required.poses:
                final = self._odometry.is_at(time_ns)
                problem = self._judge_odometry(time_ns, arrived_ns)
                pose = None if problem else self._poses.at(time_ns)
                remark = self._remark()
                if required.body and not names.body and self._odometry_frames[0]:
                    unnamed = 'odometry names no child_frame_id: set scale.body_frame'
                    remark = '; '.join(text for text in (remark, unnamed) if text)
                if pose is None:
                    problem = problem or _gap(self._poses, time_ns, 'odometry poses', 0.5)
            if required.points:
                final = final and self._lidar.is_at(time_ns)
                problem = self._judge_stream(self._lidar, 'the lidar', time_ns, arrived_ns)
                message = None if problem else self._clouds.at(time_ns)
                if message is None:
                    problem = problem or _gap(self._clouds, time_ns, 'clouds of the lidar', 0.1)
        located = locate(self.transforms, names, time_ns)
        points = None
        if message is not None:
            try:
                points = _check_points(self._decoders.points(message))
            except MessageError as error:
                problem = str(error)
        return ImageInputs(
            pose,
            points,
            located.extrinsics,
            final and not located.may_come,
            problem,
            '; '.join(text for text in (remark, located.problem) if text),
        )

    def _names(self, camera_frame: str) -> FrameNames:
        required = self.required
        return FrameNames(
            required.camera_frame or camera_frame,
            (required.body_frame or self._odometry_frames[1]) if required.body else '',
            (required.lidar_frame or self._lidar_frame) if required.lidar else '',
            _grounds(required.ground_frame) if required.ground else (),
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

    def _watch_twist(self, stamp: int, pose: Array, linear: Any) -> None:
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
    nearest = before or after
    if nearest is None:
        return f'there are no {what} yet'
    off_s = abs(nearest[0] - time_ns) * 1e-9
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
