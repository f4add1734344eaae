"""The processes that train together, on one machine or several; one alone is a team too.

`accelerate` finds out how the program was launched, wraps the module and moves the gradients. The
few numbers that all must agree on (how far the run is, whether it stops or goes back) travel
between the CPUs, so that no step waits for a GPU because of them.
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
from psd_depth_ros.inference.backends import choose_device

# One process renders, decodes or validates while the others wait.
PATIENCE = timedelta(hours=6)


class Team:
    """All processes of a run, seen from one of them.

    `device` is auto, cpu, cuda or cuda:N; where several processes were launched, each GPU process
    gets its own. Raises DeviceError where the device is not there.
    """

    def __init__(self, device: str = 'auto') -> None:
        wanted = choose_device(device)
        if wanted.type == 'cuda' and wanted.index is not None:
            torch.cuda.set_device(wanted)
        self._accelerator = _accelerator(wanted.type)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.count: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self._cpus = (
            distributed.new_group(backend='gloo', timeout=PATIENCE) if self.count > 1 else None
        )

    def describe(self) -> dict[str, Any]:
        """What the team runs on, as JSON."""
        is_gpu = self.device.type == 'cuda'
        name = torch.cuda.get_device_name(self.device) if is_gpu else str(self.device)
        return {'device': name, 'processes': self.count, 'torch': str(torch.__version__)}

    def check_batch(self, batch: int) -> None:
        """Raise SettingsError where a batch cannot be divided into equal parts."""
        if batch % self.count:
            raise SettingsError(
                f'batch is {batch}, which {self.count} processes cannot share equally; '
                f'choose a multiple of {self.count}'
            )

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the first process of each machine do something before the others do it."""
        with self._accelerator.local_main_process_first():
            yield

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module as each process must call it for the gradients to be those of all."""
        wrapped: nn.Module = self._accelerator.prepare_model(module)
        return wrapped

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, averaged over the team."""
        self._accelerator.backward(loss)

    def from_main(self, values: Sequence[float]) -> list[float]:
        """The numbers that the main process has."""
        if self._cpus is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(tensor, 0, group=self._cpus)
        return tensor.tolist()

    def mean(self, values: Sequence[float]) -> list[float]:
        """Each number averaged over the team; the same bits in every process."""
        if self._cpus is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, group=self._cpus)
        return self.from_main((tensor / self.count).tolist())

    def bytes_from_main(self, content: bytes) -> bytes:
        """The bytes that the main process has; what others give does not matter."""
        if self._cpus is None:
            return content
        size = int(self.from_main([len(content)])[0])
        buffer = torch.empty(size, dtype=torch.uint8)
        if self.is_main:
            buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        distributed.broadcast(buffer, 0, group=self._cpus)
        return buffer.numpy().tobytes()


def _accelerator(kind: str) -> Accelerator:
    """Raise DeviceError where this process has already trained on another kind of device."""
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=True),
        InitProcessGroupKwargs(timeout=PATIENCE),
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
