"""One-slot mailboxes: the newest frame of every camera, for one worker.

A frame that arrives while another one waits replaces it, so latency stays bounded whatever the
input rate; every frame replaced is counted. What a frame is, is left to the caller.
"""

from __future__ import annotations

from collections.abc import Hashable
import threading
import time
from typing import Generic, TypeVar

Key = TypeVar('Key', bound=Hashable)
Frame = TypeVar('Frame')


class LatestFrames(Generic[Key, Frame]):
    """The newest frame per key (camera); safe between threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frames: dict[Key, Frame] = {}
        self._closed = False

    def put(self, key: Key, frame: Frame) -> bool:
        """Leave a frame; True where it replaced one that nobody took. Ignored once closed."""
        with self._condition:
            replaced = key in self._frames
            if not self._closed:
                self._frames[key] = frame
                self._condition.notify_all()
            return replaced

    def take(self, expected: int = 1, patience_s: float = 0.0) -> dict[Key, Frame] | None:
        """Wait for a frame, then take all that wait; None once closed.

        With `expected` cameras the call waits up to `patience_s` more for the ones missing, so
        that cameras that fire together share one batch.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._frames)
            deadline = time.monotonic() + patience_s
            while len(self._frames) < expected and not self._closed:
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    break
                self._condition.wait(remaining_s)
            if self._closed:
                return None
            frames, self._frames = self._frames, {}
            return frames

    def discard(self) -> int:
        """Forget the frames that wait; returns how many there were."""
        with self._condition:
            count = len(self._frames)
            self._frames.clear()
            return count

    def close(self) -> None:
        """Wake and end every `take`; later frames are ignored."""
        with self._condition:
            self._closed = True
            self._frames.clear()
            self._condition.notify_all()
