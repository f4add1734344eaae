"""Training in several processes, on one machine or several; a single process is the same code.

`accelerate` finds out how the program was launched, wraps the module and averages the gradients.
Decisions that all processes must share (progress, stop, roll back) travel between the CPUs, so
that no step waits for a GPU because of them.

A process that dies closes its connections, which ends the others at once. A machine that goes away
(power, network) closes nothing: its silence is noticed by the keepalive of TCP, at every step, as
each begins with a message between the CPUs.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
import os
from pathlib import Path
import socket
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
import torch
from torch import distributed, nn, Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from psd_depth_ros.errors import DeviceError, SettingsError, TrainingError
from psd_depth_ros.inference.choose import choose_device
from psd_depth_ros.parsing import shorten

# One process renders, decodes or validates while the others wait.
TIMEOUT = timedelta(hours=6)
# Launchers wait for each other; then processes find each other in this time, and gloo, which waits
# five times as long for a first connection, gives up within ten minutes.
CONNECT_TIMEOUT = timedelta(minutes=2)
LOST_AFTER_S = 60  # a machine that does not even acknowledge packets for so long is gone
KEEPALIVE_S = 10  # from one question to the next one
# How errors of gloo begin; those of NCCL and of the store have a class of their own.
_GLOO = ('gloo/', '[gloo]')


class Distributed:
    """The process group of a run, as one of its processes sees it.

    Args:
        device: auto, cpu, cuda or cuda:N; with several processes each takes a GPU of its own.

    Raises:
        DeviceError: the device does not exist, or this process has trained on another kind.
        SettingsError: the launcher meant several processes, but gave this one no rank.
        TrainingError: the processes cannot connect to each other.
    """

    def __init__(self, device: str = 'auto') -> None:
        wanted = choose_device(device)
        if wanted.type == 'cuda' and wanted.index is not None:
            torch.cuda.set_device(wanted)
        with explained_peers(_CONNECTING):
            self._accelerator = _accelerator(wanted.type)
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world_size: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self._cpu_group = None
        if self.world_size > 1:
            with explained_peers(_CONNECTING):
                self._cpu_group = distributed.new_group(backend='gloo', timeout=CONNECT_TIMEOUT)
            for group in (distributed.group.WORLD, self._cpu_group):
                _set_pg_timeout(TIMEOUT, group)
            _keep_connections_alive()
            atexit.register(_leave)
        else:
            _check_launcher()

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
        with explained_peers(), self._accelerator.local_main_process_first():
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


_CONNECTING = (
    'the processes cannot connect to each other ({}): start them within '
    f'{CONNECT_TIMEOUT.seconds // 60} minutes of each other, open all ports between the machines, '
    'and name the network interface that joins them, such as eth0, with GLOO_SOCKET_IFNAME (with '
    'GPUs also NCCL_SOCKET_IFNAME)'
)
_LOST = (
    'the connection to another process is lost ({}): it was killed, its machine or the network is '
    'gone, or it ended with an error that its own output names. Start all processes again, with '
    '--resume where the run has saved a state'
)


@contextmanager
def explained_peers(message: str = _LOST) -> Iterator[None]:
    """Turn errors of connections into a TrainingError; `message` has a place for the reason."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not (isinstance(error, distributed.DistError) or any(one in text for one in _GLOO)):
            raise
        raise TrainingError(message.format(shorten(_reason(text)))) from error


def _reason(text: str) -> str:
    """What an error of gloo or NCCL says, without the file of their source and the advice."""
    first = text.strip().splitlines()[0] if text.strip() else 'no reason was given'
    return first.rpartition('.cc:')[2].partition('] ')[2].partition('. This is')[0] or first


def _keep_connections_alive() -> None:
    """Let the kernel ask the other ends of all connections whether they are still there.

    gloo opens its connections with neither SO_KEEPALIVE nor TCP_USER_TIMEOUT (for what was sent
    and not acknowledged) and has no option for them: a machine without power would be waited for
    until TIMEOUT. The kernel of a busy machine answers, however long its process computes.
    """
    tries = LOST_AFTER_S // KEEPALIVE_S - 1
    options = (
        (socket.SOL_SOCKET, 'SO_KEEPALIVE', 1),
        (socket.IPPROTO_TCP, 'TCP_KEEPIDLE', KEEPALIVE_S),
        (socket.IPPROTO_TCP, 'TCP_KEEPINTVL', KEEPALIVE_S),
        (socket.IPPROTO_TCP, 'TCP_KEEPCNT', tries),
        (socket.IPPROTO_TCP, 'TCP_USER_TIMEOUT', 1000 * LOST_AFTER_S),
    )
    for path in Path('/proc/self/fd').glob('*'):  # empty where it is not Linux
        with suppress(OSError):  # no socket, closed meanwhile, or not of TCP
            if not os.readlink(path).startswith('socket:'):
                continue
            with socket.socket(fileno=os.dup(int(path.name))) as one:
                if one.type == socket.SOCK_STREAM and one.family in (
                    socket.AF_INET, socket.AF_INET6
                ):  # fmt: skip
                    for level, name, value in options:
                        one.setsockopt(level, getattr(socket, name), value)


def _leave() -> None:
    """Close connections while Python still runs: threads of gloo left to its end may abort it."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _check_launcher() -> None:
    """Raise SettingsError where `accelerate launch --cpu` was to start several processes.

    It leaves ranks to MPI: without mpirun every process would train alone, on all data.
    """
    if 'ACCELERATE_USE_CPU' in os.environ and 'MASTER_ADDR' in os.environ:
        raise SettingsError(
            'accelerate launch was asked for several processes, but gave this one no rank: '
            'without --multi_gpu it starts only one on each machine, which would train alone. '
            'Give it --multi_gpu, on CPUs too (with --device cpu here), or launch with torchrun'
        )


def _accelerator(kind: str) -> Accelerator:
    """Raise DeviceError where this process has already trained on another kind of device."""
    handlers = [
        DistributedDataParallelKwargs(find_unused_parameters=True),
        InitProcessGroupKwargs(timeout=CONNECT_TIMEOUT),
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
