"""Takes depth and clouds as serialised messages and tells, when interrupted, how old they were.

Age is the time of arrival minus the stamp, which the camera source sets when it sends. Messages
are not unpacked: that is the cost of whoever uses them.
"""

from __future__ import annotations

import contextlib
import json
import struct
import time

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2

TOPICS = {'depth/image_rect': Image, 'points': PointCloud2}
WANTED = ('inference_ms_p50', 'inference_ms_p95', 'latency_ms_p50', 'latency_ms_p95', 'dropped')


class Sink(Node):
    """Notes every arrival."""

    def __init__(self) -> None:
        super().__init__('sink')
        self.arrivals: dict[str, list[tuple[int, float]]] = {name: [] for name in TOPICS}
        self.bytes: dict[str, int] = dict.fromkeys(TOPICS, 0)
        self.diagnostics: dict[str, str] = {}
        profile = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
        for name, kind in TOPICS.items():
            self.create_subscription(
                kind, name, lambda data, name=name: self._take(name, data), profile, raw=True
            )
        self.create_subscription(DiagnosticArray, '/diagnostics', self._listen, 10)

    def report(self) -> dict[str, object]:
        """Everything as JSON values: (stamp in ns, age in ms) per topic."""
        return {
            'arrivals': self.arrivals,
            'bytes': self.bytes,
            'diagnostics': self.diagnostics,
        }

    def _take(self, name: str, data: bytes) -> None:
        now = time.time_ns()
        # CDR: 4 bytes of encapsulation, then header.stamp.
        seconds, nanoseconds = struct.unpack_from('<iI', data, 4)
        stamp = seconds * 1_000_000_000 + nanoseconds
        self.arrivals[name].append((stamp, (now - stamp) / 1e6))
        self.bytes[name] = len(data)

    def _listen(self, message: DiagnosticArray) -> None:
        for status in message.status:
            found = {one.key: one.value for one in status.values}
            self.diagnostics.update({key: found[key] for key in WANTED if key in found})


def main() -> None:
    rclpy.init()
    sink = Sink()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(sink)
    print(json.dumps(sink.report()), flush=True)
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
