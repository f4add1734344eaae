"""Fine-tuning in a process of its own, for programs that must go on undisturbed beside it.

    python -m psd_depth_ros.finetune.process

The first line of stdin is JSON: {"settings": {...}, "limits": {...}, "resume": false}. Every line
of stdout is JSON with an `event`: `status` (see FinetuneStatus), at the end `report` (see
FinetuneReport) or `error` with a `text`. All else that is printed goes to stderr. SIGTERM, SIGINT
and the end of stdin (the parent is gone) stop the run so that it can be resumed. The exit code is
0 after a report, 2 after an error that the user can mend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
import ctypes
from dataclasses import asdict
import json
import math
import os
from pathlib import Path
import platform
import resource
import signal
import sys
import threading
import time
from typing import Any, TextIO

from psd_depth_ros.config import build
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.finetune.report import FinetuneReport, FinetuneStatus
from psd_depth_ros.finetune.settings import FinetuneSettings, LimitSettings
from psd_depth_ros.parsing import parse_json, ParseError, shorten

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

    from psd_depth_ros.runtime import reuse_freed_memory

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


USER_ERROR = 2
STATUS_PERIOD_S = 0.2
PATIENCE_S = 120.0  # of a parent that is gone: nobody else would end this process
_NO_MEMORY = ('not enough memory', "can't allocate memory", 'out of memory', 'insufficient memory')


def main(run: Callable[..., FinetuneReport] | None = None) -> int:
    """Read the order, work it off, tell what came of it; returns the exit code."""
    say = _Messages()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    allowed = 0
    try:
        order = _read_order(sys.stdin.readline())
        settings = build(FinetuneSettings, order['settings'], 'settings')
        limits = build(LimitSettings, order['limits'], 'limits')
        _watch_parent(stop)
        allowed = stand_back(limits)
        finetune = run or _load(limits)
        report = finetune(settings, resume=order['resume'], report=say.status, stop=stop.is_set)
    except PsdDepthError as error:
        say.event('error', {'text': _with_limit(str(error), allowed)})
        return USER_ERROR
    except OSError as error:  # a name that is too long, a folder that may not be read
        where = '' if error.filename is None else f'{shorten(error.filename)}: '
        say.event('error', {'text': f'{where}{error.strerror or error}'})
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _is_about_memory(error):
            raise
        say.event('error', {'text': _with_limit(f'out of memory: {error}', allowed)})
        return USER_ERROR
    say.event('report', json.loads(report.as_json()))
    return 0


def _read_order(line: str) -> dict[str, Any]:
    """What to do. Raises SettingsError where the line is not the one that was agreed upon."""
    try:
        order = parse_json(line)
    except ParseError as error:
        raise SettingsError(f'the order on stdin {error}; it is one line of JSON') from error
    parts = {'settings': dict, 'limits': dict, 'resume': bool}
    if not isinstance(order, dict) or any(
        not isinstance(order.get(name), kind) for name, kind in parts.items()
    ):
        raise SettingsError(
            f'the order on stdin is {shorten(line.strip())}, expected settings, limits and resume'
        )
    return order


class _Messages:
    """Writes JSON lines to what was stdout; stdout itself becomes stderr."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._stream: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), 'w', encoding='utf-8')
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._last_s = -math.inf
        self._last: FinetuneStatus | None = None

    def status(self, status: FinetuneStatus) -> None:
        """Tell where the run stands, a few times a second; never leave a change of it out."""
        last = self._last
        news = last is None or any(
            getattr(status, name) != getattr(last, name) for name in ('state', 'scores', 'preview')
        )
        now_s = time.monotonic()
        if news or now_s - self._last_s >= STATUS_PERIOD_S:
            self._last, self._last_s = status, now_s
            self.event('status', asdict(status))

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Write one line; a reader that is gone stops nothing."""
        try:
            self._stream.write(json.dumps({'event': name, **values}) + '\n')
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            pass


def _load(limits: LimitSettings) -> Callable[..., FinetuneReport]:
    """Import what trains, now that the limits hold."""
    from psd_depth_ros.finetune.run import finetune

    limit_libraries(limits)

    return finetune


def _watch_parent(stop: threading.Event) -> None:
    """Stop when stdin ends; end at once where that takes too long (the state on disk is whole)."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock would be held at the exit
            pass
        stop.set()
        time.sleep(PATIENCE_S)
        os._exit(1)

    threading.Thread(target=watch, name='parent', daemon=True).start()


def _is_about_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)


def _with_limit(text: str, allowed: int) -> str:
    """Say that there was a limit, where memory was the matter."""
    if not allowed or 'memory' not in text.lower():
        return text
    return (
        f'{text} (limits.memory_gb allows this process {allowed / 1e9:.1f} GB; raise it, or lower '
        'batch or pixel_budget with changes)'
    )


if __name__ == '__main__':
    sys.exit(main())
