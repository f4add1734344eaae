"""Training in several processes, on one machine or several; a single process is the same code.

`accelerate` finds out how the program was launched, wraps the module and averages the gradients.
Decisions that all processes must share (progress, stop, roll back) travel between the CPUs, so
that no step waits for a GPU because of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
import torch
from torch import distributed, nn, Tensor

from psd_depth_ros.errors import DeviceError, SettingsError
from psd_depth_ros.inference.choose import choose_device

# One process renders, decodes or validates while the others wait.
TIMEOUT = timedelta(hours=6)


class Distributed:
    """The process group of a run, as one of its processes sees it.

    Args:
        device: auto, cpu, cuda or cuda:N; with several processes each takes a GPU of its own.

    Raises:
        DeviceError: the device does not exist, or this process has trained on another kind.
    """

    def __init__(self, device: str = 'auto') -> None:
        wanted = choose_device(device)
        if wanted.type == 'cuda' and wanted.index is not None:
            torch.cuda.set_device(wanted)
        self._accelerator = _accelerator(wanted.type)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self._cpu_group = (
            distributed.new_group(backend='gloo', timeout=TIMEOUT) if self.world_size > 1 else None
        )

    def describe(self) -> dict[str, Any]:
        """Device, number of processes and version of torch, as JSON values."""
        is_gpu = self.device.type == 'cuda'
        name = torch.cuda.get_device_name(self.device) if is_gpu else str(self.device)
        return {'device': name, 'processes': self.world_size, 'torch': str(torch.__version__)}

    def check_batch(self, batch: int) -> None:
        """Raise SettingsError unless every process gets an equal part of `batch` images."""
        if batch % self.world_size:
            raise SettingsError(
                f'batch is {batch}, which {self.world_size} processes cannot share equally; '
                f'choose a multiple of {self.world_size}'
            )

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the body in the first process of each machine, then in the others."""
        with self._accelerator.local_main_process_first():
            yield

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap a module so that its gradients are averaged over all processes."""
        wrapped: nn.Module = self._accelerator.prepare_model(module)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss (0-dim), averaged over all processes."""
        self._accelerator.backward(loss)

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """The numbers of the main process, in every process."""
        if self._cpu_group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(tensor, 0, group=self._cpu_group)
        return tensor.tolist()

    def all_reduce_mean(self, values: Sequence[float]) -> list[float]:
        """Each number averaged over the processes; the same bits in all of them."""
        if self._cpu_group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, group=self._cpu_group)
        return self.broadcast((tensor / self.world_size).tolist())

    def broadcast_bytes(self, content: bytes) -> bytes:
        """The bytes of the main process, in every process; the others' argument is ignored."""
        if self._cpu_group is None:
            return content
        size = int(self.broadcast([len(content)])[0])
        buffer = torch.empty(size, dtype=torch.uint8)
        if self.is_main:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(buffer, 0, group=self._cpu_group)
        return buffer.numpy().tobytes()


def _accelerator(kind: str) -> Accelerator:
    """Raise DeviceError where this process has already trained on another kind of device."""
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=True),
        InitProcessGroupKwargs(timeout=TIMEOUT),
    ]
    try:
        # The loop does its own autocast, whatever `accelerate config` says.
        accelerator = Accelerator(
            cpu=kind == 'cpu', mixed_precision='no', kwargs_handlers=handlers
        )
    except ValueError as error:
        raise _other_device(kind) from error
    if accelerator.device.type != kind:
        raise _other_device(kind)
    return accelerator


def _other_device(kind: str) -> DeviceError:
    return DeviceError(
        f'training on {kind} was asked for, but this process has already trained on another '
        'device; start a process of its own'
    )
