"""The engine in use, and the one thread that runs it: newest images in, published results out.

Images of several cameras that wait together share one batch. Whatever goes wrong with an image is
counted and logged, and the next one is processed. Images of a size that the engine is not compiled
for wait for a thread that compiles beside the others; another checkpoint is loaded and warmed up
in its own thread while the old engine goes on, then takes its place between two batches.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import threading
import time
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthFrame, Scale
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.temporal import TemporalFilter
from psd_depth_ros.ros.common import REPEAT_S, ThrottledLogger
from psd_depth_ros.ros.depth_node.camera import (
    ArrivedFrame,
    CameraStream,
    Durations,
    PreparedFrame,
)
from psd_depth_ros.ros.depth_node.scale import CameraScale, CameraScales
from psd_depth_ros.ros.depth_node.settings import DepthImageSettings
from psd_depth_ros.runtime import trim_memory

RETRY_S = 30.0
STOP_TIMEOUT_S = 20.0

Key = TypeVar('Key', bound=Hashable)
Frame = TypeVar('Frame')


class Engine(Protocol):
    """What the node needs of `inference.DepthEngine`."""

    checkpoint: Checkpoint
    pixel_budget: int  # most pixels of the network's input

    @property
    def device(self) -> str:
        """The device it runs on."""

    @property
    def backend(self) -> str:
        """The library that runs it."""

    def infer_batch(
        self,
        requests: Sequence[tuple[npt.NDArray[np.uint8], Camera]],
        *,
        scales: Sequence[Scale] | None = None,
        settings: DepthSettings | None = None,
        full_size: bool = True,
        moments: Sequence[tuple[TemporalFilter, int]] | None = None,
    ) -> list[DepthFrame]:
        """One DepthFrame for each image (H, W, 3) uint8 RGB and its camera."""

    def is_ready(self, cameras: Sequence[Camera]) -> bool:
        """Whether images of these cameras, in one batch, need no compiling first."""

    def prepare(self, cameras: Sequence[Camera]) -> None:
        """Compile for images of these cameras, while other images are processed."""

    def warm_up(self, cameras: Sequence[Camera]) -> None:
        """Compile and run once for images of these cameras."""

    def close(self) -> None:
        """Give the device's memory back."""


class EngineFactory(Protocol):
    """Makes engines; replaced by a cheap one in tests."""

    def load(self, path: str, device: str, backend: str, pixel_budget: int) -> Engine:
        """Load a checkpoint, the shipped one for ''; budget 0 is its own. Raises PsdDepthError."""

    def check(self, path: str) -> None:
        """Raise PsdDepthError where a file is recognisably no checkpoint of ours; fast."""


class EngineHandle:
    """Holds the engine in use; thread-safe between worker, executor, loader and compiler.

    Args:
        factory: Makes the engines.
        device: Device of every engine.
        backend: Library that runs every engine.
    """

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
        self._is_closing = False
        self.durations = Durations()

    @property
    def engine(self) -> Engine:
        """The engine in use. Only where `load` succeeded."""
        assert self._engine is not None, 'configure comes first'
        return self._engine

    @property
    def is_loading(self) -> bool:
        """Whether a replacement is being loaded now."""
        return self._loader is not None and self._loader.is_alive()

    @property
    def compiling(self) -> str:
        """Image sizes that the engine is being compiled for now, '' without any."""
        cameras = self._compiling or ()
        return ', '.join(dict.fromkeys(f'{camera.width}x{camera.height}' for camera in cameras))

    def check(self, path: str) -> None:
        """Raise PsdDepthError where `path` cannot be a checkpoint."""
        self._factory.check(path)

    def load(self, path: str, cameras: Sequence[Camera], pixel_budget: int = 0) -> None:
        """Load and warm up the first engine, in the caller's thread. Raises PsdDepthError."""
        self._engine = self._make(path, cameras, pixel_budget)

    @contextmanager
    def borrow(self) -> Iterator[Engine]:
        """Use the engine for one batch; a replacement waits until it is over."""
        with self._lock:
            yield self.engine

    def request_compilation(self, cameras: Sequence[Camera]) -> str:
        """Compile for images of these cameras, alone and in one batch, in another thread.

        Returns at once; does nothing where all is compiled. One request is worked on at a time and
        the newest one waits; those between are forgotten, because images that still come request
        it again.

        Returns:
            Why it failed a short while ago, else ''.
        """
        wanted, engine = tuple(cameras), self._engine
        if engine is None or _is_compiled(engine, wanted):
            return ''
        with self._requests:
            if self._is_closing or wanted == self._compiling:
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
        pixel_budget: int = 0,
    ) -> None:
        """Load a replacement beside the running engine and swap it in between two batches.

        Returns at once. A replacement that fails changes nothing.

        Args:
            path: Checkpoint file.
            cameras: Tells which images to compile for.
            judge: May refuse the new engine by raising PsdDepthError.
            done: Called from the loader's thread with the reason of a failure, or ''.
            pixel_budget: Most pixels of the network's input; 0 is that of the checkpoint.
        """

        def work() -> None:
            done(self._try_replace(path, pixel_budget, cameras, judge))

        self._loader = threading.Thread(target=work, name='checkpoint_loader', daemon=True)
        self._loader.start()

    def close(self) -> None:
        """End what is being loaded or compiled, and give the engine's memory back."""
        with self._requests:
            self._is_closing, self._wanted = True, None
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
            except Exception as error:  # noqa: BLE001 - images of other sizes must go on
                if engine is self._engine and not self._is_closing:
                    self._refused = (cameras, _describe(error), time.monotonic() + RETRY_S)

    def _try_replace(
        self,
        path: str,
        pixel_budget: int,
        cameras: Callable[[], Sequence[Camera]],
        judge: Callable[[Engine], None],
    ) -> str:
        try:
            engine = self._make(path, cameras(), pixel_budget)
            try:
                judge(engine)
                engine.prepare(cameras())  # sizes that came while it was loaded
            except BaseException:
                engine.close()
                raise
        except Exception as error:  # noqa: BLE001 - the running engine must survive anything
            return _describe(error)
        with self._lock:
            if self._is_closing:
                engine.close()
                return 'the node was cleaned up meanwhile'
            old, self._engine, self._refused = self._engine, engine, None
        if old is not None:
            old.close()
            trim_memory()
        return ''

    def _make(self, path: str, cameras: Sequence[Camera], pixel_budget: int) -> Engine:
        engine = self._factory.load(path, self._device, self._backend, pixel_budget)
        try:
            self._loading = engine
            if self._is_closing:
                raise PsdDepthError('the node was cleaned up meanwhile')
            engine.warm_up(cameras)
        except BaseException:
            engine.close()
            raise
        finally:
            self._loading = None
        return engine


