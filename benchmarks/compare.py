"""Compares the speed and memory of two checkouts, side by side on this machine.

    python benchmarks/compare.py OLD [NEW] [--rounds 5] [--only network pipeline ...]

OLD is a checkout, or a commit of this one. Both are measured in alternating order, each part in
processes of their own that run the benchmarks of their checkout with this Python. Costs are
compared round by round: `new/old` is the geometric mean of the ratios, above 1 is worse, with its
95 % interval (Student's t of the logarithms). `verdict` holds the interval against --limit:
`within` where all of it is, `WORSE` where none of it is, `unclear` in between: take more rounds,
or wait until the machine does nothing else.

- network: the least time of 4 images, both checkouts in turn, 10 turns for each round
- pipeline: the least processor time of every step, three measurements for each round
- engine: processor time of all but the network for a 1920x1080 camera; real time of a 640x480
  image, of the network in it, and of four cameras
- end_to_end: real time
- start: processor time from a new process to the first depth, with nothing stored by an earlier
  start, and then once more; real time of a node's hot reload of a network that is new, and of one
  that ran before
- training: processor time of a step on one thread, and real time of one on all threads, both
  checkouts in turn
- preparation: real and processor time of a frame that is decoded, chosen and tracked, of a
  rendered drive of 60 frames and of --recordings; then once more, with what was kept
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
import json
import math
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
PARTS = ('network', 'pipeline', 'engine', 'end_to_end', 'start', 'training', 'preparation')
PATIENCE_S = 1800.0
# Two-sided 95 % quantile of Student's t by degrees of freedom.
STUDENT_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
# Runs with the benchmarks of a checkout in its path; the last line it prints is JSON.
PROBE = """
import json, resource, sys, tempfile, time, types
from pathlib import Path

import timing

part = sys.argv[1]
if part == 'pipeline':
    timing.time = types.SimpleNamespace(perf_counter=time.process_time)
    from pipeline import measure_pipeline as measure
else:
    from end_to_end import measure_end_to_end

    def measure(quick):
        with tempfile.TemporaryDirectory() as folder:
            return measure_end_to_end(quick, Path(folder))
rows = measure(True)
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({'rows': rows, 'peak_mb': peak_mb}))
"""
# One start, as the node and the commands make it, and what it cost.
START_PROBE = """
import json, resource, time

import numpy as np
import psd_depth_ros.ros.depth_node.node
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference.engine import DepthEngine

engine = DepthEngine.from_checkpoint(device='cpu')
camera = Camera(640, 480, 500.0, 500.0, 319.5, 239.5)
engine.infer(np.full((480, 640, 3), 127, np.uint8), camera)
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([time.process_time(), peak_mb]))
"""
STARTS = ('first', 'second')
# Loads other weights as a running node does: new ones, those before them, and the new ones again.
RELOAD_PROBE = """
from dataclasses import replace
import json, sys, threading, time

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint, save_checkpoint
from psd_depth_ros.geometry import Camera
from psd_depth_ros.networks import load_model
from psd_depth_ros.ros.depth_node.node import DepthEngineFactory
from psd_depth_ros.ros.depth_node.worker import EngineHandle

start = load_checkpoint(default_checkpoint())
weights = load_model(start).state_dict()
first = next(name for name, one in weights.items() if one.is_floating_point())
weights[first] = 1.001 * weights[first]
other = sys.argv[1] + '/other.safetensors'
save_checkpoint(other, replace(start.info, name='other'), weights)
camera = Camera(640, 480, 500.0, 500.0, 319.5, 239.5)
handle = EngineHandle(DepthEngineFactory(), 'cpu', 'auto')
handle.load('', [camera], 0)
seconds = []
for path in (other, '', other):
    finished, begun = threading.Event(), time.perf_counter()

    def done(reason):
        assert not reason, reason
        finished.set()

    handle.replace(path, lambda: [camera], lambda engine: None, done)
    assert finished.wait(300)
    seconds.append(time.perf_counter() - begun)
handle.close()
print(json.dumps([seconds[0], min(seconds[1:])]))
"""
RELOADS = ('of a new network', 'of one that ran before')
# All but the network for one large camera, and four cameras in one batch.
ENGINE_PROBE = """
import json, time

from scene import camera, picture

from psd_depth_ros.inference.engine import DepthEngine
from psd_depth_ros.runtime import configure_runtime

LENS = (-0.28, 0.07, 2e-4, -1e-4, 0.0)
engine = DepthEngine.from_checkpoint(device='cpu')
configure_runtime(engine.backend)
backend, found = engine._backend, {}
run = backend.run


