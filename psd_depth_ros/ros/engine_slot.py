"""The running engine, what it is compiled for, and its replacement loaded beside it.

One engine serves every camera. Images of a size it was not compiled for wait for a thread that
compiles beside the frames of other sizes. A replacement is loaded and warmed up in its own thread
while the old engine goes on, then takes its place between two frames. A replacement that fails
changes nothing. What makes an engine is a factory; loading itself is left to `inference` and
`checkpoint`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import threading
import time
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.ros.counters import Durations

Request = tuple[npt.NDArray[np.uint8], Camera]
RETRY_S = 30.0


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

    def is_ready(self, cameras: Sequence[Camera]) -> bool:
        """Whether images of these cameras, in one batch, need no compiling first."""

    def prepare(self, cameras: Sequence[Camera]) -> None:
        """Compile for images of these cameras, beside frames that are worked on."""

    def warm_up(self, cameras: Sequence[Camera]) -> None:
        """Compile and run once for images of these cameras."""

    def close(self) -> None:
        """Give the device's memory back."""


def is_prepared(engine: Engine, cameras: Sequence[Camera]) -> bool:
    """Whether images of these cameras need no compiling, alone and all in one batch."""
    return engine.is_ready(cameras) and all(engine.is_ready([one]) for one in cameras)


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
        self._loading: Engine | None = None
        self._requests = threading.Lock()
        self._wanted: tuple[Camera, ...] | None = None
        self._compiling: tuple[Camera, ...] | None = None
        self._compiler: threading.Thread | None = None
        self._refused: tuple[tuple[Camera, ...], str, float] | None = None
        self._closing = False
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

    @property
    def compiling(self) -> str:
        """Sizes of the images that the engine is being compiled for now, '' where for none."""
        cameras = self._compiling or ()
        return ', '.join(dict.fromkeys(f'{one.width}x{one.height}' for one in cameras))

    def load(self, path: str, cameras: Sequence[Camera]) -> None:
        """Load and warm up the first engine, in the caller's thread. Raises PsdDepthError."""
        self._engine = self._prepare(path, cameras)

    def expect(self, cameras: Sequence[Camera]) -> str:
        """Compile for images of these cameras in a thread of its own; returns at once.

        Does nothing where all is compiled. Frames of other sizes go on meanwhile. One request is
        worked on at a time and the newest one waits; those between are forgotten, for frames that
        still come ask again. Returns the reason where it failed a short while ago, else ''.
        """
        wanted, engine = tuple(cameras), self._engine
        if engine is None or is_prepared(engine, wanted):
            return ''
        with self._requests:
            if self._closing or wanted == self._compiling:
                return ''
            if self._refused is not None and self._refused[0] == wanted:
                if time.monotonic() < self._refused[2]:
                    return self._refused[1]
                self._refused = None
            self._wanted = wanted
            if self._compiler is None:
                self._compiler = threading.Thread(
                    target=self._compile_wanted, name='compiler', daemon=True
                )
                self._compiler.start()
        return ''

    def replace(
        self,
        path: str,
        cameras: Callable[[], Sequence[Camera]],
        judge: Callable[[Engine], None],
        done: Callable[[str], None],
    ) -> None:
        """Load a replacement beside the running engine and swap it in between two frames.

        Returns at once. `cameras` tells what to compile for. `judge` may refuse the new engine by
        raising PsdDepthError. `done` is called from the loader's thread with the reason of a
        failure, or ''.
        """

        def work() -> None:
            done(self._try_replace(path, cameras, judge))

        self._loader = threading.Thread(target=work, name='checkpoint_loader', daemon=True)
        self._loader.start()

    @contextmanager
    def hold(self) -> Iterator[Engine]:
        """Use the engine for one batch; a swap waits until it is over."""
        with self._lock:
            yield self.engine

    def close(self) -> None:
        """End what is being loaded or compiled, and give the engine's memory back."""
        with self._requests:
            self._closing, self._wanted = True, None
        if self._loading is not None:
            self._loading.close()
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            self._engine = None
        for thread in (self._loader, self._compiler):
            if thread is not None:
                thread.join()
        self._loader = None

    def _compile_wanted(self) -> None:
        """Work until nothing more is wanted; in the compiler's thread."""
        while True:
            with self._requests:
                engine, cameras = self._engine, self._wanted
                self._compiling, self._wanted = cameras, None
                if cameras is None or engine is None:
                    self._compiling = self._compiler = None
                    return
            try:
                engine.prepare(cameras)
            except Exception as error:  # noqa: BLE001 - frames of other sizes must go on
                if engine is self._engine and not self._closing:
                    kind = '' if isinstance(error, PsdDepthError) else f'{type(error).__name__}: '
                    self._refused = (cameras, f'{kind}{error}', time.monotonic() + RETRY_S)

    def _try_replace(
        self,
        path: str,
        cameras: Callable[[], Sequence[Camera]],
        judge: Callable[[Engine], None],
    ) -> str:
        try:
            engine = self._prepare(path, cameras())
            try:
                judge(engine)
                # Sizes that came while it was loaded.
                engine.prepare(cameras())
            except BaseException:
                engine.close()
                raise
        except PsdDepthError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the running engine must survive anything
            return f'{type(error).__name__}: {error}'
        with self._lock:
            if self._closing:
                engine.close()
                return 'the node was cleaned up meanwhile'
            old, self._engine, self._refused = self._engine, engine, None
        if old is not None:
            old.close()
        return ''

    def _prepare(self, path: str, cameras: Sequence[Camera]) -> Engine:
        engine = self._factory.load(path, self._device, self._backend)
        try:
            self._loading = engine
            if self._closing:
                raise PsdDepthError('the node was cleaned up meanwhile')
            engine.warm_up(cameras)
        except BaseException:
            engine.close()
            raise
        finally:
            self._loading = None
        return engine
