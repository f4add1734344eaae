"""A camera: publishes one rgb8 picture at a steady rate, stamped with the time it is sent.

Before that it sends a picture now and then until depth comes back: the first one makes the node
compile its network, which is not what is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
import time

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from scene import camera, picture
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from psd_depth_ros.messages import camera_info_fields, image_fields
from psd_depth_ros.ros.conversions import camera_info_message, image_message, stamp_message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rate', type=float, required=True)
    parser.add_argument('--count', type=int, required=True)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    chosen = parser.parse_args()
    rclpy.init()
    node = Node('camera_source')
    profile = QoSProfile(depth=2, reliability=ReliabilityPolicy.RELIABLE)
    images = node.create_publisher(Image, 'image', profile)
    infos = node.create_publisher(CameraInfo, 'camera_info', profile)
    header = Header(frame_id='camera_optical')
    view = camera(chosen.width, chosen.height)
    image = image_message(header, image_fields(picture(chosen.width, chosen.height), 'rgb8'))
    info = camera_info_message(header, camera_info_fields(view))

    def send() -> None:
        image.header.stamp = info.header.stamp = stamp_message(time.time_ns())
        infos.publish(info)
        images.publish(image)

    _warm_up(node, send)
    start, start_ns = time.monotonic(), time.time_ns()
    for index in range(chosen.count):
        time.sleep(max(0.0, start + index / chosen.rate - time.monotonic()))
        send()
    seconds = time.monotonic() - start
    time.sleep(0.5)  # what is still on its way
    report = {'sent': chosen.count, 'start_ns': start_ns, 'rate_hz': chosen.count / seconds}
    print(json.dumps(report), flush=True)
    rclpy.try_shutdown()


def _warm_up(node: Node, send: Callable[[], None], patience_s: float = 90.0) -> None:
    """Send twice a second until depth came three times."""
    heard: list[bytes] = []
    listener = node.create_subscription(Image, 'depth/image_rect', heard.append, 2, raw=True)
    end = time.monotonic() + patience_s
    while len(heard) < 3:
        if time.monotonic() > end:
            raise SystemExit(f'no depth came within {patience_s:g} s')
        send()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_subscription(listener)
    time.sleep(1.0)


if __name__ == '__main__':
    main()
