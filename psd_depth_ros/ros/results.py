"""From an engine's result to the messages of one camera.

Only what somebody subscribes to is built. Stamp and frame are those of the image, and depth goes
first, for it is what people wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.clock import Clock
from std_msgs.msg import Header

from psd_depth_ros.inference.cloud import build_clearing_cloud
from psd_depth_ros.messages import camera_info_fields, depth_to_millimetres, image_fields
from psd_depth_ros.ros.camera_channel import CameraChannel, PreparedFrame
from psd_depth_ros.ros.publishers import OutputPublishers, Wanted
from psd_depth_ros.ros.settings import DepthNodeSettings
from psd_depth_ros.visualisation import colour_depth


class ResultPublisher:
    """Publishes results of all cameras; used by the worker alone."""

    def __init__(self, settings: Callable[[], DepthNodeSettings], clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._last_cloud_ns: dict[str, int] = {}

    def publish(self, channel: CameraChannel, ready: PreparedFrame, result: Any) -> None:
        """Publish one result on the topics of its camera that somebody listens to.

        `result` is a DepthFrame. Without calibration there is no cloud and no camera_info.
        """
        header = ready.arrived.message.header
        with channel.outputs_lock:
            outputs = channel.outputs
            if outputs is None or not (ready.calibrated or outputs.relative):
                # Deactivated, or calibrated, while this frame was in the network.
                channel.counters.drop('outdated')
                return
            wanted = outputs.wanted()
            self._publish_images(outputs, wanted, header, result)
            if ready.calibrated:
                self._publish_geometry(channel.name, outputs, wanted, header, ready, result)
        channel.counters.process(ready.arrived.received_ns)
        channel.delay = ''
        if ready.calibrated:
            channel.problem = ''
        channel.stamp_age_ns = self._clock.now().nanoseconds - ready.arrived.stamp_ns

    def _publish_images(
        self, outputs: OutputPublishers, wanted: Wanted, header: Header, result: Any
    ) -> None:
        settings = self._settings().depth
        if wanted.depth:
            outputs.publish_depth(header, _depth_fields(result.depth_m, settings.encoding))
        if wanted.confidence:
            outputs.publish_confidence(header, image_fields(result.confidence, '32FC1'))
        if wanted.coloured:
            picture = colour_depth(result.depth_m, settings.min_depth_m, settings.max_depth_m)
            outputs.publish_coloured(header, image_fields(picture, 'rgb8'))

    def _publish_geometry(
        self,
        name: str,
        outputs: OutputPublishers,
        wanted: Wanted,
        header: Header,
        ready: PreparedFrame,
        result: Any,
    ) -> None:
        if wanted.camera_info:
            outputs.publish_camera_info(header, camera_info_fields(result.camera))
        settings = self._settings().points
        clearing = wanted.clearing and settings.clearing
        if not (wanted.points or clearing) or not self._is_due(name, ready, settings.rate_hz):
            return
        if wanted.points:
            outputs.publish_points(header, result.cloud(settings).message_fields())
        if clearing:
            cloud = build_clearing_cloud(result.depth_m, result.camera, settings)
            outputs.publish_clearing(header, cloud.message_fields())

    def _is_due(self, name: str, ready: PreparedFrame, rate_hz: float) -> bool:
        """Whether the time for another cloud has come, by the stamps of the images."""
        now_ns, last_ns = ready.arrived.stamp_ns, self._last_cloud_ns.get(name)
        # A tenth of the period is forgiven: stamps jitter.
        if rate_hz > 0 and last_ns is not None and 0 <= now_ns - last_ns < 0.9e9 / rate_hz:
            return False
        self._last_cloud_ns[name] = now_ns
        return True


def _depth_fields(depth_m: npt.NDArray[np.float32], encoding: str) -> dict[str, Any]:
    if encoding == '16UC1':
        return image_fields(depth_to_millimetres(depth_m), encoding)
    return image_fields(depth_m, encoding)
