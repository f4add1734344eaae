"""The whole loop with real processes: live depth, fine-tuning on its bag, better weights live."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
import json
from pathlib import Path
import sys
from typing import Any

import pytest
from sensor_msgs.msg import Image

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.replay.rendering import EPOCH_NS, write_world
from psd_depth_ros.synth import World, WorldSettings

Start = Callable[..., Any]
FRAMES, RATE_HZ = 20, 10.0
NODES = 'psd_depth_ros.ros'
# Too few steps for anything to learn, at a size that is too small, through a gate that is open.
QUICK = {
    'steps': 2,
    'device': 'cpu',
    'changes': [
        'pixel_budget=6144', 'batch=2', 'validate_every=2', 'preview_every=0',
        'objective.patch=off', 'objective.mix=off',
        'data.triplets.held_out=0.3', 'data.triplets.minimum_parallax=0.1',
    ],
    'acceptance.minimum_gain': -1000.0,
    'acceptance.maximum_drift': 100.0,
    'acceptance.maximum_stretch': 100.0,
}  # fmt: skip


def frame_of(depth: Any) -> int:
    """The place in the bag of the frame that a depth image belongs to."""
    stamp_ns = depth.header.stamp.sec * 10**9 + depth.header.stamp.nanosec
    return round((stamp_ns - EPOCH_NS) * RATE_HZ / 1e9)


def steps_between(depths: list[Any]) -> list[int]:
    """How many frames lie from one depth image to the next, in a bag that is played in a loop."""
    return [(frame_of(after) - frame_of(before)) % FRAMES for before, after in pairwise(depths)]


def fair_speed(latency_ms: float) -> float:
    """How fast to play, so that here a frame takes an eighth of the time to the next, or less.

    At most five frames a second: what else runs here may take a core for tenths of a second.
    """
    return min(0.5, max(0.1, 1e3 / RATE_HZ / (8 * latency_ms)))


@pytest.mark.timeout(400)
def test_the_loop_closes_without_missing_a_beat(bench: Any, start: Start, tmp_path: Path) -> None:
    bag = tmp_path / 'drive.mcap'
    world = World(3, WorldSettings(width=96, height=64, frame_rate_hz=RATE_HZ))
    write_world(world, bag, FRAMES)
    depths = bench.listen(Image, '/depth/image_rect')
    size = {'image_width': 96, 'image_height': 64}
    start(f'{NODES}.depth_node.node', diagnostics_period_s=0.2, **size)
    bench.wait_for_state('active')
    replayed = {'recording': str(bag), 'image_as': '/image', 'camera_info_as': '/camera_info'}
    replayed['wait_for_subscribers_s'] = 60.0
    first = start(f'{NODES}.replay_node', rate=0.6, **replayed)
    bench.spin_until(lambda: not first.is_running, 'the first playing', 120.0)
    speed = fair_speed(float(bench.value(': camera', 'latency_ms_p95')))
    depths.clear()
    start(f'{NODES}.replay_node', loop=True, rate=speed, **replayed)
    bench.spin_until(lambda: len(depths) >= 6, 'live depth', 120.0)
    old = bench.value(': engine', 'checkpoint')
    assert old.endswith(load_checkpoint().id)
    run = {'bags': [str(bag)], 'output': str(tmp_path / 'run'), 'deploy_to': '/depth_node'}
    start(f'{NODES}.finetune_node', auto_start=True, **run, **QUICK)
    written = tmp_path / 'run' / 'report.json'
    bench.spin_until(written.is_file, 'the end of the training', 240.0)
    trained = len(depths)
    bench.spin_until(
        lambda: bench.value(': engine', 'checkpoint') != old, 'the new weights', 120.0
    )
    swapped = len(depths)
    bench.spin_until(lambda: len(depths) >= swapped + 6, 'their depth', 60.0)
    report = json.loads(written.read_text())
    assert report['state'] == 'accepted'
    assert bench.value(': engine', 'checkpoint') == f'finetuned {report["checkpoint"]}'
    assert bench.value(': engine', 'checkpoint_path') == report['best']
    # Every frame, or the one next to it, has its depth: no gap is over two frame times, unless
    # the machine is so busy that there were such gaps before.
    before, after = steps_between(depths[:trained]), steps_between(depths[trained - 1 :])
    sys.stdout.write(
        f'{RATE_HZ * speed:.1f} frames/s; gaps in frames before and after the training: '
        f'{Counter(before)}, {Counter(after)}\n'
    )
    assert max(after) <= max(2, *before)
