"""Counts and timings of a running node, cheap enough for every frame.

Written by the executor and by the worker, read by the diagnostics: all steps hold one lock.
What the figures mean to a person is left to `diagnostics`.
"""

from __future__ import annotations

from collections import Counter, deque
import threading
import time

import numpy as np

_WINDOW = 200


class Durations:
    """Percentiles of the newest durations, in milliseconds."""

    def __init__(self) -> None:
        self._values_ms: deque[float] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()

    def add_ns(self, duration_ns: int) -> None:
        """Remember one duration."""
        with self._lock:
            self._values_ms.append(duration_ns / 1e6)

    def percentiles_ms(self) -> tuple[float, float]:
        """Give p50 and p95 in milliseconds, NaN before the first."""
        with self._lock:
            values = list(self._values_ms)
        if not values:
            return float('nan'), float('nan')
        p50, p95 = np.percentile(values, (50, 95))
        return float(p50), float(p95)


class FrameCounters:
    """What became of the frames of one camera.

    Every frame received ends as processed, as dropped with a reason or as unwanted, where nobody
    listened to any output, or waits in the mailbox.
    """

    def __init__(self) -> None:
        self.latency = Durations()
        self._lock = threading.Lock()
        self._arrivals_ns: deque[int] = deque(maxlen=_WINDOW)
        self._first_ns: int | None = None
        self._received = 0
        self._processed = 0
        self._unwanted = 0
        self._dropped: Counter[str] = Counter()

    def receive(self) -> int:
        """Count an arrival; returns its time on the steady clock in nanoseconds."""
        now_ns = time.monotonic_ns()
        with self._lock:
            self._received += 1
            self._arrivals_ns.append(now_ns)
            if self._first_ns is None:
                self._first_ns = now_ns
        return now_ns

    def process(self, received_ns: int) -> None:
        """Count a frame whose results are published now."""
        self.latency.add_ns(time.monotonic_ns() - received_ns)
        with self._lock:
            self._processed += 1

    def drop(self, reason: str) -> int:
        """Count a frame that gives no result; returns how many went that way."""
        with self._lock:
            self._dropped[reason] += 1
            return self._dropped[reason]

    def ignore(self) -> None:
        """Count a frame whose depth nobody asked for."""
        with self._lock:
            self._unwanted += 1

    @property
    def received(self) -> int:
        """Frames that arrived."""
        return self._received

    @property
    def processed(self) -> int:
        """Frames whose results were published."""
        return self._processed

    @property
    def unwanted(self) -> int:
        """Frames whose depth nobody asked for."""
        return self._unwanted

    @property
    def dropped(self) -> dict[str, int]:
        """Frames that gave no result, by reason."""
        with self._lock:
            return dict(self._dropped)

    def waited_s(self) -> float:
        """Seconds since the first arrival, 0 before it."""
        first_ns = self._first_ns
        return 0.0 if first_ns is None else (time.monotonic_ns() - first_ns) / 1e9

    def rate_hz(self, window_s: float = 5.0) -> float:
        """Arrivals per second over the newest seconds."""
        now_ns = time.monotonic_ns()
        with self._lock:
            recent = [one for one in self._arrivals_ns if now_ns - one < window_s * 1e9]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max((recent[-1] - recent[0]) / 1e9, 1e-9)

    def age_s(self) -> float:
        """Seconds since the last arrival, infinite before the first."""
        with self._lock:
            last_ns = self._arrivals_ns[-1] if self._arrivals_ns else None
        return float('inf') if last_ns is None else (time.monotonic_ns() - last_ns) / 1e9
