"""A progress bar on stderr, for commands that go through frames."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Tells the bar how much is done, of how much."""

    def __call__(self, done: int, total: int, note: str = '') -> None:
        """Move the bar; `note` stands where else the rate is shown."""


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Advance]:
    """Show a bar with rate and time left; nothing with `quiet` or where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]}'),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True) as progress:
        task = progress.add_task(title, total=None, rate='')

        def advance(done: int, total: int, note: str = '') -> None:
            speed = progress.tasks[0].speed
            rate = note or (f'{speed:.1f}/s' if speed else '')
            progress.update(task, completed=done, total=max(done, total), rate=rate)

        yield advance
