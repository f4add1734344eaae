"""The thread that publishes a recording on time, with /clock.

What is due when comes from `replay.schedule`; the bytes go out as they were recorded. Topics whose
message class is not installed are said once and left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
import threading
import time

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock

from psd_depth_ros.replay.player import ReadAhead, Schedule
from psd_depth_ros.replay.recordings import RecordedMessage
from psd_depth_ros.ros.conversions import stamp_message
from psd_depth_ros.ros.message_classes import find_message_class
from psd_depth_ros.ros.qos import OUTPUT_OVERRIDES, output_profile

CLOCK_PERIOD_S = 0.02
ACKNOWLEDGE_S = 5.0
_DEPTH, _LATCHED_DEPTH = 10, 100


class Player:
    """Publishes `schedule`; topics are mapped from recorded to published names by `names`.

    `latched` topics are kept for readers that come later. Without `with_clock` another node tells
    the time.
    """

    def __init__(
        self,
        node: Node,
        schedule: Schedule,
        types: Mapping[str, str],
        names: Mapping[str, str],
        latched: Collection[str] = (),
        with_clock: bool = True,
    ) -> None:
        self._node = node
        self._schedule = schedule
        self._stopped = threading.Event()
        self._resumed = threading.Event()
        self._resumed.set()
        self._latched = latched
        self._clock = node.create_publisher(Clock, '/clock', 10) if with_clock else None
        self._publishers: dict[str, Publisher] = {}
        for topic, msgtype in types.items():
            self._create(topic, msgtype, names.get(topic, topic))
        self.published = 0

    def count_readers(self, topic: str) -> int:
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
                if self._stopped.is_set():
                    return
                self._publish(due.message)
        self._wait_until_heard()

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
        self.published += 1

    def _tick(self, time_ns: int) -> None:
        if self._clock is not None:
            self._clock.publish(Clock(clock=stamp_message(time_ns)))

    def _wait_until_heard(self) -> None:
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
