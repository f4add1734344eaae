"""Node processes of a command: started together, logged to files, and gone when it ends.

A child is told to stop by SIGINT, then SIGTERM, then SIGKILL. Logs are for people: how far a
node is, is told by exit codes and topics. Linux also ends it where the parent
dies without a word (PR_SET_PDEATHSIG). What the nodes do is left to `ros`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import ctypes
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

from psd_depth_ros.errors import PsdDepthError

POLL_S = 0.1
_PR_SET_PDEATHSIG = 1


class ProcessError(PsdDepthError):
    """A node process could not do its part; the message has the end of its log."""


class NodeProcess:
    """One running `python -m module arguments`, its output in `log`."""

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        self.name = name
        self.log = log
        with log.open('wb') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which stops in order
                preexec_fn=_die_with_parent,
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    @property
    def output(self) -> str:
        """All it has printed so far."""
        return self.log.read_text(encoding='utf-8', errors='replace')

    def stop(self, patience_s: float = 10.0) -> int:
        """Ask it to end, insist after `patience_s`; returns the exit code."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.exit_code is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        return self._process.wait()

    def check(self, expected: Sequence[int | None] = (None,)) -> None:
        """Raise ProcessError where it has ended otherwise than `expected`."""
        if self.exit_code not in expected:
            raise ProcessError(f'{self.name} ended with code {self.exit_code}:\n{self.tail()}')

    def tail(self, lines: int = 15) -> str:
        """The end of its log, and where the rest is."""
        last = self.output.splitlines()[-lines:]
        return '\n'.join([*(f'  {line}' for line in last), f'  (all of it: {self.log})'])


class NodeProcesses:
    """Starts node processes with one environment; leaving the context stops them all."""

    def __init__(self, environment: Mapping[str, str], logs: Path) -> None:
        self._environment = environment
        self._logs = logs
        self._running: list[NodeProcess] = []

    def __enter__(self) -> NodeProcesses:
        """Take over SIGTERM, so that it stops the children too."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._former = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop what still runs, the last started first."""
        try:
            for process in reversed(self._running):
                process.stop()
        finally:
            signal.signal(signal.SIGTERM, self._former)

    def start(self, module: str, *arguments: str, name: str = '') -> NodeProcess:
        """Start a node and stop it with the others; `name` is by default that of the module."""
        name = name or module.rpartition('.')[2]
        log = self._logs / f'{name}.log'
        process = NodeProcess(name, module, arguments, self._environment, log)
        self._running.append(process)
        return process

    def wait(self, what: str, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait until `ready()`. Raises ProcessError where a node ends first, or time is over."""
        end = time.monotonic() + timeout_s
        while not ready():
            for process in self._running:
                process.check(expected=(None, 0))
            if time.monotonic() > end:
                logs = '\n'.join(f'{one.name}:\n{one.tail(6)}' for one in self._running)
                raise ProcessError(f'{what} took longer than {timeout_s:.0f} s\n{logs}')
            time.sleep(POLL_S)


def node_environment() -> dict[str, str]:
    """The environment of nodes that talk among themselves, on this machine only."""
    environment = dict(os.environ)
    environment['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
    environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    environment['PYTHONUNBUFFERED'] = '1'
    environment.setdefault('AMENT_PREFIX_PATH', sys.prefix)
    return environment


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
