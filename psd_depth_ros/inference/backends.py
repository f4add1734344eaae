"""Inference backends: the libraries that can run a depth network, behind one interface.

A backend maps the normalised image and the intrinsics to the three maps of the network. It
compiles the network for each input shape; `prepare` does so ahead of time, also in another thread.
None of them needs torch in this process, but `torch_backend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
import functools
import importlib.util
import os
import sys
from typing import Any, Generic, Protocol, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import DeviceError
from psd_depth_ros.inference.compiled_networks import Compiled, CompiledNetworks
from psd_depth_ros.inference.conversion import Convert, import_openvino, Shape

if TYPE_CHECKING:
    import torch

    from psd_depth_ros.networks import DepthModel

Array = NDArray[np.float32]

# Of the drivers of NVIDIA (graphics cards, Jetson, WSL) and AMD on Linux.
_GPU_DEVICES = tuple(
    f'/dev/{name}' for name in ('nvidiactl', 'nvidia0', 'nvhost-gpu', 'nvmap', 'dxg', 'kfd')
)
BACKENDS = ('auto', 'torch', 'openvino', 'onnxruntime')


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
        self._core.set_property('CPU', {'PERFORMANCE_HINT': 'LATENCY'})
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


def is_cpu(wanted: str) -> bool:
    """Whether the device that `choose_device` would choose is the CPU.

    torch is asked only where there may be a GPU. Raises DeviceError as `choose_device`.
    """
    if wanted == 'cpu' or (wanted == 'auto' and not _may_have_gpu()):
        return True
    return choose_device(wanted).type == 'cpu'


def choose_device(wanted: str) -> torch.device:
    """The device called `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises DeviceError where it is not available; there is no fallback.
    """
    import torch

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
    name: str, model: Callable[[], DepthModel], device: str, convert: Convert | None = None
) -> Backend:
    """Make a backend by name; `auto` is OpenVINO on a CPU where it is installed, else torch.

    Args:
        name: One of BACKENDS.
        model: Makes the network, where the backend needs it as such.
        device: `cpu`, `cuda` or `cuda:N`.
        convert: Converts the network for backends that need it (default: in this process).

    Raises DeviceError for an unknown name, a backend that is not installed, or one that cannot run
    on the device.
    """
    if name not in BACKENDS:
        raise DeviceError(f'unknown backend {name!r}, expected one of {", ".join(BACKENDS)}')
    if name == 'auto':
        name = 'openvino' if device == 'cpu' and _is_installed('openvino') else 'torch'
    if name == 'torch':
        from psd_depth_ros.inference.torch_backend import TorchBackend

        return TorchBackend(model(), device)
    if device != 'cpu':
        raise DeviceError(f'backend {name!r} runs on the CPU only; use torch on {device}')
    needed = ('openvino',) if name == 'openvino' else ('onnxruntime', 'onnx', 'onnxscript')
    missing = [package for package in needed if not _is_installed(package)]
    if missing:
        raise DeviceError(
            f'backend {name!r} needs {", ".join(missing)}: '
            f'pip install "psd_depth_ros[{name}]", or choose backend auto'
        )
    made = OpenVinoBackend if name == 'openvino' else OnnxBackend
    return made(convert or convert_here(model))


def convert_here(model: Callable[[], DepthModel]) -> Convert:
    """A converter that works in this process, where it makes the network when it is needed."""

    def convert(kind: str, shape: Shape) -> tuple[Any, ...]:
        from psd_depth_ros.inference.torch_conversion import convert_in_process

        return convert_in_process(model())(kind, shape)

    return convert


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _may_have_gpu() -> bool:
    """False where a Linux has none of the devices that a GPU has."""
    return sys.platform != 'linux' or any(os.path.exists(device) for device in _GPU_DEVICES)
