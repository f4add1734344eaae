"""Runs many small hostile cases in a child process, which may crash or hang without loss.

A case is a number, and everything it draws follows from it and the seed: one that fails can be run
again alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import random
import signal
import socket
import sys
import time
import traceback
from typing import Any

from psd_depth_ros.errors import PsdDepthError

LIMIT_S = 2.0  # of the CPU, for one case
PATIENCE_S = 90.0  # of the clock, on a machine that is busy with other things
WARM = 0.2  # of the cases: until then caches fill
PACKET = 65536
# Runs one case; returns what came of it in a word. A PsdDepthError is a right answer too.
Check = Callable[[int, random.Random], str]
Make = Callable[[], Check]  # called in the child


class WrongError(Exception):
    """A case gave a result that cannot be right."""


@dataclass
class Cases:
    """What came of the cases."""

    done: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    slowest_s: float = 0.0
    memory_mb: list[float] = field(default_factory=list)  # of the child, after each case

    def add(self, number: int, outcome: str, seconds: float = 0.0, text: str = '') -> None:
        """Count a case; one with a `text` is a finding."""
        self.done += 1
        self.outcomes[outcome] += 1
        self.slowest_s = max(self.slowest_s, seconds)
        if text:
            self.findings.append({'case': number, 'outcome': outcome, 'text': text})
            print(f'  FINDING case {number}: {outcome}: {text}', flush=True)

    @property
    def growth_mb(self) -> float:
        """Resident memory gained once caches were full: a tenth of the cases at each end."""
        warm = self.memory_mb[int(WARM * len(self.memory_mb)) :]
        tenth = max(len(warm) // 10, 1)
        return sum(warm[-tenth:]) / tenth - sum(warm[:tenth]) / tenth if warm else 0.0

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            'cases': self.done,
            'outcomes': dict(sorted(self.outcomes.items())),
            'findings': self.findings,
            'slowest_s': round(self.slowest_s, 3),
            'memory_mb': round(self.memory_mb[-1]) if self.memory_mb else None,
            'growth_mb': round(self.growth_mb, 1),
        }


def draw_for(seed: int, number: int) -> random.Random:
    """The generator of one case."""
    return random.Random(f'{seed} {number}')


def run_cases(make: Make, count: int, seed: int, end_s: float) -> Cases:
    """Run the cases 0 to count - 1, or until the monotonic clock reads `end_s`."""
    cases = Cases()
    while cases.done < count and time.monotonic() < end_s:
        _run_child(make, range(cases.done, count), seed, end_s, cases)
    return cases


def run_one(make: Make, number: int, seed: int) -> None:
    """Run one case in this process, with the whole traceback of what it raises."""
    try:
        print(f'case {number}: {make()(number, draw_for(seed, number))}')
    except PsdDepthError as error:
        print(f'case {number}: {type(error).__name__}: {error}')


def fork(work: Callable[[], None]) -> int:
    """The id of a child process that runs `work` and ends; 0 is success, 1 an exception.

    It begins warm, with all that is imported here; this process must have no other threads.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the parent's stack
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(child: int) -> None:
    """Wait for a child that has to succeed."""
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f'a child ended with status {status}; see above')


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def _run_child(make: Make, numbers: Iterable[int], seed: int, end_s: float, cases: Cases) -> None:
    """Run cases in one child, until all are done, the time is over or the child is lost."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = fork(lambda: _report(make, numbers, seed, end_s, there))
    there.close()
    packet, lost = b'', ''
    with here:
        if here.recv(PACKET) != b'ready':
            raise RuntimeError('the child could not prepare the cases; see above')
        here.settimeout(PATIENCE_S)
        while True:
            try:
                packet = here.recv(PACKET)
            except TimeoutError:
                lost = f'no answer in {PATIENCE_S:g} s'
                break
            if packet in (b'', b'end'):
                break
            told = json.loads(packet)
            cases.memory_mb.append(told.pop('memory_mb'))
            cases.add(**told)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if packet != b'end':
        ended = f'the process ended with status {status}'
        cases.add(cases.done, 'hung' if lost else 'crashed', text=lost or ended)


def _report(
    make: Make, numbers: Iterable[int], seed: int, end_s: float, there: socket.socket
) -> None:
    """Run cases and tell of each; in the child."""
    check = make()
    there.send(b'ready')
    for number in numbers:
        if time.monotonic() > end_s:
            break
        start = time.process_time()
        outcome, text = _judge(check, number, seed)
        seconds = time.process_time() - start
        if seconds > LIMIT_S and not text:
            outcome, text = 'slow', f'{outcome} after {seconds:.1f} s'
        told = {'number': number, 'outcome': outcome, 'seconds': seconds, 'text': text[-1500:]}
        there.send(json.dumps({**told, 'memory_mb': resident_mb(os.getpid())}).encode())
    there.send(b'end')


def _judge(check: Check, number: int, seed: int) -> tuple[str, str]:
    try:
        return check(number, draw_for(seed, number)), ''
    except PsdDepthError as error:
        return type(error).__name__, '' if str(error).strip() else 'an error without words'
    except WrongError as error:
        return 'wrong', str(error)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        where = ''.join(traceback.format_tb(error.__traceback__)[-3:])
        return 'unnamed', f'{type(error).__name__}: {error}\n{where}'
