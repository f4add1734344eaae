"""Camera images of a bag, each with the CameraInfo, the odometry and the depth of its stamp.

Images are held until the next one comes, and as long as odometry, points or transforms of their
stamp are still on their way, so what was recorded after an image still finds it. Where the first
CameraInfo comes later than that, as one that is published once does, it is looked up first: the
images before it have it too.

A depth topic (sensor_msgs/Image, 32FC1 metres or 16UC1 millimetres) is taken to be registered to
the image pixel by pixel. Where lidar points are the depth, they are projected into the rectified
view, the nearest one of each pixel counts; they are not corrected for the motion between their
stamp and the image's. Bags of `psd-depth synth` need no more than their path.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from psd_depth_ros.data.bag_storage import bag_files_in, is_bag_name, is_split
from psd_depth_ros.data.bags import BagMessage, BagReader
from psd_depth_ros.data.calibration_file import Mounting, transform_topics
from psd_depth_ros.data.depth import check_depth, Map, project_depth, rectify_depth
from psd_depth_ros.data.frames import (
    FrameSource,
    LensChoice,
    Reader,
    SourceOptions,
    TimedFrame,
    view_rotation,
)
from psd_depth_ros.data.message_types import (
    CLOUD_TYPE,
    IMAGE_TYPES,
    list_topics,
    odometry_topics,
    pick_cloud_topic,
    pick_odometry_topic,
)
from psd_depth_ros.data.synchronizer import has_jumped, PATIENCE_NS, RequiredInputs, Synchronizer
from psd_depth_ros.errors import (
    BagError,
    CalibrationError,
    EvaluationError,
    MessageError,
    PsdDepthError,
)
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import from_quaternion, make_pose, transform
from psd_depth_ros.messages import (
    camera_from_info,
    check_sizes,
    decode_depth,
    DEPTH_ENCODINGS,
    image_size,
    ImageDecoder,
    stamp_ns,
)

_MAX_WAITING = 60
_UNSTAMPED = 10
_MAX_DEPTH_GAP_NS = 50_000_000


@dataclass(frozen=True)
class _Held:
    """An image that waits for what was recorded with it."""

    index: int
    stamp_ns: int
    recorded_ns: int
    message: Any

    @property
    def frame_id(self) -> str:
        return str(self.message.header.frame_id)


class BagFrames(FrameSource):
    """The frames of one camera of a bag; see `open.open_frames`."""

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
        self._seen, self._lacking = 0, Counter[str]()
        self._reader = BagReader(path).__enter__()
        try:
            self.image_topic = self._reader.pick_image_topic(image_topic)
            self.camera_info_topic = None
            if not lens.is_given:
                self.camera_info_topic = self._reader.pick_camera_info_topic(
                    self.image_topic, camera_info_topic
                )
            self.odometry_topic = pick_odometry_topic(self._reader)
            self._odometry = odometry_topics(self._reader)
            self.lidar_topic: str | None = None
            self._required = RequiredInputs()
            self._count = self._reader.topics[self.image_topic].count
        except PsdDepthError as error:
            self._reader.close()
            if not self._reader.notes:
                raise
            notes = '; '.join(note for note in self._reader.notes if note not in str(error))
            if not notes:
                raise
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

    def request_transforms(self, required: RequiredInputs) -> None:
        """Give frames their `extrinsics`, as TF has them at their stamps."""
        self._required = required

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
            *self._lacks(),
        ]

    def _lacks(self) -> Iterator[str]:
        """What most images have no odometry or points for, and odometry that was not chosen."""
        if len(self._odometry) > 1:
            several = ', '.join(self._odometry)
            yield f'odometry is not used, for there are several: {several}'
        count = self._lacking.total()
        if 2 * count > self._seen:
            what = 'points of the lidar' if self.lidar_topic is not None else 'pose of odometry'
            often = self._lacking.most_common(1)[0][0]
            yield f'{count} of {self._seen} images have no {what}; most often: {often}'

    def frames(self) -> Iterator[TimedFrame]:
        """Decode the images in the order of recording.

        An image waits for what belongs to it, odometry for one, for 2 s of the recording. Raises
        BagError where no CameraInfo can be read, the first images have no stamps, or not one
        image can be read for damage.
        """
        self._begin()
        self._unread.clear()
        self._seen, self._lacking = 0, Counter()
        if not self._recorded_stamps:
            self._check_stamps()
        first = None if self.camera_info_topic is None else self._first_camera_info()
        cameras, synchronizer = _CameraTrack(self._lens, first), self._make_synchronizer()
        held: deque[_Held] = deque()
        error: PsdDepthError | None = None
        for image in self._images(cameras, synchronizer):
            if image is not None:
                held.append(image)
            while held and (image is None or _is_ripe(held, synchronizer)):
                frame = held.popleft()
                if not self._is_selected(frame.index):
                    if self._is_last_selected(frame.index):
                        return
                    continue
                try:
                    made = self._use(_make_frame(frame, cameras, synchronizer, self.decoder))
                    self._seen += 1
                    self._lacking.update([made.problem] if made.problem else [])
                    yield made
                except (MessageError, CalibrationError) as problem:
                    error = problem
                    reason = 'image' if isinstance(problem, MessageError) else 'camera_info'
                    self._skip(frame.index, frame.stamp_ns, reason, problem)
        self._finish(error)

    def _make_synchronizer(self) -> Synchronizer:
        """A synchronizer for the required inputs, with the fixed transforms of the whole bag."""
        has_poses, has_points = self.odometry_topic is not None, self.lidar_topic is not None
        synchronizer = Synchronizer(replace(self._required, poses=has_poses, points=has_points))
        for topic in self._transform_topics(fixed=True):
            for item in self._reader.messages([topic]):
                with suppress(MessageError):
                    synchronizer.transforms.add(item.message, fixed=True)
        return synchronizer

    def _transform_topics(self, *, fixed: bool) -> list[str]:
        if not self._required.transforms:
            return []
        return [name for name, is_ in transform_topics(self._reader).items() if is_ == fixed]

    def _images(self, cameras: _CameraTrack, synchronizer: Synchronizer) -> Iterator[_Held | None]:
        """Sort messages into where they belong; yield the images, and None after the last."""
        index = 0
        names = {self.image_topic, self.camera_info_topic, self.odometry_topic, self.lidar_topic}
        names.update(self._transform_topics(fixed=False))
        for item in self._reader.messages({name for name in names if name is not None}):
            try:
                message = item.message
                time_ns = self._time_of(item, message)
                if item.topic == self.image_topic:
                    yield _Held(index, time_ns, item.timestamp_ns, message)
                elif item.topic == self.camera_info_topic:
                    cameras.add(time_ns, message)
                elif item.topic == self.odometry_topic:
                    synchronizer.add_odometry(message, item.timestamp_ns, time_ns)
                elif item.topic == self.lidar_topic:
                    synchronizer.add_cloud(message, item.timestamp_ns, time_ns)
                else:
                    recorded = item.timestamp_ns if self._recorded_stamps else None
                    synchronizer.transforms.add(message, time_ns=recorded)
            except MessageError as error:
                # Without a pose or points a frame still is one; without its image it is not.
                if item.topic == self.image_topic:
                    self._skip(index, item.timestamp_ns, 'image', error)
                else:
                    self._note_unread(item.topic, error)
            index += item.topic == self.image_topic
        yield None

    def _first_camera_info(self) -> Any:
        """The first CameraInfo that can be read. Raises BagError where all are unreadable."""
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

    def _time_of(self, item: BagMessage, message: Any) -> int:
        """The stamp of a message, or when it was recorded where that is wanted or has to do."""
        if self._recorded_stamps or not hasattr(message, 'header'):
            return item.timestamp_ns
        return stamp_ns(message.header)

    def _check_stamps(self) -> None:
        """Raise BagError where the first images, more than one, all have one stamp, such as 0.

        A simulation may begin with some of them before its clock runs.
        """
        count, first = 0, 0
        for item in self._reader.messages([self.image_topic]):
            with suppress(MessageError):
                stamp = stamp_ns(item.message.header)
                first = stamp if not count else first
                if stamp != first:
                    return
                count += 1
            if count == _UNSTAMPED:
                break
        if count < 2:
            return
        raise BagError(
            f'the images on {self.image_topic} of bag {self.path} have no stamps: header.stamp of '
            f'the first {count} is {first / 1e9:.9g}, so nothing can be matched in time. Take the '
            'times they were recorded at with --stamps recorded (data.stamps where recipes are '
            'used), or let the driver stamp its images'
        )

    def _note_unread(self, topic: str, error: MessageError) -> None:
        count, first = self._unread.get(topic, (0, str(error)))
        self._unread[topic] = count + 1, first


def _is_ripe(held: deque[_Held], synchronizer: Synchronizer) -> bool:
    """Whether the first image need not wait any longer for what belongs to it."""
    first, last = held[0], held[-1]
    if len(held) == 1:  # a CameraInfo of its stamp may follow
        return False
    if has_jumped(first.stamp_ns, last.stamp_ns) or len(held) > _MAX_WAITING:
        return True
    if last.stamp_ns - first.stamp_ns > PATIENCE_NS:
        return True
    return synchronizer.is_final(first.stamp_ns, first.frame_id)


def _make_frame(
    held: _Held, cameras: _CameraTrack, synchronizer: Synchronizer, decoder: ImageDecoder
) -> TimedFrame:
    """Decode an image, where its size is that of its camera, and add what belongs to its stamp."""
    width, height = image_size(held.message)
    camera = cameras.at(held.stamp_ns, width, height)
    if (width, height) != (camera.width, camera.height):
        check_sizes(camera, width, height)
    rgb = decoder.decode(held.message)
    inputs = synchronizer.at(held.stamp_ns, held.frame_id, held.recorded_ns)
    return TimedFrame(
        held.index,
        held.stamp_ns,
        held.frame_id,
        rgb,
        camera,
        inputs.pose,
        inputs.points,
        extrinsics=inputs.extrinsics,
        problem=inputs.problem,
        remark=inputs.remark,
    )


class _CameraTrack:
    """The newest CameraInfo messages, and the first of the bag; equal ones share one `Camera`."""

    def __init__(self, lens: LensChoice, first: Any) -> None:
        self._lens = lens
        self._first = first
        self._recent: deque[tuple[int, Any]] = deque(maxlen=2 * _MAX_WAITING)
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
            lens = self._lens
            camera = camera_from_info(message, lens.image_is_rectified, lens.rectify_alpha)
            self._known = content, camera
        return self._known[1]


def _content(message: Any) -> tuple[Any, ...]:
    """Everything but the header, in a form that compares exactly (NaN included)."""
    parts = [value for name, value in sorted(vars(message).items()) if name != 'header']
    return tuple(part.tobytes() if isinstance(part, np.ndarray) else repr(part) for part in parts)


class BagDepthFrames(BagFrames):
    """The frames of a bag with exact depth, from a topic of depth images or of lidar points.

    Raises EvaluationError, and closes the bag, where it has neither, or several to choose from.
    """

    def __init__(self, path: Path, options: SourceOptions) -> None:
        super().__init__(
            path,
            options.lens,
            options.image_topic,
            options.camera_info_topic,
            options.recorded_stamps,
        )
        self._lidar_pose = options.lidar_pose
        try:
            self.depth_topic, lidar_topic = _pick_depth_topics(self._reader, options)
        except PsdDepthError:
            self._reader.close()
            raise
        if self.depth_topic is None:
            self.add_lidar(lidar_topic)

    def frames(self) -> Iterator[TimedFrame]:
        """Decode the images. Raises BagError, EvaluationError and MessageError."""
        self.locate()
        self._check_lidar_pose()
        with BagReader(self.path) as bag:
            track = None
            if self.depth_topic is not None:
                track = _DepthTrack(bag, self.depth_topic, self._recorded_stamps)
            for frame in super().frames():
                depth = self._project(frame) if track is None else self._depth_at(frame, track)
                name = f'{frame.index:06d}'
                yield replace(frame, depth_m=depth, name=name, sequence=str(self.path))

    def _check_lidar_pose(self) -> None:
        if self._lidar_pose is not None:
            self.T_camera_lidar = read_pose(self._lidar_pose)
        if self.depth_topic is None and self.T_camera_lidar is None:
            raise EvaluationError(
                f'the points on {self.lidar_topic} are in a frame of their own, and no fixed '
                f'transform of bag {self.path} connects it with that of the images; give the '
                'pose of the lidar in the optical frame with --lidar-pose x y z qx qy qz qw '
                '(0 0 0 0 0 0 1 where the points are in it)'
            )

    def _depth_at(self, frame: TimedFrame, track: _DepthTrack) -> Map | None:
        """The depth image nearest in time in the rectified view, None where it is missing."""
        depth = track.at(frame.stamp_ns)
        if depth is None:
            return None
        name = f'{self.depth_topic} at {frame.stamp_ns * 1e-9:.3f} s'
        return rectify_depth(check_depth(name, depth, frame.rgb), frame.camera)

    def _project(self, frame: TimedFrame) -> Map | None:
        """The depth of lidar points in the rectified view, None without points."""
        if frame.lidar is None:
            return None
        assert self.T_camera_lidar is not None, 'checked at the start'
        T_view_lidar = view_rotation(frame.camera) @ self.T_camera_lidar
        return project_depth(transform(T_view_lidar, frame.lidar), frame.camera.rectified())


def read_pose(numbers: Sequence[float]) -> np.ndarray:
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


class _DepthTrack:
    """Depth images in the order of the bag, read along with the colour images."""

    def __init__(self, bag: BagReader, topic: str, recorded_stamps: bool) -> None:
        self._topic = topic
        self._recorded_stamps = recorded_stamps
        self._messages = bag.messages([topic])
        self._recent: deque[tuple[int, Any]] = deque()

    def at(self, time_ns: int) -> Map | None:
        """The depth image nearest in time, None where it is more than 50 ms away."""
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
        stamp, message = min(self._recent, key=lambda item: abs(item[0] - time_ns))
        if abs(stamp - time_ns) > _MAX_DEPTH_GAP_NS:
            return None
        try:
            return decode_depth(message)
        except MessageError as error:
            raise EvaluationError(f'{self._topic} is no depth to measure by: {error}') from error


def _pick_depth_topics(bag: BagReader, options: SourceOptions) -> tuple[str | None, str | None]:
    """The topic of depth images, else of lidar points; one of them is None."""
    for topic in (options.depth_topic, options.lidar_topic):
        if topic is not None:
            bag.check_topic(topic)
            is_depth = topic == options.depth_topic
            return (topic, None) if is_depth else (None, topic)
    depths = [topic for topic in bag.topics if _holds_depth(bag, topic)]
    clouds = [topic for topic, info in bag.topics.items() if info.msgtype == CLOUD_TYPE]
    for topics, option in ((depths, '--depth-topic'), (clouds, '--lidar-topic')):
        if len(topics) > 1:
            raise EvaluationError(
                f'bag {bag.path} has several topics that may be the truth: {", ".join(topics)}; '
                f'choose one with {option}'
            )
        if topics:
            return (topics[0], None) if topics is depths else (None, topics[0])
    raise EvaluationError(
        f'bag {bag.path} has nothing to measure against: expected a topic of depth images '
        f'(sensor_msgs/Image, {" or ".join(DEPTH_ENCODINGS)}) or of lidar points '
        f'(sensor_msgs/PointCloud2); its topics are:{list_topics(bag.topics)}'
    )


def _holds_depth(bag: BagReader, topic: str) -> bool:
    """Whether the first message is a depth image: the name of a topic does not tell."""
    if bag.topics[topic].msgtype != IMAGE_TYPES[0]:
        return False
    first = next(bag.messages([topic]), None)
    return first is not None and first.message.encoding in DEPTH_ENCODINGS


def is_bag(path: Path) -> bool:
    """Whether a path may be a bag: any file that is nothing else, or a folder with bag files."""
    if not path.is_dir():
        return True
    names = [child.name for child in path.iterdir() if not child.name.startswith('.')]
    return 'metadata.yaml' in names or any(is_bag_name(name) for name in names)


def _is_one(folder: Path) -> bool:
    """Whether the bags in a folder are one recording: several, unless a recorder split one."""
    bags = bag_files_in(folder)
    return len(bags) == 1 or is_split(bags)


def _open(path: Path, options: SourceOptions) -> FrameSource:
    if options.with_depth:
        return BagDepthFrames(path, options)
    source = BagFrames(
        path,
        options.lens,
        options.image_topic,
        options.camera_info_topic,
        options.recorded_stamps,
    )
    if options.with_lidar:
        source.add_lidar(options.lidar_topic)
    return source


READER = Reader(
    'bag',
    is_bag,
    _open,
    has_depth=True,
    has_lidar=True,
    has_topics=True,
    is_recording=_is_one,
)
