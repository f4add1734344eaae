"""Quality of service: what is offered, what is requested, and who cannot hear whom.

Best effort loses most large images on a default Fast DDS, and a reliable reader never hears a
best-effort camera. What was latched before a reader came is kept for readers that request it. So
`auto` requests what every publisher of the topic offers, and follows publishers that come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

RELIABILITIES = ('auto', 'reliable', 'best_effort')
OUTPUT_OVERRIDES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
_INPUT_OVERRIDES = OUTPUT_OVERRIDES[:2]  # reliability: see `_reliability_override`
_UNKNOWN = '_NODE_NAME_UNKNOWN_'
_NAME_ATTEMPTS = 4


def output_profile(depth: int = 2) -> QoSProfile:
    """Reliable, volatile: heard by reliable and by best-effort readers alike."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def choose_reliability(wanted: str, offered: Iterable[ReliabilityPolicy]) -> ReliabilityPolicy:
    """Reliable where every publisher offers it, best effort where one does not.

    With no publisher yet `auto` starts reliable: the first images of a reliable camera are then
    not lost to a change of subscription.
    """
    if wanted == 'reliable':
        return ReliabilityPolicy.RELIABLE
    if wanted == 'best_effort':
        return ReliabilityPolicy.BEST_EFFORT
    if any(policy == ReliabilityPolicy.BEST_EFFORT for policy in offered):
        return ReliabilityPolicy.BEST_EFFORT
    return ReliabilityPolicy.RELIABLE


def choose_durability(offered: Iterable[DurabilityPolicy]) -> DurabilityPolicy:
    """Transient local where every publisher offers it: latched messages are heard too."""
    policies = list(offered)
    if policies and all(policy == DurabilityPolicy.TRANSIENT_LOCAL for policy in policies):
        return DurabilityPolicy.TRANSIENT_LOCAL
    return DurabilityPolicy.VOLATILE


def choose_input(node: Node, topic: str, reliability: str, depth: int = 1) -> QoSProfile:
    """Profile of a subscription that hears every present publisher of a topic.

    `reliability` is one of RELIABILITIES, `depth` how many of the newest messages are kept.
    """
    offered = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=choose_reliability(reliability, [one.reliability for one in offered]),
        durability=choose_durability([one.durability for one in offered]),
    )


def describe(profile: QoSProfile) -> str:
    """Name the policies that decide whether two sides are compatible."""
    return f'{profile.reliability.name.lower()}, {profile.durability.name.lower()}'


class InputSubscription:
    """A subscription whose quality of service follows the publishers of its topic.

    The publishers are looked up again whenever they come or go: with `auto` the reliability is
    what all of them offer, and latched messages are requested where all of them latch. A publisher
    that cannot be heard is logged once, with both sides named.
    """

    def __init__(
        self,
        node: Node,
        message_type: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        reliability: str = 'auto',
        depth: int = 1,
    ) -> None:
        self._node = node
        self._type = message_type
        self.topic = node.resolve_topic_name(topic)
        self._callback = callback
        self._override = _reliability_override(node, self.topic)
        self._wanted = reliability
        self._depth = depth
        self._incompatible = IncompatibleQosLogger(
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
        """What is requested now."""
        return self._subscription.qos_profile.reliability.name.lower()

    def refresh(self, reliability: str = 'auto') -> None:
        """Look the publishers up again; `reliability` is what the settings request now."""
        self._wanted = reliability
        self._follow()
        self._incompatible.check_publishers(self._subscription.qos_profile)

    def destroy(self) -> None:
        """End the subscription."""
        self._node.destroy_subscription(self._subscription)

    def _follow(self) -> None:
        """Subscribe anew where reliability or durability must change."""
        requested, profile = self._subscription.qos_profile, self._choose()
        if not self.publisher_count:
            # Most likely the same publisher starts again.
            profile.durability = requested.durability
        if (profile.reliability, profile.durability) == (
            requested.reliability,
            requested.durability,
        ):
            return
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe(profile)
        self._node.get_logger().info(
            f'{self.topic}: subscribed [{describe(profile)}], as its publishers offer'
        )

    def _choose(self) -> QoSProfile:
        wanted = self._wanted if self._override == 'auto' else self._override
        return choose_input(self._node, self.topic, wanted, self._depth)

    def _subscribe(self, profile: QoSProfile) -> Subscription:
        return self._node.create_subscription(
            self._type,
            self.topic,
            self._callback,
            profile,
            qos_overriding_options=QoSOverridingOptions(_INPUT_OVERRIDES),
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


class IncompatibleQosLogger:
    """Logs once which nodes cannot hear each other on a topic, both sides named.

    The middleware reports an incompatibility before it knows the name of the other node, so the
    checks are called again and again, and wait a few times for the name.
    """

    def __init__(self, node: Node, topic: str, advice: str) -> None:
        self._node = node
        self._topic = topic
        self._advice = advice
        self._attempts = _NAME_ATTEMPTS
        self._logged: set[str] = set()

    def check_publishers(self, requested: QoSProfile) -> None:
        """Look for publishers that a subscription of this node cannot hear."""
        for info in self._node.get_publishers_info_by_topic(self._topic):
            if _is_incompatible(info.qos_profile, requested):
                self._log(
                    info,
                    f'offers [{describe(info.qos_profile)}], this node asks for '
                    f'[{describe(requested)}] on {self._topic}; {self._advice}',
                )

    def check_subscriptions(self, offered: QoSProfile) -> None:
        """Look for subscriptions that cannot hear a publisher of this node."""
        for info in self._node.get_subscriptions_info_by_topic(self._topic):
            if _is_incompatible(offered, info.qos_profile):
                self._log(
                    info,
                    f'asks for [{describe(info.qos_profile)}], this node offers '
                    f'[{describe(offered)}] on {self._topic}; {self._advice}',
                )

    def _log(self, info: TopicEndpointInfo, text: str) -> None:
        if info.node_name == _UNKNOWN and self._attempts:
            self._attempts -= 1
            return
        text = f'{info.node_namespace.rstrip("/")}/{info.node_name} {text}'
        if text not in self._logged:
            self._logged.add(text)
            self._node.get_logger().warning(text)


def _is_incompatible(publisher: QoSProfile, subscription: QoSProfile) -> bool:
    """Whether reliability or durability keeps them apart.

    `rclpy.qos.qos_check_compatible` cannot be used: it takes the unlimited deadlines that the
    graph reports for deadlines that nobody offers.
    """
    unreliable = (
        publisher.reliability == ReliabilityPolicy.BEST_EFFORT
        and subscription.reliability == ReliabilityPolicy.RELIABLE
    )
    not_latched = (
        publisher.durability == DurabilityPolicy.VOLATILE
        and subscription.durability == DurabilityPolicy.TRANSIENT_LOCAL
    )
    return unreliable or not_latched
