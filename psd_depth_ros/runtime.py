"""Process-wide configuration by programs, never by the library: priority, threads, memory.

A process that trains beside others limits itself before torch is imported, so this module imports
only the standard library; NumPy, OpenCV and torch are imported by the functions that configure
them. Measured on two x86 cores with two more busy processes, for 640x480 images:

- glibc takes blocks of 128 KiB and more from the kernel and returns them at once, so that each
  image of each frame costs page faults. A cloud takes 6 ms, with reused memory 1.2 ms.
- A step of half a millisecond gains little from a second thread, but waits for it to be scheduled,
  and spins meanwhile: preprocessing takes 47 ms with two threads, 0.6 ms with one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import ctypes
from dataclasses import dataclass
import math
import os
from pathlib import Path
import platform
import resource
import sys
from typing import ClassVar, TYPE_CHECKING

from psd_depth_ros.config import setting

if TYPE_CHECKING:
    import torch

THREAD_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
CPU_QUOTA = Path('/sys/fs/cgroup/cpu.max')  # of the container (cgroup v2)
FREE_FRACTION = 0.75
_LEAST_BYTES = 512 * 1024 * 1024  # less than this not even the libraries need
_MEMORY_ERRORS = (
    'out of memory', "can't allocate memory", 'not enough memory', 'insufficient memory'
)  # fmt: skip
_BACKENDS_OF_TORCH = ('torch', 'transformers')
_IOPRIO_SET = {'x86_64': 251, 'aarch64': 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_PROBE_BYTES = 31 * 1024 * 1024  # with its header below glibc's ceiling of 32 MiB


def use_passive_waiting() -> None:
    """Let OpenMP threads sleep while they wait for each other; call it before torch is imported.

    On a busy machine a spinning thread takes the time that the thread it waits for needs: beside
    some 15 busy processes on two cores a step of fine-tuning with two threads took 18.7 s of
    computing time, and 2.6 s with sleeping threads. To fall asleep at once, though, costs a
    quarter of a step on a machine that does nothing else: most waits are shorter than waking up.
    The number of threads stays (a resumed run with another number would not give the same
    weights), and so does what the user has set.
    """
    os.environ.update(waiting_environment(os.environ))


def waiting_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that `use_passive_waiting` adds to those of a process."""
    wanted = {
        'OMP_WAIT_POLICY': 'PASSIVE',  # GNU, LLVM, Intel
        'KMP_BLOCKTIME': '0',  # LLVM, Intel
    }
    if 'OMP_WAIT_POLICY' not in environment:
        wanted['GOMP_SPINCOUNT'] = '5000'  # GNU; a tenth of a millisecond
    return {name: value for name, value in wanted.items() if name not in environment}


@dataclass(frozen=True)
class LimitSettings:
    """Limits of the training process, so that the nodes beside it are not disturbed."""

    threads: int = setting(
        0, 'CPU threads; 0: half of the cores, at least one', minimum=0, maximum=1024
    )
    nice: int = setting(
        15, 'niceness of the training process (19: lowest priority)', minimum=0, maximum=19
    )
    memory_gb: float = setting(
        0.0,
        'memory it may allocate; 0: three quarters of what is free at its start',
        'GB',
        minimum=0.0,
        maximum=1e5,
    )
    gpu_memory_fraction: float = setting(
        0.7, 'fraction of the memory of a GPU that it may use', minimum=0.05, maximum=1.0
    )

    removed_settings: ClassVar[dict[str, str]] = {
        'gpu_memory_share': 'it is limits.gpu_memory_fraction'
    }


def apply_process_limits(limits: LimitSettings) -> int:
    """Lower the priority, threads and memory of this process; returns its memory limit in bytes.

    Call it before torch is imported; it cannot be undone. Memory is limited by RLIMIT_DATA: files
    mapped for reading, such as decoded frames, and address space reserved by a GPU driver do not
    count.
    """
    os.nice(limits.nice)
    with suppress(AttributeError, OSError):  # not on every system
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    _use_idle_disk_priority()
    use_passive_waiting()
    for name in THREAD_VARIABLES:
        os.environ[name] = str(thread_count(limits))
    allowed = memory_bytes(limits)
    if allowed:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    return allowed


