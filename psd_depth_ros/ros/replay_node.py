"""A recording as live topics: camera, CameraInfo, odometry, TF and clouds, with /clock.

    python -m psd_depth_ros.ros.replay_node --ros-args -p recording:=drive.mcap -p rate:=0.5

Parameters are those of `ReplaySettings`. Messages go out as recorded, under their own names (remap
them with -r), or the camera under the names `image_as` and `camera_info_as`. With
`wait_for_subscribers_s` nothing is sent before the camera has subscribers, and time stands still
until they have its first image and calibration: a subscriber may be known here before it knows the
publisher, and one that keeps the newest image only would lose the first. Progress is published on
~/status (STATUS_KEYS). The node ends when the recording does, unless it loops: with code 0, or 1
where the recording cannot be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock as ClockMessage

from psd_depth_ros.config import setting
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.message_types import base_topic, camera_info_beside, IMAGE_TYPES
from psd_depth_ros.data.open import kind_of
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.parsing import user_path
from psd_depth_ros.replay.player import PlaybackSettings, ReadAhead, Schedule
from psd_depth_ros.replay.recordings import (
    CAMERA_INFO_TOPIC,
    IMAGE_TOPIC,
    open_recording,
    RecordedMessage,
)
from psd_depth_ros.ros.common import run_node
from psd_depth_ros.ros.conversions import find_message_class, stamp_message
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.ros.qos import OUTPUT_OVERRIDES, output_profile

POLL_S = 0.05
CLOCK_PERIOD_S = 0.02
ACKNOWLEDGE_S = 5.0
FIRST_ARRIVAL_S = 10.0  # a subscriber that does not answer holds up nobody for longer
STATUS_PERIOD_S = 1.0
_DEPTH, _LATCHED_DEPTH = 10, 100
# Listed in the documentation; a test compares both with what the node publishes.
STATUS_KEYS = {
    'state': 'waiting (for subscribers), playing, finished or failed',
    'recording': 'what is played',
    'published': 'messages published so far, /clock not counted',
    'images': 'images among them',
}


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
        'before starting, time to wait for subscribers of the camera',
        's',
        minimum=0.0,
        maximum=1e6,
        read_only=True,
    )
    image_subscribers: int = setting(
        1,
        'subscribers of the image to wait for: depth_node and a recorder are 2',
        minimum=1,
        maximum=100,
        read_only=True,
    )
    clock: bool = setting(
        True, 'publish the recorded time on /clock; off where another node does', read_only=True
    )
    paused: bool = setting(False, 'hold time; may change while playing')


class ReplayNode(Node):
    """Publishes a recording from a thread of its own, and its progress on ~/status (latched).

    `options` are those of rclpy's Node.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('replay_node', **options)
        self._node_parameters = NodeParameters(self, ReplaySettings, self._judge, self._apply)
        settings = self._node_parameters.settings
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
        self._image_topics = [self._image] if self._image else _images(types)
        self._awaited = [
            topic
            for topic in ([self._image, self._info] if self._image else self._image_topics)
            if topic in types
        ]
        self._player = Player(
            self,
            self._schedule,
            types,
            names,
            recording.latched,
            self._awaited,
            min(settings.wait_for_subscribers_s, FIRST_ARRIVAL_S),
            settings.clock,
        )
        self._player.set_paused(settings.paused)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._status = self.create_publisher(DiagnosticArray, '~/status', latched)
        self._set_state('waiting')
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(STATUS_PERIOD_S, self._publish_status, clock=steady)
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
            self.get_logger().info(f'playing {self._node_parameters.settings.recording}')
            self._set_state('playing')
            self._player.play()
            self.get_logger().info(f'published {self._player.published} messages')
            for note in self._recording.notes:
                self.get_logger().warning(note)
            self._set_state('finished')
        except PsdDepthError as error:
            self.exit_code = 1
            self.get_logger().fatal(str(error))
            self._set_state('failed', str(error))
        except Exception:
            if self.context.ok():
                self.exit_code = 1
                raise
        finally:
            if self.context.ok():
                self._status.wait_for_all_acked(Duration(seconds=STATUS_PERIOD_S))
            self.context.try_shutdown()

    def _set_state(self, state: str, problem: str = '') -> None:
        self._state, self._problem = state, problem
        self._publish_status()

    def _publish_status(self) -> None:
        if not self.context.ok():
            return
        counts = self._player.counts
        values = {
            'state': self._state,
            'recording': self._node_parameters.settings.recording,
            'published': self._player.published,
            'images': sum(counts[topic] for topic in self._image_topics),
        }
        level = DiagnosticStatus.ERROR if self._problem else DiagnosticStatus.OK
        status = DiagnosticStatus(
            name=f'{self.get_name()}: replay',
            level=level,
            message=self._problem or self._state,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(message)

    def _wait_for_subscribers(self) -> None:
        patience_s = self._node_parameters.settings.wait_for_subscribers_s
        end_s = time.monotonic() + patience_s
        topics = ', '.join(self._awaited)
        if patience_s and self._lacks_subscribers():
            self.get_logger().info(f'waiting up to {patience_s:g} s for subscribers of {topics}')
        while self._lacks_subscribers() and not self._closing.is_set():
            if time.monotonic() >= end_s:
                if patience_s:
                    self.get_logger().warning(
                        f'after {patience_s:g} s too few listen to {topics}; playing all the same'
                    )
                return
            self._closing.wait(POLL_S)

    def _lacks_subscribers(self) -> bool:
        counts = {topic: self._player.count_subscribers(topic) for topic in self._awaited}
        if self._image:
            wanted = dict.fromkeys(counts, 1) | {
                self._image: self._node_parameters.settings.image_subscribers
            }
            return any(0 <= count < wanted[topic] for topic, count in counts.items())
        return not any(count > 0 for count in counts.values())

    def _judge(self, old: ReplaySettings, new: ReplaySettings, changed: frozenset[str]) -> str:
        fixed = sorted(changed - {'paused'})
        return f'{", ".join(fixed)} cannot change while playing; start anew' if fixed else ''

    def _apply(self, old: ReplaySettings, new: ReplaySettings, changed: frozenset[str]) -> None:
        self._player.set_paused(new.paused)


class Player:
    """Publishes a recording on time, with /clock; the bytes go out as they were recorded.

    Topics whose message class is not installed are logged once and left out.

    Args:
        node: The node that publishes.
        schedule: What is due when.
        types: Message types by recorded topic.
        names: Published names by recorded topic, where they differ.
        latched: Topics kept for readers that come later.
        awaited: Topics whose first message every reliable reader must have before time goes on.
        patience_s: How long, at most, time waits for that.
        with_clock: Publish /clock; else another node does.
    """

    def __init__(
        self,
        node: Node,
        schedule: Schedule,
        types: Mapping[str, str],
        names: Mapping[str, str],
        latched: Collection[str] = (),
        awaited: Collection[str] = (),
        patience_s: float = 0.0,
        with_clock: bool = True,
    ) -> None:
        self._node = node
        self._schedule = schedule
        self._stopped = threading.Event()
        self._resumed = threading.Event()
        self._resumed.set()
        self._latched = latched
        self._awaited = set(awaited if patience_s else ())
        self._patience_s = patience_s
        self._clock = node.create_publisher(ClockMessage, '/clock', 10) if with_clock else None
        self._publishers: dict[str, Publisher] = {}
        for topic, msgtype in types.items():
            self._create(topic, msgtype, names.get(topic, topic))
        self.counts: Counter[str] = Counter()  # messages published, by recorded topic

    @property
    def published(self) -> int:
        """Messages published so far."""
        return sum(self.counts.values())

    def count_subscribers(self, topic: str) -> int:
        """How many subscriptions a recorded topic has; -1 where it is not published."""
        publisher = self._publishers.get(topic)
        return -1 if publisher is None else publisher.get_subscription_count()

    def set_paused(self, paused: bool) -> None:
        """Hold time, or let it go on."""
        if paused:
            self._resumed.clear()
        else:
            self._resumed.set()

    def stop(self) -> None:
        """Make `play` return."""
        self._stopped.set()
        self._resumed.set()

    def play(self) -> None:
        """Publish until the end or `stop`, in the caller's thread. Raises BagError."""
        start_s = time.monotonic()
        with ReadAhead(self._schedule) as messages:
            for due in messages:
                start_s = self._wait_until_due(start_s, due.due_s)
                if due.message.topic in self._awaited and self.counts[due.message.topic]:
                    start_s += self._wait_until_first_arrived()
                if self._stopped.is_set():
                    return
                self._publish(due.message)
        self._wait_until_acknowledged()

    def _wait_until_due(self, start_s: float, due_s: float) -> float:
        """Sleep, with the clock going on; returns the start, later by the time of pauses."""
        while not self._stopped.is_set():
            start_s += self._wait_while_paused()
            elapsed_s = time.monotonic() - start_s
            if elapsed_s >= due_s:
                break
            self._tick(self._schedule.clock_ns(elapsed_s))
            self._stopped.wait(min(CLOCK_PERIOD_S, due_s - elapsed_s))
        return start_s

    def _wait_while_paused(self) -> float:
        if self._resumed.is_set():
            return 0.0
        before_s = time.monotonic()
        self._resumed.wait()
        return time.monotonic() - before_s

    def _publish(self, message: RecordedMessage) -> None:
        publisher = self._publishers.get(message.topic)
        if publisher is None:
            return
        self._tick(message.time_ns)
        publisher.publish(bytes(message.cdr))
        self.counts[message.topic] += 1

    def _tick(self, time_ns: int) -> None:
        if self._clock is not None:
            self._clock.publish(ClockMessage(clock=stamp_message(time_ns)))

    def _wait_until_first_arrived(self) -> float:
        """Return how long (s) it took until the first messages were acknowledged."""
        before_s = time.monotonic()
        sent = {topic: self._publishers[topic] for topic in self._awaited if self.counts[topic]}
        self._awaited -= sent.keys()
        while late := [one for one in sent.values() if not one.wait_for_all_acked(Duration())]:
            if time.monotonic() - before_s > self._patience_s:
                names = ', '.join(sorted(one.topic_name for one in late))
                self._node.get_logger().warning(
                    f'after {self._patience_s:g} s a subscriber of {names} has not acknowledged '
                    'the first message; playing all the same'
                )
                break
            if self._stopped.wait(CLOCK_PERIOD_S):
                break
        return time.monotonic() - before_s

    def _wait_until_acknowledged(self) -> None:
        """Give reliable readers the time to fetch what was sent last."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))

    def _create(self, topic: str, msgtype: str, name: str) -> None:
        message_class = find_message_class(msgtype)
        if message_class is None:
            self._node.get_logger().warning(
                f'{topic} is not played: {msgtype} is not installed here'
            )
            return
        latched = topic in self._latched
        profile: QoSProfile = output_profile(_LATCHED_DEPTH if latched else _DEPTH)
        if latched:
            profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
        self._publishers[topic] = self._node.create_publisher(
            message_class,
            name,
            profile,
            qos_overriding_options=QoSOverridingOptions(OUTPUT_OVERRIDES),
        )


def _pick_camera(path: Path, settings: ReplaySettings) -> tuple[str, str]:
    """Recorded names of the camera's topics; '' where there is no one camera to speak of."""
    if kind_of(path) != 'bag':
        if settings.camera_info_topic:
            raise SettingsError(f'{path} has no topics; leave out camera_info_topic')
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
