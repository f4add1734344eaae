"""Rate, latency and errors of a node, from a recording of its images and depth.

A recording holds both with the time of their arrival at one recorder, so a latency is the
difference of two arrivals of the same stamp. Metrics themselves are in `metrics`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.errors import BagError
from psd_depth_ros.evaluation.metrics import average, DepthMetrics, measure
from psd_depth_ros.messages import decode_depth, stamp_ns


@dataclass(frozen=True)
class Timing:
    """Depth images that came out, per second, and how long after their image (ms).

    A figure is None where too few frames came to know it; latencies also where the recorder fell
    so far behind that it saw depth before its image.
    """

    frames: int
    fps: float | None
    latency_ms_p50: float | None
    latency_ms_p95: float | None


def time_depth(recording: Path, image_topic: str, depth_topic: str) -> Timing:
    """Measure the depth topic of a recording against its image topic.

    Raises BagError where the recording cannot be read or lacks the image topic.
    """
    with BagReader(recording) as bag:
        bag.check_topic(image_topic)
        images = dict(_arrivals(bag, image_topic))
        depths = dict(_arrivals(bag, depth_topic)) if depth_topic in bag.topics else {}
    latencies = [(depths[stamp] - images[stamp]) / 1e6 for stamp in depths if stamp in images]
    p50 = p95 = None
    if latencies and min(latencies) >= 0:
        p50, p95 = np.percentile(latencies, [50, 95]).tolist()
    return Timing(len(depths), _rate(list(depths.values())), p50, p95)


def compare_depth(
    recording: Path, depth_topic: str, truth: Path, truth_topic: str
) -> tuple[DepthMetrics, DepthMetrics]:
    """Compare every recorded depth image with the true one of its stamp.

    Returns the means over images (scaled by the median of each image, unscaled). Raises BagError
    where no recorded depth has a truth.
    """
    scaled: list[DepthMetrics] = []
    unscaled: list[DepthMetrics] = []
    for depth, true in _pairs(recording, depth_topic, truth, truth_topic):
        for found, median_scaled in ((scaled, True), (unscaled, False)):
            metrics = measure(depth, true, median_scaled=median_scaled)
            if metrics is not None:
                found.append(metrics)
    if not scaled or not unscaled:
        raise BagError(
            f'no depth image on {depth_topic} of {recording} has a truth on {truth_topic} of '
            f'{truth} with the same stamp; check that one was recorded from the other'
        )
    return average(scaled), average(unscaled)


def _pairs(
    recording: Path, depth_topic: str, truth: Path, truth_topic: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    with BagReader(truth) as bag:
        bag.check_topic(truth_topic)
        truths = {stamp_ns(one.message.header): one for one in bag.messages([truth_topic])}
        with BagReader(recording) as recorded:
            recorded.check_topic(depth_topic)
            for one in recorded.messages([depth_topic]):
                true = truths.get(stamp_ns(one.message.header))
                if true is not None:
                    yield decode_depth(one.message), decode_depth(true.message)


def _arrivals(bag: BagReader, topic: str) -> Iterator[tuple[int, int]]:
    """Stamp and time of arrival of each message."""
    for one in bag.messages([topic]):
        yield stamp_ns(one.message.header), one.timestamp_ns


def _rate(arrivals: list[int]) -> float | None:
    span_s = (max(arrivals) - min(arrivals)) / 1e9 if arrivals else 0.0
    return (len(arrivals) - 1) / span_s if span_s > 0 else None
