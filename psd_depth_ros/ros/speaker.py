"""Saying things once, or once in a while, so that a log stays readable at 30 frames per second."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
import threading
import time
from typing import Any

MOST_KEYS = 200  # remembered
BURST, PERIOD_S = 20, 10.0  # so many different things in so many seconds


class Speaker:
    """Logs the first of many equal events, and few where all differ. Safe between threads."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._said_s: dict[Hashable, float] = {}
        self._recent_s: deque[float] = deque(maxlen=BURST)

    def error(self, key: Hashable, text: str, every_s: float = float('inf')) -> None:
        """Log an error once per `key`, or again after `every_s` seconds."""
        due = self._due(key, text, every_s)
        if due:
            self._logger.error(due)

    def info(self, key: Hashable, text: str, every_s: float = float('inf')) -> None:
        """Log a piece of news once per `key`, or again after `every_s` seconds."""
        due = self._due(key, text, every_s)
        if due:
            self._logger.info(due)

    def warn(self, key: Hashable, text: str, every_s: float = float('inf')) -> None:
        """Log a warning once per `key`, or again after `every_s` seconds."""
        due = self._due(key, text, every_s)
        if due:  # on a line of its own: rclpy lets a line of code log with one severity only
            self._logger.warning(due)

    def forget(self, key: Hashable) -> None:
        """Let the next event of this key be said, where its cause had gone."""
        with self._lock:
            self._said_s.pop(key, None)

    def _due(self, key: Hashable, text: str, every_s: float) -> str:
        """The text where it is to be said now, else ''."""
        now_s = time.monotonic()
        with self._lock:
            last_s = self._said_s.get(key)
            if last_s is not None and now_s - last_s < every_s:
                return ''
            is_flood = len(self._recent_s) == BURST and now_s - self._recent_s[0] < PERIOD_S
            if is_flood:
                return ''
            self._recent_s.append(now_s)
            self._said_s.pop(key, None)
            self._said_s[key] = now_s
            if len(self._said_s) > MOST_KEYS:
                del self._said_s[next(iter(self._said_s))]
            is_last = len(self._recent_s) == BURST and now_s - self._recent_s[0] < PERIOD_S
        if is_last:
            text += f' (much goes wrong: nothing more is said for up to {PERIOD_S:g} s)'
        return text
