"""What a process takes of its machine: priority, threads, memory.

A process that trains beside others limits itself when it starts, before torch is imported:
importing this module imports no library but the standard one. Nothing here can be undone by the
process that was limited. Programs configure themselves once, when they know the backend; the
library never does. Measured on two x86 cores with two more processes at work, for 640x480:

- glibc takes blocks of 128 KiB and more straight from the kernel and returns them at once, so
  each image of each frame is paid for in page faults. A cloud takes 6 ms, with reuse 1.2 ms.
- A step of half a millisecond gains little from a second thread, but waits for it to be scheduled,
  and the waiting spins: preprocessing takes 47 ms with two threads, 0.6 ms with one.
"""

from __future__ import annotations

from contextlib import suppress
import ctypes
from dataclasses import dataclass
import os
from pathlib import Path
import platform
import resource

from psd_depth_ros.config import setting

THREAD_VARIABLES = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
FREE_SHARE = 0.75
_LEAST_BYTES = 512 * 1024 * 1024  # less than this not even the libraries need
_IOPRIO_SET = {'x86_64': 251, 'aarch64': 30}
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13


def wait_passively() -> None:
    """Let threads that wait for each other sleep instead of spinning.

    To be called before torch is imported. Where other processes want the cores, a thread that
    spins takes the time away that the one it waits for would need: beside some 15 busy processes
    on two cores a step of fine-tuning with two threads took 18.7 s of computing time so, and 2.6 s
    with threads that sleep. The number of threads stays: two that sleep were faster than one, and
    with another number a resumed run would no longer give the very same weights. What the user
    has set stays, too.
    """
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # GNU, LLVM, Intel
    os.environ.setdefault('KMP_BLOCKTIME', '0')  # LLVM, Intel


@dataclass(frozen=True)
class LimitSettings:
    """What the training process may take, so that the nodes beside it go on undisturbed."""

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
    gpu_memory_share: float = setting(
        0.7, 'fraction of the memory of a GPU that it may use', minimum=0.05, maximum=1.0
    )


def stand_back(limits: LimitSettings) -> int:
    """Lower this process in priority, threads and memory; returns the limit of memory in bytes.

    Memory is limited as what a process writes (RLIMIT_DATA): files that are mapped for reading,
    such as decoded frames, and address space that a GPU driver reserves, do not count.
    """
    os.nice(limits.nice)
    with suppress(AttributeError, OSError):  # not on every system
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    _stand_back_on_disk()
    wait_passively()
    for name in THREAD_VARIABLES:
        os.environ[name] = str(thread_count(limits))
    allowed = memory_bytes(limits)
    if allowed:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
    return allowed


def limit_libraries(limits: LimitSettings) -> None:
    """Limit the threads of torch and OpenCV and the share of a GPU; imports them."""
    import cv2
    import torch

    reuse_freed_memory(keep_all=True)
    torch.set_num_threads(thread_count(limits))
    cv2.setNumThreads(thread_count(limits))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.cuda.set_per_process_memory_fraction(limits.gpu_memory_share, index)


def thread_count(limits: LimitSettings) -> int:
    """Threads that the training may use."""
    return limits.threads or max(1, len(os.sched_getaffinity(0)) // 2)


def memory_bytes(limits: LimitSettings) -> int:
    """Memory that the training may allocate; 0 where no limit was given and free is unknown."""
    if limits.memory_gb:
        return max(_LEAST_BYTES, round(limits.memory_gb * 1e9))
    with suppress(OSError, ValueError, StopIteration):
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
        free = next(line for line in lines if line.startswith('MemAvailable:'))
        return max(_LEAST_BYTES, round(int(free.split()[1]) * 1024 * FREE_SHARE))
    return 0


def _stand_back_on_disk() -> None:
    """Read and write when nobody else wants to (Linux: the idle class of ionice)."""
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None and platform.system() == 'Linux':
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_BYTES = 31 * 1024 * 1024  # with its header below glibc's ceiling of 32 MiB


def settle_process(backend: str) -> None:
    """Keep freed memory, and OpenCV and torch to one thread each.

    Torch keeps its threads where it runs the network itself (`backend` 'torch'); the threads of
    other backends are their own.
    """
    import cv2
    import torch

    reuse_freed_memory()
    cv2.setNumThreads(1)
    if backend != 'torch':
        torch.set_num_threads(1)


def settle_training() -> None:
    """Keep all freed memory, and OpenCV to one thread: it makes batches while torch has the cores.

    To be called when the data is prepared: tracking corners is faster with all threads.
    """
    import cv2

    reuse_freed_memory(keep_all=True)
    cv2.setNumThreads(1)


def reuse_freed_memory(*, keep_all: bool = False) -> None:
    """Let freed blocks of up to 31 MiB be reused; harmless where the C library is another.

    glibc raises its limit to the size of a block that it sees freed. With `keep_all` nothing that
    was freed goes back to the kernel, larger blocks neither, for programs whose every step needs
    all of it again: otherwise glibc gives back what is free beyond 64 MiB, and a step of training
    pays for most of its memory in page faults, a tenth of its time.
    """
    import numpy as np

    block = np.empty(_BYTES, np.uint8)
    del block
    if keep_all and hasattr(libc := ctypes.CDLL(None), 'mallopt'):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def trim_memory() -> None:
    """Give memory that was freed back to the kernel, where the C library can."""
    if hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
        libc.malloc_trim(0)
