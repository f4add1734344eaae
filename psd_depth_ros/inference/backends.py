"""Inference backends: the libraries that can run a depth network, behind one interface.

A backend maps the normalised image and the intrinsics to the three maps of the network. It
compiles the network for each input shape; `prepare` does so ahead of time, also in another thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
import functools
import importlib.util
import threading
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from psd_depth_ros.errors import DeviceError
from psd_depth_ros.inference.conversion import (
    Convert,
    convert_in_process,
    example_inputs,
    import_openvino,
    MapsModel,
    Shape,
)
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.runtime import has_bfloat16, trim_memory

BACKENDS = ('auto', 'torch', 'openvino', 'onnxruntime')
MAX_SHAPES = 4  # kept compiled, 50 to 100 MB each; more only where more are in use at once
Compiled = TypeVar('Compiled')


class Backend(Protocol):
    """Runs one network on one device.

    One thread may call `run` while another one calls `prepare`.
    """

    name: str

    def run(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """Images (B, 3, H, W) and fx fy cx cy (B, 4), float32, to u', sigma and sky probability.

        Returns (B, 3, h, w) float32, which the next call may overwrite.
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


class TorchBackend:
    """PyTorch: bfloat16 on CPUs that have it, float16 and CUDA graphs on a GPU; channels-last.

    `half` False keeps float32 everywhere.
    """

    name = 'torch'

    def __init__(self, model: DepthModel, device: torch.device, half: bool = True) -> None:
        self._device = device
        maps = MapsModel(model).to(device)
        self._model: MapsModel | None = maps.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._half = half and has_bfloat16(device.type)
        self._type = torch.float16 if device.type == 'cuda' else torch.bfloat16
        self._graphs: CompiledNetworks[_CudaGraph] = CompiledNetworks()

    def run(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """See `Backend.run`."""
        if self._device.type != 'cuda':
            return self._forward(image, intrinsics)
        graph = self._graphs.get(
            tuple(image.shape), lambda: _CudaGraph(self._forward, image, intrinsics)
        )
        return graph.replay(image, intrinsics)

    def is_ready(self, shape: Shape) -> bool:
        """See `Backend.is_ready`."""
        return self._device.type != 'cuda' or shape in self._graphs

    @torch.inference_mode()
    def prepare(self, shapes: Sequence[Shape], convert: Convert | None = None) -> None:
        """See `Backend.prepare`; there is nothing to convert."""
        if self._device.type != 'cuda':
            return
        self._graphs.keep(len(shapes))
        for shape in shapes:
            image, intrinsics = (one.to(self._device) for one in example_inputs(shape))
            self._graphs.get(
                shape, functools.partial(_CudaGraph, self._forward, image, intrinsics)
            )

    def close(self) -> None:
        """Drop the graphs and the weights."""
        self._graphs.close()
        self._model = None
        if self._device.type == 'cuda':
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _forward(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        assert self._model is not None, 'the engine was closed'
        image = image.contiguous(memory_format=torch.channels_last)
        # Cached casts of the weights would be kept in the memory pool of a CUDA graph.
        with torch.autocast(
            self._device.type, self._type, enabled=self._half, cache_enabled=False
        ):
            maps: Tensor = self._model(image, intrinsics)
        return maps.float()


class _CudaGraph:
    """A recorded forward pass: no launch cost for a hundred small kernels.

    All graphs are recorded on torch's capture stream, one at a time: torch keeps scratch memory
    for every stream that a matrix was multiplied on, and would keep more with every network.
    """

    _recording = threading.Lock()

    def __init__(
        self, forward: Callable[[Tensor, Tensor], Tensor], image: Tensor, intrinsics: Tensor
    ) -> None:
        self._image, self._intrinsics = image.clone(), intrinsics.clone()
        self._graph = torch.cuda.CUDAGraph()
        # Another engine may run in another thread while this one is loaded.
        record = torch.cuda.graph(self._graph, capture_error_mode='thread_local')
        stream = record.capture_stream
        assert stream is not None
        with self._recording:
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    forward(self._image, self._intrinsics)
            torch.cuda.current_stream().wait_stream(stream)
            with record:
                self._output = forward(self._image, self._intrinsics)

    def replay(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """Run on new input; the next call overwrites the result."""
        self._image.copy_(image)
        self._intrinsics.copy_(intrinsics)
        self._graph.replay()
        return self._output


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

    def __init__(
        self, model: DepthModel, half: bool = True, convert: Convert | None = None
    ) -> None:
        self._core = import_openvino().Core()
        self._core.set_property('CPU', {'PERFORMANCE_HINT': 'LATENCY'})
        capabilities = self._core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
        self._precision = 'bf16' if half and 'BF16' in capabilities else 'f32'
        super().__init__(convert or convert_in_process(model))

    def run(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """See `Backend.run`."""
        shape = tuple(image.shape)
        *stem, rest = self._network(shape)
        # Inputs and outputs are shared, not copied: the result is overwritten by the next call.
        x = image.contiguous().numpy()
        for part in stem:
            x = part.infer([x], share_inputs=True, share_outputs=True)[0]
        maps = rest.infer([x, intrinsics.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(maps[0])

    def _compile(self, shape: Shape, convert: Convert | None) -> list[Any]:
        assert convert is not None, 'the engine was closed'
        *stem, rest = convert('openvino', shape)
        parts = [self._compile_part(part, 'f32') for part in stem]
        return [*parts, self._compile_part(rest, self._precision)]

    def _compile_part(self, part: Any, precision: str) -> Any:
        settings = {
            'INFERENCE_PRECISION_HINT': precision,
            # Pinned threads wait for whatever else runs on their core: beside one busy process on
            # two cores, 2,000 ms per image instead of 160.
            'ENABLE_CPU_PINNING': False,
        }
        return self._core.compile_model(part, 'CPU', settings).create_infer_request()


class OnnxBackend(ConvertedBackend[Any]):
    """ONNX Runtime on the CPU in float32, for processors that OpenVINO does not support."""

    name = 'onnxruntime'

    def __init__(self, model: DepthModel, convert: Convert | None = None) -> None:
        super().__init__(convert or convert_in_process(model))

    def run(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """See `Backend.run`."""
        shape = tuple(image.shape)
        session = self._network(shape)
        feed = {'image': image.contiguous().numpy(), 'intrinsics': intrinsics.numpy()}
        return torch.from_numpy(session.run(None, feed)[0])

    def _compile(self, shape: Shape, convert: Convert | None) -> Any:
        import onnxruntime

        assert convert is not None, 'the engine was closed'
        (content,) = convert('onnx', shape)
        return onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])


def choose_device(wanted: str) -> torch.device:
    """The device called `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises DeviceError where it is not available; there is no fallback.
    """
    if wanted == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise DeviceError(
            f'unknown device {wanted!r}, expected auto, cpu, cuda or cuda:N'
        ) from error
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f'device {wanted!r} is not there: torch {torch.__version__} sees '
            f'{torch.cuda.device_count()} CUDA devices; install a CUDA build of torch and the '
            'driver, or choose device auto or cpu'
        )
    if device.type not in ('cpu', 'cuda'):
        raise DeviceError(f'device {wanted!r} is not supported, expected auto, cpu or cuda')
    return device


def make_backend(
    name: str, model: DepthModel, device: torch.device, convert: Convert | None = None
) -> Backend:
    """Make a backend by name; `auto` is OpenVINO on a CPU where it is installed, else torch.

    `convert` converts the network for backends that need it (default: in this process). Raises
    DeviceError for an unknown name, a backend that is not installed, or one that cannot run on the
    device.
    """
    if name not in BACKENDS:
        raise DeviceError(f'unknown backend {name!r}, expected one of {", ".join(BACKENDS)}')
    if name == 'auto':
        on_cpu = device.type == 'cpu' and _is_installed('openvino')
        name = 'openvino' if on_cpu else 'torch'
    if name == 'torch':
        return TorchBackend(model, device)
    if device.type != 'cpu':
        raise DeviceError(f'backend {name!r} runs on the CPU only; use torch on {device}')
    needed = ('openvino',) if name == 'openvino' else ('onnxruntime', 'onnx', 'onnxscript')
    missing = [package for package in needed if not _is_installed(package)]
    if missing:
        raise DeviceError(
            f'backend {name!r} needs {", ".join(missing)}: '
            f'pip install "psd_depth_ros[{name}]", or choose backend auto'
        )
    if name == 'openvino':
        return OpenVinoBackend(model, convert=convert)
    return OnnxBackend(model, convert)


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
