"""What a GPU does for inference and training, old and new ways side by side, in one short call.

    export PYTHONPATH=.      # where the package is not installed
    python benchmarks/gpu.py --output DIR [--minutes 9] [--lite-minutes 1.5] [--only frame lite]
    python benchmarks/gpu.py --dry --output DIR     # on a CPU, tiny, traced and not compiled

Every part is a process of its own with a time limit, so that one that fails, hangs or fills the
memory loses nothing but itself. Its row is printed and DIR/gpu.json written as soon as it is
known. The part `lite` gets its time, whatever was before. Run it from a checkout.

- network: the network alone for a 640x480 image: operation by operation, the recorded CUDA graph
  of today, torch.compile in two modes, and compiled, then recorded; how far each is off float32
- frame: a 640x480 image to depth, then its cloud, through the engine of the node
- data: renders what the parts below learn from, with all cores
- step: recipe psd with every term, batch 32, 416x128: as today, and with compiled networks; losses
  against those of today. Variants with `graph` record a whole step, as it is or compiled, and
  compare it with one that is not, on a batch that is there already, without terms that draw
- worlds: the supervised recipe starter at batch 64 in bfloat16, and how fast threads make batches
- lite: recipe lite at batch 64 in bfloat16 for --lite-minutes; its recordings are a rendered
  drive. DIR/lite.safetensors is the result, with its scores and those of the start

Targets are those of an H200. Nothing is asserted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from scene import camera, picture
from timing import describe_machine, measure, print_table, summarise
import torch
from torch import Tensor
from trainee import folded_weights, make_recipe

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.cloud import CloudSettings
from psd_depth_ros.inference.torch_backend import TorchBackend
from psd_depth_ros.inference.torch_conversion import example_inputs, MapsModel
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.depth_model import load_model
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.objectives.base import Objective
from psd_depth_ros.preprocess import choose_input_size
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.runtime import (
    autocast,
    available_cores,
    configure_runtime,
    configure_training,
    has_bfloat16,
)
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.training.logging import StepReport
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.mixed_task import MixedTask
from psd_depth_ros.training.recipe import (
    change_recipe,
    find_recipe,
    MixedRecipe,
    read_recipe,
    Recipe,
    VideoRecipe,
    WorldsRecipe,
)
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.state import RunState
from psd_depth_ros.training.task import Task
from psd_depth_ros.training.video_task import FINE_FACTOR, VideoTask
from psd_depth_ros.training.worlds import plan_shards, render_shards
from psd_depth_ros.training.worlds_task import WorldsTask

Row = dict[str, Any]
EAGER, GRAPH, RECORDED = 'eager', 'graph', 'compiled, recorded'
NETWORKS, OBJECTIVE = 'networks', 'objective'
TODAY = {'network': GRAPH, 'frame': GRAPH, 'step': EAGER, 'worlds': EAGER}
LITE = 'lite'
# Part, variant and the seconds that it may take, compilation included; in this order: what is used
# today, what promises most, the training, and what takes long to compile.
ORDER = (
    ('network', EAGER, 40.0), ('network', GRAPH, 40.0), ('frame', GRAPH, 40.0),
    ('data', '', 90.0), ('step', EAGER, 60.0), ('step', GRAPH, 50.0), ('worlds', EAGER, 60.0),
    ('network', RECORDED, 110.0), ('frame', RECORDED, 60.0),
    ('step', f'{NETWORKS}, {GRAPH}', 90.0), ('worlds', NETWORKS, 90.0), (LITE, '', 0.0),
    ('network', 'reduce-overhead', 60.0), ('frame', 'reduce-overhead', 60.0),
    ('step', f'{OBJECTIVE}, {GRAPH}', 120.0), ('network', 'max-autotune', 90.0),
    ('step', NETWORKS, 150.0),
)  # fmt: skip
# On a CPU these are as others: there is nothing to record, modes of the compiler differ on a GPU
# only, and to trace a network takes ten seconds.
NOT_DRY = (
    ('network', EAGER), ('network', 'reduce-overhead'), ('network', 'max-autotune'),
    ('frame', RECORDED), ('frame', 'reduce-overhead'), ('step', GRAPH), ('step', NETWORKS),
    ('step', f'{NETWORKS}, {GRAPH}'),
)  # fmt: skip
PARTS = tuple(dict.fromkeys(part for part, _, _ in ORDER))
UNDRAWN = ('objective.patch=off', 'objective.mix=off')  # nothing is drawn at random in a step
LITE_OVERHEAD_S = 60.0  # to load, validate and save
COMPARED = 5  # losses of the first steps
MAX_CHECKPOINT_BYTES = 16 * 2**20
TARGETS = (
    # part, figure, at most or at least, of an H200
    ('network', 'gpu_ms', 'at most', 0.8),
    ('frame', 'depth_ms', 'at most', 1.6),
    ('frame', 'cloud_ms', 'at most', 0.6),
    ('step', 'images_per_s', 'at least', 400.0),
    ('step', 'times_today', 'at least', 10.0),
    ('step', 'recorded_times', 'at least', 10.0),
    ('worlds', 'images_per_s', 'at least', 1500.0),
)


@dataclass(frozen=True)
class Sizes:
    """How large the parts are."""

    image: tuple[int, int]  # width, height, of inference
    pixels: int  # of training inputs
    world: WorldSettings  # of the drive
    drive_frames: int
    frames: int  # of rendered worlds
    held_out: int
    step_batch: int
    batch: int
    warm_up: int  # steps that are not counted: memory and compilation
    steps: int
    seconds: float  # of a timing


FULL = Sizes(
    (640, 480), 416 * 128, WorldSettings(kind='street', width=832, height=256, speed_mps=8.0),
    60, 1920, 48, 32, 64, 30, 120, 2.0,
)  # fmt: skip
DRY = Sizes(
    (160, 120), 96 * 64, WorldSettings(kind='street', width=192, height=64, speed_mps=8.0),
    12, 12, 3, 2, 6, 2, 3, 0.2,
)  # fmt: skip


def main() -> int:
    """Run the parts one after the other; 0 where at least one has given a row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--output', type=Path, default=Path(os.environ.get('OUT', 'bench_out')))
    parser.add_argument('--minutes', type=float, default=9.0, help='of the whole (%(default)s)')
    parser.add_argument('--lite-minutes', type=float, default=1.5, help='(%(default)s)')
    parser.add_argument('--only', nargs='+', choices=PARTS, default=PARTS)
    parser.add_argument('--dry', action='store_true', help='on the CPU, tiny, not compiled')
    parser.add_argument('--part', nargs=2, help=argparse.SUPPRESS)  # of a child
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.dry and not torch.cuda.is_available():
        parser.error('there is no GPU that torch can use; --dry runs the script on the CPU')
    if options.part is not None:
        print(json.dumps(_run_part(options)))
        return 0
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='psd_gpu_') as folder:
        return int(not _run_all(options, Path(folder)))


