"""A bag, video or image folder as a stream of serialised messages, ready to be published.

Messages of a bag are published byte for byte as recorded, except for their stamps where the times
of recording are asked for; videos and folders become Image and CameraInfo.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
import struct

from psd_depth_ros.data.bags import BagMessage, BagReader
from psd_depth_ros.data.frames import FrameSource
from psd_depth_ros.data.message_types import (
    camera_info_beside,
    CAMERA_INFO_TYPE,
    CLOUD_TYPE,
    IMAGE_TYPES,
    list_topics,
    MessageTypes,
    ODOMETRY_TYPE,
)
from psd_depth_ros.data.open import kind_of, open_frames
from psd_depth_ros.errors import BagError, MessageError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_info_fields, header_fields, image_fields, stamp_ns
from psd_depth_ros.parsing import user_path

TF_TYPE = 'tf2_msgs/msg/TFMessage'
TF_STATIC = '/tf_static'
# They begin with a Header.
STAMPED_TYPES = (*IMAGE_TYPES, CAMERA_INFO_TYPE, ODOMETRY_TYPE, CLOUD_TYPE)
PLAYED_TYPES = (*STAMPED_TYPES, TF_TYPE)

IMAGE_TOPIC = '/camera/image'
CAMERA_INFO_TOPIC = '/camera/camera_info'

# After the four bytes of encapsulation: `sec` and `nanosec` of the Header.
_STAMP = slice(4, 12)
# Files have no date; for ROS a clock at 0 means that time has not started yet.
_FILE_EPOCH_NS = 1_000_000_000


@dataclass(frozen=True)
class RecordedMessage:
    """A message to publish: topic, type, time of recording and CDR bytes."""

    topic: str
    msgtype: str
    time_ns: int
    cdr: bytes | memoryview


class Recording(ABC):
    """A recording that can be played repeatedly; a context manager.

    The last message of a `latched` topic stays valid until the next one.
    """

    topics: dict[str, str]
    latched: frozenset[str] = frozenset()
    start_ns: int
    end_ns: int

    @abstractmethod
    def messages(self, start_ns: int, stop_ns: int) -> Iterator[RecordedMessage]:
        """Messages recorded in [start_ns, stop_ns], in the order of recording."""

    @property
    @abstractmethod
    def notes(self) -> list[str]:
        """Remarks on what was played, such as lost messages."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def __enter__(self) -> Recording:
        """Return the opened recording."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the files."""
        self.close()


