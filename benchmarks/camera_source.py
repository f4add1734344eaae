"""A camera: publishes one rgb8 picture at a steady rate, stamped with the time it is sent."""

from __future__ import annotations

import argparse
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
    _wait(lambda: images.get_subscription_count() and infos.get_subscription_count())
    start = time.monotonic()
    for index in range(chosen.count):
        time.sleep(max(0.0, start + index / chosen.rate - time.monotonic()))
        image.header.stamp = info.header.stamp = stamp_message(time.time_ns())
        infos.publish(info)
        images.publish(image)
    seconds = time.monotonic() - start
    time.sleep(0.5)  # what is still on its way
    print(json.dumps({'sent': chosen.count, 'rate_hz': chosen.count / seconds}), flush=True)
    rclpy.try_shutdown()


def _wait(done: object, patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while not done():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit(f'nobody subscribed to image and camera_info within {patience_s:g} s')
        time.sleep(0.05)
    time.sleep(1.0)


if __name__ == '__main__':
    main()
