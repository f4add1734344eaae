"""What the node tells of itself on /diagnostics: one status for the engine, one for each camera.

Figures come from `counters` and `engine_slot`; here they only get names, units and a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import math
from pathlib import Path
import resource
import sys
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from psd_depth_ros.ros.calibration import CalibrationState
from psd_depth_ros.ros.camera_channel import CameraChannel
from psd_depth_ros.ros.engine_slot import EngineSlot

STALE_S = 2.0
OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
# What docs/diagnostics.md lists; a test compares both with what the node says.
ENGINE_KEYS = {
    'state': 'lifecycle state of the node',
    'device': 'device the network runs on',
    'backend': 'library that runs the network',
    'checkpoint': 'name and content id of the weights',
    'checkpoint_path': 'file of the weights',
    'metric': 'whether the checkpoint predicts metres without a measured scale',
    'loading': 'whether another checkpoint is being loaded',
    'compiling': 'image sizes the network is being compiled for',
    'inference_ms_p50': 'median time of the network for one batch',
    'inference_ms_p95': '95th percentile of it',
    'memory_mb': 'memory of the process (resident)',
    'device_memory_mb': 'memory the network holds on a GPU',
}
CAMERA_KEYS = {
    'topic': 'image topic',
    'reliability': 'QoS reliability requested from the camera',
    'input_rate_hz': 'images received per second, over 5 s',
    'input_age_s': 'time since the last image',
    'received': 'images received',
    'processed': 'images whose depth was published',
    'dropped': 'images without depth although an output had subscribers; dropped.REASON by reason',
    'unwanted': 'images received while no output was subscribed',
    'latency_ms_p50': 'median from arrival of the image to depth published',
    'latency_ms_p95': '95th percentile of it',
    'stamp_age_ms': "the node's clock minus the stamp of the last image published",
    'calibration': 'state of the calibration',
    'view_seen': 'fraction of the rectified view that the camera sees; the rest has no depth',
    'output': 'the topic of the depth image',
    'subscribed': 'outputs with subscribers; without any the network does not run',
    'scale': 'factor from the depth of the checkpoint to metres',
    'scale_variance': 'variance of ln scale',
    'scale_source': 'where the scale comes from',
    'problem': 'last problem; empty if there is none',
}


def diagnostic_array(stamp: Any, statuses: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    """Make the message."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message


def engine_status(
    node_name: str, state: str, slot: EngineSlot | None, problem: str
) -> DiagnosticStatus:
    """Tell of the network: OK while it is loaded and nothing failed."""
    values: dict[str, Any] = {'state': state, 'memory_mb': f'{resident_mb():.0f}'}
    if slot is not None:
        p50, p95 = slot.inference.percentiles_ms()
        values.update(describe_engine(slot.engine))
        values.update(
            loading=slot.is_loading,
            compiling=slot.compiling,
            inference_ms_p50=_number(p50),
            inference_ms_p95=_number(p95),
        )
    level = ERROR if problem else OK
    return _status(f'{node_name}: engine', level, problem or f'{state}', values)


def describe_engine(engine: Any) -> dict[str, str]:
    """Name the network in use."""
    checkpoint = engine.checkpoint
    return {
        'device': str(engine.device),
        'backend': str(engine.backend),
        'checkpoint': f'{checkpoint.info.name} {checkpoint.id}',
        'checkpoint_path': str(checkpoint.path),
        'metric': str(checkpoint.info.output.metric),
        'device_memory_mb': f'{getattr(engine, "memory_bytes", 0) / 1e6:.0f}',
    }


def camera_status(
    node_name: str,
    channel: CameraChannel,
    active: bool,
    extra: Mapping[str, str],
    warning: str = '',
) -> DiagnosticStatus:
    """Tell of one camera: what comes, what goes, and the worst thing about it.

    `warning` is said where nothing worse is.
    """
    counters = channel.counters
    p50, p95 = counters.latency.percentiles_ms()
    dropped = counters.dropped
    calibration = channel.calibration
    values = {
        'topic': channel.image_topic,
        'reliability': channel.reliability,
        'input_rate_hz': _number(counters.rate_hz()),
        'input_age_s': _number(counters.age_s()),
        'received': counters.received,
        'processed': counters.processed,
        'dropped': sum(dropped.values()),
        **{f'dropped.{reason}': count for reason, count in sorted(dropped.items())},
        'unwanted': counters.unwanted,
        'latency_ms_p50': _number(p50),
        'latency_ms_p95': _number(p95),
        'stamp_age_ms': _number(channel.stamp_age_ns / 1e6) if counters.processed else '',
        'calibration': calibration.state.value,
        'view_seen': f'{calibration.seen:.2f}' if calibration.camera is not None else '',
        'output': channel.output_topic,
        'subscribed': channel.subscribed,
        **extra,
        'problem': channel.problem or warning or channel.remark,
    }
    level, text = _judge(channel, active)
    if warning and level in (OK, WARN):
        level, text = WARN, '; '.join(one for one in (channel.problem, warning) if one)
    return _status(f'{node_name}: {channel.name}', level, text, values)


def resident_mb() -> float:
    """Memory of this process in MB: resident now, or the largest ever where unknown."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _judge(channel: CameraChannel, active: bool) -> tuple[bytes, str]:
    if not active:
        return OK, 'not active'
    state = channel.calibration.state
    if state in (CalibrationState.UNCALIBRATED, CalibrationState.REFUSED):
        return ERROR, channel.problem or state.value
    if channel.problem:
        waiting = state is CalibrationState.WAITING
        return (WARN if waiting else ERROR), channel.problem
    if channel.delay or channel.remark:
        return WARN, channel.delay or channel.remark
    if channel.counters.age_s() > STALE_S:
        return STALE, f'no images on {channel.image_topic}'
    if channel.calibration.doubts:
        return WARN, channel.calibration.doubts[0]
    return OK, 'depth is published on request'


def _status(name: str, level: bytes, text: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=text, hardware_id='', values=pairs)


def _number(value: float) -> str:
    return f'{value:.4g}' if math.isfinite(value) else ''
