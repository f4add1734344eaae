"""What the node publishes on /diagnostics: one status for the engine, one for each camera.

Reports of the parts get names, units and a level here; nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import math
from pathlib import Path
import resource
import sys
from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from psd_depth_ros.ros.depth_node.camera import CalibrationState, CameraReport
from psd_depth_ros.ros.depth_node.scale import ScaleReport
from psd_depth_ros.ros.depth_node.worker import EngineHandle

STALE_S = 2.0
OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.ERROR,
    DiagnosticStatus.STALE,
)
# Listed in the documentation; a test compares both with what the node publishes.
ENGINE_KEYS = {
    'state': 'lifecycle state of the node',
    'device': 'device the network runs on',
    'backend': 'library that runs the network',
    'checkpoint': 'name and content id of the weights',
    'checkpoint_path': 'file of the weights',
    'pixel_budget': 'most pixels of the input of the network',
    'untrained_size': 'what to know of an input of another size than the weights learned at',
    'parity': 'difference of the depth of an exported file to that of float32 torch',
    'metric': 'whether the checkpoint predicts metres without a measured scale',
    'loading': 'whether the first or another checkpoint is being loaded',
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
    'problem': 'last problem; empty without a problem',
}


def diagnostic_array(stamp: Time, statuses: Iterable[DiagnosticStatus]) -> DiagnosticArray:
    """Make the message."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message


def engine_status(
    node_name: str, state: str, handle: EngineHandle | None, problem: str, loading: str = ''
) -> DiagnosticStatus:
    """Status of the network: OK where nothing failed.

    Args:
        node_name: Name of the node.
        state: Its lifecycle state.
        handle: The engine, None before one is loaded.
        problem: What failed, '' where nothing did.
        loading: The checkpoint that the first engine is being made of, else ''.
    """
    values: dict[str, Any] = {'state': state, 'memory_mb': f'{resident_mb():.0f}'}
    if loading:
        values |= {'loading': True, 'checkpoint_path': loading}
        return _status(f'{node_name}: engine', OK, f'loading {loading}', values)
    if handle is not None:
        engine, checkpoint = handle.engine, handle.engine.checkpoint
        p50, p95 = handle.durations.percentiles_ms()
        values |= {
            'device': engine.device,
            'backend': engine.backend,
            'checkpoint': f'{checkpoint.info.name} {checkpoint.id}',
            'checkpoint_path': checkpoint.path,
            'pixel_budget': engine.pixel_budget,
            'untrained_size': checkpoint.info.input.describe_untrained(engine.pixel_budget),
            'parity': getattr(engine, 'parity', None) or '',
            'metric': checkpoint.info.output.metric,
            'device_memory_mb': f'{getattr(engine, "memory_bytes", 0) / 1e6:.0f}',
            'loading': handle.is_loading,
            'compiling': handle.compiling,
            'inference_ms_p50': _number(p50),
            'inference_ms_p95': _number(p95),
        }
    return _status(f'{node_name}: engine', ERROR if problem else OK, problem or state, values)


def camera_status(
    node_name: str, camera: CameraReport, active: bool, scale: ScaleReport | None, mode: str
) -> DiagnosticStatus:
    """Status of one camera: what comes in, what goes out, and the worst problem of it.

    Args:
        node_name: Name of the node.
        camera: State of the camera.
        active: Whether the node is active.
        scale: What is known of its scale, None before its first image.
        mode: The setting `scale.mode`.
    """
    counters, calibration = camera.counters, camera.calibration
    p50, p95 = counters.latency.percentiles_ms()
    dropped = counters.dropped
    warning = '' if scale is None else scale.warning
    values = {
        'topic': camera.image_topic,
        'reliability': camera.reliability,
        'input_rate_hz': _number(counters.rate_hz()),
        'input_age_s': _number(counters.age_s()),
        'received': counters.received,
        'processed': counters.processed,
        'dropped': sum(dropped.values()),
        **{f'dropped.{reason}': count for reason, count in sorted(dropped.items())},
        'unwanted': counters.unwanted,
        'latency_ms_p50': _number(p50),
        'latency_ms_p95': _number(p95),
        'stamp_age_ms': _number(camera.stamp_age_ns / 1e6) if counters.processed else '',
        'calibration': calibration.state.value,
        'view_seen': f'{calibration.seen:.2f}' if calibration.camera is not None else '',
        'output': camera.output_topic,
        'subscribed': ', '.join(camera.subscribed),
        **_scale_values(scale, mode),
        'problem': camera.problem or warning or camera.remark,
    }
    level, text = _judge(camera, active)
    if warning and level in (OK, WARN):
        level, text = WARN, '; '.join(text for text in (camera.problem, warning) if text)
    return _status(f'{node_name}: {camera.name}', level, text, values)


def resident_mb() -> float:
    """Memory of this process in MB: resident now, or the largest ever where unknown."""
    try:
        pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _scale_values(scale: ScaleReport | None, mode: str) -> dict[str, str]:
    if scale is None:
        return {'scale_source': mode}
    return {
        'scale': f'{scale.scale.factor:.4g}',
        'scale_variance': f'{scale.scale.variance:.3g}',
        'scale_source': scale.source,
    }


def _judge(camera: CameraReport, active: bool) -> tuple[bytes, str]:
    """Level and message of a camera, but for its scale."""
    if not active:
        return OK, 'not active'
    state = camera.calibration.state
    if state in (CalibrationState.UNCALIBRATED, CalibrationState.REFUSED):
        return ERROR, camera.problem or state.value
    if camera.problem:
        waiting = state is CalibrationState.WAITING
        return (WARN if waiting else ERROR), camera.problem
    if camera.delay or camera.remark:
        return WARN, camera.delay or camera.remark
    if camera.counters.age_s() > STALE_S:
        return STALE, f'no images on {camera.image_topic}'
    if camera.calibration.doubts:
        return WARN, camera.calibration.doubts[0]
    return OK, 'depth is published on request'


def _status(name: str, level: bytes, text: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=text, hardware_id='', values=pairs)


def _number(value: float) -> str:
    return f'{value:.4g}' if math.isfinite(value) else ''
