"""Self-supervised training on this machine's CPU and GPU, and how fast bags become tensors.

Recipes are measured right after each other, each in a process of its own. Maps of teachers are
those of the checkpoint of the package, made before the clock starts.
"""

from __future__ import annotations

from itertools import product
import json
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

from timing import summarise, Timing
import torch

from psd_depth_ros.data.open import open_frames
from psd_depth_ros.preprocess import choose_input_size, Preprocessor
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.runtime import waiting_environment
from psd_depth_ros.synth import World, WorldSettings

HERE = Path(__file__).resolve().parent
MEAN = STD = (0.5, 0.5, 0.5)
SIZES = {'416x128': 416 * 128, '640x192': 640 * 192}
RECIPES = ('baseline', 'psd', 'ss_mde', 'structure_centric', 'full')
STEPS = {'cpu': (30, 8), 'cuda': (300, 100)}  # in full, quick
FRAMES = 20
WORLD = WorldSettings(kind='street', width=832, height=256, speed_mps=8.0)
PATIENCE_S = 1800.0


def measure_training(quick: bool) -> list[dict[str, Any]]:
    """Rows of recipe and input with rate, share of waiting and peak memory."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix='psd_bench_') as folder:
        bag = Path(folder) / 'street.mcap'
        write_world(World(1, WORLD), bag, FRAMES)
        devices = ('cpu', 'cuda') if torch.cuda.is_available() else ('cpu',)
        for device, pixels in product(devices, list(SIZES.values())[: 1 if quick else None]):
            steps = STEPS[device][quick]
            found = [
                _train(recipe, pixels, steps, bag, Path(folder), device) for recipe in RECIPES
            ]
            for row in found[1:]:
                row['of_baseline'] = row['images_per_s'] / found[0]['images_per_s']
            rows += found
    return rows


def measure_reading(quick: bool) -> list[dict[str, Any]]:
    """Rows of a bag's pictures with the rate at which they become tensors."""
    rows = []
    with tempfile.TemporaryDirectory(prefix='psd_bench_') as folder:
        for name, quality in (('rgb8', None), ('jpeg', 90)):
            bag = Path(folder) / f'{name}.mcap'
            write_world(World(1, WORLD), bag, FRAMES, quality)
            timing = _read(bag, 0.5 if quick else 3.0)
            size = f'{WORLD.width}x{WORLD.height}'
            rows.append(
                timing.row(
                    bag=f'{size} {name}', tensor='416x128', frames_per_s=1e3 / timing.median_ms
                )
            )
    return rows


def _train(
    recipe: str, pixels: int, steps: int, bag: Path, cache: Path, device: str
) -> dict[str, Any]:
    command = [sys.executable, HERE / 'trainee.py', recipe, pixels, steps, bag, cache, device]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, **waiting_environment(os.environ)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f'training {recipe} ended with code {done.returncode}:\n{done.stderr}')
    return {**json.loads(done.stdout.splitlines()[-1]), 'of_baseline': None}


def _read(bag: Path, seconds: float) -> Timing:
    """Read and decode every picture, make a normalised tensor of it; opening does not count."""
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while not times_ms or time.perf_counter() < end:
        with open_frames(bag) as source:
            frames = source.frames()
            camera = next(frames).camera
            size = choose_input_size(camera.width, camera.height, SIZES['416x128'])
            preprocess = Preprocessor(camera, size, MEAN, STD)
            start = time.perf_counter()
            for frame in frames:
                preprocess(frame.rgb)
                start, before = time.perf_counter(), start
                times_ms.append(1e3 * (start - before))
    return summarise(times_ms)
