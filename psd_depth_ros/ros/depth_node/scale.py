"""The metric scale of each camera, and the topics it is measured from: `odom` or `lidar`, and TF.

Two classes, one for each thread. `ScaleInputs` belongs to the executor: it subscribes to what the
mode needs and fills a `data.synchronizer.Synchronizer`, which is thread-safe. `CameraScales`
belongs to the worker: nobody else touches the trackers and the images that wait for their
odometry. What diagnostics show of them is an immutable `ScaleReport`, which the worker replaces
after every measurement. The estimation itself is in `inference.scale`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
import re
import time
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import PointCloud2

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.data.message_types import CLOUD_TYPE, ODOMETRY_TYPE
from psd_depth_ros.data.synchronizer import (
    MessageDecoders,
    PATIENCE_NS,
    Synchronizer,
    TF_TYPE,
    TransformBuffer,
)
from psd_depth_ros.errors import MessageError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import apply_measured_scale, DepthFrame, Scale
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_calibration import CalibrationFile, Found
from psd_depth_ros.inference.scale_monitor import (
    MEASURING_MODES,
    required_inputs,
    ScaleFrame,
    ScaleMonitor,
)
from psd_depth_ros.ros.common import REPEAT_S, ThrottledLogger
from psd_depth_ros.ros.conversions import find_message_class, read_points, rotation_matrix
from psd_depth_ros.ros.depth_node.camera import PreparedFrame
from psd_depth_ros.ros.qos import InputSubscription

NO_TF = 'TF cannot be read, for tf2_msgs is not installed here'
_DECODERS = MessageDecoders(read_points, rotation_matrix)
_ODOMETRY_HISTORY = _TF_HISTORY = 100  # messages; TF as in tf2_ros
_LIDAR_HISTORY = 4
_MAX_WAITING = 60
_MAX_WAITING_BYTES = 128 * 2**20


@dataclass(frozen=True)
class ScaleReport:
    """What is known of the scale of one camera.

    Attributes:
        mode: The setting `scale.mode`.
        scale: Factor that makes the depth of the checkpoint metric, and the variance of its
            logarithm.
        is_known: False while depth must not be called metric.
        source: Where the scale comes from, in words.
        warning: Why it was not measured for `scale.timeout_s`, or why a calibration is not used;
            '' where all is well.
        remark: What else is to be logged once.
    """

    mode: str
    scale: Scale
    is_known: bool
    source: str
    warning: str = ''
    remark: str = ''


class ScaleInputs:
    """Subscriptions to what the scale mode needs; used by the executor.

    Args:
        node: The node that subscribes.
        settings: Mode, and names of frames.
        reliability: QoS requested of odometry and lidar.
    """

    def __init__(self, node: Node, settings: ScaleSettings, reliability: str) -> None:
        self._node = node
        self._reliability = reliability
        self._logger = ThrottledLogger(node.get_logger())
        self._input: InputSubscription | None = None
        self._transforms: TransformInput | None = None
        self.synchronizer = Synchronizer(required_inputs(settings), _DECODERS)
        self.silence = ''  # why nothing may have come
        self._subscribe()

    def configure(self, settings: ScaleSettings, reliability: str) -> None:
        """Take changed settings; subscribe anew where another mode needs other topics."""
        self._reliability = reliability
        required = required_inputs(settings)
        if required != self.synchronizer.required:
            self.destroy()
            self.synchronizer = Synchronizer(required, _DECODERS)
            self._subscribe()

    def refresh(self) -> None:
        """Look up the publishers again."""
        if self._input is not None:
            self._input.refresh(self._reliability)
            self.silence = self._explain_silence(self._input)
        if self._transforms is not None:
            self._transforms.refresh()

    def forget(self) -> None:
        """Forget what was received, after a jump of the clock."""
        self.synchronizer.forget()

    def destroy(self) -> None:
        """Unsubscribe."""
        for source in (self._input, self._transforms):
            if source is not None:
                source.destroy()
        self._input = self._transforms = None

    def _subscribe(self) -> None:
        required = self.synchronizer.required
        if required.poses:
            self._input = self._listen(Odometry, 'odom', self._on_odometry, _ODOMETRY_HISTORY)
        elif required.points:
            self._input = self._listen(PointCloud2, 'lidar', self._on_cloud, _LIDAR_HISTORY)
        if required.transforms:
            self._transforms = TransformInput(self._node, self.synchronizer.transforms)

    def _listen(
        self, message_type: type[Any], topic: str, callback: Callable[[Any], None], history: int
    ) -> InputSubscription:
        return InputSubscription(
            self._node, message_type, topic, callback, self._reliability, history
        )

    def _on_odometry(self, message: Odometry) -> None:
        try:
            self.synchronizer.add_odometry(message, time.monotonic_ns())
        except MessageError as error:
            self._logger.error('odometry', f'odom: {error}')

    def _on_cloud(self, message: PointCloud2) -> None:
        self.synchronizer.add_cloud(message, time.monotonic_ns())

    def _explain_silence(self, source: InputSubscription) -> str:
        """Why nothing may have come on a topic."""
        count = source.publisher_count
        if count:
            return f'{count} publishers on {source.topic}, but no message has come'
        poses = self.synchronizer.required.poses
        name, kind = ('odom', ODOMETRY_TYPE) if poses else ('lidar', CLOUD_TYPE)
        others = [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if kind in types and topic != source.topic and self._node.count_publishers(topic)
        ]
        there = f'; there is {", ".join(others)}: remap {name}:={others[0]}' if others else ''
        return f'nobody publishes {source.topic}{there}'


class TransformInput:
    """Fills a transform buffer from /tf and /tf_static; idle where tf2_msgs is not installed.

    The buffer is `data.synchronizer.TransformBuffer`, as for bags; its rules are those of tf2_ros,
    which needs compiled libraries that exist in a ROS distribution only.
    """

    def __init__(self, node: Node, buffer: TransformBuffer) -> None:
        self._node = node
        self._buffer = buffer
        self._moving: InputSubscription | None = None
        self._fixed: Subscription | None = None
        message_class = find_message_class(TF_TYPE)
        if message_class is None:
            return
        latched = QoSProfile(
            depth=_TF_HISTORY,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
            reliability=ReliabilityPolicy.RELIABLE,
        )
        self._fixed = node.create_subscription(
            message_class, '/tf_static', self._on_fixed, latched
        )
        self._moving = InputSubscription(node, message_class, '/tf', buffer.add, depth=_TF_HISTORY)

    def refresh(self) -> None:
        """Look up the publishers again."""
        if self._moving is not None:
            self._moving.refresh()

    def destroy(self) -> None:
        """Unsubscribe."""
        if self._moving is not None:
            self._moving.destroy()
        if self._fixed is not None:
            self._node.destroy_subscription(self._fixed)
        self._moving = self._fixed = None

    def _on_fixed(self, message: Any) -> None:
        self._buffer.add(message, fixed=True)


@dataclass(frozen=True)
class _Waiting:
    """An image whose odometry, points or transforms may still be on their way."""

    frame: ScaleFrame
    frame_id: str
    received_ns: int


class CameraScale:
    """The scale of one camera under one set of settings and one checkpoint; worker only."""

    def __init__(
        self,
        settings: ScaleSettings,
        checkpoint: Checkpoint,
        calibrated: Found,
        inputs: ScaleInputs,
        publish: Callable[[ScaleReport], None],
    ) -> None:
        self.basis = (settings, checkpoint.id, calibrated)
        self._inputs = inputs
        self._publish = publish
        self._settings = settings
        self._calibrated = calibrated
        self._tracker = ScaleTracker.for_checkpoint(
            settings, checkpoint, _DECODERS.rotation, calibrated.scale
        )
        self._monitor = ScaleMonitor(self._tracker)
        self._waiting: deque[_Waiting] = deque()
        self._is_measured = settings.mode in MEASURING_MODES
        self.is_relative = settings.mode == 'relative'
        self._publish_report()

    @property
    def is_prompt(self) -> bool:
        """See `ScaleTracker.is_prompt`."""
        return self._tracker.is_prompt

    def reset(self) -> None:
        """Start anew, as after a jump of the stamps."""
        self._tracker.reset()
        self._monitor = ScaleMonitor(self._tracker)
        self._waiting.clear()
        self._publish_report()

    def observe(self, ready: PreparedFrame, frame: DepthFrame, applied_scale: float) -> None:
        """Learn from the depth of an image, once all that was measured at its time can be here.

        `applied_scale` is the factor that its depth was multiplied by.
        """
        stamp_ns = ready.arrived.stamp_ns
        if not self._is_measured or self._tracker.is_held:
            return
        if self._waiting and stamp_ns <= self._waiting[-1].frame.stamp_ns:
            return  # it was overtaken
        scale_frame = ScaleFrame(
            stamp_ns,
            frame.rgb,
            frame.depth_m,
            frame.camera,
            ready.camera,
            applied_scale,
            frame.values,
        )
        frame_id = str(ready.arrived.message.header.frame_id)
        self._waiting.append(_Waiting(scale_frame, frame_id, ready.arrived.received_ns))
        self.measure()

    def measure(self) -> None:
        """Learn from the waiting images whose inputs are complete by now."""
        while self._waiting and self._is_ripe():
            self._measure(self._waiting.popleft())
            if self._tracker.is_held:
                self._waiting.clear()

    def settle(self, frame: DepthFrame, stamp_ns: int) -> DepthFrame:
        """See `apply_measured_scale`."""
        return apply_measured_scale(frame, self._tracker, stamp_ns)

    def _is_ripe(self) -> bool:
        """Whether the first waiting image need not wait any longer."""
        first, last = self._waiting[0], self._waiting[-1]
        if len(self._waiting) > _MAX_WAITING:
            return True
        if last.frame.stamp_ns - first.frame.stamp_ns > PATIENCE_NS:
            return True
        if last.received_ns - first.received_ns > PATIENCE_NS:
            return True
        if sum(waiting.frame.bytes for waiting in self._waiting) > _MAX_WAITING_BYTES:
            return True
        return self._inputs.synchronizer.is_final(first.frame.stamp_ns, first.frame_id)

    def _measure(self, image: _Waiting) -> None:
        synchronizer = self._inputs.synchronizer
        inputs = synchronizer.at(image.frame.stamp_ns, image.frame_id, image.received_ns)
        if inputs.problem and self._inputs.silence and not synchronizer.has_received:
            inputs = replace(inputs, problem=self._inputs.silence)
        if synchronizer.required.transforms and not has_tf():
            inputs = replace(inputs, remark=NO_TF)
        self._monitor.observe(time.monotonic(), image.frame, inputs)
        self._publish_report()

    def _publish_report(self) -> None:
        tracker, monitor = self._tracker, self._monitor
        source = self._settings.mode
        if self._calibrated.source:
            source += f'; {self._calibrated.source}'
        for name, state in tracker.sources.items():
            source += f'; {name}: {state.accepted} accepted, {state.refused} refused'
        if (shape := tracker.estimate.affine) is not None:
            source += f'; slope {shape.slope:.3g}, variance of ln slope {shape.slope_variance:.2g}'
        if not tracker.is_known:
            source += ' (not known yet)'
        if tracker.is_held:
            source += '; held'
        if monitor.remark:
            source += f'; {monitor.remark}'
        self.report = ScaleReport(
            self._settings.mode,
            tracker.estimate,
            tracker.is_known,
            source,
            self._calibrated.warning or self._explain_silence(),
            monitor.remark if monitor.silent_s == 0.0 else '',
        )
        self._publish(self.report)

    def _explain_silence(self) -> str:
        monitor, settings = self._monitor, self._settings
        if self._tracker.is_held:
            return ''
        if monitor.silent_s <= settings.timeout_s or not monitor.reason:
            return ''
        now = f'depth goes on with scale {self._tracker.scale:.4g}'
        if not monitor.accepted:
            now = 'depth is in the metres of the checkpoint'
        if not self._tracker.is_known:
            now = 'no depth is published until it is'
        return f'scale.mode {settings.mode} measures nothing: {monitor.reason}; {now}'


class CameraScales:
    """The scales of all cameras; worker only, but for `configure`, `reports` and `log_warnings`.

    Args:
        inputs: What was received.
        settings: Where the scale comes from.
        calibrations: What was measured before, for mode fixed.
    """

    def __init__(
        self,
        inputs: ScaleInputs,
        settings: ScaleSettings,
        calibrations: CalibrationFile,
    ) -> None:
        self._inputs = inputs
        self._basis = (settings, calibrations)
        self._cameras: dict[str, CameraScale] = {}
        self._reports: Mapping[str, ScaleReport] = {}

    def configure(self, settings: ScaleSettings, calibrations: CalibrationFile) -> None:
        """Take changed settings or calibrations; each camera starts anew with its next image."""
        self._basis = (settings, calibrations)

    @property
    def reports(self) -> Mapping[str, ScaleReport]:
        """The newest report of each camera whose images have come; never changed, but replaced."""
        return self._reports

    def log_warnings(self, logger: ThrottledLogger) -> None:
        """Log what keeps scales from being measured."""
        for name, report in self._reports.items():
            if report.warning:
                kind = re.sub(r'[0-9.]+', '', report.warning)
                logger.warn((name, kind), f'{name}: {report.warning}', REPEAT_S)
            if report.remark:
                logger.warn((name, 'remark'), f'{name}: {report.remark}')

    def for_camera(
        self, name: str, checkpoint: Checkpoint, view: Camera, reset: bool = False
    ) -> CameraScale:
        """Return the scale of a camera, a new one where settings or checkpoint have changed.

        With `reset` it starts anew: the stamps of this camera have jumped.
        """
        settings, calibrations = self._basis
        calibrated = Found()
        if settings.needs_metric_checkpoint:
            calibrated = calibrations.find(name, checkpoint.id, view)
        camera = self._cameras.get(name)
        if camera is None or camera.basis != (settings, checkpoint.id, calibrated):

            def publish(report: ScaleReport) -> None:
                self._reports = {**self._reports, name: report}

            camera = CameraScale(settings, checkpoint, calibrated, self._inputs, publish)
            self._cameras[name] = camera
        if reset:
            camera.reset()
        camera.measure()
        return camera


def has_tf() -> bool:
    """Whether transforms can be received: tf2_msgs is installed."""
    return find_message_class(TF_TYPE) is not None


def refuse_unscaled(
    settings: ScaleSettings, checkpoint: Checkpoint, calibrated: Sequence[Found] = ()
) -> None:
    """Raise SettingsError where depth would be called metres without being metric.

    `calibrated` is what is known of each camera from before.
    """
    if settings.missing and not has_tf():
        raise SettingsError(f'mode {settings.mode} needs {settings.missing} ({NO_TF})')
    are_all = bool(calibrated) and all(one.scale is not None for one in calibrated)
    try:
        settings.refuse_unscaled(checkpoint, are_all)
    except SettingsError as error:
        reasons = [str(error), *(one.warning for one in calibrated if one.warning)]
        raise SettingsError('. '.join(reasons)) from error
