"""Print the files of the package that one image crosses, from its callback to the publisher.

    python -m tools.image_path [--outputs depth points ...] [--limit 12]

The depth node runs in this process with the shipped checkpoint. One image is published to it, and
every file of the package that runs code between the start of the image callback and the return of
the worker's last publish is noted. Start, settings and timers are not part of it. With --limit the
exit code is 1 where there are more files.
"""

from __future__ import annotations

import argparse
import array
from collections.abc import Callable
from pathlib import Path
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

import psd_depth_ros
from psd_depth_ros.ros.depth_node.camera import CameraStream
from psd_depth_ros.ros.depth_node.node import DepthNode
from psd_depth_ros.ros.depth_node.worker import DepthWorker

PACKAGE = Path(psd_depth_ros.__file__).parent
TOPICS = {
    'depth': (Image, '/depth/image_rect'),
    'camera_info': (CameraInfo, '/depth/camera_info'),
    'confidence': (Image, '/depth/confidence'),
    'points': (PointCloud2, '/points'),
}
WIDTH, HEIGHT = 160, 96
PATIENCE_S = 120.0


class PathRecorder:
    """A profile function for all threads: notes files between the entry and return of `roots`."""

    def __init__(self, roots: set[CodeType]) -> None:
        self._roots = roots
        self._inside = threading.local()
        self.is_on = False
        self.files: dict[str, None] = {}  # in the order of their first call

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Take one event of `sys.setprofile`."""
        if event not in ('call', 'return'):
            return
        depth = getattr(self._inside, 'depth', 0)
        if frame.f_code in self._roots:
            depth += 1 if event == 'call' else -1
            self._inside.depth = max(depth, 0)
        if self.is_on and event == 'call' and self._inside.__dict__.get('depth', 0):
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(PACKAGE):
                self.files.setdefault(path.relative_to(PACKAGE).as_posix())


def trace_image(outputs: list[str]) -> list[str]:
    """Return the files that one image crosses, relative to the package, in order of first use."""
    recorder = PathRecorder({CameraStream._on_image.__code__, DepthWorker._process.__code__})
    given = {
        'image_width': WIDTH,
        'image_height': HEIGHT,
        'diagnostics_period_s': 60.0,
        'autostart': 'false',
    }
    arguments = [part for name, value in given.items() for part in ('-p', f'{name}:={value}')]
    rclpy.init(args=['--ros-args', *arguments])
    node, peer = DepthNode(), Node('peer')
    executor = SingleThreadedExecutor()
    for one in (node, peer):
        executor.add_node(one)
    try:
        received: dict[str, int] = dict.fromkeys(outputs, 0)
        for name in outputs:
            kind, topic = TOPICS[name]
            peer.create_subscription(kind, topic, _counter(received, name), 10)
        images = peer.create_publisher(Image, '/image', 5)
        infos = peer.create_publisher(CameraInfo, '/camera_info', 5)

        def spin_until(done: Callable[[], bool]) -> None:
            end = time.monotonic() + PATIENCE_S
            while not done():
                if time.monotonic() > end:
                    raise TimeoutError('the node gave no depth')
                executor.spin_once(timeout_sec=0.02)

        node.trigger_configure()
        threading.setprofile(recorder)  # of threads that start from now on: the worker
        sys.setprofile(recorder)
        node.trigger_activate()
        stamps = iter(range(1, 10**6))

        def send() -> None:
            image, info = _messages(next(stamps))
            infos.publish(info)
            images.publish(image)

        def warm() -> bool:
            send()
            _spin_for(executor, 0.2)
            return all(received.values())

        spin_until(warm)
        _spin_for(executor, 0.5)  # what is still on its way arrives
        before = dict(received)
        recorder.is_on = True
        send()
        spin_until(lambda: all(received[name] > before[name] for name in outputs))
        recorder.is_on = False
        return list(recorder.files)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
        node.close()
        executor.shutdown()
        for one in (node, peer):
            one.destroy_node()
        rclpy.try_shutdown()


def _counter(counts: dict[str, int], name: str) -> Callable[[Any], None]:
    def count(_message: Any) -> None:
        counts[name] += 1

    return count


def _spin_for(executor: SingleThreadedExecutor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.02)


def _messages(index: int) -> tuple[Image, CameraInfo]:
    image = Image(width=WIDTH, height=HEIGHT, encoding='rgb8', step=3 * WIDTH)
    image.data = array.array('B', bytes(range(256)) * (3 * WIDTH * HEIGHT // 256))
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model='plumb_bob')
    info.d = [0.0] * 5
    focal, cx, cy = 130.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    info.k = [focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0]
    info.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    info.p = [focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    for message in (image, info):
        message.header.frame_id = 'camera_optical'
        message.header.stamp.sec = index
    return image, info


def main() -> int:
    """Print the files; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--outputs', nargs='+', choices=TOPICS, default=['depth'])
    parser.add_argument('--limit', type=int, default=None)
    options = parser.parse_args()
    files = trace_image(options.outputs)
    for file in files:
        print(file)
    print(f'{len(files)} files from the image callback to the publisher')
    return int(options.limit is not None and len(files) > options.limit)


if __name__ == '__main__':
    raise SystemExit(main())
