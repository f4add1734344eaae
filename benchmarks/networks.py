"""Networks of this package, their exports and networks of others, in one table on one machine.

    python benchmarks/networks.py [--quick] [--sizes 640x192 416x320] [--output networks.json]

Every network runs through the engine that the node uses, from an image to depth in metres, with
all cores. Rounds are interleaved: each network runs some images, then the next one, and again, so
that other programs disturb all alike. Weights of `base` and of the networks of others are random,
which changes nothing about the time. Exports are compared with float32 torch on rendered images.
Memory is the peak of a process of its own that loads the network and runs it once, as a later
start of a node does.

Networks of others need the extra `transformers`, int8 of OpenVINO needs `nncf`; a line says what
was left out. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

from timing import describe_machine, print_table, summarise
import torch

from psd_depth_ros.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    InputInfo,
    load_checkpoint,
    OutputInfo,
    save_checkpoint,
)
from psd_depth_ros.cli.export import divide, read_size
from psd_depth_ros.config import dump
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.export import Example, ExportChoice, write_exported
from psd_depth_ros.inference.exported import Parity, read_exported, SUFFIXES
from psd_depth_ros.networks import DepthModel, load_model, preset
from psd_depth_ros.synth import World, WorldSettings

SIZES = ('640x192', '416x320')
EXPORTS = (
    ('onnx', 'fp32'), ('onnx', 'int8'), ('openvino', 'fp32'), ('openvino', 'bf16'),
    ('openvino', 'int8'),
)  # fmt: skip
OWN_BACKENDS = ('openvino', 'torch')
TRANSFORMER_SIDES = (518, 308)  # pixels of Depth Anything V2, as released and a smaller one
DPT_SIDE = 256
SEED = 2_000_900  # of the rendered worlds
COMPARED, CALIBRATED = 4, 16  # images
# Loads a network, runs it once and prints its peak memory in MB.
MEMORY_PROBE = """
import re, sys
from pathlib import Path

import numpy as np

from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine

