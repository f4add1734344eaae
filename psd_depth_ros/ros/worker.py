"""The one thread that owns the device: newest frames in, published results out.

Frames of several cameras that wait together share one batch. Whatever goes wrong with a frame is
counted and said, and the next one is worked on.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.ros.camera_channel import ArrivedFrame, CameraChannel
from psd_depth_ros.ros.latest_frame import LatestFrames
from psd_depth_ros.ros.pipeline import DepthPipeline
from psd_depth_ros.ros.speaker import Speaker

REPEAT_S = 30.0
STOP_TIMEOUT_S = 20.0


class DepthWorker:
    """Runs until `stop`; waits for up to `cameras` frames, `patience_s()` after the first."""

    def __init__(
        self,
        pipeline: DepthPipeline,
        speaker: Speaker,
        cameras: int,
        patience_s: Callable[[], float],
        is_alive: Callable[[], bool],
    ) -> None:
        self._pipeline = pipeline
        self._speaker = speaker
        self._cameras = cameras
        self._patience_s = patience_s
        self._is_alive = is_alive
        self._mailbox: LatestFrames[CameraChannel, ArrivedFrame] = LatestFrames()
        self._thread = threading.Thread(target=self._run, name='depth_worker', daemon=True)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def hand_over(self, channel: CameraChannel, frame: ArrivedFrame) -> bool:
        """Leave a frame; True where it replaced an older one of the same camera."""
        return self._mailbox.put(channel, frame)

    def stop(self) -> None:
        """End after the frame in work, which a network may need a while for."""
        self._mailbox.close()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            frames = self._mailbox.take(self._cameras, self._patience_s())
            if frames is None:
                return
            self._work(frames)

    def _work(self, frames: dict[CameraChannel, ArrivedFrame]) -> None:
        prepared = [
            (channel, ready)
            for channel, frame in frames.items()
            if (ready := self._guard(channel, channel.prepare, frame)) is not None
        ]
        if not prepared:
            return
        try:
            results = self._pipeline.infer(prepared)
        except Exception as error:  # noqa: BLE001 - the node must survive any frame
            for channel, _ in prepared:
                self._fail(channel, error)
            return
        for result in results:
            self._guard(result.channel, self._pipeline.publish, result)

    def _guard(self, channel: CameraChannel, step: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return step(argument)
        except Exception as error:  # noqa: BLE001 - the node must survive any frame
            self._fail(channel, error)
            return None

    def _fail(self, channel: CameraChannel, error: Exception) -> None:
        if not self._is_alive():
            return  # the middleware was shut down under a frame in work
        channel.counters.drop('failed')
        channel.problem = str(error)
        kind = '' if isinstance(error, PsdDepthError) else f'{type(error).__name__}: '
        key = type(error).__name__
        self._speaker.error(key, f'{channel.name}: {kind}{error}', REPEAT_S)
