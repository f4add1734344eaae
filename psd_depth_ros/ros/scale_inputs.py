"""What the metric scale is measured from, as topics: `odom` or `lidar`, and TF.

Only what `scale.mode` needs is subscribed to. Callbacks run in the executor and only fill
`data.surroundings`; trackers and the frames that wait for their odometry belong to the worker.
Estimating the scale is left to `inference.scale`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
import re
import time
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from psd_depth_ros.data.message_types import CLOUD_TYPE, ODOMETRY_TYPE
from psd_depth_ros.data.surroundings import PATIENCE_NS, Readers, Surroundings
from psd_depth_ros.errors import MessageError, SettingsError
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_watch import (
    asked_by,
    MEASURING_MODES,
    ScaleFrame,
    ScaleWatch,
)
from psd_depth_ros.ros.camera_channel import CameraChannel, PreparedFrame
from psd_depth_ros.ros.distribution import read_points, rotation_matrix
from psd_depth_ros.ros.engine_slot import Engine
from psd_depth_ros.ros.input_subscription import InputSubscription
from psd_depth_ros.ros.settings import DepthNodeSettings
from psd_depth_ros.ros.speaker import Speaker
from psd_depth_ros.ros.transforms import has_tf, NO_TF, TransformInput

REPEAT_S = 30.0
_ODOMETRY_DEPTH = 100
_READERS = Readers(read_points, rotation_matrix)
_LIDAR_DEPTH = 4
_MAX_WAITING = 60
_MAX_WAITING_BYTES = 128 * 2**20


@dataclass(frozen=True)
class _Waiting:
    """A frame whose odometry, points or transforms may still be on their way."""

    frame: ScaleFrame
    frame_id: str
    received_ns: int


@dataclass
class _Camera:
    """What is learned of one camera, and from which settings and checkpoint."""

    settings: ScaleSettings
    checkpoint: str
    watch: ScaleWatch
    waiting: deque[_Waiting] = field(default_factory=deque)

    def forget(self) -> None:
        """Start anew, as after a jump of the stamps."""
        self.watch.tracker.reset()
        self.watch = ScaleWatch(self.watch.tracker)
        self.waiting.clear()


class ScaleInputs:
    """Subscribes to what the mode needs, and keeps a tracker for each camera."""

    def __init__(self, node: Node, settings: Callable[[], DepthNodeSettings]) -> None:
        self._node = node
        self._settings = settings
        self._speaker = Speaker(node.get_logger())
        self._around = Surroundings(asked_by(settings().scale), _READERS)
        self._input: InputSubscription | None = None
        self._transforms: TransformInput | None = None
        self._cameras: dict[str, _Camera] = {}
        self._silence = ''
        self._subscribe()

    def renew(self) -> None:
        """Subscribe to what `scale.*` needs now."""
        asked = asked_by(self._settings().scale)
        if asked != self._around.asked:
            self.destroy()
            self._around = Surroundings(asked, _READERS)
            self._subscribe()

    def refresh(self) -> None:
        """Look again at the publishers, and say what keeps the scale from being measured."""
        if self._input is not None:
            self._input.refresh()
            self._silence = self._explain_silence(self._input)
        if self._transforms is not None:
            self._transforms.refresh()
        for name, camera in list(self._cameras.items()):
            self._speak(name, camera)

    def destroy(self) -> None:
        """Unsubscribe."""
        for one in (self._input, self._transforms):
            if one is not None:
                one.destroy()
        self._input = self._transforms = None

    def forget(self) -> None:
        """Forget what was received, after a jump of the clock."""
        self._around.forget()

    def tracker(self, channel: CameraChannel, engine: Engine) -> ScaleTracker:
        """Give the tracker of a camera, a new one where settings or checkpoint have changed."""
        settings, checkpoint = self._settings().scale, engine.checkpoint
        camera = self._cameras.get(channel.name)
        if camera is None or (camera.settings, camera.checkpoint) != (settings, checkpoint.id):
            output = checkpoint.info.output
            tracker = ScaleTracker(
                settings, output.scale_sigma if output.metric else None, _READERS.rotation
            )
            camera = _Camera(settings, checkpoint.id, ScaleWatch(tracker))
            self._cameras[channel.name] = camera
        if channel.reset_due.is_set():
            channel.reset_due.clear()
            camera.forget()
        self._measure_all(camera)
        return camera.watch.tracker

    def observe(
        self,
        channel: CameraChannel,
        tracker: ScaleTracker,
        ready: PreparedFrame,
        result: Any,
        applied_scale: float,
    ) -> None:
        """Let a tracker learn from a frame, once all that was measured at its time can be here."""
        camera = self._cameras[channel.name]
        if tracker.settings.mode not in MEASURING_MODES or camera.watch.tracker is not tracker:
            return
        waiting, stamp_ns = camera.waiting, ready.arrived.stamp_ns
        if waiting and stamp_ns <= waiting[-1].frame.stamp_ns:
            return  # it was overtaken
        frame = ScaleFrame(
            stamp_ns, result.rgb, result.depth_m, result.camera, ready.camera, applied_scale
        )
        frame_id = str(ready.arrived.message.header.frame_id)
        waiting.append(_Waiting(frame, frame_id, ready.arrived.received_ns))
        self._measure_all(camera)

    def describe(self, channel: CameraChannel) -> dict[str, str]:
        """Tell the scale of a camera, how well it is known and where it comes from."""
        known = self._cameras.get(channel.name)
        if known is None:
            return {'scale_source': self._settings().scale.mode}
        tracker = known.watch.tracker
        counts = [
            f'{name}: {state.accepted} accepted, {state.refused} refused'
            for name, state in tracker.sources.items()
        ]
        source = '; '.join([tracker.settings.mode, *counts])
        if not tracker.is_known:
            source += ' (not known yet)'
        if known.watch.remark:
            source += f'; {known.watch.remark}'
        return {
            'scale': f'{tracker.scale:.4g}',
            'scale_variance': f'{tracker.variance:.3g}',
            'scale_source': source,
        }

    def warning(self, channel: CameraChannel) -> str:
        """Why the scale of a camera was not measured for `scale.timeout_s`, '' where it is."""
        camera = self._cameras.get(channel.name)
        return '' if camera is None else self._warning(camera)

    def _warning(self, camera: _Camera) -> str:
        watch, settings = camera.watch, camera.settings
        if watch.silent_s <= settings.timeout_s or not watch.reason:
            return ''
        now = f'depth goes on with scale {watch.tracker.scale:.4g}'
        if not watch.accepted:
            now = 'depth is in the metres of the checkpoint'
        if not watch.tracker.is_known:
            now = 'no depth is published until it is'
        return f'scale.mode {settings.mode} measures nothing: {watch.reason}; {now}'

    def _speak(self, name: str, camera: _Camera) -> None:
        warning = self._warning(camera)
        if warning:
            kind = re.sub(r'[0-9.]+', '', warning)
            self._speaker.warn((name, kind), f'{name}: {warning}', REPEAT_S)
        if camera.watch.remark and camera.watch.silent_s == 0.0:
            self._speaker.warn((name, 'remark'), f'{name}: {camera.watch.remark}')

    def _measure_all(self, camera: _Camera) -> None:
        """Let a camera learn from the frames whose surroundings are known."""
        while camera.waiting and self._is_ripe(camera.waiting):
            self._measure(camera.watch, camera.waiting.popleft())

    def _is_ripe(self, waiting: deque[_Waiting]) -> bool:
        """Whether the first frame need not wait any longer."""
        first, last = waiting[0], waiting[-1]
        if len(waiting) > _MAX_WAITING or last.frame.stamp_ns - first.frame.stamp_ns > PATIENCE_NS:
            return True
        if last.received_ns - first.received_ns > PATIENCE_NS:
            return True
        if sum(one.frame.bytes for one in waiting) > _MAX_WAITING_BYTES:
            return True
        return self._around.is_final(first.frame.stamp_ns, first.frame_id)

    def _measure(self, watch: ScaleWatch, one: _Waiting) -> None:
        seen = self._around.at(one.frame.stamp_ns, one.frame_id, one.received_ns)
        if seen.problem and self._silence and not self._around.has_received:
            seen = replace(seen, problem=self._silence)
        if self._around.asked.transforms and not has_tf():
            seen = replace(seen, remark=NO_TF)
        watch.observe(time.monotonic(), one.frame, seen)

    def _subscribe(self) -> None:
        asked = self._around.asked
        if asked.poses:
            self._input = self._listen(Odometry, 'odom', self._on_odometry, _ODOMETRY_DEPTH)
        elif asked.points:
            self._input = self._listen(PointCloud2, 'lidar', self._on_cloud, _LIDAR_DEPTH)
        if asked.transforms:
            self._transforms = TransformInput(self._node, self._around.transforms)

    def _listen(
        self, message_type: type[Any], topic: str, callback: Callable[[Any], None], depth: int
    ) -> InputSubscription:
        return InputSubscription(
            self._node,
            message_type,
            topic,
            callback,
            lambda: self._settings().image_reliability,
            depth,
        )

    def _on_odometry(self, message: Any) -> None:
        try:
            self._around.add_odometry(message, time.monotonic_ns())
        except MessageError as error:
            self._speaker.error('odometry', f'odom: {error}')

    def _on_cloud(self, message: Any) -> None:
        self._around.add_cloud(message, time.monotonic_ns())

    def _explain_silence(self, source: InputSubscription) -> str:
        """Why nothing may have come on a topic."""
        count = source.publisher_count
        if count:
            return f'{count} publishers on {source.topic}, but no message has come'
        poses = self._around.asked.poses
        name, kind = ('odom', ODOMETRY_TYPE) if poses else ('lidar', CLOUD_TYPE)
        others = [
            topic
            for topic, types in self._node.get_topic_names_and_types()
            if kind in types and topic != source.topic and self._node.count_publishers(topic)
        ]
        there = f'; there is {", ".join(others)}: remap {name}:={others[0]}' if others else ''
        return f'nobody publishes {source.topic}{there}'


def refuse_unscaled(settings: ScaleSettings, engine: Engine) -> None:
    """Raise SettingsError where depth would be called metres without being metric."""
    if settings.missing and not has_tf():
        raise SettingsError(f'mode {settings.mode} needs {settings.missing} ({NO_TF})')
    if settings.needs_metric_checkpoint and not engine.checkpoint.info.output.metric:
        raise SettingsError(
            f'checkpoint {engine.checkpoint.path or "of the package"} is not metric and '
            'scale.mode is fixed without a scale.factor, so its depth is not metres. Choose '
            'scale.mode odometry, camera_height or lidar, give scale.factor, or choose '
            'scale.mode relative (topics depth_relative/...)'
        )
