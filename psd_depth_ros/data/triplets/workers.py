"""Threads that work on frames: what they make comes in order, whatever their number.

Decoding, resizing, tracking and networks leave Python's lock to others while they work, so that
threads suffice, and nothing is copied between processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2
import torch

from psd_depth_ros.runtime import available_cores

MOST_WORKERS = 8  # one thread decodes for all of them, and every worker holds frames

T = TypeVar('T')
R = TypeVar('R')


class Workers:
    """Threads with one thread of torch each, so that a result does not depend on their number.

    With one worker everything is done by the caller, at once. Made by `start_workers`.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            self._pool = ThreadPoolExecutor(
                count, 'frames', initializer=torch.set_num_threads, initargs=(1,)
            )

    def submit(self, work: Callable[..., R], *arguments: object) -> Future[R]:
        """Begin work; what it raises is raised by the result."""
        if self._pool is not None:
            return self._pool.submit(work, *arguments)
        future: Future[R] = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001 - raised by `result`
            future.set_exception(error)
        return future

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """The results for some items in order; only a few items are taken ahead."""
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(self.submit(work, item))
            if len(waiting) > self.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    @property
    def ahead(self) -> int:
        """How many results may be in the making."""
        return 0 if self._pool is None else 2 * self.count + 2

    def close(self) -> None:
        """Wait for what is being done, and drop the rest."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def start_workers(count: int = 0) -> Iterator[Workers]:
    """Workers for the body, by default as many as torch may use threads, at most MOST_WORKERS.

    OpenCV has one thread meanwhile, as torch has in every worker and in the caller.
    """
    of_torch, of_opencv = torch.get_num_threads(), cv2.getNumThreads()
    workers = Workers(count or max(1, min(of_torch, available_cores(), MOST_WORKERS)))
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield workers
    finally:
        workers.close()
        torch.set_num_threads(of_torch)
        cv2.setNumThreads(of_opencv)
