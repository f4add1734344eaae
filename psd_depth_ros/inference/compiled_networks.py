"""One network compiled for several input shapes, of which few are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import threading
from typing import Generic, TypeVar

from psd_depth_ros.inference.conversion import Shape
from psd_depth_ros.runtime import trim_memory

MAX_SHAPES = 4  # kept compiled, 50 to 100 MB each; more only where more are in use at once
Compiled = TypeVar('Compiled')


class CompiledNetworks(Generic[Compiled]):
    """LRU cache of one network compiled for several input shapes.

    Thread-safe; no lock is held while compiling.
    """

    def __init__(self, capacity: int = MAX_SHAPES) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._networks: OrderedDict[Shape, Compiled] = OrderedDict()
        self._closed = False

    def __contains__(self, shape: Shape) -> bool:
        """Whether the network is compiled for a shape."""
        return shape in self._networks

    def keep(self, count: int) -> None:
        """Grow the cache for `count` shapes that are in use at the same time, and two more."""
        with self._lock:
            self._capacity = max(self._capacity, count + 2)

    def get(self, shape: Shape, compile: Callable[[], Compiled]) -> Compiled:
        """The network for a shape, made by `compile` in this thread where it is missing."""
        with self._lock:
            if shape in self._networks:
                self._networks.move_to_end(shape)
                return self._networks[shape]
        made = compile()
        evicted = []
        with self._lock:
            if not self._closed:
                self._networks[shape] = made
            while len(self._networks) > self._capacity:
                evicted.append(self._networks.popitem(last=False))
        if evicted:
            evicted.clear()
            trim_memory()
        return made

    def close(self) -> None:
        """Drop all, also what is being compiled now."""
        with self._lock:
            self._closed = True
            self._networks.clear()