def _is_compiled(engine: Engine, cameras: Sequence[Camera]) -> bool:
    """Whether images of these cameras need no compiling, alone and all in one batch."""
    return engine.is_ready(cameras) and all(engine.is_ready([camera]) for camera in cameras)


def _describe(error: Exception) -> str:
    """The message of an error of ours; of another its type too."""
    return str(error) if isinstance(error, PsdDepthError) else f'{type(error).__name__}: {error}'


class LatestFrames(Generic[Key, Frame]):
    """One-slot mailboxes: the newest image of every camera. Thread-safe.

    An image that arrives while another one of its camera waits replaces it, so latency stays
    bounded whatever the input rate.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._frames: dict[Key, Frame] = {}
        self._is_closed = False

    def put(self, key: Key, frame: Frame) -> bool:
        """Leave an image; True where it replaced one that nobody took. Ignored once closed."""
        with self._condition:
            replaced = key in self._frames
            if not self._is_closed:
                self._frames[key] = frame
                self._condition.notify_all()
            return replaced

    def take(self, expected: int = 1, patience_s: float = 0.0) -> dict[Key, Frame] | None:
        """Wait for an image, then take all that wait; None once closed.

        With `expected` cameras the call waits up to `patience_s` more for the missing ones, so
        that cameras that fire together share one batch.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._is_closed or self._frames)
            deadline = time.monotonic() + patience_s
            while len(self._frames) < expected and not self._is_closed:
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    break
                self._condition.wait(remaining_s)
            if self._is_closed:
                return None
            frames, self._frames = self._frames, {}
            return frames

    def close(self) -> None:
        """Wake and end every `take`; later images are ignored."""
        with self._condition:
            self._is_closed = True
            self._frames.clear()
            self._condition.notify_all()


@dataclass(frozen=True)
class _Result:
    """An image, its depth, and the factor of the scale that this depth was multiplied by."""

    camera: CameraStream
    ready: PreparedFrame
    frame: DepthFrame
    scale: CameraScale
    applied_scale: float


