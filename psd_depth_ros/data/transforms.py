"""The tree of frames of a robot as its transforms tell it: fixed ones, and moving ones in time.

One buffer for bags and for live topics. Its rules are those of tf2 (`BufferCore`): a fixed
transform holds at any time, a moving one between two of its stamps, where it is interpolated, and
nothing is extrapolated; a frame that is fixed once stays so. Messages are anything with the fields
of tf2_msgs/TFMessage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.data.tracks import Track
from psd_depth_ros.errors import MessageError, TransformError
from psd_depth_ros.geometry import Extrinsics
from psd_depth_ros.geometry.pose import from_quaternion, interpolate, invert, Rotation
from psd_depth_ros.messages import stamp_ns, transform_pose

Array = npt.NDArray[np.float64]

TF_TYPE = 'tf2_msgs/msg/TFMessage'
# REP 120: on the ground below the robot. Many robots have but a base_link, often on the ground.
GROUND_FRAMES = ('base_footprint', 'base_link')
_MAX_DEPTH = 100
_SAME = 1e-6
_LOWEST_M = 0.05


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
            links = [*self._fixed.values(), *(one[1] for one in tracks if one is not None)]
            return sorted({*self._fixed, *self._moving, *(link.parent for link in links)})

    def add(self, message: Any, *, fixed: bool = False, time_ns: int | None = None) -> None:
        """Take a TFMessage of /tf, or with `fixed` of /tf_static.

        `time_ns` is in place of the stamps where it is given.
        """
        with self._lock:
            for one in message.transforms:
                child = one.child_frame_id.lstrip('/')
                link = _Link(one.header.frame_id.lstrip('/'), one.transform, self._rotation)
                if fixed:
                    self._fixed[child] = link
                    self._moving.pop(child, None)
                elif child not in self._fixed:
                    track = self._moving.setdefault(child, Track())
                    track.add(stamp_ns(one.header) if time_ns is None else time_ns, link)

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
        found = {frame: np.eye(4)}
        pose = found[frame]
        for _ in range(_MAX_DEPTH):
            link = self._fixed.get(frame)
            if link is not None:
                parent, step = link.parent, link.pose
            else:
                between = self._between(frame, time_ns)
                if between is None:
                    break
                parent, step = between
            if parent in found:  # a loop, which no tree has
                break
            pose = step @ pose
            frame = parent
            found[frame] = pose
        return found, frame

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
        share = (time_ns - start_ns) / (end_ns - start_ns)
        return start.parent, interpolate(start.pose, end.pose, share)

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
    """Names of the frames around a camera, '' for those that nobody asks for."""

    camera: str
    body: str = ''
    lidar: str = ''
    ground: tuple[str, ...] = ()


@dataclass(frozen=True)
class Located:
    """What transforms say of a camera at a time.

    `problem` says what was asked for and is not known, `may_come` whether it may be soon, and
    `source` which frames the answer is from.
    """

    extrinsics: Extrinsics
    problem: str = ''
    may_come: bool = False
    source: str = ''


def locate(buffer: TransformBuffer, names: FrameNames, time_ns: int) -> Located:
    """Look up all that `names` asks for."""
    found: dict[str, Any] = {}
    sources: list[str] = []
    problems: list[Exception] = []
    for field, target, source in _wanted(names):
        try:
            found[field] = buffer.lookup(target, source, time_ns)
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
        found['camera_height_m'] = height_m
        found['up'] = T_ground_camera[2, :3].copy()
        sources.append(f'{names.camera} above {frame}')
        problems.clear()
        break
    return Located(
        Extrinsics(**found),
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
        for one in message.transforms:
            child, parent = one.child_frame_id.lstrip('/'), one.header.frame_id.lstrip('/')
            try:
                pose = transform_pose(one.transform)
            except MessageError:
                continue
            known = first.setdefault(child, (parent, pose, one.transform))
            if known[0] != parent or np.abs(known[1] - pose).max() > _SAME:
                loose.add(child)
    buffer = TransformBuffer()
    buffer._fixed = {
        child: _Link(parent, transform)
        for child, (parent, _, transform) in first.items()
        if child not in loose
    }
    return buffer
