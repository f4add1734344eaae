"""The topics that one camera's results go out on.

Reliable and volatile, so both RViz and best-effort readers hear them. Topics are named
`depth_relative/...` where depth is not in metres. What to publish is decided by `camera_channel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from psd_depth_ros.ros.conversions import camera_info_message, cloud_message, image_message
from psd_depth_ros.ros.qos import MismatchSpeaker, OUTPUT_OVERRIDES, output_profile

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Wanted:
    """Which outputs somebody subscribes to."""

    depth: bool
    camera_info: bool
    confidence: bool
    coloured: bool
    points: bool
    clearing: bool

    def __str__(self) -> str:
        """Name the outputs."""
        return ', '.join(name for name, heard in vars(self).items() if heard)

    def __bool__(self) -> bool:
        """Whether there is any reason to run the network."""
        return any(vars(self).values())


class OutputPublishers:
    """Publishers of one camera. `namespace` is '' or ends with '/'."""

    def __init__(self, node: Node, namespace: str, relative: bool) -> None:
        self._node = node
        self.relative = relative
        root = f'{namespace}depth_relative' if relative else f'{namespace}depth'
        points = f'{namespace}depth_relative/points' if relative else f'{namespace}points'
        self._mismatches: list[tuple[MismatchSpeaker, QoSProfile]] = []
        self._depth = self._create(Image, f'{root}/image_rect')
        self._camera_info = self._create(CameraInfo, f'{root}/camera_info')
        self._confidence = self._create(Image, f'{root}/confidence')
        self._coloured = self._create(Image, f'{root}/colored')
        self._points = self._create(PointCloud2, points)
        self._clearing = self._create(PointCloud2, f'{points}_clearing')

    @property
    def depth_topic(self) -> str:
        """Full name of the topic of the depth image."""
        return str(self._depth.topic_name)

    def wanted(self) -> Wanted:
        """Ask the middleware who listens."""
        return Wanted(
            depth=_heard(self._depth),
            camera_info=_heard(self._camera_info),
            confidence=_heard(self._confidence),
            coloured=_heard(self._coloured),
            points=_heard(self._points),
            clearing=_heard(self._clearing),
        )

    def publish_depth(self, header: Header, fields: Fields) -> None:
        """Publish 32FC1 metres or 16UC1 millimetres."""
        self._depth.publish(image_message(header, fields))

    def publish_camera_info(self, header: Header, fields: Fields) -> None:
        """Publish the camera of the depth image."""
        self._camera_info.publish(camera_info_message(header, fields))

    def publish_confidence(self, header: Header, fields: Fields) -> None:
        """Publish the probability that the depth is right within 25 %."""
        self._confidence.publish(image_message(header, fields))

    def publish_coloured(self, header: Header, fields: Fields) -> None:
        """Publish depth as colours, for looking."""
        self._coloured.publish(image_message(header, fields))

    def publish_points(self, header: Header, fields: Fields) -> None:
        """Publish the cloud."""
        self._points.publish(cloud_message(header, fields))

    def publish_clearing(self, header: Header, fields: Fields) -> None:
        """Publish the far points that let a costmap clear its free space."""
        self._clearing.publish(cloud_message(header, fields))

    def refresh(self) -> None:
        """Say who listens in vain."""
        for speaker, profile in self._mismatches:
            speaker.check_subscriptions(profile)

    def destroy(self) -> None:
        """Take the topics down."""
        for publisher in self._all():
            self._node.destroy_publisher(publisher)

    def _all(self) -> tuple[Publisher, ...]:
        return (
            self._depth,
            self._camera_info,
            self._confidence,
            self._coloured,
            self._points,
            self._clearing,
        )

    def _create(self, message_type: type[Any], topic: str) -> Publisher:
        profile = output_profile()
        publisher = self._node.create_publisher(
            message_type,
            topic,
            profile,
            qos_overriding_options=QoSOverridingOptions(OUTPUT_OVERRIDES),
            # Said by `refresh`, with names, instead of by the default callback.
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )
        name = self._node.resolve_topic_name(topic)
        speaker = MismatchSpeaker(self._node, name, 'it will receive nothing')
        self._mismatches.append((speaker, profile))
        return publisher


def _heard(publisher: Publisher) -> bool:
    return publisher.get_subscription_count() > 0
