"""The topics that results go out on, as a table: one `Output` for each.

A new output topic is one entry of OUTPUTS. Messages carry stamp and frame of their image. Topics
are reliable and volatile, so that both RViz and best-effort readers hear them. Only what somebody
subscribes to is built.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from psd_depth_ros.inference import DepthFrame
from psd_depth_ros.inference.cloud import build_clearing_cloud
from psd_depth_ros.messages import camera_info_fields, depth_to_millimetres, image_fields
from psd_depth_ros.replay import topic_name, TOPICS
from psd_depth_ros.ros.conversions import camera_info_message, cloud_message, image_message
from psd_depth_ros.ros.depth_node.settings import OutputSettings
from psd_depth_ros.ros.qos import IncompatibleQosLogger, OUTPUT_OVERRIDES, output_profile
from psd_depth_ros.visualisation import colour_depth


@dataclass(frozen=True)
class Output:
    """One output topic.

    Attributes:
        name: What diagnostics call it.
        topic: Its name where depth is in metres; `replay.topic_name` gives the other.
        message_type: Class of its messages.
        make: (header, DepthFrame, settings) -> message.
        history: How many messages are kept for readers that are late (QoS history depth).
        needs_calibration: Not published for an uncalibrated camera.
        is_cloud: Published at most at `points.rate_hz`.
        is_enabled: Whether the settings want it at all.
    """

    name: str
    topic: str
    message_type: type[Any]
    make: Callable[[Header, DepthFrame, OutputSettings], Any]
    history: int = 2
    needs_calibration: bool = False
    is_cloud: bool = False
    is_enabled: Callable[[OutputSettings], bool] = lambda _settings: True


def _depth_image(header: Header, frame: DepthFrame, settings: OutputSettings) -> Image:
    """32FC1 metres or 16UC1 millimetres."""
    encoding = settings.depth.encoding
    depth = depth_to_millimetres(frame.depth_m) if encoding == '16UC1' else frame.depth_m
    return image_message(header, image_fields(depth, encoding))


def _camera_info(header: Header, frame: DepthFrame, _settings: OutputSettings) -> CameraInfo:
    """Camera of the depth image."""
    return camera_info_message(header, camera_info_fields(frame.camera))


def _confidence(header: Header, frame: DepthFrame, _settings: OutputSettings) -> Image:
    """Probability that the depth is right within 25 %."""
    return image_message(header, image_fields(frame.confidence, '32FC1'))


def _coloured(header: Header, frame: DepthFrame, settings: OutputSettings) -> Image:
    """Depth as colours, for people."""
    limits = settings.depth
    picture = colour_depth(frame.depth_m, limits.min_depth_m, limits.max_depth_m)
    return image_message(header, image_fields(picture, 'rgb8'))


def _points(header: Header, frame: DepthFrame, settings: OutputSettings) -> PointCloud2:
    """Coloured point cloud in the optical frame."""
    return cloud_message(header, frame.cloud(settings.points).message_fields())


def _clearing(header: Header, frame: DepthFrame, settings: OutputSettings) -> PointCloud2:
    """Far points along rays that are free, with which a costmap clears its free space."""
    cloud = build_clearing_cloud(frame.depth_m, frame.camera, settings.points)
    return cloud_message(header, cloud.message_fields())


# In the order of publishing: depth first, for it is what most readers wait for.
OUTPUTS = (
    Output('depth', TOPICS['depth'], Image, _depth_image),
    Output('camera_info', TOPICS['camera_info'], CameraInfo, _camera_info, needs_calibration=True),
    Output('confidence', TOPICS['confidence'], Image, _confidence),
    Output('coloured', 'depth/colored', Image, _coloured),
    Output(
        'points', TOPICS['points'], PointCloud2, _points, needs_calibration=True, is_cloud=True
    ),
    Output(
        'clearing',
        'points_clearing',
        PointCloud2,
        _clearing,
        needs_calibration=True,
        is_cloud=True,
        is_enabled=lambda settings: settings.points.clearing,
    ),
)


class OutputPublishers:
    """Publishers of one camera's outputs.

    Args:
        node: The node they belong to.
        prefix: Namespace of the camera, '' or ending with '/'.
        relative: Depth is known up to a factor only: other topic names.
    """

    def __init__(self, node: Node, prefix: str, relative: bool) -> None:
        self._node = node
        self.is_relative = relative
        self._publishers: list[tuple[Output, Publisher]] = []
        self._incompatible: list[tuple[IncompatibleQosLogger, QoSProfile]] = []
        self._last_cloud_ns: int | None = None
        for output in OUTPUTS:
            self._create(output, prefix + topic_name(output.topic, relative))

    @property
    def depth_topic(self) -> str:
        """Full name of the topic of the depth image."""
        return str(self._publishers[0][1].topic_name)

    @property
    def wanted(self) -> list[str]:
        """Names of the outputs that have subscribers; without any the network rests."""
        return [output.name for output, publisher in self._publishers if _has_reader(publisher)]

    def publish(
        self,
        header: Header,
        stamp_ns: int,
        frame: DepthFrame,
        settings: OutputSettings,
        is_calibrated: bool,
    ) -> None:
        """Publish one DepthFrame on every topic that has subscribers.

        `header` and `stamp_ns` are those of the image.
        """
        clouds_due: bool | None = None
        for output, publisher in self._publishers:
            if not _has_reader(publisher) or not output.is_enabled(settings):
                continue
            if output.needs_calibration and not is_calibrated:
                continue
            if output.is_cloud:
                if clouds_due is None:  # points and clearing go together
                    clouds_due = self._is_cloud_due(stamp_ns, settings.points.rate_hz)
                if not clouds_due:
                    continue
            publisher.publish(output.make(header, frame, settings))

    def refresh(self) -> None:
        """Log subscribers that receive nothing."""
        for logger, profile in self._incompatible:
            logger.check_subscriptions(profile)

    def destroy(self) -> None:
        """Take the topics down."""
        for _, publisher in self._publishers:
            self._node.destroy_publisher(publisher)

    def _is_cloud_due(self, stamp_ns: int, rate_hz: float) -> bool:
        """Whether it is time for another cloud, by the stamps of the images."""
        last_ns = self._last_cloud_ns
        # A tenth of the period is tolerated: stamps jitter.
        if rate_hz > 0 and last_ns is not None and 0 <= stamp_ns - last_ns < 0.9e9 / rate_hz:
            return False
        self._last_cloud_ns = stamp_ns
        return True

    def _create(self, output: Output, topic: str) -> None:
        profile = output_profile(output.history)  # `create_publisher` writes overrides into it
        publisher = self._node.create_publisher(
            output.message_type,
            topic,
            profile,
            qos_overriding_options=QoSOverridingOptions(OUTPUT_OVERRIDES),
            # Logged by `refresh`, with names, instead of by the default callback.
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )
        name = self._node.resolve_topic_name(topic)
        logger = IncompatibleQosLogger(self._node, name, 'it will receive nothing')
        self._publishers.append((output, publisher))
        self._incompatible.append((logger, profile))


def _has_reader(publisher: Publisher) -> bool:
    return publisher.get_subscription_count() > 0
