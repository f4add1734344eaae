"""Limits of a process that trains beside others: priority, threads, memory.

A process sets them for itself when it starts, before torch is imported. Nothing here can be undone
by the process that was limited.
"""

from __future__ import annotations

from contextlib import suppress
import ctypes
import os
from pathlib import Path
import platform
import resource

from psd_depth_ros.training.finetune_settings import LimitSettings

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

    from psd_depth_ros.inference.process import reuse_freed_memory

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
