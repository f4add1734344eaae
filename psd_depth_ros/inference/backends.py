"""Inference backends: the libraries that can run a depth network, behind one interface.

A backend maps the normalised image and the intrinsics to the three maps of the network. It
compiles the network for each input shape; `prepare` does so ahead of time, also in another thread.
None of them needs torch in this process, but `torch_backend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
import functools
import threading
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.inference.conversion import Convert, import_openvino, Shape
from psd_depth_ros.inference.openvino_graph import cpu_settings
from psd_depth_ros.runtime import trim_memory

Array = NDArray[np.float32]

MAX_SHAPES = 4  # kept compiled, 50 to 100 MB each; more only where more are in use at once
Compiled = TypeVar('Compiled')


class Backend(Protocol):
    """Runs one network on one device.

    One thread may call `run` while another one calls `prepare`.
    """

    name: str

    def run(self, image: Any, intrinsics: Any) -> Any:
        """Images (B, 3, H, W) and fx fy cx cy (B, 4), float32, to u', sigma and sky probability.

        Returns (B, 3, h, w) float32, which the next call may overwrite. All are arrays on a CPU,
        and tensors on the device elsewhere.
        """

    def is_ready(self, shape: Shape) -> bool:
        """Whether the network is compiled for images of this shape (B, 3, H, W)."""

    def prepare(self, shapes: Sequence[Shape], convert: Convert | None = None) -> None:
        """Compile for images of these shapes and keep them all compiled.

        `convert` converts the network where that is needed; by default as for `run`.
        """

    def close(self) -> None:
        """Free the memory; the backend cannot be used afterwards."""


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


class LoadedBackend:
    """Base of backends whose network comes ready-made: nothing is converted or compiled."""

    def is_ready(self, shape: Shape) -> bool:
        """See `Backend.is_ready`."""
        return True

    def prepare(self, shapes: Sequence[Shape], convert: Convert | None = None) -> None:
        """See `Backend.prepare`."""


class ConvertedBackend(ABC, Generic[Compiled]):
    """A library that compiles a converted network for each input shape when it is needed.

    Args:
        convert: Converts the network to the format of the library.
    """

    def __init__(self, convert: Convert) -> None:
        self._convert: Convert | None = convert
        self._networks: CompiledNetworks[Compiled] = CompiledNetworks()

    def is_ready(self, shape: Shape) -> bool:
        """See `Backend.is_ready`."""
        return shape in self._networks

    def prepare(self, shapes: Sequence[Shape], convert: Convert | None = None) -> None:
        """See `Backend.prepare`."""
        self._networks.keep(len(shapes))
        for shape in shapes:
            self._networks.get(
                shape, functools.partial(self._compile, shape, convert or self._convert)
            )

    def close(self) -> None:
        """Drop the compiled networks and the weights."""
        self._networks.close()
        self._convert = None

    def _network(self, shape: Shape) -> Compiled:
        return self._networks.get(shape, lambda: self._compile(shape, self._convert))

    @abstractmethod
    def _compile(self, shape: Shape, convert: Convert | None) -> Compiled:
        """Convert and compile for a shape; `convert` is None once the backend is closed."""


class OpenVinoBackend(ConvertedBackend[list[Any]]):
    """OpenVINO on the CPU: bfloat16 where the CPU has it, measured fastest of the three.

    The stem of an encoder that has one is a network of its own, in float32.
    """

    name = 'openvino'

    def __init__(self, convert: Convert, half: bool = True) -> None:
        self._core = import_openvino().Core()
        capabilities = self._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        self._precision = 'bf16' if half and 'BF16' in capabilities else 'f32'
        super().__init__(convert)

    def run(self, image: Array, intrinsics: Array) -> Array:
        """See `Backend.run`."""
        *stem, rest = self._network(image.shape)
        # Inputs and outputs are shared, not copied: the result is overwritten by the next call.
        x = np.ascontiguousarray(image)
        for part in stem:
            x = part.infer([x], share_inputs=True, share_outputs=True)[0]
        maps: Array = rest.infer([x, intrinsics], share_inputs=True, share_outputs=True)[0]
        return maps

    def _compile(self, shape: Shape, convert: Convert | None) -> list[Any]:
        assert convert is not None, 'the engine was closed'
        *stem, rest = convert('openvino', shape)
        parts = [self._compile_part(part, 'f32') for part in stem]
        return [*parts, self._compile_part(rest, self._precision)]

    def _compile_part(self, part: Any, precision: str) -> Any:
        compiled = self._core.compile_model(part, 'CPU', cpu_settings(precision))
        return compiled.create_infer_request()


class OnnxBackend(ConvertedBackend[Any]):
    """ONNX Runtime on the CPU in float32, for processors that OpenVINO does not support."""

    name = 'onnxruntime'

    def run(self, image: Array, intrinsics: Array) -> Array:
        """See `Backend.run`."""
        session = self._network(image.shape)
        feed = {'image': np.ascontiguousarray(image), 'intrinsics': intrinsics}
        maps: Array = session.run(None, feed)[0]
        return maps

    def _compile(self, shape: Shape, convert: Convert | None) -> Any:
        import onnxruntime

        assert convert is not None, 'the engine was closed'
        (content,) = convert('onnx', shape)
        return onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
