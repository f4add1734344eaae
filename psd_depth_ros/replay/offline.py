"""Runs a recording through the engine into a bag: every frame, without ROS, reproducibly.

Topics and rules are those of the depth node, which additionally drops late frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
import time
from typing import Any

from psd_depth_ros.config import section
from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.data.frames import FrameSource, TimedFrame
from psd_depth_ros.data.message_types import CAMERA_INFO_TYPE, CLOUD_TYPE, IMAGE_TYPES
from psd_depth_ros.data.synchronizer import has_jumped, ImageInputs
from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.inference.cloud import CloudSettings
from psd_depth_ros.inference.engine import apply_measured_scale, DepthEngine, DepthFrame
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_calibration import CalibrationFile
from psd_depth_ros.inference.scale_monitor import (
    MEASURING_MODES,
    required_inputs,
    ScaleFrame,
    ScaleMonitor,
)
from psd_depth_ros.inference.temporal import TemporalFilter
from psd_depth_ros.messages import camera_info_fields, image_fields
from psd_depth_ros.parsing import user_path
from psd_depth_ros.replay import OUTPUTS, topic_name, TOPICS
from psd_depth_ros.replay.player import ReadAhead


@dataclass(frozen=True)
class RunSettings:
    """Settings of an offline run; the same as those of the depth node."""

    depth: DepthSettings = section(DepthSettings)
    points: CloudSettings = section(CloudSettings)
    scale: ScaleSettings = section(ScaleSettings)


@dataclass(frozen=True)
class RunReport:
    """Result of an offline run: frames in = frames out + dropped.

    `reasons` has one message per reason for dropping; `notes` report lost messages and how often
    the scale was measured. `first_s` is the time to the end of the first frame, which includes
    compiling the network; `rest_s` is that of all others.
    """

    frames_in: int
    frames_out: int
    dropped: dict[str, int]
    reasons: dict[str, str]
    first_s: float
    rest_s: float
    notes: tuple[str, ...] = ()

    @property
    def frames_per_second(self) -> float:
        """Frames written per second without the first one; 0 where there is no other."""
        others = self.frames_out - 1
        return others / self.rest_s if others > 0 and self.rest_s > 0 else 0.0


@dataclass
class _Drops:
    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, detail: str) -> None:
        self.counts[reason] += 1
        self.reasons.setdefault(reason, detail)


def run_bag(
    source: FrameSource,
    engine: DepthEngine,
    output: str | Path | None,
    settings: RunSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
    outputs: Collection[str] = OUTPUTS,
    compression: str = '',
    show: Callable[[DepthFrame], None] | None = None,
) -> RunReport:
    """Estimate depth of every frame and write it to an .mcap file.

    Topics are /depth/image_rect (32FC1 metres), /depth/camera_info, /depth/confidence (32FC1) and
    /points, with stamp and frame of their image; with scale.mode relative they are under
    /depth_relative.

    Args:
        source: Frames of a recording.
        engine: Network and device.
        output: File to write; None writes no bag.
        settings: As those of the depth node.
        progress: Called with the number of images done and the number of all.
        outputs: Which topics are written.
        compression: `zstd` or ''.
        show: Called with every estimated frame.

    Raises what the source raises where no frame can be used, SettingsError where nothing makes
    depth metric, BagError where the bag cannot be written. After an error no file is left.
    """
    started = first_done = time.perf_counter()
    settings = RunSettings() if settings is None else settings
    pipeline = _Pipeline(engine, settings, source)
    drops = _Drops()
    written = 0
    empty: list[str] = []  # what is told of frames without any depth
    bag = nullcontext() if output is None else BagWriter(output, compression)
    with bag as writer, ReadAhead(source.frames()) as frames:
        for frame in frames:
            try:
                result = pipeline.infer(frame)
            except CalibrationError as error:
                if not written:
                    raise
                drops.add('camera_info', str(error))
                continue
            if result is None:
                drops.add('scale', pipeline.waiting)
                continue
            if writer is not None:
                for topic, msgtype, fields in _messages(result, settings, outputs):
                    writer.write(topic, msgtype, fields, frame.stamp_ns, frame.frame_id)
            if show is not None:
                show(result)
            written += 1
            if result.problem:
                empty.append(result.problem)
            if written == 1:
                first_done = time.perf_counter()
            if progress is not None:
                progress(frame.index + 1, source.count)
    for skipped in source.skipped:
        drops.add(skipped.reason, skipped.detail)
    notes = tuple(source.notes)
    dropped = dict(sorted(drops.counts.items()))
    frames_in = written + sum(dropped.values())
    first_s, rest_s = first_done - started, time.perf_counter() - first_done
    notes += (pipeline.summary,) if pipeline.summary else ()
    notes += (f'{len(empty)} of {written} frames without depth: {empty[0]}',) if empty else ()
    return RunReport(frames_in, written, dropped, drops.reasons, first_s, rest_s, notes)


class _Pipeline:
    """The engine with the scale tracker of the recording."""

    def __init__(self, engine: DepthEngine, settings: RunSettings, source: FrameSource) -> None:
        self._engine = engine
        self._settings = settings
        self._source = source
        calibrated = None
        if settings.scale.calibration and settings.scale.needs_metric_checkpoint:
            file = CalibrationFile.load(user_path(settings.scale.calibration), is_named=True)
            calibrated = file.only(engine.checkpoint.id)
        self._tracker = ScaleTracker.for_checkpoint(
            settings.scale, engine.checkpoint, calibrated=calibrated
        )
        self._monitor = ScaleMonitor(self._tracker)
        self._measures = settings.scale.mode in MEASURING_MODES
        self._filter = TemporalFilter()
        self._stamp_ns: int | None = None
        if self._measures:
            source.request_transforms(required_inputs(settings.scale))
        settings.scale.refuse_unscaled(engine.checkpoint, calibrated is not None)

    def infer(self, frame: TimedFrame) -> DepthFrame | None:
        """Depth of a frame; None while the scale is unknown."""
        tracker = self._tracker
        if self._stamp_ns is not None and has_jumped(self._stamp_ns, frame.stamp_ns):
            tracker.reset()
        self._stamp_ns = frame.stamp_ns
        scale, was_known = tracker.estimate, tracker.is_known
        result = self._engine.infer_batch(
            [(frame.rgb, frame.camera)],
            scales=[scale],
            settings=self._settings.depth,
            moments=[(self._filter, frame.stamp_ns)],
        )[0]
        if self._measures and not tracker.is_held:
            self._observe(frame, result, scale.factor)
            if not was_known and not tracker.is_prompt:
                return None
            result = apply_measured_scale(result, tracker, frame.stamp_ns)
        return result if tracker.is_known or self._settings.scale.mode == 'relative' else None

    @property
    def waiting(self) -> str:
        """Why the scale is unknown."""
        mode = self._settings.scale.mode
        return f'scale.mode {mode} has measured nothing yet: {self._monitor.reason}'

    @property
    def summary(self) -> str:
        """Summary of the scale measurements, '' where the mode does not measure."""
        if not self._measures:
            return ''
        monitor, tracker = self._monitor, self._tracker
        text = (
            f'scale.mode {tracker.settings.mode}: {monitor.measured} measurements in '
            f'{monitor.frames} frames, {monitor.accepted} of them accepted'
        )
        if monitor.accepted:
            text += f'; scale {tracker.scale:.4g}'
            if (shape := tracker.estimate.affine) is not None:
                text += f', slope {shape.slope:.3g}'
            text += ', held' if tracker.is_held else ''
        elif tracker.is_known:
            text += '; depth is in the metres of the checkpoint, not measured'
        else:
            text += '; no depth was written, for nothing else makes it metric'
        notes = '; '.join(text for text in (monitor.reason, monitor.remark) if text)
        return f'{text}: {notes}' if notes else text

    def _observe(self, frame: TimedFrame, result: DepthFrame, factor: float) -> None:
        """Measure the scale on a frame."""
        scale_frame = ScaleFrame(
            frame.stamp_ns,
            result.rgb,
            result.depth_m,
            result.camera,
            frame.camera,
            factor,
            result.values,
        )
        known = self._source.extrinsics if frame.extrinsics is None else frame.extrinsics
        inputs = ImageInputs(
            frame.pose, frame.lidar, known, problem=frame.problem, remark=frame.remark
        )
        self._monitor.observe(frame.stamp_ns * 1e-9, scale_frame, inputs)


def _messages(
    result: DepthFrame, settings: RunSettings, outputs: Collection[str]
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Topic, type and fields of the messages of a frame."""
    relative = settings.scale.mode == 'relative'
    topics = {name: f'/{topic_name(TOPICS[name], relative)}' for name in outputs}
    image = IMAGE_TYPES[0]
    if 'depth' in topics:
        yield topics['depth'], image, image_fields(result.depth_m, '32FC1')
    if 'camera_info' in topics:
        yield topics['camera_info'], CAMERA_INFO_TYPE, camera_info_fields(result.camera)
    if 'confidence' in topics:
        yield topics['confidence'], image, image_fields(result.confidence, '32FC1')
    if 'points' in topics:
        yield topics['points'], CLOUD_TYPE, result.cloud(settings.points).message_fields()
