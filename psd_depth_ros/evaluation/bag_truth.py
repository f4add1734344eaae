"""Bags with true depth: the images of a camera, each with the depth image or lidar of its time.

A depth topic (sensor_msgs/Image, 32FC1 metres or 16UC1 millimetres) is taken to be registered to
the image pixel by pixel. Lidar points are projected into the rectified view, the nearest one of
each pixel counts; they are not corrected for the motion between their stamp and the image's.
Bags of `psd-depth synth` need no more than their path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.frames import FrameSource, LensChoice, TimedFrame
from psd_depth_ros.data.message_types import CLOUD_TYPE, IMAGE_TYPES, list_topics
from psd_depth_ros.data.readers.bag import BagFrames
from psd_depth_ros.errors import EvaluationError, MessageError
from psd_depth_ros.evaluation.samples import (
    check_truth,
    Map,
    rectify_truth,
    Sample,
    Samples,
)
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import from_quaternion, make_pose, transform
from psd_depth_ros.messages import decode_depth, DEPTH_ENCODINGS, stamp_ns

Pose = NDArray[np.float64]

_MAX_DEPTH_GAP_NS = 50_000_000


@dataclass(frozen=True)
class BagChoice:
    """Topics of a bag; None where the bag leaves no choice.

    `lidar_pose` is that of the lidar in the optical frame, x y z qx qy qz qw; None where the
    points are in the frame of the image, or the transforms of the bag know it. With
    `recorded_stamps` the times are those of recording, of images and of their truth.
    """

    image_topic: str | None = None
    camera_info_topic: str | None = None
    depth_topic: str | None = None
    lidar_topic: str | None = None
    lidar_pose: tuple[float, ...] | None = None
    recorded_stamps: bool = False


class BagSamples(Samples):
    """The images of a bag's camera with their truth; each iteration reads the bag anew."""

    def __init__(
        self, path: Path, lens: LensChoice, choice: BagChoice, chosen: slice | None = None
    ) -> None:
        self._path, self._lens, self._choice = path, lens, choice
        self._chosen = chosen or slice(None)
        self._unreadable: dict[str, int] = {}
        self._notes: list[str] = []
        with BagReader(path) as bag:
            depth, lidar = pick_truth_topics(bag, choice)
        self._choice = replace(choice, depth_topic=depth, lidar_topic=lidar)
        with self._open() as source:
            self._images = source.count

    @property
    def count(self) -> int:
        """How many images are chosen, as far as the bag says."""
        return len(range(*self._chosen.indices(self._images)))

    @property
    def unreadable(self) -> dict[str, int]:
        """Images that could not be decoded, by reason; known after iterating."""
        return self._unreadable

    @property
    def notes(self) -> list[str]:
        """What a person should know of the bag; known after iterating."""
        return self._notes

    def part(self, chosen: slice) -> BagSamples:
        """Some of them, by their index."""
        return BagSamples(self._path, self._lens, self._choice, chosen)

    def __iter__(self) -> Iterator[Sample]:
        """Read image by image. Raises BagError, EvaluationError and MessageError."""
        wanted = range(*self._chosen.indices(self._images))
        with self._open() as source, BagReader(self._path) as bag:
            truth = _Truth(bag, source, self._choice)
            for frame in source.frames():
                if wanted and frame.index > wanted[-1]:
                    break
                if frame.index in wanted:
                    yield _make_sample(self._path, frame, truth)
            self._unreadable, self._notes = source.skipped_by_reason, source.notes

    def _open(self) -> BagFrames:
        choice = self._choice
        source = BagFrames(
            self._path,
            self._lens,
            choice.image_topic,
            choice.camera_info_topic,
            choice.recorded_stamps,
        )
        if choice.depth_topic is None:
            source.add_lidar(choice.lidar_topic)
        return source


def pick_truth_topics(bag: BagReader, choice: BagChoice) -> tuple[str | None, str | None]:
    """The depth topic, else the lidar topic, that has the truth of a bag; one of them is None.

    Raises EvaluationError, listing the topics, where there is neither or several to choose from.
    """
    for topic in (choice.depth_topic, choice.lidar_topic):
        if topic is not None:
            bag.check_topic(topic)
            is_depth = topic == choice.depth_topic
            return (topic, None) if is_depth else (None, topic)
    depths = [topic for topic in bag.topics if _holds_depth(bag, topic)]
    clouds = [topic for topic, info in bag.topics.items() if info.msgtype == CLOUD_TYPE]
    for found, option in ((depths, '--depth-topic'), (clouds, '--lidar-topic')):
        if len(found) > 1:
            raise EvaluationError(
                f'bag {bag.path} has several topics that may be the truth: {", ".join(found)}; '
                f'choose one with {option}'
            )
        if found:
            return (found[0], None) if found is depths else (None, found[0])
    raise EvaluationError(
        f'bag {bag.path} has nothing to measure against: expected a topic of depth images '
        f'(sensor_msgs/Image, {" or ".join(DEPTH_ENCODINGS)}) or of lidar points '
        f'(sensor_msgs/PointCloud2); its topics are:{list_topics(bag.topics)}'
    )


