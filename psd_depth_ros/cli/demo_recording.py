"""What the demo reads from its recording: the frame to draw, and what the node said of itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psd_depth_ros.cli.preview import PreviewFrame
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.errors import BagError
from psd_depth_ros.messages import decode, decode_cloud, decode_depth, stamp_ns, unpack_rgb
from psd_depth_ros.replay import TOPICS

OUTPUTS = tuple(f'/{topic}' for topic in TOPICS.values())
DEPTH, DEPTH_INFO, CONFIDENCE, POINTS = OUTPUTS
DIAGNOSTICS, REPLAY_STATUS = '/diagnostics', '/replay_node/status'
STATUSES = (DIAGNOSTICS, REPLAY_STATUS)


def count_messages(path: Path, topic: str, duration_s: float = 0.0) -> int:
    """Count the messages on a topic of a bag, in its first `duration_s` seconds (0: all)."""
    with BagReader(path) as bag:
        if topic not in bag.topics:
            return 0
        if not duration_s:
            return bag.topics[topic].count
        stop_ns = bag.start_ns + round(duration_s * 1e9) + 1
        return sum(1 for _ in bag.messages([topic], stop_ns=stop_ns))


def read_status(path: Path, topic: str = DIAGNOSTICS) -> dict[str, str]:
    """The last key-value pairs of all statuses on a topic of diagnostics together."""
    values: dict[str, str] = {}
    with BagReader(path) as bag:
        if topic in bag.topics:
            for item in bag.messages([topic]):
                for status in item.message.status:
                    values.update({pair.key: pair.value for pair in status.values})
    return values


def read_drops(values: Mapping[str, str], frames_in: int, frames_out: int) -> dict[str, int]:
    """Tell why frames gave no recorded depth, by reason; the counts add up to in - out.

    What the node counted comes first. `not_received` was overtaken by a newer image before the
    node took it, or lost on the way; `not_recorded` is the rest, between node and recording.
    """
    prefix = 'dropped.'
    reasons = {
        key.removeprefix(prefix): int(value)
        for key, value in values.items()
        if key.startswith(prefix)
    }
    reasons['nobody_listened'] = int(values.get('unwanted', 0))
    missing = frames_in - frames_out - sum(reasons.values())
    reasons['not_received'] = min(missing, max(0, frames_in - int(values.get('received', 0))))
    reasons['not_recorded'] = missing - reasons['not_received']
    return {reason: count for reason, count in reasons.items() if count}


def read_preview(
    path: Path, image_topic: str, truth: Path | None, truth_topic: str
) -> PreviewFrame:
    """Take the frame with depth that is nearest to the middle of the images, in time.

    Raises BagError where there is no depth.
    """
    with BagReader(path) as bag:
        topics = [
            topic for topic in (image_topic, DEPTH, CONFIDENCE, POINTS) if topic in bag.topics
        ]
        stamps = {topic: _stamps(bag, topic) for topic in topics}
        common = sorted(set.intersection(*map(set, stamps.values()))) if DEPTH in stamps else []
        if not common or image_topic not in stamps:
            raise BagError(f'{path} has no depth image together with its camera image')
        images = stamps[image_topic]
        middle = (min(images) + max(images)) // 2
        stamp = min(common, key=lambda one: abs(one - middle))
        found = {topic: stamps[topic][stamp].message for topic in topics}
        depth = decode_depth(found[DEPTH])
        points, colours = _cloud(found.get(POINTS))
        return PreviewFrame(
            rgb=decode(found[image_topic]),
            depth=depth,
            confidence=decode_depth(found[CONFIDENCE]) if CONFIDENCE in found else None,
            truth=_truth(truth, truth_topic, stamp),
            points=points,
            colours=colours,
        )


def _stamps(bag: BagReader, topic: str) -> dict[int, Any]:
    return {stamp_ns(item.message.header): item for item in bag.messages([topic])}


def _cloud(message: Any) -> tuple[np.ndarray, np.ndarray]:
    if message is None:
        return np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    fields = decode_cloud(message)
    points = np.stack([fields[name] for name in 'xyz'], axis=1)
    if 'rgb' in fields:
        return points, unpack_rgb(fields['rgb'])
    return points, np.full(points.shape, 200, np.uint8)


def _truth(path: Path | None, topic: str, stamp: int) -> np.ndarray | None:
    if path is None:
        return None
    with BagReader(path) as bag:
        for item in bag.messages([topic]):
            if stamp_ns(item.message.header) == stamp:
                return decode_depth(item.message)
    return None
