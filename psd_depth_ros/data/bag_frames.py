"""Camera images of a bag, each with the CameraInfo and the odometry of its stamp.

Images are held until the next one comes, so a CameraInfo or odometry recorded just after its
image still finds it. Where the first CameraInfo comes later than that, as one that is published
once does, it is looked up first: the images before it have it too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.mounting import Mounting
from psd_depth_ros.data.sources import FrameSource, LensChoice, TimedFrame
from psd_depth_ros.data.topics import pick_cloud_topic, pick_odometry_topic
from psd_depth_ros.errors import BagError, CalibrationError, MessageError, PsdDepthError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import exponential, invert, logarithm
from psd_depth_ros.messages import (
    camera_from_info,
    check_sizes,
    decode_points,
    image_size,
    ImageDecoder,
    odometry_pose,
    stamp_ns,
)

_MAX_POSE_GAP_NS = 500_000_000
_MAX_CLOUD_GAP_NS = 100_000_000


@dataclass(frozen=True)
class _Held:
    """An image that waits for what was recorded with it."""

    index: int
    stamp_ns: int
    message: Any


class BagFrames(FrameSource):
    """The frames of one camera of a bag; see `sources.open_frames`."""

    poses_are_of_camera = False

    def __init__(
        self,
        path: Path,
        lens: LensChoice,
        image_topic: str | None = None,
        camera_info_topic: str | None = None,
        recorded_stamps: bool = False,
    ) -> None:
        super().__init__(path, lens)
        self._recorded_stamps = recorded_stamps
        self._unread: dict[str, tuple[int, str]] = {}
        self._reader = BagReader(path).__enter__()
        try:
            self.image_topic = self._reader.pick_image_topic(image_topic)
            self.camera_info_topic = None
            if not lens.is_given:
                self.camera_info_topic = self._reader.pick_camera_info_topic(
                    self.image_topic, camera_info_topic
                )
            self.odometry_topic = pick_odometry_topic(self._reader)
            self.lidar_topic: str | None = None
            self._count = self._reader.topics[self.image_topic].count
        except PsdDepthError as error:
            self._reader.close()
            if not self._reader.notes:
                raise
            notes = '; '.join(self._reader.notes)
            raise BagError(f'{error}. What became of the bag: {notes}') from error

    def add_lidar(self, topic: str | None = None) -> None:
        """Let frames come with the points nearest in time; None is the only cloud of the bag.

        Raises BagError and closes the bag where there is no such topic.
        """
        try:
            self.lidar_topic = pick_cloud_topic(self._reader, topic)
        except PsdDepthError:
            self._reader.close()
            raise

    def locate(self) -> None:
        """Look up in TF where camera and lidar sit on the robot."""
        mounting = Mounting(self._reader)
        camera = self._frame_of(self.image_topic)
        self.camera_height_m = mounting.height_m(camera)
        if self.odometry_topic is not None:
            body = self._frame_of(self.odometry_topic, 'child_frame_id')
            self.T_body_camera = mounting.transform(body, camera)
        if self.lidar_topic is not None:
            lidar = self._frame_of(self.lidar_topic)
            self.T_camera_lidar = mounting.transform(camera, lidar)

    def _frame_of(self, topic: str, field: str = '') -> str:
        """The frame that the first message of a topic names, empty where it cannot be read."""
        first = next(self._reader.messages([topic]), None)
        try:
            message = None if first is None else first.message
        except MessageError:
            message = None
        if message is None:
            return ''
        name = getattr(message, field) if field else message.header.frame_id
        return str(name).lstrip('/')

    @property
    def count(self) -> int:
        """Number of images on the topic."""
        return self._count

    @property
    def span_ns(self) -> tuple[int, int]:
        """When the first and the last message were recorded."""
        return self._reader.start_ns, self._reader.end_ns

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()

    @property
    def notes(self) -> list[str]:
        """What the bag lost, and messages beside the images that could not be read."""
        return [
            *super().notes,
            *self._reader.notes,
            *(
                f'{count} messages on {topic} could not be read, the first: {reason}'
                for topic, (count, reason) in self._unread.items()
            ),
        ]

    def frames(self) -> Iterator[TimedFrame]:
        """Decode the images in the order of recording.

        Raises BagError where no CameraInfo can be read, the first images have no stamps, or not
        one image can be read for damage.
        """
        self._begin()
        self._unread.clear()
        first = None if self.camera_info_topic is None else self._first_camera_info()
        tracks = _Tracks(_CameraTrack(self._lens, first), PoseTrack(), CloudTrack())
        held: _Held | None = None
        error: PsdDepthError | None = None
        for image in self._images(tracks):
            if held is not None:
                try:
                    yield self._use(_make_frame(held, tracks, self.decoder))
                except (MessageError, CalibrationError) as problem:
                    error = problem
                    reason = 'image' if isinstance(problem, MessageError) else 'camera_info'
                    self._skip(held.index, held.stamp_ns, reason, problem)
            held = image
        self._finish(error)

    def _images(self, tracks: _Tracks) -> Iterator[_Held | None]:
        """Sort messages into the tracks; yield the images, and None after the last."""
        index, unstamped = 0, 0
        names = (self.image_topic, self.camera_info_topic, self.odometry_topic, self.lidar_topic)
        for item in self._reader.messages({name for name in names if name is not None}):
            try:
                message = item.message
                time_ns = item.timestamp_ns if self._recorded_stamps else stamp_ns(message.header)
                if item.topic == self.image_topic:
                    unstamped += time_ns == 0
                    if unstamped == 2 and index == 1:
                        raise self._no_stamps()
                    yield _Held(index, time_ns, message)
                elif item.topic == self.camera_info_topic:
                    tracks.cameras.add(time_ns, message)
                elif item.topic == self.odometry_topic:
                    tracks.poses.add(time_ns, odometry_pose(message))
                else:
                    tracks.clouds.add(time_ns, message)
            except MessageError as error:
                # Without a pose or points a frame still is one; without its image it is not.
                if item.topic == self.image_topic:
                    self._skip(index, item.timestamp_ns, 'image', error)
                else:
                    self._note_unread(item.topic, error)
            index += item.topic == self.image_topic
        yield None

    def _first_camera_info(self) -> Any:
        """The first CameraInfo that can be read. Raises BagError where there is none."""
        assert self.camera_info_topic is not None
        count, reason = 0, ''
        for item in self._reader.messages([self.camera_info_topic]):
            try:
                return item.message
            except MessageError as error:
                count, reason = count + 1, reason or str(error)
        what = f'none of the {count} CameraInfo can be read' if count else 'no CameraInfo came'
        raise BagError(
            f'{what} on {self.camera_info_topic} of bag {self.path}; choose another with '
            '--camera-info-topic, give the calibration with --camera camera.yaml, or --fov '
            'DEGREES if only the horizontal field of view is known'
            + (f'. The first: {reason}' if reason else '')
        )

    def _no_stamps(self) -> BagError:
        return BagError(
            f'the images on {self.image_topic} of bag {self.path} have no stamps: header.stamp of '
            'the first two is 0, so nothing can be matched in time. Take the times they were '
            'recorded at with --stamps recorded (data.stamps where recipes are used), or let the '
            'driver stamp its images'
        )

    def _note_unread(self, topic: str, error: MessageError) -> None:
        count, first = self._unread.get(topic, (0, str(error)))
        self._unread[topic] = count + 1, first


def _make_frame(held: _Held, tracks: _Tracks, decoder: ImageDecoder) -> TimedFrame:
    """Decode an image, where its size is that of its camera, and add what belongs to its stamp."""
    width, height = image_size(held.message)
    camera = tracks.cameras.at(held.stamp_ns, width, height)
    check_sizes(camera, width, height)
    rgb = decoder.decode(held.message)
    return TimedFrame(
        held.index,
        held.stamp_ns,
        str(held.message.header.frame_id),
        rgb,
        camera,
        tracks.poses.at(held.stamp_ns),
        tracks.clouds.at(held.stamp_ns),
    )


class _CameraTrack:
    """The newest CameraInfo messages, and the first of the bag; equal ones share one `Camera`."""

    def __init__(self, lens: LensChoice, first: Any) -> None:
        self._lens = lens
        self._first = first
        self._recent: deque[tuple[int, Any]] = deque(maxlen=8)
        self._known: tuple[Any, Camera] | None = None

    def add(self, time_ns: int, message: Any) -> None:
        """Take a CameraInfo."""
        self._recent.append((time_ns, message))

    def at(self, time_ns: int, width: int, height: int) -> Camera:
        """Give the camera of the same stamp, else the newest before it, else the oldest.

        What the caller said of the lens goes first. Raises CalibrationError.
        """
        given = self._lens.camera_for(width, height)
        if given is not None:
            return given
        earlier = [message for stamp, message in self._recent if stamp <= time_ns]
        oldest = self._recent[0][1] if self._recent else self._first
        message = earlier[-1] if earlier else oldest
        content = _content(message)
        if self._known is None or self._known[0] != content:
            camera = camera_from_info(message, self._lens.image_is_rectified)
            self._known = content, camera
        return self._known[1]


class PoseTrack:
    """The newest odometry poses, interpolated in between."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, npt.NDArray[np.float64]]] = deque(maxlen=200)

    def add(self, time_ns: int, pose: npt.NDArray[np.float64]) -> None:
        """Take a pose."""
        self._recent.append((time_ns, pose))

    def at(self, time_ns: int) -> npt.NDArray[np.float64] | None:
        """Give the pose at a time, None where the recording has a gap there."""
        before = [item for item in self._recent if item[0] <= time_ns]
        after = [item for item in self._recent if item[0] >= time_ns]
        if not before or not after:
            return None
        (start_ns, start), (end_ns, end) = before[-1], after[0]
        if end_ns - start_ns > _MAX_POSE_GAP_NS:
            return None
        if end_ns == start_ns:
            return end
        share = (time_ns - start_ns) / (end_ns - start_ns)
        return start @ exponential(share * logarithm(invert(start) @ end))


class CloudTrack:
    """The newest clouds; points are decoded when asked for."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, Any]] = deque(maxlen=8)

    def add(self, time_ns: int, message: Any) -> None:
        """Take a PointCloud2."""
        self._recent.append((time_ns, message))

    def at(self, time_ns: int) -> npt.NDArray[np.float32] | None:
        """Give the points nearest in time, None where none are within 0.1 s.

        Raises MessageError where they cannot be read.
        """
        if not self._recent:
            return None
        stamp, message = min(self._recent, key=lambda item: abs(item[0] - time_ns))
        return decode_points(message) if abs(stamp - time_ns) <= _MAX_CLOUD_GAP_NS else None


@dataclass(frozen=True)
class _Tracks:
    """What was recorded beside the images."""

    cameras: _CameraTrack
    poses: PoseTrack
    clouds: CloudTrack


def _content(message: Any) -> tuple[Any, ...]:
    """Everything but the header, in a form that compares exactly (NaN included)."""
    parts = [value for name, value in sorted(vars(message).items()) if name != 'header']
    return tuple(part.tobytes() if isinstance(part, np.ndarray) else repr(part) for part in parts)