def project_depth(points: NDArray, camera: Camera) -> Map:
    """Z (H, W) of the nearest of the points (N, 3) in each pixel of a pinhole, NaN where none."""
    pixels = camera.project(points)
    seen = np.isfinite(pixels).all(axis=1)
    column, row = np.rint(pixels[seen]).astype(np.int64).T
    z = np.asarray(points, dtype=np.float64)[seen, 2]
    inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    depth = np.full(camera.size, np.inf)
    np.minimum.at(depth, (row[inside], column[inside]), z[inside])
    return np.where(np.isinf(depth), np.nan, depth).astype(np.float32)


def read_pose(numbers: Sequence[float]) -> Pose:
    """A 4x4 pose of x y z qx qy qz qw. Raises EvaluationError."""
    try:
        if len(numbers) != 7:
            raise ValueError(f'{len(numbers)} numbers')
        return make_pose(from_quaternion(numbers[3:]), numbers[:3])
    except ValueError as error:
        raise EvaluationError(
            f'the pose {" ".join(f"{number:g}" for number in numbers)} cannot be used ({error}); '
            'expected x y z qx qy qz qw in metres'
        ) from error


class _Truth:
    """What a bag knows of an image: its depth, and where the camera was."""

    def __init__(self, bag: BagReader, source: FrameSource, choice: BagChoice) -> None:
        source.locate()
        self._source, self._choice = source, choice
        self._depth = (
            None
            if choice.depth_topic is None
            else _DepthTrack(bag, choice.depth_topic, choice.recorded_stamps)
        )
        self._T_camera_lidar = source.T_camera_lidar
        if choice.lidar_pose is not None:
            self._T_camera_lidar = read_pose(choice.lidar_pose)
        if choice.depth_topic is None and self._T_camera_lidar is None:
            raise EvaluationError(
                f'the points on {choice.lidar_topic} are in a frame of their own, and no fixed '
                f'transform of bag {source.path} connects it with that of the images; give the '
                'pose of the lidar in the optical frame with --lidar-pose x y z qx qy qz qw '
                '(0 0 0 0 0 0 1 where the points are in it)'
            )

    def depth(self, frame: TimedFrame) -> Map | None:
        """The true depth of the rectified view, None where there is none of that time."""
        if self._depth is not None:
            depth = self._depth.at(frame.stamp_ns)
            if depth is None:
                return None
            name = f'{self._choice.depth_topic} at {frame.stamp_ns * 1e-9:.3f} s'
            return rectify_truth(check_truth(name, depth, frame.rgb), frame.camera)
        if frame.lidar is None:
            return None
        assert self._T_camera_lidar is not None, 'checked at the start'
        T_view_lidar = _view_rotation(frame.camera) @ self._T_camera_lidar
        return project_depth(transform(T_view_lidar, frame.lidar), frame.camera.rectified())

    def pose(self, frame: TimedFrame) -> Pose | None:
        """T_world_camera of the rectified view, None where it is not known."""
        T_body_camera = self._source.T_body_camera
        if frame.pose is None or T_body_camera is None:
            return None
        return frame.pose @ T_body_camera @ _view_rotation(frame.camera).T


class _DepthTrack:
    """Depth images in the order of the bag, read along with the colour images."""

    def __init__(self, bag: BagReader, topic: str, recorded_stamps: bool) -> None:
        self._topic = topic
        self._recorded_stamps = recorded_stamps
        self._messages = bag.messages([topic])
        self._recent: deque[tuple[int, Any]] = deque()

    def at(self, time_ns: int) -> Map | None:
        """The depth image nearest in time, None where none is within 50 ms."""
        while not self._recent or self._recent[-1][0] < time_ns + _MAX_DEPTH_GAP_NS:
            item = next(self._messages, None)
            if item is None:
                break
            message = item.message
            stamp = item.timestamp_ns if self._recorded_stamps else stamp_ns(message.header)
            self._recent.append((stamp, message))
        while self._recent and self._recent[0][0] < time_ns - _MAX_DEPTH_GAP_NS:
            self._recent.popleft()
        if not self._recent:
            return None
        stamp, message = min(self._recent, key=lambda one: abs(one[0] - time_ns))
        if abs(stamp - time_ns) > _MAX_DEPTH_GAP_NS:
            return None
        try:
            return decode_depth(message)
        except MessageError as error:
            raise EvaluationError(f'{self._topic} is no depth to measure by: {error}') from error


def _make_sample(path: Path, frame: TimedFrame, truth: _Truth) -> Sample:
    return Sample(
        f'{frame.index:06d}',
        frame.rgb,
        frame.camera,
        truth.depth(frame),
        str(path),
        frame.stamp_ns,
        truth.pose(frame),
    )


def _holds_depth(bag: BagReader, topic: str) -> bool:
    """Whether the first message is a depth image: the name of a topic does not tell."""
    if bag.topics[topic].msgtype != IMAGE_TYPES[0]:
        return False
    first = next(bag.messages([topic]), None)
    return first is not None and first.message.encoding in DEPTH_ENCODINGS


def _view_rotation(camera: Camera) -> Pose:
    """T_rectified_raw of a camera: its R, the identity where it has none."""
    rotation = np.eye(3) if camera.rectification is None else np.asarray(camera.rectification)
    return make_pose(rotation, np.zeros(3))
