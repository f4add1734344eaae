"""Batches made ahead of the step that needs them, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
import os
import time
from types import TracebackType
from typing import Generic, TypeVar

import torch

from psd_depth_ros.training.task import Batch, Task

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


AHEAD = 3  # batches beyond those that are being made


class TaskLoader:
    """Hands out the batches of successive steps; a context manager."""

    def __init__(self, task: Task, rank: int, processes: int, device: torch.device) -> None:
        self._task, self._rank, self._processes, self._device = task, rank, processes, device
        self._threads = 2 if device.type == 'cpu' else min(8, max(2, (os.cpu_count() or 2) // 2))
        self._stack = ExitStack()
        self._next = 0
        self._ahead: LoaderAhead[Batch]
        self._batches: Iterator[Batch]

    def __enter__(self) -> TaskLoader:
        """Nothing is made before the first step is known."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Drop what nobody will ask for."""
        self._stack.close()

    def take(self, step: int) -> tuple[Batch, float]:
        """The batch of a step, and the seconds it was waited for.

        A step out of order (the run went back) starts anew from there.
        """
        if step != self._next:
            self._start(step)
        before_s = self._ahead.waited_s
        batch = next(self._batches)
        self._next = step + 1
        return batch, self._ahead.waited_s - before_s

    def _start(self, step: int) -> None:
        self._stack.close()
        last, ahead = self._task.recipe.steps, self._threads + AHEAD
        loader = LoaderAhead(self._make, step, last, threads=self._threads, ahead=ahead)
        self._ahead = self._stack.enter_context(loader)
        self._batches = iter(loader)

    def _make(self, step: int) -> Batch:
        return self._task.batch(step, self._rank, self._processes).to(self._device)
