"""A recording as live topics: camera, CameraInfo, odometry, TF and clouds, with /clock.

    python -m psd_depth_ros.ros.replay_node --ros-args -p recording:=drive.mcap -p rate:=0.5

Parameters are those of `ReplaySettings`. Messages go out as recorded, under their own names (remap
them with -r), or the camera under the names `image_as` and `camera_info_as`. With
`wait_for_subscribers_s` nothing is sent before somebody listens to the camera, so that no first
frame is lost. The node ends when the recording does, unless it loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
import threading
import time

from rclpy.node import Node

from psd_depth_ros.config import setting
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.message_types import base_topic, camera_info_beside, IMAGE_TYPES
from psd_depth_ros.data.open import kind_of
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.parsing import user_path
from psd_depth_ros.replay.player import PlaybackSettings, Schedule
from psd_depth_ros.replay.recordings import CAMERA_INFO_TOPIC, IMAGE_TOPIC, open_recording
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.ros.player import Player
from psd_depth_ros.ros.running import run_node

POLL_S = 0.05


@dataclass(frozen=True)
class ReplaySettings(PlaybackSettings):
    """Parameters of the replay node."""

    recording: str = setting('', 'bag, video file or folder of images', read_only=True)
    topics: tuple[str, ...] = setting(
        (), 'only these topics of a bag; empty is all that can be played', read_only=True
    )
    image_topic: str = setting('', 'the camera of a bag; empty is the only one', read_only=True)
    camera_info_topic: str = setting(
        '', 'CameraInfo topic; empty: the one beside the images', read_only=True
    )
    image_as: str = setting(
        '', 'publish the camera under this name; empty is its own', read_only=True
    )
    camera_info_as: str = setting(
        '', 'publish its CameraInfo under this name; empty is its own', read_only=True
    )
    topic_prefix: str = setting(
        '', 'publish every topic below this name, such as /robot1; not /clock', read_only=True
    )
    camera: str = setting(
        '', 'calibration file that replaces the recorded CameraInfo', read_only=True
    )
    horizontal_fov_deg: float = setting(
        0.0,
        'field of view of a recording without calibration; 0 is unknown',
        'deg',
        minimum=0.0,
        maximum=179.0,
        read_only=True,
    )
    stamps: str = setting(
        'header',
        'stamps of a bag: those of the headers, or the times of recording, for drivers that set '
        'none',
        choices=('header', 'recorded'),
        read_only=True,
    )
    wait_for_subscribers_s: float = setting(
        0.0,
        'before starting, wait this long for somebody to listen to the camera',
        's',
        minimum=0.0,
        maximum=1e6,
        read_only=True,
    )
    image_subscribers: int = setting(
        1,
        'how many subscriptions of the image make it listened to: depth_node and a recorder are 2',
        minimum=1,
        maximum=100,
        read_only=True,
    )
    clock: bool = setting(
        True, 'publish the recorded time on /clock; off where another node does', read_only=True
    )
    paused: bool = setting(False, 'hold time; may change while playing')


class ReplayNode(Node):
    """Publishes a recording from a thread of its own."""

    def __init__(self) -> None:
        super().__init__('replay_node')
        self._given = NodeParameters(self, ReplaySettings, self._judge, self._apply)
        settings = self._given.settings
        if not settings.recording:
            raise SettingsError('the parameter recording is empty; name a bag, video or folder')
        self.exit_code = 0
        self._files = ExitStack()
        path = user_path(settings.recording)
        self._recording = recording = self._files.enter_context(
            open_recording(
                path,
                settings.topics,
                camera=load_camera(Path(settings.camera)) if settings.camera else None,
                horizontal_fov_deg=settings.horizontal_fov_deg or None,
                image_topic=settings.image_topic or None,
                stamps=settings.stamps,
            )
        )
        self._schedule = Schedule(recording, settings)
        self._image, self._info = _pick_camera(path, settings)
        types = dict(recording.topics)
        names = _published_names(types, self._image, self._info, settings)
        self._player = Player(
            self, self._schedule, types, names, recording.latched, settings.clock
        )
        self._player.set_paused(settings.paused)
        self._listened = [
            topic
            for topic in ([self._image, self._info] if self._image else _images(types))
            if topic in types
        ]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='player', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop playing and close the files."""
        self._closing.set()
        self._player.stop()
        self._thread.join()
        self._files.close()

    def _run(self) -> None:
        try:
            self._wait_for_subscribers()
            self.get_logger().info(f'playing {self._given.settings.recording}')
            self._player.play()
            self.get_logger().info(f'published {self._player.published} messages')
            for note in self._recording.notes:
                self.get_logger().warning(note)
        except PsdDepthError as error:
            self.exit_code = 1
            self.get_logger().fatal(str(error))
        except Exception:
            if self.context.ok():
                self.exit_code = 1
                raise
        finally:
            self.context.try_shutdown()

    def _wait_for_subscribers(self) -> None:
        patience_s = self._given.settings.wait_for_subscribers_s
        end_s = time.monotonic() + patience_s
        if patience_s and self._is_unheard():
            self.get_logger().info(
                f'waiting up to {patience_s:g} s for subscribers of {", ".join(self._listened)}'
            )
        while self._is_unheard() and not self._closing.is_set():
            if time.monotonic() >= end_s:
                if patience_s:
                    topics = ', '.join(self._listened)
                    self.get_logger().warning(
                        f'after {patience_s:g} s too few listen to {topics}; playing all the same'
                    )
                return
            self._closing.wait(POLL_S)

    def _is_unheard(self) -> bool:
        counts = {topic: self._player.count_readers(topic) for topic in self._listened}
        if self._image:
            wanted = dict.fromkeys(counts, 1) | {
                self._image: self._given.settings.image_subscribers
            }
            return any(0 <= count < wanted[topic] for topic, count in counts.items())
        return not any(count > 0 for count in counts.values())

    def _judge(self, old: ReplaySettings, new: ReplaySettings, changed: frozenset[str]) -> str:
        fixed = sorted(changed - {'paused'})
        return f'{", ".join(fixed)} cannot change while playing; start anew' if fixed else ''

    def _apply(self, old: ReplaySettings, new: ReplaySettings, changed: frozenset[str]) -> None:
        self._player.set_paused(new.paused)