def least_ms(clock, work, turns=15):
    # least time of all, of the network, and of the rest
    spent = []

    def run_timed(*given):
        begun = clock()
        maps = run(*given)
        spent[-1][1] += clock() - begun
        return maps

    backend.run = run_timed
    for _ in range(turns):
        spent.append([0.0, 0.0])
        begun = clock()
        work()
        spent[-1][0] = clock() - begun
    return [1e3 * min(one) for one in zip(*((a, n, a - n) for a, n in spent))]


for kind, lens in (('distorted', LENS), ('rectified', None)):
    request = [(picture(1920, 1080), camera(1920, 1080, lens))]
    for size in ('native', 'network'):
        for what in ('depth', 'depth and cloud'):

            def work():
                frame = engine.infer_batch(request, full_size=size == 'native')[0]
                return frame.cloud() if 'cloud' in what else frame

            name = f'1920x1080, {kind}, {what} at {size} size, CPU ms but the network'
            _, _, found[name] = least_ms(time.process_time, work)
single = [(picture(640, 480), camera(640, 480))]
(one, alone, _), (four, _, _) = (
    least_ms(time.perf_counter, lambda: engine.infer_batch(count * single), 40) for count in (1, 4)
)
found['image to depth, ms'], found['network of it, ms'] = one, alone
found['four cameras in one batch, times one'] = four / one
print(json.dumps(found))
"""
# Keeps one backend of network `lite` at hand, and runs it at every line of input.
NETWORK_PROBE = """
import resource, sys, time

import network
import torch

name = tuple(sys.argv[1:])
backend = network._makers()[name](network._build('lite'))
if hasattr(network, 'example'):
    image, intrinsics = network.example(network.HEIGHT, network.WIDTH)
else:
    image = torch.randn(1, 3, network.HEIGHT, network.WIDTH)
    intrinsics = torch.tensor([[370.0, 370.0, 320.0, 96.0]])
