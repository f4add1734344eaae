"""Starts the processes of a benchmark in a ROS domain of their own, and watches their memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import dataclass
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import rclpy

from psd_depth_ros.ros.common import PROFILES, shared_memory_environment

HERE = Path(__file__).resolve().parent
PATIENCE_S = 60.0


@dataclass
class Process:
    """A child process, which may end by printing a report as one line of JSON."""

    name: str
    handle: subprocess.Popen[str]
    domain: int
    output: str = ''

    def report(self) -> dict[str, Any]:
        """Interrupt it and read the JSON that is its last line."""
        self.stop()
        for line in reversed(self.output.splitlines()):
            if line.startswith('{'):
                return json.loads(line)
        raise RuntimeError(f'{self.name} ended with code {self.handle.returncode}, no report')

    def wait(self, patience_s: float) -> None:
        """Wait for it to end by itself."""
        try:
            self.output, _ = self.handle.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f'{self.name} did not end within {patience_s:g} s') from None

    def stop(self) -> None:
        """Interrupt it as Ctrl-C does, and wait; a second call does nothing."""
        if self.handle.stdout is None or self.handle.stdout.closed:
            return
        if self.handle.poll() is None:
            self.handle.send_signal(signal.SIGINT)
        try:
            self.output, _ = self.handle.communicate(timeout=20.0)
        except subprocess.TimeoutExpired:
            self.handle.kill()
            self.output, _ = self.handle.communicate()

    def wait_for_subscriptions(self, *publishers: Any) -> None:
        """Return once every publisher is heard."""
        wait_until(
            lambda: all(one.get_subscription_count() for one in publishers),
            f'subscriptions of {self.name}',
        )


def start(
    name: str, arguments: Sequence[str], domain: int, log: Path, shared_memory: bool
) -> Process:
    """Start a Python process; what it says on standard error is kept in `log`."""
    environment = {
        **os.environ,
        'ROS_DOMAIN_ID': str(domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'PYTHONUNBUFFERED': '1',
    }
    for variable, _ in PROFILES.values():
        environment.pop(variable, None)
    if shared_memory:
        middleware = rclpy.get_rmw_implementation_identifier()
        environment |= shared_memory_environment({}, middleware)
    else:
        environment['FASTDDS_BUILTIN_TRANSPORTS'] = 'DEFAULT'
    with log.open('a') as errors:
        handle = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=HERE.parent,
            text=True,
        )
    return Process(name, handle, domain)


@contextlib.contextmanager
def start_sink(domain: int | None = None, log: Path | None = None) -> Iterator[Process]:
    """Start a process that takes depth and clouds; it ends with the block."""
    domain = unused_domain() if domain is None else domain
    sink = start('sink', [str(HERE / 'sink.py')], domain, log or Path(os.devnull), False)
    try:
        yield sink
    finally:
        sink.stop()


def unused_domain() -> int:
    """Pick a ROS domain that other users of this machine hardly have, and the tests never."""
    return 81 + (os.getpid() + int(time.time())) % 20


def wait_until(done: Any, what: str, patience_s: float = PATIENCE_S) -> None:
    """Poll until `done()`; RuntimeError says what did not happen."""
    end = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > end:
            raise RuntimeError(f'waited {patience_s:g} s for {what}')
        time.sleep(0.02)


class MemoryWatch:
    """Samples the resident memory of a process until it is closed."""

    def __init__(self, pid: int, period_s: float = 0.5) -> None:
        self._path = Path(f'/proc/{pid}/status')
        self._period_s = period_s
        self._done = threading.Event()
        self.samples_mb: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sampling."""
        self._done.set()
        self._thread.join()

    @property
    def peak_mb(self) -> float:
        """Largest resident memory, as the kernel saw it."""
        return self._read('VmHWM')

    def _run(self) -> None:
        while not self._done.wait(self._period_s):
            with contextlib.suppress(OSError):
                self.samples_mb.append((time.time(), self._read('VmRSS')))

    def _read(self, name: str) -> float:
        for line in self._path.read_text().splitlines():
            if line.startswith(name + ':'):
                return int(line.split()[1]) / 1024
        return float('nan')