def apply_library_limits(limits: LimitSettings) -> None:
    """Limit the threads of torch and OpenCV and the memory of each GPU."""
    import cv2
    import torch

    reuse_freed_memory(keep_all=True)
    torch.set_num_threads(thread_count(limits))
    cv2.setNumThreads(thread_count(limits))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(limits.gpu_memory_fraction, index)


def thread_count(limits: LimitSettings) -> int:
    """Threads of a limited training: half of the available cores unless the settings say."""
    return limits.threads or max(1, available_cores() // 2)


def available_cores() -> int:
    """Cores that this process may use, by its affinity and the CPU quota of its container."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = CPU_QUOTA.read_text(encoding='ascii').split()
        if quota != 'max':
            cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def memory_bytes(limits: LimitSettings) -> int:
    """Memory limit of a training; 0 without a limit where the free memory is unknown."""
    if limits.memory_gb:
        return max(_LEAST_BYTES, round(limits.memory_gb * 1e9))
    with suppress(OSError, ValueError, StopIteration):
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
        free = next(line for line in lines if line.startswith('MemAvailable:'))
        return max(_LEAST_BYTES, round(int(free.split()[1]) * 1024 * FREE_FRACTION))
    return 0


def _use_idle_disk_priority() -> None:
    """Read and write when no other process wants to (Linux: the idle class of ionice)."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None and platform.system() == 'Linux':
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


def configure_runtime(backend: str) -> None:
    """Configure a process that works frame by frame: reused memory, one thread for small steps.

    OpenCV gets one thread, and torch where it was imported, unless it runs the network; other
    backends have threads of their own.
    """
    import cv2

    reuse_freed_memory()
    cv2.setNumThreads(1)
    torch = sys.modules.get('torch')
    if torch is not None and backend not in _BACKENDS_OF_TORCH:
        torch.set_num_threads(1)


def configure_training() -> None:
    """Configure a process that trains: all freed memory is kept, OpenCV gets one thread.

    OpenCV makes batches while torch uses the cores. torch does not look at CPU quotas by itself.
    """
    import cv2
    import torch

    reuse_freed_memory(keep_all=True)
    cv2.setNumThreads(1)
    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def reuse_freed_memory(*, keep_all: bool = False) -> None:
    """Let glibc reuse freed blocks of up to 31 MiB; no effect with other C libraries.

    glibc raises its mmap threshold to the size of a block that it sees freed. With `keep_all` no
    freed memory returns to the kernel, for programs whose every step needs it again: otherwise
    glibc returns what is free beyond 64 MiB, and a training step spends a tenth of its time on
    page faults.
    """
    import numpy as np

    block = np.empty(_PROBE_BYTES, np.uint8)
    del block
    if keep_all and hasattr(libc := ctypes.CDLL(None), 'mallopt'):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def trim_memory() -> None:
    """Return freed memory to the kernel, where the C library can."""
    if hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
        libc.malloc_trim(0)


def has_bfloat16(kind: str) -> bool:
    """Whether a device, `cpu` or `cuda`, multiplies bfloat16 in hardware.

    A CPU without it emulates: convolutions take ten times as long as in float32.
    """
    import torch

    if kind != 'cpu':
        return True
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(kind: str, precision: str = 'auto') -> torch.autocast:
    """Run the networks on a device, `cpu` or `cuda`, in bfloat16: `auto` where it has it."""
    import torch

    wanted = has_bfloat16(kind) if precision == 'auto' else precision == 'bf16'
    return torch.autocast(kind, torch.bfloat16, enabled=wanted)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or a driver says that memory is full."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(phrase in text for phrase in _MEMORY_ERRORS)
