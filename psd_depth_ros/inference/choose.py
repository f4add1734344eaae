"""Which device and which library run a network, by their names."""

from __future__ import annotations

from collections.abc import Callable
import importlib.util
import os
import sys
from typing import Any, TYPE_CHECKING

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.errors import DeviceError
from psd_depth_ros.inference.backends import Backend, OnnxBackend, OpenVinoBackend
from psd_depth_ros.inference.conversion import Convert, needs_torch, Shape

if TYPE_CHECKING:
    import torch

    from psd_depth_ros.networks import DepthModel

BACKENDS = ('auto', 'torch', 'openvino', 'onnxruntime')
# Of the drivers of NVIDIA (graphics cards, Jetson, WSL) and AMD on Linux. Where no rule of udev
# makes the devices of NVIDIA, CUDA itself does, by the program at the end.
_GPU_FILES = (
    *(f'/dev/{name}' for name in ('nvidiactl', 'nvidia0', 'nvhost-gpu', 'nvmap', 'dxg', 'kfd')),
    '/proc/driver/nvidia/version',
    '/usr/bin/nvidia-modprobe',
)


def is_cpu(wanted: str) -> bool:
    """Whether the device that `choose_device` would choose is the CPU.

    torch is asked only where it is installed and there may be a GPU. Raises DeviceError as
    `choose_device`.
    """
    if wanted == 'cpu' or (wanted == 'auto' and not (_may_have_gpu() and _is_installed('torch'))):
        return True
    return choose_device(wanted).type == 'cpu'


def choose_device(wanted: str) -> torch.device:
    """The device called `auto` (a GPU where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises DeviceError where it is not available; there is no fallback.
    """
    try:
        import torch
    except ImportError as error:
        raise DeviceError(
            f'device {wanted!r} needs torch, which cannot be imported ({error}): install it, or '
            'choose device cpu'
        ) from error

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
        network = model()
        from psd_depth_ros.inference.torch_backend import TorchBackend

        return TorchBackend(network, device)
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


def load_here(checkpoint: Checkpoint) -> DepthModel:
    """The network of a checkpoint, as `networks.load_model`. Raises DeviceError without torch."""
    try:
        from psd_depth_ros.networks.depth_model import load_model
    except ImportError as error:
        raise needs_torch(checkpoint.path, str(error)) from error
    return load_model(checkpoint)


def convert_here(model: Callable[[], DepthModel]) -> Convert:
    """A converter that works in this process, where it makes the network when it is needed."""

    def convert(kind: str, shape: Shape) -> tuple[Any, ...]:
        network = model()
        from psd_depth_ros.inference.torch_conversion import convert_in_process

        return convert_in_process(network)(kind, shape)

    return convert


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _may_have_gpu() -> bool:
    """False where a Linux has none of the files that come with a GPU."""
    return sys.platform != 'linux' or any(os.path.exists(path) for path in _GPU_FILES)
