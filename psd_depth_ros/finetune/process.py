"""Fine-tuning in a child process, which does not disturb the program that starts it.

    python -m psd_depth_ros.finetune.process

The first line of stdin is JSON: {"settings": {...}, "limits": {...}, "resume": false}. Every line
of stdout is JSON with an `event`: `status` (see FinetuneStatus), at the end `report` (see
FinetuneReport) or `error` with a `text`. Everything else goes to stderr. SIGTERM, SIGINT and the
end of stdin (the parent has ended) stop the run so that it can be resumed. The exit code is 0
after a report, 2 after an error of the user. Limits of priority, threads and memory are set before
torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
import json
import math
import os
import signal
import sys
import threading
import time
from typing import Any, TextIO

from psd_depth_ros.config import build
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.finetune.report import FinetuneReport, FinetuneStatus
from psd_depth_ros.finetune.settings import FinetuneSettings
from psd_depth_ros.parsing import parse_json, ParseError, shorten
from psd_depth_ros.runtime import (
    apply_library_limits,
    apply_process_limits,
    is_out_of_memory,
    LimitSettings,
)

USER_ERROR = 2
STATUS_PERIOD_S = 0.2
ORPHAN_TIMEOUT_S = 120.0  # from the end of the parent to that of this process


def main(run: Callable[..., FinetuneReport] | None = None) -> int:
    """Read the order, run it, write its events; returns the exit code."""
    events = _EventWriter()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    allowed = 0
    try:
        order = _read_order(sys.stdin.readline())
        settings = build(FinetuneSettings, order['settings'], 'settings')
        limits = build(LimitSettings, order['limits'], 'limits')
        _watch_parent(stop)
        allowed = apply_process_limits(limits)
        finetune = run or _load(limits)
        report = finetune(settings, resume=order['resume'], report=events.status, stop=stop.is_set)
    except PsdDepthError as error:
        events.event('error', {'text': _with_limit(str(error), allowed)})
        return USER_ERROR
    except OSError as error:  # a name that is too long, a folder that may not be read
        where = '' if error.filename is None else f'{shorten(error.filename)}: '
        events.event('error', {'text': f'{where}{error.strerror or error}'})
        return USER_ERROR
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        events.event('error', {'text': _with_limit(f'out of memory: {error}', allowed)})
        return USER_ERROR
    events.event('report', json.loads(report.as_json()))
    return 0


def _read_order(line: str) -> dict[str, Any]:
    """Parse the order. Raises SettingsError where it is not of the documented form."""
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


class _EventWriter:
    """Writes JSON lines to the original stdout; stdout itself becomes stderr."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._stream: TextIO = os.fdopen(os.dup(sys.stdout.fileno()), 'w', encoding='utf-8')
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        self._last_s = -math.inf
        self._last: FinetuneStatus | None = None

    def status(self, status: FinetuneStatus) -> None:
        """Write a status: a few times a second, and every change of state, scores or preview."""
        last = self._last
        is_changed = last is None or any(
            getattr(status, name) != getattr(last, name) for name in ('state', 'scores', 'preview')
        )
        now_s = time.monotonic()
        if is_changed or now_s - self._last_s >= STATUS_PERIOD_S:
            self._last, self._last_s = status, now_s
            self.event('status', asdict(status))

    def event(self, name: str, values: Mapping[str, Any]) -> None:
        """Write one line; a closed pipe is ignored."""
        try:
            self._stream.write(json.dumps({'event': name, **values}) + '\n')
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            pass


def _load(limits: LimitSettings) -> Callable[..., FinetuneReport]:
    """Import the training, now that the limits are set."""
    from psd_depth_ros.finetune.run import finetune

    apply_library_limits(limits)

    return finetune


def _watch_parent(stop: threading.Event) -> None:
    """Stop when stdin ends; exit where that takes too long (the state on disk is whole)."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin, whose lock would be held at the exit
            pass
        stop.set()
        time.sleep(ORPHAN_TIMEOUT_S)
        os._exit(1)

    threading.Thread(target=watch, name='parent', daemon=True).start()


def _with_limit(text: str, allowed: int) -> str:
    """Add the memory limit to a message about memory."""
    if not allowed or 'memory' not in text.lower():
        return text
    return (
        f'{text} (limits.memory_gb allows this process {allowed / 1e9:.1f} GB; raise it, or lower '
        'batch or pixel_budget with changes)'
    )


if __name__ == '__main__':
    sys.exit(main())
