"""A subscription whose quality of service follows the publishers of its topic.

The publishers are looked up again whenever they come or go: with `auto` reliability is what all of
them offer, and what they have latched is asked for where all of them do. A publisher that cannot
be heard is said once, with both sides named.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from psd_depth_ros.ros.qos import (
    choose_input,
    describe,
    INPUT_OVERRIDES,
    MismatchSpeaker,
    RELIABILITIES,
)


class InputSubscription:
    """Subscribes to `topic`; `wanted` is read again at every `refresh`."""

    def __init__(
        self,
        node: Node,
        message_type: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        wanted: Callable[[], str],
        depth: int = 1,
    ) -> None:
        self._node = node
        self._type = message_type
        self.topic = node.resolve_topic_name(topic)
        self._callback = callback
        self._override = _reliability_override(node, self.topic)
        self._wanted = wanted
        self._depth = depth
        self._mismatch = MismatchSpeaker(
            node,
            self.topic,
            'nothing will be received from there: set image_reliability to auto or change the '
            'publisher',
        )
        self._subscription = self._subscribe(self._choose())

    @property
    def publisher_count(self) -> int:
        """How many publishers the topic has."""
        return self._node.count_publishers(self.topic)

    @property
    def reliability(self) -> str:
        """What is asked for now."""
        return self._subscription.qos_profile.reliability.name.lower()

    def refresh(self) -> None:
        """Look the publishers up again, and say which of them cannot be heard."""
        self._follow()
        self._mismatch.check_publishers(self._subscription.qos_profile)

    def _follow(self) -> None:
        """Subscribe anew where reliability or durability must change."""
        asked, profile = self._subscription.qos_profile, self._choose()
        if not self.publisher_count:
            profile.durability = asked.durability  # a publisher that starts again is the likeliest
        if (profile.reliability, profile.durability) == (asked.reliability, asked.durability):
            return
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe(profile)
        self._node.get_logger().info(
            f'{self.topic}: subscribed [{describe(profile)}], as its publishers offer'
        )

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _choose(self) -> QoSProfile:
        wanted = self._wanted() if self._override == 'auto' else self._override
        return choose_input(self._node, self.topic, wanted, self._depth)

    def _subscribe(self, profile: QoSProfile) -> Subscription:
        return self._node.create_subscription(
            self._type,
            self.topic,
            self._callback,
            profile,
            qos_overriding_options=QoSOverridingOptions(INPUT_OVERRIDES),
            event_callbacks=SubscriptionEventCallbacks(
                incompatible_qos=lambda _event: self._follow(),
                matched=lambda _event: self._follow(),
            ),
        )


def _reliability_override(node: Node, topic: str) -> str:
    """Read the standard override parameter, which here also knows `auto`."""
    name = f'qos_overrides.{topic}.subscription.reliability'
    if not node.has_parameter(name):
        text = f'reliability for subscription `{topic}` ({" | ".join(RELIABILITIES)})'
        descriptor = ParameterDescriptor(description=text, read_only=True)
        node.declare_parameter(name, 'auto', descriptor)
    return str(node.get_parameter(name).value)
