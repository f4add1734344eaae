"""Training beside other work on the CPU: a depth node that serves a camera, and busy processes.

    python benchmarks/beside.py [--recipe psd] [--steps 12]

Each row is a training of its own, as the commands run it (all cores, the usual priority) or as
`finetune_node` does (half of the cores, `limits.nice`), and what the depth node has to suffer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, ExitStack
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from processes import HERE, Process, start, unused_domain
from timing import print_table
from training import FRAMES, PATIENCE_S, SIZES, WORLD

from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.runtime import LimitSettings, thread_count, waiting_environment
from psd_depth_ros.synth import World

CAMERA_HZ = 10.0
BUSY_PROCESSES = 8
BUSY_NAME = f'{BUSY_PROCESSES} busy processes'
NODE_NAME = 'depth node, 10 Hz'
ENOUGH = 1_000_000  # more pictures than any training lasts
STEADY_FRAMES = 100  # of a node with nothing beside it
BUSY = 'while True: pass'
Row = dict[str, Any]


def measure_beside(recipe: str, steps: int) -> list[Row]:
    """Rows of a training alone and beside others, with its rate and the share of that alone."""
    limits = LimitSettings()
    command = waiting_environment({})
    node_like = {**command, 'OMP_NUM_THREADS': str(thread_count(limits))}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix='psd_bench_') as name:
        folder = Path(name)
        bag = folder / 'street.mcap'
        write_world(World(1, WORLD), bag, FRAMES)
        job = [recipe, str(SIZES['416x128']), str(steps), str(bag), str(folder), 'cpu']

        def train(environment: dict[str, str], nice: int) -> Callable[[], Row]:
            return lambda: _train(job, environment, nice)

        plain, limited = train(command, 0), train(node_like, limits.nice)
        single = train({**command, 'OMP_NUM_THREADS': '1'}, 0)
        for kind, work in (
            ('as a command', plain),
            ('as a command, one thread', single),
            ('as finetune_node', limited),
        ):
            rows.append({'training': kind, 'beside': 'nothing', **work()})
        rows.append({'training': 'none', 'beside': NODE_NAME, **_serve(folder, None)})
        for kind, work in (('as a command', plain), ('as finetune_node', limited)):
            rows.append({'training': kind, 'beside': NODE_NAME, **_serve(folder, work)})
        with _busy_processes(BUSY_PROCESSES):
            for kind, work in (('as a command', plain), ('as a command, one thread', single)):
                rows.append({'training': kind, 'beside': BUSY_NAME, **work()})
    alone = {row['training']: row['images_per_s'] for row in rows[:3]}
    for row in rows:
        rate = row.get('images_per_s')
        row['of_alone'] = None if rate is None else round(rate / alone[row['training']], 3)
    columns = [*rows[0], 'depths', 'depth_ms_p50', 'depth_ms_p95']
    return [{name: row.get(name) for name in dict.fromkeys(columns)} for row in rows]


def _train(job: Sequence[str], environment: dict[str, str], nice: int) -> Row:
    """Rate and share of waiting of one training."""
    done = subprocess.run(
        [sys.executable, str(HERE / 'trainee.py'), *job], capture_output=True, text=True,
        timeout=PATIENCE_S, check=False, env={**os.environ, **environment},
        preexec_fn=lambda: os.nice(nice),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f'training ended with code {done.returncode}:\n{done.stderr}')
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: found[name] for name in ('threads', 'images_per_s', 'step_ms', 'waiting')}


def _serve(folder: Path, work: Callable[[], Row] | None) -> Row:
    """What a depth node and its camera reach while `work` runs, and what that tells."""
    count = STEADY_FRAMES if work is None else ENOUGH
    domain, log = unused_domain(), folder / 'beside.log'
    arguments = ['-m', 'psd_depth_ros.ros.depth_node.node']
    camera = ['--rate', str(CAMERA_HZ), '--count', str(count)]
    with ExitStack() as running:

        def begin(name: str, given: list[str]) -> Process:
            process = start(name, given, domain, log, True)
            running.callback(process.stop)
            return process

        sink = begin('sink', [str(HERE / 'sink.py')])
        begin('depth_node', arguments)
        source = begin('camera_source', [str(HERE / 'camera_source.py'), *camera])
        row: Row = {}
        if work is None:
            source.wait(PATIENCE_S)
        else:
            row = work()
        ages_ms = np.array([age for _, age in sink.report()['arrivals']['depth/image_rect']])
    ages_ms = ages_ms[3:]  # the source waits for three before it begins
    if len(ages_ms) < STEADY_FRAMES // 2:
        raise RuntimeError(f'the depth node served {len(ages_ms)} images only; see its log')
    p50, p95 = np.percentile(ages_ms, (50, 95))
    return {**row, 'depth_ms_p50': float(p50), 'depth_ms_p95': float(p95), 'depths': len(ages_ms)}


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute all the time."""
    running = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--recipe', default='psd')
    parser.add_argument('--steps', type=int, default=12)
    chosen = parser.parse_args()
    print_table('training beside other work', measure_beside(chosen.recipe, chosen.steps))


if __name__ == '__main__':
    main()
