"""Batches made in threads, ahead of the step that needs them."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
import time

import torch

from psd_depth_ros.runtime import available_cores
from psd_depth_ros.training.task import Batch, Task

QUEUED = 3  # batches beyond those in the making


class BatchLoader:
    """The batches of successive steps, made ahead in threads; a context manager.

    Each loader thread gives torch one thread: an OpenMP team in every loader would compete with
    the team that trains, which waits for its slowest thread at every operation (with two cores a
    step took 40 % longer).

    Args:
        task: makes the batches; what it raises is raised by `take`.
        rank: of this process.
        world_size: number of processes.
        device: on which batches are wanted.
    """

    def __init__(self, task: Task, rank: int, world_size: int, device: torch.device) -> None:
        self._task, self._rank, self._world_size, self._device = task, rank, world_size, device
        threads = 2 if device.type == 'cpu' else min(8, max(2, available_cores() // 2))
        self._pool = ThreadPoolExecutor(
            threads, 'loader', initializer=torch.set_num_threads, initargs=(1,)
        )
        self._capacity = threads + QUEUED
        self._queue: deque[Future[Batch]] = deque()
        self._next = self._submitted = 0  # steps: to be taken, made or in the making

    def __enter__(self) -> BatchLoader:
        """Nothing is made before the first step is known."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Discard the queue and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._queue.clear()

    def take(self, step: int) -> tuple[Batch, float]:
        """The batch of a step, and the seconds spent waiting for it.

        A step that is not the next one (the run rolled back) discards the queue.
        """
        if step != self._next:
            for future in self._queue:
                future.cancel()
            self._queue.clear()
            self._submitted = step - 1
        self._fill()
        start = time.perf_counter()
        batch = self._queue.popleft().result()
        waited_s = time.perf_counter() - start
        self._next = step + 1
        self._fill()
        return batch, waited_s

    def _fill(self) -> None:
        while len(self._queue) < self._capacity and self._submitted < self._task.recipe.steps:
            self._submitted += 1
            self._queue.append(self._pool.submit(self._make, self._submitted))

    def _make(self, step: int) -> Batch:
        return self._task.batch(step, self._rank, self._world_size).to(self._device)
