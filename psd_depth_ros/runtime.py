"""Sets up a process that works frame by frame: memory that is reused, few threads.

Programs call this once, when they know the backend; the library never does. Measured on two x86
cores with two more processes at work, for 640x480:

- glibc takes blocks of 128 KiB and more straight from the kernel and returns them at once, so
  each image of each frame is paid for in page faults. A cloud takes 6 ms, with reuse 1.2 ms.
- A step of half a millisecond gains little from a second thread, but waits for it to be scheduled,
  and the waiting spins: preprocessing takes 47 ms with two threads, 0.6 ms with one.
"""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_BYTES = 31 * 1024 * 1024  # with its header below glibc's ceiling of 32 MiB


def settle_process(backend: str) -> None:
    """Keep freed memory, and OpenCV and torch to one thread each.

    Torch keeps its threads where it runs the network itself (`backend` 'torch'); the threads of
    other backends are their own.
    """
    reuse_freed_memory()
    cv2.setNumThreads(1)
    if backend != 'torch':
        torch.set_num_threads(1)


def settle_training() -> None:
    """Keep all freed memory, and OpenCV to one thread: it makes batches while torch has the cores.

    To be called when the data is prepared: tracking corners is faster with all threads.
    """
    reuse_freed_memory(keep_all=True)
    cv2.setNumThreads(1)


def reuse_freed_memory(*, keep_all: bool = False) -> None:
    """Let freed blocks of up to 31 MiB be reused; harmless where the C library is another.

    glibc raises its limit to the size of a block that it sees freed. With `keep_all` nothing that
    was freed goes back to the kernel, larger blocks neither, for programs whose every step needs
    all of it again: otherwise glibc gives back what is free beyond 64 MiB, and a step of training
    pays for most of its memory in page faults, a tenth of its time.
    """
    block = np.empty(_BYTES, np.uint8)
    del block
    if keep_all and hasattr(libc := ctypes.CDLL(None), 'mallopt'):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def trim_memory() -> None:
    """Give memory that was freed back to the kernel, where the C library can."""
    if hasattr(libc := ctypes.CDLL(None), 'malloc_trim'):
        libc.malloc_trim(0)
