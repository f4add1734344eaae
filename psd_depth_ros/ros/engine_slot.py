"""The running engine, and its replacement loaded beside it.

One engine serves every camera. A replacement is loaded and warmed up in its own thread while the
old engine goes on, then takes its place between two frames. A replacement that fails changes
nothing. What makes an engine is a factory; loading itself is left to `inference` and `checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
import threading
import time
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.ros.counters import Durations

Request = tuple[npt.NDArray[np.uint8], Camera]
Size = tuple[int, int]


class Engine(Protocol):
    """What the node needs of `inference.DepthEngine`."""

    checkpoint: Any

    @property
    def device(self) -> Any:
        """The device it runs on."""

    @property
    def backend(self) -> str:
        """The library that runs it."""

    def infer_batch(
        self,
        requests: Sequence[Request],
        *,
        scales: Sequence[Any] | None = None,
        settings: Any = None,
        full_size: bool = True,
    ) -> list[Any]:
        """One DepthFrame per image."""

    def warm_up(self, sizes: Sequence[Size]) -> None:
        """Run once for images of these widths and heights."""

    def close(self) -> None:
        """Give the device's memory back."""


class EngineFactory(Protocol):
    """Makes engines; replaced by a cheap one in tests."""

    def load(self, path: str, device: str, backend: str) -> Engine:
        """Load a checkpoint, the shipped one for ''. Raises PsdDepthError."""

    def check(self, path: str) -> None:
        """Raise PsdDepthError where a file can be seen to be no checkpoint of ours, fast."""


class EngineSlot:
    """Holds the engine in use; safe between the worker, the executor and the loader."""

    def __init__(self, factory: EngineFactory, device: str, backend: str) -> None:
        self._factory = factory
        self._device = device
        self._backend = backend
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._loader: threading.Thread | None = None
        self._sizes: tuple[Size, ...] = ()
        self.inference = Durations()

    @property
    def engine(self) -> Engine:
        """The engine in use. Only where `load` succeeded."""
        assert self._engine is not None, 'configure comes first'
        return self._engine

    @property
    def is_loading(self) -> bool:
        """Whether a replacement is being loaded now."""
        return self._loader is not None and self._loader.is_alive()

    def check(self, path: str) -> None:
        """Raise PsdDepthError where `path` cannot be a checkpoint."""
        self._factory.check(path)

    def load(self, path: str, sizes: Sequence[Size]) -> None:
        """Load and warm up the first engine, in the caller's thread. Raises PsdDepthError."""
        self._engine = self._prepare(path, sizes)
        self._sizes = tuple(sizes)

    def expect(self, sizes: Sequence[Size]) -> None:
        """Warm up for other sizes as soon as they are known; returns at once.

        Frames wait for it, as they would for the first of their size; but where nobody listens
        yet, the first listener gets depth at once.
        """
        if tuple(sizes) == self._sizes:
            return
        self._sizes = tuple(sizes)

        def work() -> None:
            with self._lock, suppress(Exception):  # frames of this size will tell
                if self._engine is not None:
                    self._engine.warm_up(sizes)

        threading.Thread(target=work, name='warm_up', daemon=True).start()

    def replace(
        self,
        path: str,
        sizes: Sequence[Size],
        judge: Callable[[Engine], None],
        done: Callable[[str], None],
    ) -> None:
        """Load a replacement beside the running engine and swap it in between two frames.

        Returns at once. `judge` may refuse the new engine by raising PsdDepthError. `done` is
        called from the loader's thread with the reason of a failure, or ''.
        """

        def work() -> None:
            done(self._try_replace(path, sizes, judge))

        self._loader = threading.Thread(target=work, name='checkpoint_loader', daemon=True)
        self._loader.start()

    @contextmanager
    def hold(self) -> Iterator[Engine]:
        """Use the engine for one batch; a swap waits until it is over."""
        with self._lock:
            start_ns = time.monotonic_ns()
            yield self.engine
            self.inference.add_ns(time.monotonic_ns() - start_ns)

    def close(self) -> None:
        """Wait for a loader and give the engine's memory back."""
        if self._loader is not None:
            self._loader.join()
            self._loader = None
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            self._engine = None

    def _try_replace(
        self, path: str, sizes: Sequence[Size], judge: Callable[[Engine], None]
    ) -> str:
        try:
            engine = self._prepare(path, sizes)
            try:
                judge(engine)
            except PsdDepthError:
                engine.close()
                raise
        except PsdDepthError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the running engine must survive anything
            return f'{type(error).__name__}: {error}'
        with self._lock:
            old, self._engine = self._engine, engine
        if old is not None:
            old.close()
        return ''

    def _prepare(self, path: str, sizes: Sequence[Size]) -> Engine:
        engine = self._factory.load(path, self._device, self._backend)
        try:
            engine.warm_up(sizes)
        except BaseException:
            engine.close()
            raise
        return engine