def _run_all(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Rows of every part that came to an end."""
    end = time.monotonic() + 60.0 * options.minutes
    lite_s = 60.0 * options.lite_minutes + LITE_OVERHEAD_S
    wanted = set(options.only)
    if wanted & {'step', 'worlds', LITE}:
        wanted.add('data')
    order = [one for one in ORDER if one[0] in wanted and not (options.dry and one[:2] in NOT_DRY)]
    rows: list[Row] = []
    for number, (part, variant, limit_s) in enumerate(order):
        kept_s = lite_s if any(later == LITE for later, _, _ in order[number + 1 :]) else 0.0
        left_s = min(lite_s if part == LITE else limit_s, end - time.monotonic() - kept_s)
        row = _spawn(options, folder, part, variant, left_s)
        _compare(row, rows)
        rows.append(row)
        print(json.dumps({k: v for k, v in row.items() if k != 'losses'}), flush=True)
        _write(options, rows)
    for part in TODAY:
        found = [row for row in rows if row['part'] == part and 'error' not in row]
        names = dict.fromkeys(k for row in found for k in row if k != 'losses')
        print_table(part, [{name: row.get(name) for name in names} for row in found])
    print_table('targets, for an H200', targets(rows))
    print(f'\nwritten to {options.output / "gpu.json"}')
    return [row for row in rows if 'error' not in row]


def _write(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    content = {'machine': describe_machine(), 'dry': options.dry, 'rows': rows}
    path = options.output / 'gpu.json'
    path.write_text(json.dumps({**content, 'targets': targets(rows)}, indent=2) + '\n')


def _spawn(
    options: argparse.Namespace, folder: Path, part: str, variant: str, limit_s: float
) -> Row:
    """The row of a part from a process of its own, or why there is none."""
    row: Row = {'part': part, 'variant': variant}
    if limit_s < 5.0:
        return {**row, 'error': 'no time was left'}
    command = [sys.executable, __file__, '--part', part, variant, '--folder', str(folder)]
    command += ['--output', str(options.output), '--lite-minutes', str(options.lite_minutes)]
    command += ['--dry'] if options.dry else []
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]).rstrip(os.pathsep)
    more = {'PYTHONPATH': path, **({'OMP_NUM_THREADS': '1'} if options.dry else {})}
    start = time.monotonic()
    with tempfile.TemporaryFile('w+') as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=root,
            env={**os.environ, **more}, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit_s)
            row['seconds'] = round(time.monotonic() - start, 1)
            if process.returncode == 0:
                return {**row, **json.loads(output.splitlines()[-1])}
            said.seek(0)
            return {**row, 'error': said.read()[-1500:] or f'code {process.returncode}'}
        except subprocess.TimeoutExpired:
            return {**row, 'error': f'took longer than {limit_s:.0f} s'}
        finally:
            with suppress(ProcessLookupError):  # with the compilers that it has started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _compare(row: Row, rows: Sequence[Row]) -> None:
    """Add how much faster a row is than that of today, and how far its losses are off."""
    part = row['part']
    today = next(
        (one for one in rows if (one['part'], one['variant']) == (part, TODAY.get(part))), row
    )
    if 'error' in row or 'error' in today or part not in TODAY:
        return
    if 'images_per_s' in row:
        row['times_today'] = round(row['images_per_s'] / today['images_per_s'], 2)
        pairs = zip(row['losses'], today['losses'], strict=False)
        row['losses_off'] = float(f'{max(abs(a / b - 1.0) for a, b in pairs):.1e}')


def targets(rows: Sequence[Row]) -> list[Row]:
    """The best figure of each part against what is wanted."""
    found = []
    for part, figure, sense, wanted in TARGETS:
        known = [row for row in rows if row['part'] == part and figure in row]
        if not known:
            continue
        best = (min if sense == 'at most' else max)(known, key=lambda row: row[figure])
        met = best[figure] <= wanted if sense == 'at most' else best[figure] >= wanted
        found.append({
            'target': f'{part}: {figure}', 'variant': best['variant'], 'found': best[figure],
            'wanted': f'{sense} {wanted:g}', 'met': 'yes' if met else 'NO',
        })  # fmt: skip
    return found


def _run_part(options: argparse.Namespace) -> Row:
    part, variant = options.part
    sizes = DRY if options.dry else FULL
    device = torch.device('cpu' if options.dry else 'cuda')
    torch.set_float32_matmul_precision('high')
    if part in ('network', 'frame'):
        configure_runtime('torch')
        call = measure_network if part == 'network' else measure_frame
        return call(variant, sizes, device)
    configure_training()
    if part == 'data':
        return render_data(sizes, options.folder)
    if part == 'step':
        *compiled_part, last = variant.split(', ')
        if last == GRAPH:
            return measure_recorded_step(compiled_part, sizes, device, options.folder)
        return measure_step(variant, sizes, device, options.folder)
    if part == 'worlds':
        return measure_worlds(variant, sizes, device, options.folder)
    minutes = 0.05 if options.dry else options.lite_minutes
    return train_lite(sizes, device, options.folder, minutes, options.output)


# Inference.

Network = Callable[[Tensor, Tensor], Tensor]


def make_network(variant: str, model: DepthModel, device: torch.device) -> Network:
    """The network as a function of image and intrinsics, in half precision where it is faster."""
    if variant == GRAPH:
        backend = TorchBackend(model, device)
        if device.type == 'cuda':
            return backend.run
        # which takes arrays on a CPU
        return lambda image, intrinsics: torch.from_numpy(
            backend.run(image.numpy(), intrinsics.numpy())
        )
    maps: Any = MapsModel(model).eval().to(device).to(memory_format=torch.channels_last)
    mode = 'max-autotune-no-cudagraphs' if variant == RECORDED else variant
    if variant != EAGER:
        torch._inductor.config.freezing = True  # weights are constants: cast and folded once
        maps = compiled(maps, device, mode=mode)
    dtype = torch.float16 if device.type == 'cuda' else torch.bfloat16
    half = has_bfloat16(device.type)

    @torch.no_grad()
    def run(image: Tensor, intrinsics: Tensor) -> Tensor:
        if mode in ('reduce-overhead', 'max-autotune'):
            torch.compiler.cudagraph_mark_step_begin()
        image = image.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype, enabled=half, cache_enabled=False):
            found: Tensor = maps(image, intrinsics).float()
        return found

    return _Recorded(run) if variant == RECORDED and device.type == 'cuda' else run


def compiled(what: Any, device: torch.device, **options: Any) -> Any:
    """torch.compile for shapes that stay; on a CPU traced (backward, too), not compiled."""
    torch._dynamo.config.recompile_limit = 64  # networks, phases of a run, sizes of inputs
    if device.type == 'cpu':
        return torch.compile(what, backend='aot_eager')
    return torch.compile(what, **options)


class _Recorded:
    """A function of two tensors as a CUDA graph, recorded at the first call for each shape."""

    def __init__(self, call: Network) -> None:
        self._call = call
        self._graphs: dict[tuple[int, ...], tuple[Any, list[Tensor], Tensor]] = {}

    def __call__(self, *given: Tensor) -> Tensor:
        """The result, which the next call overwrites."""
        key = tuple(given[0].shape)
        if key not in self._graphs:
            own = [one.clone() for one in given]
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._call(*own)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                output = self._call(*own)
            self._graphs[key] = graph, own, output
        graph, own, output = self._graphs[key]
        for mine, one in zip(own, given, strict=True):
            mine.copy_(one)
        graph.replay()
        return output


class VariantBackend:
    """A variant of the network, as the engine takes it (`inference.backends.Backend`)."""

    name = 'torch'

    def __init__(self, variant: str, model: DepthModel, device: torch.device) -> None:
        self._network = make_network(variant, model, device)

    def run(self, image: Any, intrinsics: Any) -> Any:
        """See `Backend.run`."""
        if isinstance(image, Tensor):
            return self._network(image, intrinsics)
        return self._network(torch.from_numpy(image), torch.from_numpy(intrinsics)).numpy()

    def is_ready(self, shape: tuple[int, ...]) -> bool:
        """See `Backend.is_ready`."""
        return True

    def prepare(self, shapes: Sequence[tuple[int, ...]], convert: Any = None) -> None:
        """See `Backend.prepare`."""

    def close(self) -> None:
        """See `Backend.close`."""


def measure_network(variant: str, sizes: Sizes, device: torch.device) -> Row:
    """Milliseconds of the network alone, and the difference of its log-depth to float32."""
    checkpoint = load_checkpoint(None)
    size = choose_input_size(*sizes.image, checkpoint.info.input.pixel_budget)
    image, intrinsics = example_inputs((1, 3, *size))
    with torch.no_grad():
        exact = MapsModel(load_model(checkpoint))(image, intrinsics)
    run = make_network(variant, load_model(checkpoint), device)
    image, intrinsics = image.to(device), intrinsics.to(device)
    started = time.perf_counter()
    with torch.inference_mode(variant == GRAPH):
        found = run(image, intrinsics).cpu()
        first_s = time.perf_counter() - started
        timing = measure(lambda: run(image, intrinsics).cpu(), sizes.seconds)
        runs = max(10, round(1e3 * sizes.seconds / timing.median_ms))
        started = time.perf_counter()
        for _ in range(runs):
            run(image, intrinsics)
        if device.type == 'cuda':
            torch.cuda.synchronize()
        gpu_ms = 1e3 * (time.perf_counter() - started) / runs
    off = (found[:, 0] - exact[:, 0]).abs().flatten()
    return {
        'input': f'{size[1]}x{size[0]}',
        'gpu_ms': round(gpu_ms, 3),  # back to back, nothing is fetched
        'call_ms': round(timing.median_ms, 3),  # with the download of the maps
        'call_p95_ms': round(timing.p95_ms, 3),
        'first_call_s': round(first_s, 1),
        'log_depth_off': round(float(off.mean()), 5),
        'log_depth_off_p99': round(float(off.quantile(0.99)), 5),
    }


def measure_frame(variant: str, sizes: Sizes, device: torch.device) -> Row:
    """Milliseconds from an image to depth on the CPU, and from there to its cloud."""
    checkpoint = load_checkpoint(None)
    backend = VariantBackend(variant, load_model(checkpoint), device)
    engine = DepthEngine(checkpoint, backend, device.type)
    lens, rgb = camera(*sizes.image), picture(*sizes.image)
    settings = CloudSettings()
    depth_ms: list[float] = []
    cloud_ms: list[float] = []

    def both() -> None:
        start = time.perf_counter()
        frame = engine.infer(rgb, lens)
        np.asarray(frame.depth_m)
        middle = time.perf_counter()
        frame.cloud(settings)
        depth_ms.append(1e3 * (middle - start))
        cloud_ms.append(1e3 * (time.perf_counter() - middle))

    both_ms = measure(both, sizes.seconds)
    depth, cloud = (summarise(times[-both_ms.runs :]) for times in (depth_ms, cloud_ms))
    points = engine.infer(rgb, lens).cloud(settings).width
    engine.close()
    return {
        'image': f'{sizes.image[0]}x{sizes.image[1]}',
        'depth_ms': round(depth.median_ms, 3),
        'depth_p95_ms': round(depth.p95_ms, 3),
        'cloud_ms': round(cloud.median_ms, 3),
        'cloud_p95_ms': round(cloud.p95_ms, 3),
        'points': int(points),
    }


# Training.


def render_data(sizes: Sizes, folder: Path) -> Row:
    """Render the drive and the worlds with all cores; rates are of the worlds."""
    write_world(World(1, sizes.world), folder / 'street.mcap', sizes.drive_frames)
    recipe = worlds_recipe(sizes, 1)
    shards = [
        shard
        for validation in (True, False)
        for shard in plan_shards(recipe, folder / 'worlds', validation=validation)
    ]
    started = time.perf_counter()
    render_shards(shards, available_cores(), lambda done, total: None)
    frames = sum(len(shard.seeds) * shard.frames_per_world for shard in shards)
    rate = frames / (time.perf_counter() - started)
    return {'frames': frames, 'frames_per_s': round(rate, 1), 'processes': available_cores()}


def compile_training(variant: str, device: torch.device) -> None:
    """Compile what every network or objective of this process calls.

    The classes are changed and not their objects: the loop copies networks.
    """
    if variant == NETWORKS:
        networks: Any = DepthModel
        networks.predict_all = compiled(DepthModel.predict_all, device)
        pose: Any = PoseNet
        pose.forward = compiled(PoseNet.forward, device)
    elif variant == OBJECTIVE:
        objective: Any = Objective
        objective.forward = compiled(Objective.forward, device)


def video_task(sizes: Sizes, folder: Path, steps: int, *changes: str) -> VideoTask:
    """Recipe psd with every term from the first step on; nothing but steps."""
    recipe = make_recipe('psd', sizes.pixels, steps, str(folder / 'street.mcap'))
    more = (f'batch={sizes.step_batch}', 'data.triplets.minimum_parallax=0.1', *changes)
    recipe = change_recipe(recipe, more, 'gpu.py')
    assert isinstance(recipe, VideoRecipe)
    cache = folder / 'frames'
    data = prepare_sequences(
        recipe.data, pixel_budget=recipe.pixel_budget, cache=cache, fine_factor=FINE_FACTOR
    )
    torch.manual_seed(0)  # the same weights, whatever was imported or compiled before
    return VideoTask(recipe, data, folded_weights(), cache=cache)


def measure_step(variant: str, sizes: Sizes, device: torch.device, folder: Path) -> Row:
    """Images/s of the loop, with its loader and its logs."""
    compile_training(variant, device)
    task = video_task(sizes, folder, sizes.warm_up + sizes.steps)
    return run_counted(task, sizes, device)


def run_counted(task: Task, sizes: Sizes, device: torch.device) -> Row:
    """Train a task, and measure all steps but the first ones and the last."""
    seen: list[StepReport] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as run:
        run_training(task, RunFolder(Path(run) / 'run'), device=device.type, report=seen.append)
    counted = seen[sizes.warm_up : -1]
    images = task.recipe.batch * (len(counted) - 1)
    spent = counted[-1].seconds - counted[0].seconds
    is_gpu = device.type == 'cuda'
    return {
        'batch': task.recipe.batch,
        'steps': len(seen),
        'images_per_s': round(images / spent, 1),
        'waiting': round(counted[-1].data_wait_fraction, 3),
        'peak_memory_mb': round(torch.cuda.max_memory_reserved() / 2**20) if is_gpu else None,
        'whole_run_s': round(time.perf_counter() - started, 1),
        'losses': [report.loss for report in seen[:COMPARED]],
    }


def measure_recorded_step(
    compiled_part: Sequence[str], sizes: Sizes, device: torch.device, folder: Path
) -> Row:
    """A step recorded as a whole against the same step as it is, on a batch that stays.

    Forward and backward are recorded; clipping, the optimiser and the average are not. Terms that
    draw numbers in a step are left out: a recorded step would draw the same ones for ever.
    `compiled_part` is what `compile_training` compiles, at most one.
    """
    task = video_task(sizes, folder, sizes.steps, *UNDRAWN)
    for name in compiled_part:
        compile_training(name, device)
    state = RunState(task, device)
    task.prepare(1.0)
    batch = task.batch(1, 0, 1).to(device)

    def compute() -> Tensor:
        with autocast(device.type, task.recipe.precision):
            terms = task.losses(task.module, batch, 0.5)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        return loss.detach()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(state.parameters, task.recipe.clip)
        state.optimiser.step()
        state.step += 1
        state.update_average()

    def whole() -> None:
        state.optimiser.zero_grad(set_to_none=True)
        compute()
        update()

    # not counted as images/s, which are those of the loop with its loader
    plain = _rate(whole, task.recipe.batch, sizes, device)
    if device.type != 'cuda':
        return {'batch': task.recipe.batch, 'fixed_images_per_s': plain, 'recorded': 'needs CUDA'}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            state.optimiser.zero_grad(set_to_none=True)
            compute()
    torch.cuda.current_stream().wait_stream(stream)
    state.optimiser.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded_loss = compute()

    def replay() -> None:
        graph.replay()
        update()

    graph.replay()
    again = recorded_loss.item()
    state.optimiser.zero_grad(set_to_none=False)
    expected = compute().item()
    recorded = _rate(replay, task.recipe.batch, sizes, device)
    return {
        'batch': task.recipe.batch,
        'fixed_images_per_s': plain,
        'recorded_images_per_s': recorded,
        'recorded_times': round(recorded / plain, 2),
        'loss_off': float(f'{abs(again / expected - 1.0):.1e}'),
    }


def _rate(step: Callable[[], None], images: int, sizes: Sizes, device: torch.device) -> float:
    """Images/s of a step that is called again and again."""

    def wait() -> None:
        if device.type == 'cuda':
            torch.cuda.synchronize()

    for _ in range(sizes.warm_up):
        step()
    wait()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < 2.0 * sizes.seconds:
        step()
        steps += 1
    wait()
    return round(images * steps / (time.perf_counter() - started), 1)


def worlds_recipe(sizes: Sizes, steps: int) -> WorldsRecipe:
    """Recipe starter in bfloat16 with inputs of one size, and nothing but steps."""
    changes: Mapping[str, Any] = {
        'batch': sizes.batch, 'pixel_budget': sizes.pixels, 'budget_jitter': 1.0,
        'precision': 'bf16', 'steps': steps, 'validate_every': 10**6, 'save_every': 10**6,
        'preview_every': 0, **{f'worlds.{k}': v for k, v in worlds_settings(sizes).items()},
    }  # fmt: skip
    recipe = change_recipe(read_recipe(find_recipe('starter')), changes, 'gpu.py')
    assert isinstance(recipe, WorldsRecipe)
    return recipe


def worlds_settings(sizes: Sizes) -> dict[str, Any]:
    """The same for all parts, which share what was rendered."""
    return {
        'frames': sizes.frames, 'frames_per_world': 4, 'oversize': 1.25, 'first_seed': 300_000,
        'validation_frames': sizes.held_out,
    }  # fmt: skip


def measure_worlds(variant: str, sizes: Sizes, device: torch.device, folder: Path) -> Row:
    """Images/s of supervised steps; and with `eager` also those of batches alone."""
    compile_training(variant, device)
    recipe = worlds_recipe(sizes, sizes.warm_up + sizes.steps + 1)
    start = load_checkpoint(None)
    task = WorldsTask.from_recipe(recipe, folder / 'worlds', start, lambda done, total: None)
    row: Row = {}
    if variant == EAGER:
        counts = (2,) if device.type == 'cpu' else (4, 8, 14)
        row['batches_images_per_s'] = {n: _batches_rate(task, n, sizes) for n in counts}
    return {**run_counted(task, sizes, device), **row}


def _batches_rate(task: Task, threads: int, sizes: Sizes) -> float:
    """Images/s of so many threads that make batches, while nothing else happens."""
    started, images, step = time.perf_counter(), 0, 0
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        while time.perf_counter() - started < sizes.seconds:
            steps = range(step + 1, step + 2 * threads + 1)
            images += sum(len(one.image) for one in pool.map(lambda n: task.batch(n, 0, 1), steps))  # type: ignore[attr-defined]
            step += 2 * threads
    return round(images / (time.perf_counter() - started), 1)


def lite_recipe(sizes: Sizes, folder: Path, minutes: float) -> MixedRecipe:
    """Recipe lite: five of six images of a batch are of worlds, the others of the drive."""
    recordings = max(1, sizes.batch // 6)
    changes: dict[str, Any] = {
        'max_minutes': minutes, 'precision': 'bf16', 'steps': 10**6, 'validate_every': 10**6,
        'save_every': 10**6, 'preview_every': 0,
        'sources.worlds.batch': sizes.batch - recordings,
        'sources.worlds.pixel_budget': sizes.pixels,
        'sources.recordings.batch': recordings,
        'sources.recordings.pixel_budget': sizes.pixels,
        'sources.recordings.data.paths': [str(folder / 'street.mcap')],
        'sources.recordings.data.cache': str(folder / 'frames'),
        'sources.recordings.data.triplets.held_out': 0.2,
        'sources.recordings.data.triplets.minimum_parallax': 0.1,
        'sources.recordings.objective.pseudo_depth.teacher': str(default_checkpoint()),
    }  # fmt: skip
    changes |= {f'sources.worlds.worlds.{k}': v for k, v in worlds_settings(sizes).items()}
    recipe: Recipe = change_recipe(read_recipe(find_recipe('lite')), changes, 'gpu.py')
    assert isinstance(recipe, MixedRecipe)
    return recipe


def train_lite(
    sizes: Sizes, device: torch.device, folder: Path, minutes: float, output: Path
) -> Row:
    """Train for some minutes; scores before and after, and the checkpoint in `output`."""
    started = time.perf_counter()
    task = MixedTask.from_recipe(
        lite_recipe(sizes, folder, minutes), load_checkpoint(None), lambda *progress: None,
        worlds=folder / 'worlds', processes=available_cores(),
    )  # fmt: skip
    before = task.validate(task.depth)
    prepared_s = time.perf_counter() - started
    seen: list[StepReport] = []
    run = RunFolder(folder / 'lite_run')
    outcome = run_training(task, run, device=device.type, report=seen.append)
    assert outcome.path is not None
    size = outcome.path.stat().st_size
    if size <= MAX_CHECKPOINT_BYTES:
        shutil.copy(outcome.path, output / 'lite.safetensors')
    first = seen[min(sizes.warm_up, len(seen) // 2)]
    steps = seen[-1].step - first.step
    # every other step has no recordings
    turns = {one.name: one.turns for one in task.recipe.sources}
    images = sum(one.recipe.batch * turns[one.name] for one in task.recipe.sources)
    return {
        'batch': sizes.batch,
        'steps': seen[-1].step,
        'images_per_s': round(images * steps / (seen[-1].seconds - first.seconds), 1),
        'waiting': round(seen[-1].data_wait_fraction, 3),
        'minutes': round(outcome.seconds / 60.0, 2),
        'prepared_s': round(prepared_s, 1),
        'score_before': round(before['score'], 4),
        'score_after': round(outcome.scores.get('score', float('nan')), 4),
        'checkpoint_mb': round(size / 2**20, 2),
        'checkpoint_kept': size <= MAX_CHECKPOINT_BYTES,
    }


if __name__ == '__main__':
    sys.exit(main())
