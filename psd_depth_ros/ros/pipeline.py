"""The way of a batch of frames: scale, network, topics, and what the scale learns from it.

Steps run in the worker's thread. Each is done elsewhere: the network in `inference`, the scale in
`scale_inputs`, messages in `results`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psd_depth_ros.inference import Scale
from psd_depth_ros.inference.scale import ScaleTracker
from psd_depth_ros.ros.camera_channel import CameraChannel, PreparedFrame
from psd_depth_ros.ros.engine_slot import EngineSlot
from psd_depth_ros.ros.results import ResultPublisher
from psd_depth_ros.ros.scale_inputs import ScaleInputs
from psd_depth_ros.ros.settings import DepthNodeSettings


@dataclass(frozen=True)
class DepthResult:
    """A frame, the depth it gave, and the factor that this depth was multiplied by."""

    channel: CameraChannel
    ready: PreparedFrame
    frame: Any
    tracker: ScaleTracker
    factor: float


class DepthPipeline:
    """What the worker does with frames that are decoded."""

    def __init__(
        self,
        slot: EngineSlot,
        scales: ScaleInputs,
        results: ResultPublisher,
        settings: Callable[[], DepthNodeSettings],
    ) -> None:
        self._slot = slot
        self._scales = scales
        self._results = results
        self._settings = settings

    def infer(self, batch: Sequence[tuple[CameraChannel, PreparedFrame]]) -> list[DepthResult]:
        """Run the network once for all frames, each with the scale known before it."""
        depth = self._settings().depth
        with self._slot.hold() as engine:
            trackers = [self._scales.tracker(channel, engine) for channel, _ in batch]
            factors = [tracker.scale for tracker in trackers]
            frames = engine.infer_batch(
                [(ready.rgb, ready.camera) for _, ready in batch],
                scales=[Scale(tracker.scale, tracker.variance) for tracker in trackers],
                settings=depth,
                full_size=depth.size == 'native',
            )
        return [
            DepthResult(channel, ready, frame, tracker, factor)
            for (channel, ready), frame, tracker, factor in zip(
                batch, frames, trackers, factors, strict=True
            )
        ]

    def publish(self, result: DepthResult) -> None:
        """Publish a result where its depth may be called what the topic says, then learn."""
        channel, tracker = result.channel, result.tracker
        relative = tracker.settings.mode == 'relative' or not result.ready.calibrated
        if relative or tracker.is_known:
            self._results.publish(channel, result.ready, result.frame)
        else:
            channel.counters.drop('scale_unknown')
            channel.problem = (
                f'scale.mode is {tracker.settings.mode} and nothing was measured yet: depth '
                'waits for it'
            )
        if result.ready.calibrated:
            self._scales.observe(tracker, result.ready, result.frame, result.factor)