class BagRecording(Recording):
    """Topics of a bag under their own names, or those in `renamed`.

    Latched topics are /tf_static and a CameraInfo less frequent than images: played from a later
    point on, their last earlier messages come first. `topics` lists the published name and type of
    each. `camera` replaces the recorded CameraInfo of the bag's camera, once per image. With
    `recorded_stamps`, messages that begin with a Header get the time of recording as their stamp;
    transforms keep their own.
    """

    def __init__(
        self,
        path: Path,
        only: tuple[str, ...] = (),
        renamed: Mapping[str, str] | None = None,
        camera: Camera | None = None,
        image_topic: str | None = None,
        recorded_stamps: bool = False,
    ) -> None:
        self._recorded_stamps = recorded_stamps
        self._unstamped = self._images = 0
        self._reader = BagReader(path).__enter__()
        try:
            self._names = self._choose(only, renamed or {})
            self._calibrated: dict[str, str] = {}
            if camera is not None:
                self._replace_camera_info(camera, image_topic)
        except Exception:
            self._reader.close()
            raise
        known = self._reader.topics
        self.topics = {new: known[old].msgtype for old, new in self._names.items()}
        self.topics |= dict.fromkeys(self._calibrated.values(), CAMERA_INFO_TYPE)
        self.start_ns, self.end_ns = self._reader.start_ns, self._reader.end_ns
        self._standing = _latched(self._reader) & set(self._names)
        self.latched = frozenset(self._names[channel] for channel in self._standing)
        self.unreadable = 0
        self._why = ''

    def messages(self, start_ns: int, stop_ns: int) -> Iterator[RecordedMessage]:
        """Messages of the chosen topics; unconvertible ones are skipped and counted."""
        for item in self._still_holding(start_ns):
            try:
                cdr = self._stamped(item)
            except MessageError:
                self.unreadable += 1
                continue
            yield RecordedMessage(self._names[item.topic], item.msgtype, start_ns, cdr)
        for item in self._reader.messages(set(self._names), start_ns, stop_ns + 1):
            try:
                cdr = self._stamped(item)
                info = self._camera_info(item)
            except MessageError as error:
                self.unreadable += 1
                self._why = self._why or str(error)
                continue
            if info is not None:
                yield info
            yield RecordedMessage(self._names[item.topic], item.msgtype, item.timestamp_ns, cdr)

    @property
    def notes(self) -> list[str]:
        """Messages that the bag lost, and how many could not be converted."""
        notes = list(self._reader.notes)
        if self.unreadable:
            notes.append(
                f'{self.unreadable} messages could not be converted, the first: {self._why}'
            )
        if 1 < self._images == self._unstamped:
            notes.append(
                f'all {self._images} images have no stamps (header.stamp is 0), so nothing can be '
                'matched in time: play the times they were recorded at with --stamps recorded '
                '(parameter stamps)'
            )
        return notes

    def close(self) -> None:
        """Close the bag."""
        self._reader.close()

    def _stamped(self, item: BagMessage) -> bytes | memoryview:
        """The bytes of a message with the requested stamp."""
        cdr = item.cdr
        if item.msgtype not in STAMPED_TYPES or len(cdr) < _STAMP.stop:
            return cdr
        if self._recorded_stamps:
            seconds, nanoseconds = divmod(item.timestamp_ns, 1_000_000_000)
            layout = '<II' if cdr[1] & 1 else '>II'
            stamp = struct.pack(layout, seconds & 0xFFFFFFFF, nanoseconds)
            return b''.join((cdr[: _STAMP.start], stamp, cdr[_STAMP.stop :]))
        if item.msgtype in IMAGE_TYPES:
            self._images += 1
            self._unstamped += not any(cdr[_STAMP])
        return cdr

    def _choose(self, only: tuple[str, ...], renamed: Mapping[str, str]) -> dict[str, str]:
        """Map recorded names to published ones."""
        for topic in (*only, *renamed):
            self._reader.check_topic(topic)
        topics = self._reader.topics
        chosen = only or [name for name, info in topics.items() if info.msgtype in PLAYED_TYPES]
        if not chosen:
            raise BagError(
                f'bag {self._reader.path} has nothing to play (camera, odometry, TF, clouds); '
                f'its topics are:{list_topics(topics)}'
            )
        return {name: renamed.get(name, name) for name in chosen}

    def _still_holding(self, start_ns: int) -> list[BagMessage]:
        """Last messages of latched topics before `start_ns`; for transforms, all of them."""
        if start_ns <= self.start_ns or not self._standing:
            return []
        last: dict[tuple[str, int], BagMessage] = {}
        for item in self._reader.messages(self._standing, stop_ns=start_ns):
            is_transform = item.msgtype == TF_TYPE
            last[item.topic, item.timestamp_ns if is_transform else 0] = item
        return sorted(last.values(), key=lambda item: item.timestamp_ns)

    def _replace_camera_info(self, camera: Camera, image_topic: str | None) -> None:
        image = self._reader.pick_image_topic(image_topic)
        beside = camera_info_beside(image)
        self._names.pop(beside, None)
        self._calibrated[image] = camera_info_beside(self._names.get(image, image))
        self._types = MessageTypes()
        self._info_fields = camera_info_fields(camera)

    def _camera_info(self, item: BagMessage) -> RecordedMessage | None:
        topic = self._calibrated.get(item.topic)
        if topic is None:
            return None
        header = item.message.header
        time_ns = item.timestamp_ns if self._recorded_stamps else stamp_ns(header)
        fields = {'header': header_fields(time_ns, header.frame_id), **self._info_fields}
        cdr = self._types.serialize(CAMERA_INFO_TYPE, fields)
        return RecordedMessage(topic, CAMERA_INFO_TYPE, item.timestamp_ns, cdr)


