"""Part `kills`: a fine-tuning is killed at random moments and resumed until it has ended.

A tiny one, of a drive of 20 rendered frames: decoding, training, judging. Whatever was killed,
weights and losses in the end are those of a run that nobody touched, bit for bit.
"""

from __future__ import annotations

from collections import Counter
import csv
from dataclasses import replace
import json
import os
from pathlib import Path
import random
import shutil
import signal
import tempfile
import time
from typing import Any

from soak_cases import fork, wait_for
import torch

from psd_depth_ros.checkpoint import unpack
from psd_depth_ros.finetune.folder import folder_state, FOREIGN, NEW, UNFINISHED
from psd_depth_ros.finetune.run import finetune
from psd_depth_ros.finetune.settings import FinetuneSettings
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.training.state import parse_state

# Without the paths: the recordings and the output folder.
TINY_RUN = FinetuneSettings(
    steps=4,
    device='cpu',
    changes=(
        'pixel_budget=6144', 'batch=2', 'validate_every=2', 'save_every=1', 'preview_every=2',
        'objective.patch=off', 'objective.mix=off', 'data.triplets.held_out=0.3',
        'data.triplets.minimum_parallax=0.1',
    ),
)  # fmt: skip


def run_kills(count: int, seed: int, end_s: float) -> dict[str, Any]:
    """Kill `count` times, or until the monotonic clock reads `end_s`."""
    torch.set_num_threads(1)  # children are forked: this process must have no threads
    folder = Path(tempfile.mkdtemp(prefix='soak_kills_'))
    figures = _run(folder, count, random.Random(seed), end_s)
    if not figures['findings']:
        shutil.rmtree(folder)
    return figures


def _run(folder: Path, count: int, draw: random.Random, end_s: float) -> dict[str, Any]:
    drive = folder / 'drive.mcap'
    settings = replace(TINY_RUN, bags=(str(drive),))
    wait_for(fork(lambda: render(drive)))
    start = time.monotonic()
    tune_in_child(settings, folder / 'whole')
    whole_s = time.monotonic() - start
    wanted = result(folder / 'whole')
    kills, runs, moments, findings = 0, 0, Counter[str](), []
    while kills < count and time.monotonic() < end_s:
        run = folder / f'run_{runs}'
        while folder_state(run) in (NEW, UNFINISHED):
            child = fork(lambda run=run: tune(settings, run))
            time.sleep(draw.uniform(0.0, 1.2 * whole_s))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            if os.WIFSIGNALED(status):
                kills += 1
                moments[_moment(run)] += 1
            elif status:
                findings.append(f'run {runs} could not go on after kill {kills}')
                break
            if kills >= count or time.monotonic() > end_s:
                break
        if folder_state(run) in (NEW, UNFINISHED) and not findings:
            tune_in_child(settings, run)
        if folder_state(run) == FOREIGN:
            findings.append(f'run {runs}: its folder holds no run any more')
        elif not findings and (different := difference(result(run), wanted)):
            findings.append(f'run {runs} ended with other {different}')
        if findings:
            print(f'  FINDING {findings[-1]}; see {run}', flush=True)
            break
        runs += 1
        for path in (run, cache_of(run)):
            shutil.rmtree(path)
    return {
        'kills': kills, 'runs': runs, 'seconds_of_a_run': round(whole_s, 1),
        'killed_while': dict(sorted(moments.items())), 'findings': findings,
    }  # fmt: skip


def render(drive: Path) -> None:
    """The drive that is learned from."""
    write_world(World(3, WorldSettings(width=96, height=64, frame_rate_hz=10.0)), drive, 20)


def tune(settings: FinetuneSettings, run: Path) -> None:
    """Begin or resume the fine-tuning in a folder, in a process of its own.

    Every run decodes for itself, on the disk that it is on.
    """
    os.environ['XDG_CACHE_HOME'] = str(cache_of(run))
    finetune(replace(settings, output=str(run)), resume=folder_state(run) == UNFINISHED)


def cache_of(run: Path) -> Path:
    """Where a run keeps its decoded frames."""
    return run.with_name(f'{run.name}_cache')


def tune_in_child(settings: FinetuneSettings, run: Path) -> None:
    """Begin or resume the fine-tuning in a folder, to its end."""
    wait_for(fork(lambda: tune(settings, run)))


def _moment(run: Path) -> str:
    """What a killed run was doing."""
    if not (run / 'training' / 'run.json').is_file():
        return 'preparing'
    steps = [path.stem for path in (run / 'training' / 'state').glob('step_*.safetensors')]
    return 'judging' if f'step_{TINY_RUN.steps:08d}' in steps else 'training'


def result(run: Path) -> dict[str, Any]:
    """Everything of an ended run that does not tell the time."""
    newest = sorted((run / 'training' / 'state').glob('*.safetensors'))[-1]
    with open(run / 'training' / 'log.csv', newline='') as file:
        losses = [(row['step'], row['loss']) for row in csv.DictReader(file)]
    report = json.loads((run / 'report.json').read_text())
    return {
        'state': parse_state(newest.read_bytes()).tensors,
        'weights': unpack((run / 'best.safetensors').read_bytes())[0],
        'losses': losses,
        'verdict': (report['state'], report['before'], report['after']),
    }


def difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Which parts of a result are not the same, '' where all are."""
    parts = []
    for name, value in wanted.items():
        if name in ('state', 'weights'):
            same = value.keys() == found[name].keys() and all(
                torch.equal(value[key], found[name][key]) for key in value
            )
        else:
            same = value == found[name]
        parts += [] if same else [name]
    return ', '.join(parts)
