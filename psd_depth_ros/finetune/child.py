"""The training process as its parent sees it: started, read, stopped, never left running.

The JSON lines between the two are described in `finetune.process`. A process whose parent is
killed sees the end of its stdin and stops by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
import json
import signal
import subprocess
import sys
import threading
from typing import Any

from psd_depth_ros.parsing import parse_json, ParseError

COMMAND = (sys.executable, '-m', 'psd_depth_ros.finetune.process')
TAIL_LINES = 15
EVENTS = ('status', 'report', 'error')
Event = Mapping[str, Any]


class TrainingProcess:
    """One run of the process.

    Args:
        order: What to do: settings, limits and whether to resume.
        on_event: Called from another thread with every event of the process, and last with
            `{'event': 'ended', 'code': ..., 'tail': ...}`: its exit code (negative: the signal
            that ended it) and the end of what it printed.
        command: The process to start.
    """

    def __init__(
        self,
        order: Mapping[str, Any],
        on_event: Callable[[Event], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._on_event = on_event
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding='utf-8',
            errors='replace',
            start_new_session=True,  # Ctrl-C reaches the node alone, which stops it in order
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # how it ended is told by its exit code
            self._process.stdin.write(json.dumps(order) + '\n')
            self._process.stdin.flush()
        self._listener = threading.Thread(target=self._listen, name='training', daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ask_to_stop(self) -> None:
        """Let it finish its step, save and end."""
        self._process.send_signal(signal.SIGTERM)

    def close(self, patience_s: float) -> None:
        """Ask it to stop and wait; after `patience_s` it is killed, which loses a few steps."""
        self.ask_to_stop()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._listener.join(5.0)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        stderr = threading.Thread(target=self._read_stderr, name='training_stderr', daemon=True)
        stderr.start()
        for line in self._process.stdout:
            event = _parse(line)
            if event is not None:
                self._on_event(event)
        code = self._process.wait()
        stderr.join(5.0)
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._on_event({'event': 'ended', 'code': code, 'tail': '\n'.join(self._tail)})

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._tail.append(line.rstrip())


def _parse(line: str) -> Event | None:
    """Return the event of a line, None where it holds no event."""
    try:
        event = parse_json(line)
    except ParseError:
        return None
    is_event = isinstance(event, dict) and event.get('event') in EVENTS
    return event if is_event else None
