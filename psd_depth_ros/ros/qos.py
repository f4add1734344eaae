"""Quality of service: what is offered, what is asked for, and what to say when they disagree.

Best effort loses most big images on a default Fast DDS, and a reliable reader never hears a
best-effort camera. What was latched before a reader came is kept for readers that ask for it. So
`auto` asks for what every publisher of the topic offers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)

RELIABILITIES = ('auto', 'reliable', 'best_effort')
OUTPUT_OVERRIDES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
_UNKNOWN = '_NODE_NAME_UNKNOWN_'
INPUT_OVERRIDES = OUTPUT_OVERRIDES[:2]  # reliability is overridden in `input_subscription`


def output_profile(depth: int = 2) -> QoSProfile:
    """Reliable, volatile: heard by reliable and by best-effort readers alike."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def input_profile(
    reliability: ReliabilityPolicy,
    depth: int = 1,
    durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
) -> QoSProfile:
    """Keep the newest messages only."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=durability,
    )


def choose_reliability(wanted: str, offered: Iterable[ReliabilityPolicy]) -> ReliabilityPolicy:
    """Reliable where every publisher offers it, best effort where one does not.

    With no publisher yet `auto` starts reliable: the first frames of a reliable camera are then
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
    """Transient local where every publisher offers it: what was latched before us is heard too."""
    policies = list(offered)
    if policies and all(policy == DurabilityPolicy.TRANSIENT_LOCAL for policy in policies):
        return DurabilityPolicy.TRANSIENT_LOCAL
    return DurabilityPolicy.VOLATILE


def choose_input(node: Node, topic: str, wanted: str, depth: int = 1) -> QoSProfile:
    """The profile of a subscription that hears every publisher the topic has now.

    `wanted` is the reliability, one of RELIABILITIES.
    """
    offered = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
    return input_profile(
        choose_reliability(wanted, [one.reliability for one in offered]),
        depth,
        choose_durability([one.durability for one in offered]),
    )


def describe(profile: QoSProfile) -> str:
    """Name the policies that decide whether two sides talk."""
    return f'{profile.reliability.name.lower()}, {profile.durability.name.lower()}'


class MismatchSpeaker:
    """Says once who cannot hear whom on a topic, both sides named.

    The middleware tells of a mismatch before it knows the name of the other node, so `check` is
    called again and again, and waits a few times for the name.
    """

    def __init__(self, node: Node, topic: str, advice: str) -> None:
        self._node = node
        self._topic = topic
        self._advice = advice
        self._patience = 4
        self._said: set[str] = set()

    def check_publishers(self, asked: QoSProfile) -> None:
        """Look for publishers that a subscription of ours cannot hear."""
        for info in self._node.get_publishers_info_by_topic(self._topic):
            if _incompatible(info.qos_profile, asked):
                self._say(
                    info,
                    f'offers [{describe(info.qos_profile)}], this node asks for '
                    f'[{describe(asked)}] on {self._topic}; {self._advice}',
                )

    def check_subscriptions(self, offered: QoSProfile) -> None:
        """Look for subscriptions that cannot hear a publisher of ours."""
        for info in self._node.get_subscriptions_info_by_topic(self._topic):
            if _incompatible(offered, info.qos_profile):
                self._say(
                    info,
                    f'asks for [{describe(info.qos_profile)}], this node offers '
                    f'[{describe(offered)}] on {self._topic}; {self._advice}',
                )

    def _say(self, info: Any, text: str) -> None:
        if info.node_name == _UNKNOWN and self._patience:
            self._patience -= 1
            return
        text = f'{info.node_namespace.rstrip("/")}/{info.node_name} {text}'
        if text not in self._said:
            self._said.add(text)
            self._node.get_logger().warning(text)


def _incompatible(publisher: QoSProfile, subscription: QoSProfile) -> bool:
    """Whether reliability or durability keeps them apart.

    `rclpy.qos.qos_check_compatible` cannot be asked: it takes the unlimited deadlines that the
    graph reports for deadlines that nobody offers.
    """
    unreliable = (
        publisher.reliability == ReliabilityPolicy.BEST_EFFORT
        and subscription.reliability == ReliabilityPolicy.RELIABLE
    )
    forgets = (
        publisher.durability == DurabilityPolicy.VOLATILE
        and subscription.durability == DurabilityPolicy.TRANSIENT_LOCAL
    )
    return unreliable or forgets
