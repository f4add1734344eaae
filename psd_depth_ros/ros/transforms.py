"""/tf and /tf_static into a transform buffer, where the message class of TF is installed.

The buffer is `data.transforms`, the same for bags; its rules are those of tf2_ros, which needs
compiled libraries that are not there without a ROS distribution.
"""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from psd_depth_ros.data.transforms import TF_TYPE, TransformBuffer
from psd_depth_ros.ros.input_subscription import InputSubscription
from psd_depth_ros.ros.message_classes import find_message_class

_DEPTH = 100  # as tf2_ros has it

NO_TF = 'TF cannot be read, for tf2_msgs is not installed here'


def has_tf() -> bool:
    """Whether transforms can be received in this world."""
    return find_message_class(TF_TYPE) is not None


class TransformInput:
    """Subscribes to all transforms; does nothing where there is no message class."""

    def __init__(self, node: Node, buffer: TransformBuffer) -> None:
        self._node = node
        self._buffer = buffer
        self._moving: InputSubscription | None = None
        self._fixed: Subscription | None = None
        message_class = find_message_class(TF_TYPE)
        if message_class is None:
            return
        latched = QoSProfile(
            depth=_DEPTH,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
            reliability=ReliabilityPolicy.RELIABLE,
        )
        self._fixed = node.create_subscription(
            message_class, '/tf_static', self._on_fixed, latched
        )
        self._moving = InputSubscription(
            node, message_class, '/tf', buffer.add, lambda: 'auto', _DEPTH
        )

    def refresh(self) -> None:
        """Look again at the publishers."""
        if self._moving is not None:
            self._moving.refresh()

    def destroy(self) -> None:
        """Unsubscribe."""
        if self._moving is not None:
            self._moving.destroy()
        if self._fixed is not None:
            self._node.destroy_subscription(self._fixed)
        self._moving = self._fixed = None

    def _on_fixed(self, message: Any) -> None:
        self._buffer.add(message, fixed=True)
