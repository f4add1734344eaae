"""The whole thing over DDS: a camera process, the depth node, and a process that takes results.

Worst case for the cloud: nothing is dropped for want of confidence, so every pixel on the ground
is a point.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from processes import HERE, MemoryWatch, Process, start, unused_domain
import torch

from psd_depth_ros.checkpoint import (
    CheckpointInfo,
    default_checkpoint,
    OutputInfo,
    save_checkpoint,
)
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.networks import DepthModel, preset

CAMERA_HZ = 30.0
SETTLED_AFTER = 100  # frames until caches are warm


def measure_end_to_end(quick: bool, output: Path, pixel_budget: int = 0) -> list[dict[str, Any]]:
    """Rows: a 30 Hz camera on both transports, then four times the rate that was reached."""
    told = {'checkpoint': _checkpoint(output)}
    if pixel_budget:
        told['pixel_budget'] = str(pixel_budget)
    count = 150 if quick else 2800  # about 2,000 frames come out
    steady = _run('30 Hz', CAMERA_HZ, count, True, told, output)
    rows = [steady]
    if not quick:
        rows.append(_run('30 Hz, no profile', CAMERA_HZ, 300, False, told, output))
        rows.append(_run('saturated', 60.0, 600, True, told, output))
    best = max(row['depth_hz'] for row in rows)
    rows.append(_run('flood, 4x', 4 * best, 300 if quick else 2000, True, told, output))
    return rows


def _run(
    name: str, rate: float, count: int, shared_memory: bool, told: dict[str, str], output: Path
) -> dict[str, Any]:
    """One camera, one node, one sink; a row of what came out."""
    domain, log = unused_domain(), output / 'end_to_end.log'
    arguments = ['-m', 'psd_depth_ros.ros.depth_node.node', '--ros-args']
    parameters = {
        **told,
        'points.min_confidence': '0.0',
        'points.max_range_m': '1000.0',
        'depth.min_confidence': '0.0',
        'depth.sky': 'false',
        'depth.max_depth_m': '10000.0',
    }
    for key, value in parameters.items():
        arguments += ['-p', f'{key}:={value}']
    sink = start('sink', [str(HERE / 'sink.py')], domain, log, shared_memory)
    node = start('depth_node', arguments, domain, log, shared_memory)
    memory = MemoryWatch(node.handle.pid)
    source = start(
        'camera_source',
        [str(HERE / 'camera_source.py'), '--rate', str(rate), '--count', str(count)],
        domain,
        log,
        shared_memory,
    )
    try:
        source.wait(100 + 3 * count / rate)
        sent = source.report()
        peak_mb = memory.peak_mb
        memory.close()
        found = sink.report()
    finally:
        _stop(source, sink, node)
    return _summarise(name, sent, found, memory, peak_mb)


def _stop(*processes: Process) -> None:
    for process in processes:
        process.stop()


def _summarise(
    name: str,
    sent: dict[str, Any],
    found: dict[str, Any],
    memory: MemoryWatch,
    peak_mb: float,
) -> dict[str, Any]:
    depth, cloud = (
        np.array([one for one in found['arrivals'][topic] if one[0] >= sent['start_ns']])
        for topic in ('depth/image_rect', 'points')
    )
    if len(depth) < 2 or len(cloud) < 2:
        raise RuntimeError(f'{name}: only {len(depth)} depth images and {len(cloud)} clouds came')
    arrived_s = (depth[:, 0] + 1e6 * depth[:, 1]) / 1e9
    diagnostics = found['diagnostics']
    return {
        'run': name,
        'camera_hz': sent['rate_hz'],
        'sent': sent['sent'],
        'depth_hz': float((len(depth) - 1) / (arrived_s[-1] - arrived_s[0])),
        'depths': len(depth),
        'clouds': len(cloud),
        'depth_ms_p50': float(np.percentile(depth[:, 1], 50)),
        'depth_ms_p95': float(np.percentile(depth[:, 1], 95)),
        'cloud_ms_p50': float(np.percentile(cloud[:, 1], 50)),
        'cloud_ms_p95': float(np.percentile(cloud[:, 1], 95)),
        'inference_ms_p50': float(diagnostics.get('inference_ms_p50', 'nan')),
        'cloud_mb': found['bytes']['points'] / 1e6,
        'peak_mb': peak_mb,
        'growth_mb_per_1000': _growth(memory, arrived_s),
    }


def _growth(memory: MemoryWatch, arrived_s: np.ndarray) -> float | None:
    """Resident memory gained per 1,000 frames: a line through the samples after the start."""
    if len(arrived_s) <= 2 * SETTLED_AFTER:
        return None
    times, sizes = np.array(memory.samples_mb).T
    kept = (times > arrived_s[SETTLED_AFTER]) & (times < arrived_s[-1])
    if kept.sum() < 5:
        return None
    frames = np.interp(times[kept], arrived_s, np.arange(len(arrived_s)))
    return float(1000 * np.polyfit(frames, sizes[kept], 1)[0])


def _checkpoint(output: Path) -> str:
    """Path of the shipped checkpoint, or of one with random weights, which only tells times."""
    try:
        return str(default_checkpoint())
    except CheckpointError:
        path = output / 'random_lite.safetensors'
        torch.manual_seed(0)
        model = DepthModel(preset('lite'))
        info = CheckpointInfo(
            'random lite',
            dump(model.architecture),
            output=OutputInfo(metric=True),
            training={'steps': 0},
        )
        save_checkpoint(path, info, model.state_dict(), half=True)
        return str(path)
