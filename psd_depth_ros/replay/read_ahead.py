"""An iterator run in a thread of its own, so that decoding goes on while others work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
import queue
import threading
from typing import Generic, TypeVar

T = TypeVar('T')
_WAIT_S = 0.1


class ReadAhead(Generic[T]):
    """Iterate over `items` at most `depth` ahead of the reader, as a context manager.

    An exception of the iterable is raised where its next item would have come. Leaving the
    context stops the thread.
    """

    def __init__(self, items: Iterable[T], depth: int = 3) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[T | None, BaseException | None, bool]]
        self._queue = queue.Queue(depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, name='read-ahead', daemon=True)

    def __enter__(self) -> Iterator[T]:
        """Start reading."""
        self._thread.start()
        return self._give()

    def __exit__(self, *_: object) -> None:
        """Stop reading and wait for the thread."""
        self._stopped.set()
        self._thread.join()

    def _give(self) -> Iterator[T]:
        while True:
            item, error, done = self._queue.get()
            if error is not None:
                raise error
            if done:
                return
            yield item  # type: ignore[misc]  # an item may be None, `done` tells

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._put((item, None, False)):
                    return
            self._put((None, None, True))
        except BaseException as error:  # noqa: BLE001 - it is raised again in the reader
            self._put((None, error, True))

    def _put(self, entry: tuple[T | None, BaseException | None, bool]) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(entry, timeout=_WAIT_S)
            except queue.Full:
                continue
            return True
        return False