spec, backend, width, height, budget = sys.argv[1:]
width, height = int(width), int(height)
engine = DepthEngine.from_checkpoint(spec, 'cpu', backend, pixel_budget=int(budget))
camera = Camera(width, height, 0.8 * width, 0.8 * width, width / 2, height / 2)
engine.infer(np.zeros((height, width, 3), np.uint8), camera)
# not ru_maxrss, in which a new process inherits what its parent took
print(int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024)
"""
IMAGENET = {'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225]}


@dataclass
class Entry:
    """A network that is measured: its engine, what it is, and the times of its images."""

    spec: str  # of the network, for `DepthEngine.from_checkpoint`
    engine: DepthEngine
    example: Example
    row: dict[str, Any]
    pixel_budget: int = 0
    times_ms: list[float] = field(default_factory=list)

    def run(self, count: int, is_measured: bool = True) -> None:
        """Run so many images."""
        image, (fx, fy, cx, cy) = self.example
        camera = Camera(image.shape[1], image.shape[0], fx, fy, cx, cy)
        for _ in range(count):
            start = time.perf_counter()
            self.engine.infer(image, camera)
            if is_measured:
                self.times_ms.append(1e3 * (time.perf_counter() - start))

    def result(self) -> dict[str, Any]:
        """The line of the table."""
        timing = summarise(self.times_ms)
        return {
            **self.row,
            'median_ms': round(timing.median_ms, 2),
            'p95_ms': round(timing.p95_ms, 2),
            'frames_per_s': round(1e3 / timing.median_ms, 1),
            'peak_mb': round(self._measure_memory()),
        }

    def _measure_memory(self) -> float:
        """Peak memory of another process; the second one finds what the first one converted."""
        height, width = self.example[0].shape[:2]
        arguments = [self.spec, self.engine.backend, width, height, self.pixel_budget]
        if self.engine.backend == 'transformers':
            arguments[1] = 'auto'
        command = [sys.executable, '-c', MEMORY_PROBE, *map(str, arguments)]
        for _ in range(2):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--quick', action='store_true', help='two rounds, rough figures')
    parser.add_argument('--sizes', nargs='+', default=SIZES, metavar='WxH')
    parser.add_argument('--networks', nargs='+', default=('lite', 'base'), metavar='NAME',
                        help='of this package: lite, base')  # fmt: skip
    parser.add_argument('--without-others', action='store_true', help='no networks of others')
    parser.add_argument('--rounds', type=int, default=0, help='default: 12, or 2 with --quick')
    parser.add_argument('--output', type=Path, help='JSON of the table')
    chosen = parser.parse_args()
    rounds = chosen.rounds or (2 if chosen.quick else 12)
    machine = describe_machine()
    print_table('machine', [{'what': key, 'found': value} for key, value in machine.items()])
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        groups = [
            lambda text=text: _own(folder, read_size(text), chosen.networks)
            for text in chosen.sizes
        ]
        if not chosen.without_others:
            groups.append(lambda: _others(folder))
        for group in groups:
            rows += measure(group, rounds)
    print_table('networks, from an image to depth', rows)
    if chosen.output:
        text = json.dumps({'machine': machine, 'networks': rows}, indent=2)
        chosen.output.write_text(text + '\n', encoding='utf-8')


def measure(load: Callable[[], Iterator[Entry]], rounds: int) -> list[dict[str, Any]]:
    """Rows of networks that are loaded together and run in turn, five images each time."""
    entries = list(load())
    for entry in entries:
        entry.run(3, is_measured=False)
    for _ in range(rounds):
        for entry in entries:
            entry.run(5)
    rows = [entry.result() for entry in entries]
    for entry in entries:
        entry.engine.close()
    return rows


def _own(folder: Path, size: tuple[int, int], names: list[str]) -> Iterator[Entry]:
    """Checkpoints and exports of the networks of this package at one width and height."""
    examples = list(_rendered(size, COMPARED + CALIBRATED))
    compared, calibration = divide(examples, COMPARED)
    for name in names:
        checkpoint = _checkpoint(folder, name)
        for backend in OWN_BACKENDS:
            budget = size[0] * size[1]
            engine = DepthEngine.from_checkpoint(
                checkpoint.path, 'cpu', backend, pixel_budget=budget
            )
            row = _row(name, 'checkpoint', backend, size)
            yield Entry(checkpoint.path, engine, compared[0], row, budget)
        for kind, precision in EXPORTS:
            path = folder / f'{name}_{size[0]}x{size[1]}_{precision}{SUFFIXES[kind]}'
            try:
                parity = write_exported(
                    path, checkpoint, load_model(checkpoint).eval(), compared,
                    ExportChoice(kind, precision=precision), calibration=calibration,
                    accepts_any=True,
                ).parity  # fmt: skip
                engine = DepthEngine.from_checkpoint(path)
            except PsdDepthError as error:
                print(f'left out: {name}, {kind} {precision}: {error}')
                continue
            exported = read_exported(path)
            assert exported is not None
            made = f'{kind} {precision}'
            if exported.computed != precision:
                made += f' ({exported.computed} here)'
            row = _row(name, made, exported.library, size, parity)
            yield Entry(str(path), engine, compared[0], row)


def _row(
    name: str, made: str, library: str, size: tuple[int, int], parity: Parity | None = None
) -> dict[str, Any]:
    return {
        'network': name,
        'form': made,
        'library': library,
        'input': f'{size[0]}x{size[1]}',
        'off_mean_%': None if parity is None else round(100 * parity.mean, 3),
        'off_p99_%': None if parity is None else round(100 * parity.high, 2),
    }


def _checkpoint(folder: Path, name: str) -> Checkpoint:
    """`lite` as it is shipped, others with random weights."""
    if name == 'lite':
        return load_checkpoint(name)
    path = folder / f'{name}.safetensors'
    if not path.exists():
        torch.manual_seed(0)
        architecture = preset(name)
        info = CheckpointInfo(
            name, dump(architecture), input=InputInfo(192, 640), output=OutputInfo(metric=True)
        )
        save_checkpoint(path, info, DepthModel(architecture).state_dict())
    return load_checkpoint(path)


def _rendered(size: tuple[int, int], count: int) -> Iterator[Example]:
    for index in range(count):
        kind = 'street' if index % 2 == 0 else 'room'
        world = World(SEED + index, WorldSettings(kind=kind, width=size[0], height=size[1]))
        camera = world.camera
        yield world.render(5).rgb.numpy(), (camera.fx, camera.fy, camera.cx, camera.cy)


def _others(folder: Path) -> Iterator[Entry]:
    """Depth Anything V2 Small and DPT with a Swin v2 tiny, made from their configurations."""
    try:
        import transformers
    except ImportError:
        print('left out: networks of others, which need pip install "psd_depth_ros[transformers]"')
        return
    (example,) = _rendered((640, 480), 1)
    models = {
        'Depth Anything V2 Small': (_depth_anything(transformers), TRANSFORMER_SIDES),
        'DPT Swin v2 tiny': (_dpt(transformers), (DPT_SIDE,)),
    }
    for name, (model, sides) in models.items():
        place = folder / name.replace(' ', '_')
        model.save_pretrained(place)
        (place / 'preprocessor_config.json').write_text(json.dumps(IMAGENET))
        for side in sides:
            spec = f'{place}?output=depth&metric=true&height={side}&width={side}'
            engine = DepthEngine.from_checkpoint(spec, 'cpu')
            yield Entry(spec, engine, example, _row(name, 'fp32', engine.backend, (side, side)))


def _depth_anything(transformers: Any) -> Any:
    """As depth-anything/Depth-Anything-V2-Small: ViT-S with patches of 14."""
    backbone = transformers.Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518,
        patch_size=14, out_indices=[3, 6, 9, 12], apply_layernorm=True,
        reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=384, patch_size=14,
        reassemble_factors=[4, 2, 1, 0.5], neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64, head_in_index=-1, head_hidden_size=32,
    )  # fmt: skip
    return transformers.DepthAnythingForDepthEstimation(config).eval()


def _dpt(transformers: Any) -> Any:
    """As Intel/dpt-swinv2-tiny-256."""
    backbone = transformers.Swinv2Config(
        image_size=DPT_SIDE, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24],
        window_size=16, out_indices=[1, 2, 3, 4],
    )  # fmt: skip
    config = transformers.DPTConfig(
        backbone_config=backbone, is_hybrid=False, add_projection=False,
        neck_hidden_sizes=[96, 192, 384, 768], fusion_hidden_size=256,
        neck_ignore_stages=[], reassemble_factors=[], head_in_index=-1,
    )  # fmt: skip
    return transformers.DPTForDepthEstimation(config).eval()


if __name__ == '__main__':
    main()
