"""A progress bar on stderr, for commands that go through frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
import math
from typing import Protocol


class Advance(Protocol):
    """Tells the bar how much is done, of how much."""

    def __call__(
        self, done: int, total: int, note: str = '', seconds_left: float = math.nan
    ) -> None:
        """Move the bar; `note` stands where else the rate is shown.

        `seconds_left` is what the caller knows better than the bar, which guesses from the rate.
        """


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar with rate and time left; nothing with `quiet` or where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]}'),
        TextColumn('{task.fields[left]}', style='progress.remaining'),
    )
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task(title, total=None, rate='', left='')

        def advance(done: int, total: int, note: str = '', seconds_left: float = math.nan) -> None:
            speed = progress.tasks[0].speed
            rate = note or (f'{speed:.1f}/s' if speed else '')
            if math.isnan(seconds_left) and speed:
                seconds_left = max(0, total - done) / speed
            left = '-:--:--' if math.isnan(seconds_left) else _clock(seconds_left)
            progress.update(task, completed=done, total=max(done, total), rate=rate, left=left)

        yield advance


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
