"""Quality of service: what is offered, what is asked for, and what to say when they disagree.

Best effort loses most big images on a default Fast DDS, and a reliable reader never hears a
best-effort camera. So `auto` asks for what every publisher of the topic offers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)

RELIABILITIES = ('auto', 'reliable', 'best_effort')
OUTPUT_OVERRIDES = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY)
INPUT_OVERRIDES = OUTPUT_OVERRIDES[:2]  # reliability is overridden in `input_subscription`


def output_profile(depth: int = 2) -> QoSProfile:
    """Reliable, volatile: heard by reliable and by best-effort readers alike."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def input_profile(reliability: ReliabilityPolicy, depth: int = 1) -> QoSProfile:
    """Keep the newest messages only."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
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


def offered_reliabilities(node: Node, topic: str) -> list[ReliabilityPolicy]:
    """List the reliability of every publisher of a topic."""
    return [info.qos_profile.reliability for info in node.get_publishers_info_by_topic(topic)]


def describe(profile: QoSProfile) -> str:
    """Name the policies that decide whether two sides talk."""
    return f'{profile.reliability.name.lower()}, {profile.durability.name.lower()}'


def explain_incompatible_publishers(node: Node, topic: str, asked: QoSProfile) -> str:
    """Name both sides of every publisher that a subscription cannot hear; empty where none."""
    return '; '.join(
        f'{_who(info)} offers [{describe(info.qos_profile)}], this node asks for '
        f'[{describe(asked)}] on {topic}'
        for info in node.get_publishers_info_by_topic(topic)
        if _incompatible(info.qos_profile, asked)
    )


def explain_incompatible_subscriptions(node: Node, topic: str, offered: QoSProfile) -> str:
    """Name both sides of every subscription that cannot hear a publisher; empty where none."""
    return '; '.join(
        f'{_who(info)} asks for [{describe(info.qos_profile)}], this node offers '
        f'[{describe(offered)}] on {topic}'
        for info in node.get_subscriptions_info_by_topic(topic)
        if _incompatible(offered, info.qos_profile)
    )


def _incompatible(publisher: QoSProfile, subscription: QoSProfile) -> bool:
    compatibility, _ = qos_check_compatible(publisher, subscription)
    return compatibility == QoSCompatibility.ERROR


def _who(info: Any) -> str:
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'
