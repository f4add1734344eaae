"""Rendered worlds: frames per second of two processes with one thread each, world set-up included.

    python benchmarks/rendering.py

Every world is new and gives five frames, as the shards of a training do.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
import multiprocessing
import time
from typing import Any

from timing import print_table
import torch

from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.training.worlds import FRAME_STEP

PROCESSES, FRAMES = 2, 5
SIZE = {'width': 416, 'height': 128}


def measure_rendering(quick: bool) -> list[dict[str, Any]]:
    """Rows of kind of world and frames per second, streets and rooms together last."""
    worlds = 6 if quick else 24
    context = multiprocessing.get_context('spawn')
    seconds = {}
    with ProcessPoolExecutor(PROCESSES, context, initializer=_one_thread) as pool:
        list(pool.map(_render, [('street', 0)] * PROCESSES))
        for kind in ('street', 'room'):
            start = time.perf_counter()
            list(pool.map(_render, [(kind, seed) for seed in range(1, worlds + 1)]))
            seconds[kind] = time.perf_counter() - start
    frames = worlds * FRAMES
    rows = [{'worlds': kind, 'frames_per_s': round(frames / s, 1)} for kind, s in seconds.items()]
    both = round(2 * frames / sum(seconds.values()), 1)
    return [*rows, {'worlds': 'half of each', 'frames_per_s': both}]


def _one_thread() -> None:
    torch.set_num_threads(1)


def _render(task: tuple[str, int]) -> None:
    kind, seed = task
    world = World(seed, WorldSettings(kind=kind, viewpoint='anywhere', **SIZE))
    for index in range(FRAMES):
        world.render(index * FRAME_STEP)


if __name__ == '__main__':
    print_table('rendered worlds, 416x128', measure_rendering(quick=False))