class DepthWorker:
    """Thread that takes the newest images through decoding, network, scale and publishing.

    Args:
        engine: The engine to borrow.
        scales: The metric scale of each camera.
        cameras: Every camera of the node.
        settings: Size of the depth, and which depths are valid.
        batch_wait_s: How long the first of several cameras waits for the others.
        logger: For errors.
        is_alive: Whether the middleware still runs.
    """

    def __init__(
        self,
        engine: EngineHandle,
        scales: CameraScales,
        cameras: Sequence[CameraStream],
        settings: DepthImageSettings,
        batch_wait_s: float,
        logger: ThrottledLogger,
        is_alive: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._scales = scales
        self._cameras = cameras
        self._settings = settings
        self._batch_wait_s = batch_wait_s
        self._logger = logger
        self._is_alive = is_alive
        self._filters = {camera: TemporalFilter() for camera in cameras}
        self._mailbox: LatestFrames[CameraStream, ArrivedFrame] = LatestFrames()
        self._thread = threading.Thread(target=self._run, name='depth_worker', daemon=True)

    def start(self) -> None:
        """Begin to take images."""
        self._thread.start()

    def configure(self, settings: DepthImageSettings, batch_wait_s: float) -> None:
        """Take changed settings, from the next batch on."""
        self._settings, self._batch_wait_s = settings, batch_wait_s
        if not settings.temporal_s > 0:  # off, they see no images and hold nothing
            for temporal in self._filters.values():
                temporal.reset()

    def hand_over(self, camera: CameraStream, frame: ArrivedFrame) -> bool:
        """Leave an image; True where it replaced an older one of the same camera."""
        return self._mailbox.put(camera, frame)

    def stop(self) -> None:
        """End after the batch in progress, which a network may need a while for."""
        self._mailbox.close()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while True:
            frames = self._mailbox.take(len(self._cameras), self._batch_wait_s)
            if frames is None:
                return
            self._process(frames)

    def _process(self, frames: dict[CameraStream, ArrivedFrame]) -> None:
        """Prepare, infer and publish the images that wait."""
        prepared = [
            (camera, ready)
            for camera, frame in frames.items()
            if (ready := self._guard(camera, camera.prepare, frame)) is not None
        ]
        if not prepared:
            return
        try:
            results = self._infer(prepared)
        except Exception as error:  # noqa: BLE001 - the node must survive any image
            for camera, _ in prepared:
                self._fail(camera, error)
            return
        for result in results:
            self._guard(result.camera, self._publish, result)

    def _infer(self, batch: Sequence[tuple[CameraStream, PreparedFrame]]) -> list[_Result]:
        """Run the network once for all images, each with the scale known before it.

        Images of a size that the network is not compiled for are dropped and counted, and it is
        compiled beside the others.
        """
        with self._engine.borrow() as engine:
            known = [stream.camera for stream in self._cameras if stream.camera is not None]
            refusal = self._engine.request_compilation(known)
            ready = []
            for camera, frame in batch:
                if not camera.is_wanted(frame):
                    continue
                if engine.is_ready([frame.camera]):
                    ready.append((camera, frame))
                else:
                    camera.wait_for_network(frame.camera, refusal)
            if not ready:
                return []
            if engine.is_ready([frame.camera for _, frame in ready]):
                return self._run_engine(engine, ready)
            return [result for item in ready for result in self._run_engine(engine, [item])]

    def _run_engine(
        self, engine: Engine, batch: Sequence[tuple[CameraStream, PreparedFrame]]
    ) -> list[_Result]:
        settings = self._settings
        full_size = settings.size == 'native'
        for camera, ready in batch:
            if (spots := camera.spots) is None:
                continue
            if ready.is_calibrated:  # now, for the results of the batch live until the next one
                spots.add(engine, ready.rgb, ready.camera, full_size)
            else:
                spots.problem = f'{camera.name} is not calibrated (camera_info); do that first'
        scales = []
        for camera, ready in batch:
            reset = camera.take_reset()
            if reset:
                self._filters[camera].reset()
            scales.append(
                self._scales.for_camera(camera.name, engine.checkpoint, ready.camera, reset)
            )
        applied = [camera_scale.report.scale for camera_scale in scales]
        start_ns = time.monotonic_ns()
        frames = engine.infer_batch(
            [(ready.rgb, ready.camera) for _, ready in batch],
            scales=applied,
            settings=settings,
            full_size=full_size,
            moments=[(self._filters[camera], ready.arrived.stamp_ns) for camera, ready in batch]
            if settings.temporal_s > 0
            else None,
        )
        self._engine.durations.add_ns(time.monotonic_ns() - start_ns)
        return [
            _Result(camera, ready, frame, camera_scale, scale.factor)
            for (camera, ready), frame, camera_scale, scale in zip(
                batch, frames, scales, applied, strict=True
            )
        ]

    def _publish(self, result: _Result) -> None:
        """Publish a result where its depth may be called what the topic says, and learn from it.

        What an image can tell of its own scale at once goes before the publishing.
        """
        camera, ready, scale, frame = result.camera, result.ready, result.scale, result.frame
        is_prompt = ready.is_calibrated and scale.is_prompt
        if is_prompt:
            scale.observe(ready, frame, result.applied_scale)
            frame = scale.settle(frame, ready.arrived.stamp_ns)
        if scale.is_relative or scale.report.is_known or not ready.is_calibrated:
            camera.publish(ready, frame)
        else:
            camera.withhold(
                'scale_unknown',
                f'scale.mode is {scale.report.mode} and nothing was measured yet: depth waits '
                'for it',
            )
        if ready.is_calibrated and not is_prompt:
            scale.observe(ready, result.frame, result.applied_scale)

    def _guard(self, camera: CameraStream, step: Callable[[Any], Any], argument: Any) -> Any:
        try:
            return step(argument)
        except Exception as error:  # noqa: BLE001 - the node must survive any image
            self._fail(camera, error)
            return None

    def _fail(self, camera: CameraStream, error: Exception) -> None:
        if not self._is_alive():
            return  # the middleware was shut down while an image was processed
        camera.withhold('failed', str(error))
        key = type(error).__name__
        self._logger.error(key, f'{camera.name}: {_describe(error)}', REPEAT_S)
