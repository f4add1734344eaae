"""The way of a batch of frames: scale, network, topics, and what the scale learns from it.

Steps run in the worker's thread. Each is done elsewhere: the network in `inference`, the scale in
`scale_inputs`, messages in `results`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import time
from typing import Any

from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import Scale, settle_scale
from psd_depth_ros.inference.scale import ScaleTracker
from psd_depth_ros.ros.camera_channel import CameraChannel, PreparedFrame
from psd_depth_ros.ros.engine_slot import Engine, EngineSlot
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
        cameras: Callable[[], Sequence[Camera]],
    ) -> None:
        self._slot = slot
        self._scales = scales
        self._results = results
        self._settings = settings
        self._cameras = cameras

    def infer(self, batch: Sequence[tuple[CameraChannel, PreparedFrame]]) -> list[DepthResult]:
        """Run the network once for all frames, each with the scale known before it.

        Frames of a size that the network is not compiled for are dropped and counted, and it is
        compiled beside the others. `cameras` tells those whose images have come.
        """
        with self._slot.hold() as engine:
            reason = self._slot.expect(self._cameras())
            ready = []
            for channel, frame in batch:
                if not _is_wanted(channel, frame):
                    continue
                if engine.is_ready([frame.camera]):
                    ready.append((channel, frame))
                else:
                    channel.wait_for_network(frame.camera, reason)
            if engine.is_ready([frame.camera for _, frame in ready]):
                return self._run(engine, ready) if ready else []
            return [result for one in ready for result in self._run(engine, [one])]

    def _run(
        self, engine: Engine, batch: Sequence[tuple[CameraChannel, PreparedFrame]]
    ) -> list[DepthResult]:
        depth = self._settings().depth
        trackers = [self._scales.tracker(channel, engine) for channel, _ in batch]
        factors = [tracker.scale for tracker in trackers]
        start_ns = time.monotonic_ns()
        frames = engine.infer_batch(
            [(ready.rgb, ready.camera) for _, ready in batch],
            scales=[Scale(tracker.scale, tracker.variance) for tracker in trackers],
            settings=depth,
            full_size=depth.size == 'native',
        )
        self._slot.inference.add_ns(time.monotonic_ns() - start_ns)
        return [
            DepthResult(channel, ready, frame, tracker, factor)
            for (channel, ready), frame, tracker, factor in zip(
                batch, frames, trackers, factors, strict=True
            )
        ]

    def publish(self, result: DepthResult) -> None:
        """Publish a result where its depth may be called what the topic says, and learn from it.

        What a frame can tell of its own scale at once goes before the publishing.
        """
        channel, tracker, ready = result.channel, result.tracker, result.ready
        frame, known = result.frame, tracker.is_known
        prompt = ready.calibrated and tracker.is_prompt
        if prompt:
            self._observe(result)
            frame, known = settle_scale(frame, tracker, ready.arrived.stamp_ns), tracker.is_known
        relative = tracker.settings.mode == 'relative' or not ready.calibrated
        if relative or known:
            self._results.publish(channel, ready, frame)
        else:
            channel.counters.drop('scale_unknown')
            channel.problem = (
                f'scale.mode is {tracker.settings.mode} and nothing was measured yet: depth '
                'waits for it'
            )
        if ready.calibrated and not prompt:
            self._observe(result)

    def _observe(self, result: DepthResult) -> None:
        self._scales.observe(
            result.channel, result.tracker, result.ready, result.frame, result.factor
        )


def _is_wanted(channel: CameraChannel, ready: PreparedFrame) -> bool:
    """Whether somebody asked for its depth; else it only told the size of the images."""
    if not ready.arrived.wanted:
        channel.problem = ''
        channel.counters.ignore()
    return ready.arrived.wanted
