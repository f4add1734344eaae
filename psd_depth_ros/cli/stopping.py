"""Ctrl-C and SIGTERM as a wish: a training saves its state before it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import signal
import sys


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Note the first Ctrl-C or SIGTERM, so that the state can be saved; a second one ends at once.

    The list holds the number of the signal.
    """
    asked: list[int] = []
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        asked.append(number)
        for each, handler in former.items():
            signal.signal(each, handler)
        print('stopping after this step; once more ends at once', file=sys.stderr)

    for number in former:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)
