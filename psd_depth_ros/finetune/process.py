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
from psd_depth_ros.runtime import apply_library_limits, apply_process_limits, LimitSettings

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
        allowed = apply_process_limits(limits)
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

    apply_library_limits(limits)

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
