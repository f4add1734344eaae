"""Timing of the playback of a recording: when each message is due, and reading ahead.

`ros.replay_node` waits, publishes and drives /clock. Stamps stay as recorded, so that time jumps
back at the end of a loop, which listeners are expected to handle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
import queue
import threading
from typing import Generic, TypeVar

from psd_depth_ros.config import setting
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.message_types import base_topic, camera_info_beside
from psd_depth_ros.data.open import kind_of, open_frames
from psd_depth_ros.data.readers.files import FRAME_ID
from psd_depth_ros.errors import BagError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import image_size
from psd_depth_ros.parsing import user_path
from psd_depth_ros.replay.recordings import (
    CAMERA_INFO_TOPIC,
    IMAGE_TOPIC,
    RecordedMessage,
    Recording,
)

T = TypeVar('T')
_WAIT_S = 0.1

# Between the last message of a round and the first of the next, in recorded time: about a frame.
_LOOP_GAP_NS = 100_000_000


class ReadAhead(Generic[T]):
    """Iterates over `items` in a thread, at most `depth` items ahead; a context manager.

    An exception of the iterable is raised in place of its next item. Leaving the context stops the
    thread.
    """

    def __init__(self, items: Iterable[T], depth: int = 3) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[T | None, BaseException | None, bool]]
        self._queue = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name='read-ahead', daemon=True)

    def __enter__(self) -> Iterator[T]:
        """Start reading."""
        self._thread.start()
        return self._give()

    def __exit__(self, *_error: object) -> None:
        """Stop reading and wait for the thread."""
        self._stopped.set()
        self._thread.join()

    def _give(self) -> Iterator[T]:
        while True:
            item, error, done = self._queue.get()
            if error is not None:
                raise error
            if done:
                return
            yield item  # type: ignore[misc]  # an item may be None, `done` tells

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._put((item, None, False)):
                    return
            self._put((None, None, True))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the reader
            self._put((None, error, True))

    def _put(self, entry: tuple[T | None, BaseException | None, bool]) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(entry, timeout=_WAIT_S)
            except queue.Full:
                continue
            return True
        return False


@dataclass(frozen=True)
class PlayedCamera:
    """Topics of the camera of a recording.

    `image_topic` is without its transport (`raw` or `compressed`), as nodes expect it;
    `message_topic` is where the messages are. `frames` is the number of images according to the
    recording; `width` and `height` are those of the first one.
    """

    image_topic: str
    camera_info_topic: str
    transport: str
    frame_id: str
    frames: int
    width: int
    height: int

    @property
    def message_topic(self) -> str:
        """Topic of the image messages."""
        compressed = self.transport == 'compressed'
        return f'{self.image_topic}/compressed' if compressed else self.image_topic


def find_camera(
    path: str | Path,
    image_topic: str | None = None,
    camera: Camera | None = None,
    horizontal_fov_deg: float | None = None,
) -> PlayedCamera:
    """Find the camera of a bag, video or image folder.

    `camera` or `horizontal_fov_deg` replaces a calibration that the recording lacks. Raises
    BagError, listing the topics, where a bag has several cameras or none, and CalibrationError
    where the lens of a video or folder is unknown.
    """
    path = user_path(path)
    if kind_of(path) == 'bag':
        return _camera_of_bag(path, image_topic, calibrated=camera is not None)
    with open_frames(
        path, image_topic, camera=camera, horizontal_fov_deg=horizontal_fov_deg
    ) as source:
        height, width = next(source.frames()).rgb.shape[:2]
        return PlayedCamera(
            IMAGE_TOPIC, CAMERA_INFO_TOPIC, 'raw', FRAME_ID, source.count, width, height
        )


def _camera_of_bag(path: Path, wanted: str | None, calibrated: bool) -> PlayedCamera:
    with BagReader(path) as bag:
        topic = bag.pick_image_topic(wanted)
        info = camera_info_beside(topic) if calibrated else bag.pick_camera_info_topic(topic)
        compressed = bag.topics[topic].msgtype.endswith('/CompressedImage')
        if compressed and topic == base_topic(topic):
            raise BagError(
                f'{topic} of {path} holds compressed images, but nodes look for them on '
                f'{topic}/compressed; play it under that name'
            )
        first = next(bag.messages([topic])).message
        width, height = image_size(first)
        return PlayedCamera(
            image_topic=base_topic(topic) if compressed else topic,
            camera_info_topic=info,
            transport='compressed' if compressed else 'raw',
            frame_id=first.header.frame_id,
            frames=bag.topics[topic].count,
            width=width,
            height=height,
        )


@dataclass(frozen=True)
class PlaybackSettings:
    """How a recording is played."""

    rate: float = setting(
        1.0, 'recorded seconds played per second', '', minimum=0.01, maximum=100.0
    )
    loop: bool = setting(False, 'start again at the end; the clock jumps back')
    start_s: float = setting(0.0, 'skip this much of the recording', 's', minimum=0.0, maximum=1e7)
    duration_s: float = setting(
        0.0, 'play this much of the recording; 0 plays to its end', 's', minimum=0.0, maximum=1e7
    )


@dataclass(frozen=True)
class DueMessage:
    """A message, the time it is due in seconds after the start, and the round of the loop."""

    due_s: float
    message: RecordedMessage
    round: int


class Schedule:
    """When each message of a recording is due. Raises BagError where nothing is left to play."""

    def __init__(self, recording: Recording, settings: PlaybackSettings) -> None:
        self._recording = recording
        self._settings = settings
        self.start_ns = recording.start_ns + round(settings.start_s * 1e9)
        self.stop_ns = recording.end_ns
        if settings.duration_s:
            self.stop_ns = min(self.stop_ns, self.start_ns + round(settings.duration_s * 1e9))
        if self.start_ns > recording.end_ns:
            length_s = (recording.end_ns - recording.start_ns) / 1e9
            raise BagError(
                f'start is {settings.start_s:g} s into the recording, which lasts {length_s:g} s'
            )

    @property
    def round_s(self) -> float:
        """Duration of one round in seconds, including the gap before the next one."""
        return self._seconds(self.stop_ns - self.start_ns + _LOOP_GAP_NS)

    def __iter__(self) -> Iterator[DueMessage]:
        """Messages in the order they are due; endless in a loop."""
        number = 0
        while True:
            for message in self._recording.messages(self.start_ns, self.stop_ns):
                due_s = number * self.round_s + self._seconds(message.time_ns - self.start_ns)
                yield DueMessage(due_s, message, number)
            number += 1
            if not self._settings.loop:
                return

    def clock_ns(self, elapsed_s: float) -> int:
        """Recorded time at `elapsed_s` seconds after the start, for /clock."""
        if self._settings.loop:
            elapsed_s %= self.round_s
        reached = self.start_ns + round(elapsed_s * self._settings.rate * 1e9)
        limit = self.stop_ns + _LOOP_GAP_NS
        return min(reached, limit)

    def _seconds(self, recorded_ns: int) -> float:
        return recorded_ns / 1e9 / self._settings.rate
