"""Saying things once, or once in a while, so that a log stays readable at 30 frames per second."""

from __future__ import annotations

from collections.abc import Hashable
import threading
import time
from typing import Any


class Speaker:
    """Logs the first of many equal events. Safe between threads."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._said_s: dict[Hashable, float] = {}

    def error(self, key: Hashable, text: str, every_s: float = float('inf')) -> None:
        """Log an error once per `key`, or again after `every_s` seconds."""
        if self._is_due(key, every_s):
            self._logger.error(text)

    def warn(self, key: Hashable, text: str, every_s: float = float('inf')) -> None:
        """Log a warning once per `key`, or again after `every_s` seconds."""
        if self._is_due(key, every_s):
            self._logger.warning(text)

    def forget(self, key: Hashable) -> None:
        """Let the next event of this key be said, where its cause had gone."""
        with self._lock:
            self._said_s.pop(key, None)

    def _is_due(self, key: Hashable, every_s: float) -> bool:
        now_s = time.monotonic()
        with self._lock:
            last_s = self._said_s.get(key)
            due = last_s is None or now_s - last_s >= every_s
            if due:
                self._said_s[key] = now_s
            return due
