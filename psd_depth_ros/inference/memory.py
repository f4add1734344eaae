"""Keeps the process from giving every freed image back to the system, only to fetch it again.

glibc takes blocks of 128 KiB and more straight from the kernel and returns them at once, so each
image of each frame is paid for in page faults: a 640x480 cloud takes 6 ms instead of 1.2 ms on two
busy x86 cores. glibc raises that limit to the size of a block it sees freed, 32 MiB at most.
"""

from __future__ import annotations

import numpy as np

_BYTES = 31 * 1024 * 1024  # with its header still below glibc's ceiling of 32 MiB


def reuse_freed_memory() -> None:
    """Let blocks of up to 31 MiB be reused by this process; harmless where libc is another."""
    block = np.empty(_BYTES, np.uint8)
    del block
