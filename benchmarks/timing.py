"""Timing of calls, the machine in words, and tables: what every benchmark shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
import os
from pathlib import Path
import platform
import time
from typing import Any

import cv2
import numpy as np
import torch


@dataclass(frozen=True)
class Timing:
    """How long a call took, over so many runs."""

    median_ms: float
    p95_ms: float
    least_ms: float
    runs: int

    def row(self, **columns: Any) -> dict[str, Any]:
        """One line of a table, with these columns first."""
        return {**columns, **{key: round(value, 3) for key, value in asdict(self).items()}}


def measure(
    call: Callable[[], Any], seconds: float = 2.0, least_runs: int = 10, warm_up: int = 5
) -> Timing:
    """Call again and again for `seconds`, at least `least_runs` times."""
    for _ in range(warm_up):
        call()
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while len(times_ms) < least_runs or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times_ms.append(1e3 * (time.perf_counter() - start))
    return summarise(times_ms)


def summarise(times_ms: Sequence[float]) -> Timing:
    """Summarise single times."""
    median, p95 = np.percentile(times_ms, (50, 95))
    return Timing(float(median), float(p95), float(min(times_ms)), len(times_ms))


def describe_machine() -> dict[str, Any]:
    """Tell what was measured on, and how busy it was: figures of a busy machine mean little."""
    return {
        'cpu': _cpu_name(),
        'cores': len(os.sched_getaffinity(0)),
        'load_average': [round(value, 2) for value in os.getloadavg()],
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'python': platform.python_version(),
        'torch': torch.__version__,
        'opencv': cv2.__version__,
        'torch_threads': torch.get_num_threads(),
        'omp_wait_policy': os.environ.get('OMP_WAIT_POLICY', ''),
    }


def print_table(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print rows with the same keys as columns."""
    print(f'\n{title}')
    if not rows:
        print('  nothing')
        return
    names = list(rows[0])
    lines = [names, *([_text(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for line in lines:
        cells = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        print('  ' + '  '.join(cells).rstrip())


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:.2f}'
    return '-' if value is None else str(value)


def _cpu_name() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.machine()
