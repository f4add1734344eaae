"""How much each `scale.mode` gains on drives whose truth is known.

    python benchmarks/scale.py [--seeds 101 102 103] [--frames 150] [--size 320x240] [--rate 10]

Streets are rendered, and each mode runs over them as in `psd-depth run`, with what a robot would
give it: the exact pose of the camera, the true height of the camera (but nothing of its pitch), or
2560 exact points of a lidar over the lower four fifths of the picture. Compared is AbsRel of all
pixels nearer than 80 m, from 5 s after the start: with the metres of the checkpoint (fixed), with
the scale of each mode, and with the best factor there is for each frame. The interval is that of
the difference to fixed, frame by frame (95 %, whole seconds drawn anew, for neighbours err alike).
`ms` is what a mode takes more than fixed for each frame, of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
import math
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import print_table

from psd_depth_ros.config import build
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.frames import FrameSource, LensChoice, TimedFrame
from psd_depth_ros.evaluation.metrics import measure
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference.engine import DepthEngine
from psd_depth_ros.messages import decode_depth
from psd_depth_ros.odometry.lengths import weighted_median
from psd_depth_ros.replay.offline import run_bag, RunSettings
from psd_depth_ros.synth import World, WorldSettings

SETTLED_S = 5.0
MAX_DEPTH_M = 80.0
IDENTITY = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
# Every pixel counts, whatever the network trusts.
EVERY_PIXEL = {
    'depth.min_depth_m': 0.001,
    'depth.max_depth_m': 10_000.0,
    'depth.min_confidence': 0.0,
    'depth.sky': False,
}

Map = NDArray[np.float32]
Errors = NDArray[np.float64]


class RenderedDrive(FrameSource):
    """A world rendered once, with a lidar."""

    def __init__(self, world: World, count: int) -> None:
        super().__init__(Path(f'street {world.seed}'), LensChoice())
        self.world = world
        self._frames = [self._render(index) for index in range(count)]

    @property
    def count(self) -> int:
        """Number of frames."""
        return len(self._frames)

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last stamp."""
        return self._frames[0].stamp_ns, self._frames[-1].stamp_ns

    @property
    def truths(self) -> list[Map]:
        """Exact depth of every frame."""
        return [one.depth_m for one in self._frames if one.depth_m is not None]

    def frames(self) -> Iterator[TimedFrame]:
        """The frames."""
        self._begin()
        for one in self._frames:
            yield self._use(one)

    def close(self) -> None:
        """Nothing stays open."""

    def _render(self, index: int) -> TimedFrame:
        seen = self.world.render(index)
        depth = seen.depth_m.numpy()
        return TimedFrame(
            index,
            seen.stamp_ns,
            'camera',
            seen.rgb.numpy(),
            self.world.camera,
            seen.T_world_camera,
            _lidar(self.world, depth),
            depth,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[101, 102, 103])
    parser.add_argument('--frames', type=int, default=150)
    parser.add_argument('--size', default='320x240')
    parser.add_argument('--rate', type=float, default=10.0)
    parser.add_argument('--checkpoint', help='network (default: that of the package)')
    chosen = parser.parse_args()
    width, height = (int(text) for text in chosen.size.split('x'))
    settings = WorldSettings(kind='street', width=width, height=height, frame_rate_hz=chosen.rate)
    engine = DepthEngine.from_checkpoint(chosen.checkpoint, 'cpu')
    engine.warm_up([Camera(width, height, width, width, width / 2, height / 2)])
    for seed in chosen.seeds:
        drive = RenderedDrive(World(seed, settings), chosen.frames)
        print_table(f'street {seed}, AbsRel after {SETTLED_S:g} s', _measure(drive, engine))


def _measure(drive: RenderedDrive, engine: DepthEngine) -> list[dict[str, Any]]:
    """Every mode over one drive; a row for each."""
    modes: dict[str, dict[str, Any]] = {
        'fixed': {},
        'odometry': {'scale.camera_pose': IDENTITY},
        'camera_height': {'scale.camera_height_m': drive.world.camera_height_m},
        'lidar': {'scale.lidar_pose': IDENTITY},
    }
    rate = drive.world.settings.frame_rate_hz
    first, truths = math.ceil(SETTLED_S * rate), drive.truths
    rows: list[dict[str, Any]] = []
    fixed, floor, base_ms = np.zeros(0), 1.0, 0.0
    for mode, values in modes.items():
        depths, ms = _run(drive, engine, {**EVERY_PIXEL, 'scale.mode': mode, **values})
        pairs = list(zip(depths, truths, strict=True))[first:]
        errors = np.array([_abs_rel(*one) for one in pairs])
        if mode == 'fixed':
            fixed, base_ms = errors, ms
            best = [_abs_rel(depth * _best_factor(depth, z), z) for depth, z in pairs]
            floor = float(np.mean(best))
        low, high = _interval((errors - fixed) / fixed.mean(), round(rate))
        rows.append(
            {
                'mode': mode,
                'AbsRel': f'{errors.mean():.4f}',
                'to fixed': f'{100 * (errors.mean() / fixed.mean() - 1):+.1f} %',
                'interval': f'{100 * low:+.1f} .. {100 * high:+.1f} %',
                'to best': f'{100 * (errors.mean() / floor - 1):+.1f} %',
                'ms': f'{ms - base_ms:.1f}',
            }
        )
    best_row = dict.fromkeys(rows[0], '')
    return [*rows, {**best_row, 'mode': 'best factor of each frame', 'AbsRel': f'{floor:.4f}'}]


def _run(
    drive: RenderedDrive, engine: DepthEngine, settings: dict[str, Any]
) -> tuple[list[Map], float]:
    """Depth of every frame, and processor time for each in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'depth.mcap'
        started = time.process_time()
        run_bag(drive, engine, path, build(RunSettings, settings), outputs=('depth',))
        ms = 1e3 * (time.process_time() - started) / drive.count
        with BagReader(path) as bag:
            return [decode_depth(item.message) for item in bag.messages()], ms


def _lidar(world: World, truth: Map) -> Map:
    """32 lines of 80 points each, nearer than 80 m, in the optical frame."""
    height, width = truth.shape
    row = np.linspace(0.2 * height, height - 2, 32).astype(np.intp)
    column = np.linspace(1, width - 2, 80).astype(np.intp)
    columns, rows = np.meshgrid(column, row)
    z = truth[rows, columns]
    seen = np.isfinite(z) & (z < MAX_DEPTH_M)
    pixels = np.column_stack([columns[seen], rows[seen]]).astype(np.float64)
    points: Map = world.camera.backproject(pixels, z[seen].astype(np.float64)).astype(np.float32)
    return points


def _abs_rel(depth: Map, truth: Map) -> float:
    found = measure(depth, truth, median_scaled=False, minimum_m=0.3, maximum_m=MAX_DEPTH_M)
    assert found is not None, 'rendered frames have depth'
    return found.abs_rel


def _best_factor(depth: Map, truth: Map) -> float:
    """The factor of least AbsRel: the median of truth / depth, each weighed by depth / truth."""
    known = np.isfinite(truth) & (truth < MAX_DEPTH_M)
    ratios = truth[known] / depth[known]
    return weighted_median(ratios, 1.0 / ratios)


def _interval(differences: Errors, block: int) -> tuple[float, float]:
    """95 % of the means of blocks drawn with replacement."""
    blocks = [
        differences[start : start + block].mean()
        for start in range(0, len(differences) - block + 1, block)
    ]
    rng = np.random.default_rng(0)
    means = rng.choice(blocks, (2000, len(blocks))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


if __name__ == '__main__':
    main()