def _latched(reader: BagReader) -> set[str]:
    topics = reader.topics
    images = [info.count for info in topics.values() if info.msgtype in IMAGE_TYPES]
    seldom = {
        name
        for name, info in topics.items()
        if info.msgtype == CAMERA_INFO_TYPE and 2 * info.count < max(images, default=0)
    }
    return seldom | {TF_STATIC} & topics.keys()


class FileRecording(Recording):
    """The frames of a video or folder as rgb8 Image and CameraInfo, stamped from `epoch_ns`."""

    def __init__(self, source: FrameSource, epoch_ns: int = _FILE_EPOCH_NS) -> None:
        self._source = source
        self._types = MessageTypes()
        self._epoch_ns = epoch_ns
        self.topics = {IMAGE_TOPIC: IMAGE_TYPES[0], CAMERA_INFO_TOPIC: CAMERA_INFO_TYPE}
        self.start_ns, last_ns = source.span_ns
        self.start_ns += epoch_ns
        self.end_ns = last_ns + epoch_ns

    def messages(self, start_ns: int, stop_ns: int) -> Iterator[RecordedMessage]:
        """CameraInfo, then Image of every frame."""
        for frame in self._source.frames():
            time_ns = frame.stamp_ns + self._epoch_ns
            if time_ns < start_ns:
                continue
            if time_ns > stop_ns:
                return
            header = {'header': header_fields(time_ns, frame.frame_id)}
            for topic, fields in (
                (CAMERA_INFO_TOPIC, camera_info_fields(frame.camera)),
                (IMAGE_TOPIC, image_fields(frame.rgb, 'rgb8')),
            ):
                cdr = self._types.serialize(self.topics[topic], {**header, **fields})
                yield RecordedMessage(topic, self.topics[topic], time_ns, cdr)

    @property
    def notes(self) -> list[str]:
        """Lost frames, and how many could not be used."""
        skipped = self._source.skipped
        left = [f'{len(skipped)} frames were left out: {skipped[0].detail}'] if skipped else []
        return [*self._source.notes, *left]

    def close(self) -> None:
        """Close the files."""
        self._source.close()


def open_recording(
    path: str | Path,
    only: tuple[str, ...] = (),
    renamed: Mapping[str, str] | None = None,
    camera: Camera | None = None,
    horizontal_fov_deg: float | None = None,
    image_topic: str | None = None,
    stamps: str = 'header',
) -> Recording:
    """Open a bag, video or image folder for playing.

    Args:
        path: The recording.
        only: Topics of a bag; by default all of the `PLAYED_TYPES`.
        renamed: Published names by recorded ones.
        camera, horizontal_fov_deg: Calibration that replaces the recorded one.
        image_topic: The camera it belongs to, where a bag has several.
        stamps: `header` or `recorded`: stamps of the messages of a bag.

    Raises BagError, CalibrationError and SettingsError as `open_frames` does.
    """
    path = user_path(path)
    if kind_of(path) != 'bag':
        if only:
            raise SettingsError(f'{path} has no topics to choose from; leave out topics')
        source = open_frames(
            path,
            image_topic,
            camera=camera,
            horizontal_fov_deg=horizontal_fov_deg,
            stamps=stamps,
        )
        return FileRecording(source)
    if camera is None and horizontal_fov_deg is not None:
        with open_frames(
            path, image_topic, horizontal_fov_deg=horizontal_fov_deg, stamps=stamps
        ) as source:
            camera = next(source.frames()).camera
    return BagRecording(path, only, renamed, camera, image_topic, stamps == 'recorded')
