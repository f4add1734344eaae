"""Records topics as they arrive into one .mcap file, serialised messages untouched.

    python -m psd_depth_ros.ros.recorder --ros-args -p output:=out.mcap \
        -p 'topics:=["/depth/image_rect sensor_msgs/msg/Image", "/points"]'

Every message is stored with the time of its arrival (system clock), so that latencies can be
read from the recording. A topic given with its type is subscribed to at once, one without as soon
as somebody publishes it. The file appears under its name when the recorder ends (SIGINT or
SIGTERM). A topic whose message class is not installed is logged once and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from psd_depth_ros.config import setting
from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.files import rescue_abandoned
from psd_depth_ros.parsing import user_path
from psd_depth_ros.ros.common import run_node, ThrottledLogger
from psd_depth_ros.ros.conversions import find_message_class
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.ros.qos import choose_input

POLL_S = 0.2
DIAGNOSTICS_TYPE = 'diagnostic_msgs/msg/DiagnosticArray'


@dataclass(frozen=True)
class RecorderSettings:
    """Parameters of the recorder."""

    topics: tuple[str, ...] = setting(
        (), 'topics to record, each a name or "name type"', read_only=True
    )
    output: str = setting('', 'the .mcap file to write', read_only=True)
    depth: int = setting(
        20,
        'messages of each topic kept while the disk is busy',
        minimum=1,
        maximum=10000,
        read_only=True,
    )
    idle_end_s: float = setting(
        0.0,
        'end where for this long nothing came but diagnostics, once something had; 0 is never',
        's',
        minimum=0.0,
        maximum=1e6,
        read_only=True,
    )


class Recorder(Node):
    """Subscribes, and writes what arrives. `options` are those of rclpy's Node."""

    def __init__(self, **options: Any) -> None:
        # Without rosout: it logs after the shutdown of the middleware.
        super().__init__('recorder', enable_rosout=False, **options)
        parameters = NodeParameters(self, RecorderSettings, lambda *_: '', lambda *_: None)
        self._settings = parameters.settings
        if not self._settings.topics or not self._settings.output:
            raise SettingsError(
                f'recorder needs topics and an output, found topics={list(self._settings.topics)} '
                f'and output={self._settings.output!r}; give both as parameters'
            )
        self._counts: Counter[str] = Counter()
        self._throttled = ThrottledLogger(self.get_logger())
        self._waiting = dict(_split(one) for one in self._settings.topics)
        self._files = ExitStack()
        for cut in rescue_abandoned(user_path(self._settings.output)):
            self.get_logger().warning(
                f'a recorder was killed: what it had written is in {cut}, whose last messages may '
                'be cut short'
            )
        self._writer = self._files.enter_context(BagWriter(self._settings.output))
        self._last_s: float | None = None
        self._subscribe_known()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(POLL_S, self._subscribe_known, clock=steady)
        if self._settings.idle_end_s:
            self.create_timer(POLL_S, self._end_if_idle, clock=steady)

    def close(self) -> None:
        """Finish the file."""
        self._files.close()
        total = ', '.join(f'{topic} {count}' for topic, count in sorted(self._counts.items()))
        self.get_logger().info(f'wrote {self._settings.output}: {total or "nothing"}')

    def _end_if_idle(self) -> None:
        if self._last_s is None:
            return
        if time.monotonic() - self._last_s > self._settings.idle_end_s:
            self.context.try_shutdown()

    def _subscribe_known(self) -> None:
        """Subscribe to the topics whose type is known by now."""
        if not self._waiting:
            return
        types = dict(self.get_topic_names_and_types())
        for name, msgtype in list(self._waiting.items()):
            topic = self.resolve_topic_name(name)
            offered = [msgtype] if msgtype else types.get(topic, [])
            if offered:
                self._subscribe(topic, offered[0])
                del self._waiting[name]

    def _subscribe(self, topic: str, msgtype: str) -> None:
        message_class = find_message_class(msgtype)
        if message_class is None:
            self._throttled.warn(topic, f'{topic}: {msgtype} is not installed, so not recorded')
            return

        def write(data: bytes) -> None:
            self._writer.write_raw(topic, msgtype, data, time.time_ns())
            self._counts[topic] += 1
            if msgtype != DIAGNOSTICS_TYPE:
                self._last_s = time.monotonic()

        profile = choose_input(self, topic, 'auto', self._settings.depth)
        self.create_subscription(message_class, topic, write, profile, raw=True)
        self.get_logger().info(f'recording {topic} ({msgtype})')


def _split(text: str) -> tuple[str, str]:
    name, _, msgtype = text.partition(' ')
    return name, msgtype.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Record until told to stop; returns the exit code."""
    return run_node(Recorder, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