with torch.inference_mode():
    for _ in range(5):
        backend.run(image, intrinsics)
    print('ready', flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            backend.run(image, intrinsics)
            times.append(1e3 * (time.perf_counter() - start))
        print(min(times), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, flush=True)
"""
NETWORK_BACKENDS = (
    ('torch', 'f32'), ('torch', 'bf16 where in hardware'), ('openvino', 'f32'),
    ('openvino', 'bf16 where in hardware'), ('onnxruntime', 'f32'),
)  # fmt: skip
NETWORK_TURNS = 10  # of each round
# Trains with one recipe, a step at every line of input, and prints its processor and real time.
TRAINING_PROBE = """
import json, sys, tempfile, time
from pathlib import Path

from psd_depth_ros.runtime import use_passive_waiting

use_passive_waiting()
import trainee
from training import FRAMES, RECIPES, SIZES, WORLD, World, write_world

begun, run_training = [0.0, 0.0], trainee.run_training

def stepwise(*given, report, **options):
    def note(progress):
        report(progress)
        now = time.process_time(), time.perf_counter()
        print('step', *(1e3 * (end - start) for start, end in zip(begun, now)), flush=True)
        sys.stdin.readline()
        begun[:] = time.process_time(), time.perf_counter()

    return run_training(*given, report=note, **options)

trainee.run_training = stepwise
with tempfile.TemporaryDirectory() as folder:
    bag = Path(folder) / 'street.mcap'
    write_world(World(1, WORLD), bag, FRAMES)
    pixels = str(SIZES['416x128'])
    trainee.main(RECIPES[int(sys.argv[1])], pixels, sys.argv[2], str(bag), folder, 'cpu')
"""
TRAINING_STEPS, TRAINING_WARM_UP = 12, 8  # of each round
ONE_THREAD = {'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'PASSIVE'}
ALL_THREADS = {'OMP_WAIT_POLICY': 'PASSIVE'}
AS_COMMANDS: dict[str, str] = {}  # the program itself chooses how its threads wait
# Writes a drive into the file that is named.
DRIVE_PROBE = """
import sys

from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.synth import World, WorldSettings

world = World(1, WorldSettings(kind='street', width=832, height=256, speed_mps=8.0))
write_world(world, sys.argv[1], 60, 90)
"""
# Prepares a recording as training does, and then once more.
PREPARATION_PROBE = """
import inspect, json, resource, sys, tempfile, time
from pathlib import Path

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint
from psd_depth_ros.config import build
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.motions import estimate_motions
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.networks import load_model

start = load_checkpoint(default_checkpoint())
network, focal_px = load_model(start), start.info.output.canonical_focal_px
settings = build(DataSettings, {'paths': [sys.argv[1]]})
found = {}


def measure(name, work):
    real, processor = time.perf_counter(), time.process_time()
    result = work()
    spent = time.perf_counter() - real, time.process_time() - processor
    for kind, seconds in zip(('real', 'CPU'), spent):
        found[f'{name}, {kind} ms per frame'] = 1e3 * seconds
    return result


def track():
    keeps = 'store' in inspect.signature(estimate_motions).parameters
    options = {'store': prepared.store} if keeps else {}
    for sequence in prepared.sequences:
        estimate_motions(sequence, network, focal_px, **options)


def prepare():
    return prepare_sequences(settings, pixel_budget=53248, fine_factor=2, cache=Path(folder))


with tempfile.TemporaryDirectory() as folder:
    prepared = measure('choosing', prepare)
    measure('tracking', track)
    for kind in ('real', 'CPU'):
        names = [f'{name}, {kind} ms per frame' for name in ('choosing', 'tracking')]
        found[f'both, {kind} ms per frame'] = sum(found[name] for name in names)
    measure('both once more', lambda: (prepare(), track()))
    frames = sum(len(one.rgb) for one in prepared.sequences)
    found = {name: spent / frames for name, spent in found.items()}
    found['peak memory, MB'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where something is worse than the limit allows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('old', help='checkout or commit to compare with')
    parser.add_argument('new', type=Path, nargs='?', default=HERE.parent, help='default: this one')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument(
        '--recordings', nargs='+', default=[], metavar='PATH', help='that preparation measures too'
    )
    parser.add_argument('--limit', type=float, default=3.0, help='percent (%(default)s)')
    parser.add_argument('--output', type=Path, help='write every figure to this JSON file')
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 2:
        parser.error('an interval needs 2 rounds or more')
    with check_out(chosen.old) as old:
        checkouts = {'old': old, 'new': chosen.new.resolve()}
        for path in checkouts.values():
            if not (path / 'benchmarks' / 'run.py').is_file():
                parser.error(f'{path} is no checkout of psd_depth_ros')
        costs = measure_all(chosen.only, chosen.rounds, checkouts, chosen.recordings)
    rows = [*compare(costs['old'], costs['new'], chosen.limit)]
    print_table(rows)
    if chosen.output is not None:
        content = {'checkouts': {k: str(v) for k, v in checkouts.items()}, 'costs': costs}
        chosen.output.write_text(json.dumps({**content, 'comparison': rows}, indent=2) + '\n')
    return int(any(row['verdict'] == 'WORSE' for row in rows))


@contextmanager
def check_out(name: str) -> Iterator[Path]:
    """A checkout by its path, or one of a commit that is removed again."""
    if Path(name).is_dir():
        yield Path(name).resolve()
        return
    git = ['git', '-C', str(HERE)]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*git, 'worktree', 'add', '--quiet', '--detach', folder, name], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run([*git, 'worktree', 'remove', '--force', folder], check=True)


def measure_all(
    parts: Sequence[str], rounds: int, checkouts: dict[str, Path], recordings: Sequence[str] = ()
) -> dict[str, dict[str, list[float]]]:
    """Every cost of both checkouts, in as many rounds, by its name."""
    costs: dict[str, dict[str, list[float]]] = {'old': {}, 'new': {}}
    if 'network' in parts:
        for name in NETWORK_BACKENDS * rounds:
            alternate_networks(name, checkouts, costs)
    if 'training' in parts:
        for index in (0, 1) * rounds:
            for on_one_thread in (True, False):
                alternate_training(index, on_one_thread, checkouts, costs)
    if 'preparation' in parts:
        with tempfile.TemporaryDirectory() as folder:
            drive = Path(folder) / 'drive.mcap'
            _run(DRIVE_PROBE, [str(drive)], checkouts['new'], ALL_THREADS)
            for path in (drive, *map(Path, recordings)):
                measure = partial(measure_preparation, path.resolve())
                alternate(f'preparation of {path.stem}', rounds, checkouts, costs, measure)
    if 'start' in parts:
        alternate('start', rounds, checkouts, costs, measure_starts)
    if 'engine' in parts:
        alternate('engine', rounds, checkouts, costs, measure_engine)
    if 'pipeline' in parts:
        alternate('pipeline', 3 * rounds, checkouts, costs, measure_pipeline)
    if 'end_to_end' in parts:
        alternate('end_to_end', rounds, checkouts, costs, measure_end_to_end)
    return costs


def alternate_networks(
    name: tuple[str, str],
    checkouts: dict[str, Path],
    costs: dict[str, dict[str, list[float]]],
) -> None:
    """Let both checkouts run one backend in turns of a few images, and add what they took."""
    probes = _start(NETWORK_PROBE, name, checkouts, ONE_THREAD)
    label = f'network lite, {" ".join(name)}'
    try:
        if any('ready' not in _answer(probe) for probe in probes.values()):
            print(f'{label}: not installed', file=sys.stderr)
            return
        peak_mb = dict.fromkeys(probes, 0.0)
        for turn in range(NETWORK_TURNS):
            for side in _order(turn):
                ms, peak = _answer(probes[side], 'run\n').split()
                costs[side].setdefault(f'{label}, ms', []).append(float(ms))
                peak_mb[side] = float(peak)
        for side, peak in peak_mb.items():
            costs[side].setdefault(f'{label}, peak memory, MB', []).append(peak)
        print(f'{label}: done', file=sys.stderr)
    finally:
        _stop(probes)


def alternate_training(
    index: int,
    on_one_thread: bool,
    checkouts: dict[str, Path],
    costs: dict[str, dict[str, list[float]]],
) -> None:
    """Let both checkouts train with recipe `index` in turns of a step, and add what they took.

    Processor time where they have one thread, else real time.
    """
    # the baseline comes first, whatever its recipe is called, then PSD
    label = f'training {("baseline", "psd")[index]}'
    threads, kind = (ONE_THREAD, 'CPU') if on_one_thread else (AS_COMMANDS, 'real')
    probes = _start(TRAINING_PROBE, [str(index), str(TRAINING_STEPS)], checkouts, threads)
    try:
        for probe in probes.values():
            _answer(probe)  # the first step
        for turn in range(TRAINING_WARM_UP + TRAINING_STEPS - 2):
            for side in _order(turn):
                _, processor_ms, real_ms = _answer(probes[side], 'go\n').split()
                if turn >= TRAINING_WARM_UP:
                    ms = float(processor_ms if on_one_thread else real_ms)
                    costs[side].setdefault(f'{label}, {kind} ms per step', []).append(ms)
        for side, probe in probes.items():
            output, _ = probe.communicate('go\n' * 9)
            if on_one_thread:
                peak = json.loads(output.splitlines()[-1])['peak_memory_mb']
                costs[side].setdefault(f'{label}, peak memory, MB', []).append(peak)
        print(f'{label}, {kind} time: done', file=sys.stderr)
    finally:
        _stop(probes)


def alternate(
    label: str,
    rounds: int,
    checkouts: dict[str, Path],
    costs: dict[str, dict[str, list[float]]],
    measure: Callable[[Path], Iterable[tuple[str, float]]],
) -> None:
    """Measure both checkouts in turns, and add every cost by its name."""
    for number in range(rounds):
        started = time.monotonic()
        for side in _order(number):
            for name, cost in measure(checkouts[side]):
                costs[side].setdefault(name, []).append(cost)
        spent = time.monotonic() - started
        print(f'{label}, round {number + 1}: {spent:.0f} s', file=sys.stderr)


def _order(number: int) -> tuple[str, str]:
    """Which checkout is first: neither always has the warmer machine."""
    return ('old', 'new') if number % 2 == 0 else ('new', 'old')


def _start(
    program: str, arguments: Sequence[str], checkouts: dict[str, Path], threads: dict[str, str]
) -> dict[str, subprocess.Popen[str]]:
    return {
        side: subprocess.Popen(
            [sys.executable, '-c', program, *arguments], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, cwd=path, env=_environment(path, threads),
        )
        for side, path in checkouts.items()
    }  # fmt: skip


def _stop(probes: dict[str, subprocess.Popen[str]]) -> None:
    for probe in probes.values():
        if probe.poll() is None:
            probe.kill()
            probe.communicate()


def _answer(probe: subprocess.Popen[str], line: str = '') -> str:
    """The next line of a probe, after it was given one; '' where it has ended."""
    assert probe.stdin is not None
    assert probe.stdout is not None
    if line:
        probe.stdin.write(line)
        probe.stdin.flush()
    return probe.stdout.readline()


def measure_pipeline(checkout: Path) -> Iterator[tuple[str, float]]:
    """Names and costs of the steps of a frame: the smaller, the better."""
    found = json.loads(_run(PROBE, ['pipeline'], checkout, ONE_THREAD)[-1])
    steps = [row for row in found['rows'] if 'least_ms' in row]
    for row in steps:
        yield f'pipeline {row["step"]}, CPU ms', row['least_ms']
    total = sum(row['least_ms'] for row in steps if row['in_total'])
    yield 'pipeline, everything but the network, CPU ms', total
    yield 'pipeline, peak memory, MB', found['peak_mb']


def measure_end_to_end(checkout: Path) -> Iterator[tuple[str, float]]:
    """Names and costs of a node between a camera and a subscriber."""
    found = json.loads(_run(PROBE, ['end_to_end'], checkout, {})[-1])
    steady, flood = found['rows'][0], found['rows'][-1]
    yield 'end to end 30 Hz, median age of depth, ms', steady['depth_ms_p50']
    yield 'end to end 30 Hz, 95 % of depth is younger than, ms', steady['depth_ms_p95']
    yield 'end to end 30 Hz, median age of cloud, ms', steady['cloud_ms_p50']
    yield 'end to end flooded, time per depth image, ms', 1e3 / flood['depth_hz']
    yield 'end to end, peak memory of the node, MB', max(steady['peak_mb'], flood['peak_mb'])


def measure_engine(checkout: Path) -> Iterator[tuple[str, float]]:
    """Names and costs of large images and of several cameras."""
    found = json.loads(_run(ENGINE_PROBE, [], checkout, ALL_THREADS)[-1])
    for name, cost in found.items():
        yield f'engine, {name}', cost


def measure_preparation(recording: Path, checkout: Path) -> Iterator[tuple[str, float]]:
    """Names and costs of preparing a recording, of a frame each."""
    found = json.loads(_run(PREPARATION_PROBE, [str(recording)], checkout, ALL_THREADS)[-1])
    for name, cost in found.items():
        yield f'preparation of {recording.stem}, {name}', cost


def measure_starts(checkout: Path) -> Iterator[tuple[str, float]]:
    """Names and costs of a first start, of the one after it, and of hot reloads."""
    with tempfile.TemporaryDirectory() as cache:
        for which in STARTS:
            lines = _run(START_PROBE, [], checkout, {**ONE_THREAD, 'XDG_CACHE_HOME': cache})
            seconds, peak_mb = json.loads(lines[-1])
            yield f'{which} start to depth, CPU s', seconds
            yield f'{which} start, peak memory, MB', peak_mb
        lines = _run(RELOAD_PROBE, [cache], checkout, {'XDG_CACHE_HOME': cache})
        for which, seconds in zip(RELOADS, json.loads(lines[-1]), strict=True):
            yield f'hot reload {which}, s', seconds


def _run(
    program: str, arguments: Sequence[str], checkout: Path, extra: dict[str, str]
) -> list[str]:
    """Lines of output of a program that has the package and benchmarks of a checkout."""
    done = subprocess.run(
        [sys.executable, '-c', program, *arguments], capture_output=True, text=True, check=False,
        timeout=PATIENCE_S, cwd=checkout, env=_environment(checkout, extra),
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f'{checkout} ended with code {done.returncode}:\n{done.stderr}')
    return done.stdout.splitlines()


def _environment(checkout: Path, extra: dict[str, str]) -> dict[str, str]:
    path = os.pathsep.join([str(checkout), str(checkout / 'benchmarks')])
    return {**os.environ, **extra, 'PYTHONPATH': path}


def compare(
    old: dict[str, list[float]], new: dict[str, list[float]], limit_percent: float
) -> Iterator[dict[str, Any]]:
    """A row for every cost that both checkouts have, in as many rounds."""
    limit = 1.0 + limit_percent / 100.0
    for name in old:
        if len(old[name]) != len(new.get(name, [])) or len(old[name]) < 2:
            continue
        ratio, low, high = interval(np.array(new[name]) / np.array(old[name]))
        verdict = 'within' if high <= limit else 'WORSE' if low > limit else 'unclear'
        yield {
            'cost': name,
            'old': float(np.median(old[name])),
            'new': float(np.median(new[name])),
            'new/old': ratio,
            'low': low,
            'high': high,
            'verdict': verdict,
        }


def interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """Geometric mean of at least 2 ratios and its 95 % interval."""
    logs = np.log(ratios)
    half = STUDENT_T.get(len(logs) - 1, 2.0) * logs.std(ddof=1) / math.sqrt(len(logs))
    mean = float(logs.mean())
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line for each cost."""
    wide = max((len(row['cost']) for row in rows), default=0)
    print(f'{"cost":{wide}}  {"old":>9}  {"new":>9}  new/old  95 % interval  verdict')
    for row in rows:
        print(
            f'{row["cost"]:{wide}}  {row["old"]:9.2f}  {row["new"]:9.2f}  {row["new/old"]:7.3f}  '
            f'{row["low"]:.3f} .. {row["high"]:.3f}  {row["verdict"]}'
        )


if __name__ == '__main__':
    sys.exit(main())
