"""What the metric scale is measured from, as topics: `odom` and `lidar`.

Only the topic that `scale.mode` names is subscribed to. Callbacks run in the executor; trackers
are used by the worker alone. Estimating the scale is left to `inference.scale`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import threading
from typing import Any

from nav_msgs.msg import Odometry
import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from psd_depth_ros.data.bag_frames import PoseTrack
from psd_depth_ros.errors import MessageError, SettingsError
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.messages import decode_points, odometry_pose, stamp_ns
from psd_depth_ros.ros.camera_channel import CameraChannel, PreparedFrame
from psd_depth_ros.ros.engine_slot import Engine
from psd_depth_ros.ros.input_subscription import InputSubscription
from psd_depth_ros.ros.settings import DepthNodeSettings
from psd_depth_ros.ros.speaker import Speaker

_LIDAR_GAP_NS = 100_000_000
_LIDAR_KEPT = 4
_ODOMETRY_DEPTH = 50


class ScaleInputs:
    """Subscribes to what the mode needs, and keeps a tracker for each camera."""

    def __init__(self, node: Node, settings: Callable[[], DepthNodeSettings]) -> None:
        self._node = node
        self._settings = settings
        self._speaker = Speaker(node.get_logger())
        self._lock = threading.Lock()
        self._poses = PoseTrack()
        self._clouds: deque[Any] = deque(maxlen=_LIDAR_KEPT)
        self._input: InputSubscription | None = None
        self._trackers: dict[str, tuple[ScaleSettings, str, ScaleTracker]] = {}
        self.renew()

    def renew(self) -> None:
        """Subscribe to what `scale.mode` needs now."""
        self.destroy()
        mode = self._settings().scale.mode
        if mode == 'odometry':
            self._input = self._subscribe(Odometry, 'odom', self._on_odometry, _ODOMETRY_DEPTH)
        elif mode == 'lidar':
            self._input = self._subscribe(PointCloud2, 'lidar', self._on_cloud, _LIDAR_KEPT)

    def refresh(self) -> None:
        """Look again at the publishers."""
        if self._input is not None:
            self._input.refresh()

    def destroy(self) -> None:
        """Unsubscribe."""
        if self._input is not None:
            self._input.destroy()
        self._input = None

    def tracker(self, channel: CameraChannel, engine: Engine) -> ScaleTracker:
        """Give the tracker of a camera, a new one where settings or checkpoint have changed."""
        settings, checkpoint = self._settings().scale, engine.checkpoint
        known = self._trackers.get(channel.name)
        if known is not None and known[:2] == (settings, checkpoint.id):
            tracker = known[2]
        else:
            output = checkpoint.info.output
            tracker = ScaleTracker(settings, output.scale_sigma if output.metric else None)
            self._trackers[channel.name] = (settings, checkpoint.id, tracker)
        if channel.reset_due.is_set():
            channel.reset_due.clear()
            tracker.reset()
            with self._lock:
                self._poses = PoseTrack()
                self._clouds.clear()
        return tracker

    def observe(
        self, tracker: ScaleTracker, ready: PreparedFrame, result: Any, applied_scale: float
    ) -> None:
        """Let a tracker learn from a frame and what was measured at its time."""
        if self._input is None and self._settings().scale.mode != 'camera_height':
            return
        time_ns = ready.arrived.stamp_ns
        with self._lock:
            odometry = self._poses.at(time_ns)
        tracker.observe(
            time_ns,
            result.rgb,
            result.depth_m,
            result.camera,
            applied_scale=applied_scale,
            odometry=odometry,
            lidar=self._points_near(time_ns),
            extrinsics=tracker.locate(ready.camera),
        )

    def describe(self, channel: CameraChannel) -> dict[str, str]:
        """Tell the scale of a camera, how well it is known and where it comes from."""
        known = self._trackers.get(channel.name)
        if known is None:
            return {'scale_source': self._settings().scale.mode}
        tracker = known[2]
        counts = [
            f'{name}: {state.accepted} accepted, {state.refused} refused'
            for name, state in tracker.sources.items()
        ]
        source = '; '.join([tracker.settings.mode, *counts])
        return {
            'scale': f'{tracker.scale:.4g}',
            'scale_variance': f'{tracker.variance:.3g}',
            'scale_source': source if tracker.is_known else f'{source} (not known yet)',
        }

    def _subscribe(
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
            pose = odometry_pose(message)
        except MessageError as error:
            self._speaker.error('odometry', f'odom: {error}')
            return
        with self._lock:
            self._poses.add(stamp_ns(message.header), pose)

    def _on_cloud(self, message: Any) -> None:
        with self._lock:
            self._clouds.append(message)

    def _points_near(self, time_ns: int) -> npt.NDArray[np.float32] | None:
        """Points (N, 3) of the cloud nearest in time, None where there is none."""
        with self._lock:
            clouds = list(self._clouds)
        if not clouds:
            return None
        nearest = min(clouds, key=lambda one: abs(stamp_ns(one.header) - time_ns))
        if abs(stamp_ns(nearest.header) - time_ns) > _LIDAR_GAP_NS:
            return None
        try:
            return decode_points(nearest)
        except MessageError as error:
            self._speaker.error('lidar', f'lidar: {error}')
            return None


def refuse_unscaled(settings: ScaleSettings, engine: Engine) -> None:
    """Raise SettingsError where depth would be called metres without being metric."""
    if settings.missing:
        raise SettingsError(f'mode {settings.mode} needs {settings.missing}')
    if settings.needs_metric_checkpoint and not engine.checkpoint.info.output.metric:
        raise SettingsError(
            f'checkpoint {engine.checkpoint.path or "of the package"} is not metric and '
            'scale.mode is fixed without a scale.factor, so its depth is not metres. Choose '
            'scale.mode odometry, camera_height or lidar, give scale.factor, or choose '
            'scale.mode relative (topics depth_relative/...)'
        )