def _pick_camera(path: Path, settings: ReplaySettings) -> tuple[str, str]:
    """Recorded names of the camera's topics; '' where there is no one camera to speak of."""
    if kind_of(path) != 'bag':
        return IMAGE_TOPIC, CAMERA_INFO_TOPIC
    wanted = settings.image_topic or settings.image_as or settings.camera_info_as
    with BagReader(path) as reader:
        try:
            image = reader.pick_image_topic(settings.image_topic or None)
        except PsdDepthError:
            if wanted:
                raise
            return '', ''
        if settings.camera or settings.horizontal_fov_deg:
            return image, camera_info_beside(image)
        try:
            info = reader.pick_camera_info_topic(image, settings.camera_info_topic or None)
        except PsdDepthError:
            if settings.camera_info_topic or settings.camera_info_as:
                raise
            info = ''
    return image, info


def _published_names(
    types: dict[str, str], image: str, info: str, settings: ReplaySettings
) -> dict[str, str]:
    """Map recorded names to the ones they are published under."""
    names = {}
    if image and settings.image_as:
        compressed = types.get(image) == IMAGE_TYPES[1]
        transport = image[len(base_topic(image)) :] or ('/compressed' if compressed else '')
        names[image] = settings.image_as + transport
    if info and settings.camera_info_as:
        names[info] = settings.camera_info_as
    prefix = settings.topic_prefix.rstrip('/')
    return {topic: prefix + topic for topic in types} | names


def _images(types: dict[str, str]) -> list[str]:
    return [topic for topic, msgtype in types.items() if msgtype in IMAGE_TYPES]


def main(arguments: Sequence[str] | None = None) -> int:
    """Play until the end or Ctrl-C; returns the exit code."""
    return run_node(ReplayNode, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
