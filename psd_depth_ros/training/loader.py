"""The batches of a task, made ahead and put on the device, so that the step does not wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
import os
from types import TracebackType

import torch

from psd_depth_ros.training.loading import LoaderAhead
from psd_depth_ros.training.task import Batch, Task

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
