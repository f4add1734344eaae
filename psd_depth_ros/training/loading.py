"""Batches made ahead of the step that needs them, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
import time
from types import TracebackType
from typing import Generic, TypeVar

import torch

T = TypeVar('T')


class LoaderAhead(Generic[T]):
    """Gives `make(step)` for the steps from `first` to `last` in order, made ahead.

    A context manager and an iterator. What `make` raises is raised when its step comes.
    `waited_s` is the time for which the iterator held its caller up. `make` has one thread for
    what torch does: a team of its own in every loader would take the cores from the team that
    trains, which waits for its slowest at every operation (a step on two cores took 40 % longer).
    """

    def __init__(
        self, make: Callable[[int], T], first: int, last: int, *, threads: int = 1, ahead: int = 4
    ) -> None:
        self._make = make
        self._steps = iter(range(first, last + 1))
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(
            threads, 'loader', initializer=torch.set_num_threads, initargs=(1,)
        )
        self._queue: deque[Future[T]] = deque()
        self.waited_s = 0.0

    def __enter__(self) -> LoaderAhead[T]:
        """Begin to make batches."""
        self._fill()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what nobody will ask for."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._queue.clear()

    def __iter__(self) -> Iterator[T]:
        """Give one batch after another."""
        self._fill()
        while self._queue:
            start = time.perf_counter()
            batch = self._queue.popleft().result()
            self.waited_s += time.perf_counter() - start
            self._fill()
            yield batch

    def _fill(self) -> None:
        while len(self._queue) < self._ahead and (step := next(self._steps, None)) is not None:
            self._queue.append(self._pool.submit(self._make, step))
