"""The depth node: camera topics in, metric depth and point clouds out.

A lifecycle node. Configure loads and warms up the network (a bad file is a failed configure, not a
crash), activate subscribes, cleanup gives the device's memory back. Callbacks only hand frames
over; one worker thread runs the network and publishes. There is no mathematics here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.timer import Timer

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.ros.calibration import nominal_camera
from psd_depth_ros.ros.camera_channel import ArrivedFrame, CameraChannel
from psd_depth_ros.ros.diagnostics import camera_status, diagnostic_array, engine_status
from psd_depth_ros.ros.engine_factory import DepthEngineFactory
from psd_depth_ros.ros.engine_slot import Engine, EngineFactory, EngineSlot
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.ros.pipeline import DepthPipeline
from psd_depth_ros.ros.reloader import Reloader
from psd_depth_ros.ros.results import ResultPublisher
from psd_depth_ros.ros.running import run_node
from psd_depth_ros.ros.scale_inputs import refuse_unscaled, ScaleInputs
from psd_depth_ros.ros.settings import DepthNodeSettings
from psd_depth_ros.ros.speaker import Speaker
from psd_depth_ros.ros.worker import DepthWorker

HOUSEKEEPING_S = 0.5
REPEAT_S = 30.0
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
Step = Callable[['DepthNode', LifecycleState], TransitionCallbackReturn]


def _said(step: Step) -> Step:
    """Fail a transition with the reason said: rclpy drops exceptions of transitions."""

    @functools.wraps(step)
    def wrapped(node: DepthNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return step(node, state)
        except PsdDepthError as error:
            node.fail(str(error))
            return FAILURE
        except Exception as error:  # noqa: BLE001 - the node survives, and says what happened
            node.fail(f'{type(error).__name__}: {error}')
            return FAILURE

    return wrapped


class DepthNode(LifecycleNode):
    """Depth of one or more cameras."""

    def __init__(self, factory: EngineFactory | None = None) -> None:
        super().__init__('depth_node')
        self._factory = factory or DepthEngineFactory()
        self._given = NodeParameters(self, DepthNodeSettings, self._judge, self._apply)
        self._slot: EngineSlot | None = None
        self._reloader: Reloader | None = None
        self._worker: DepthWorker | None = None
        self._scales: ScaleInputs | None = None
        self._problem = ''
        self._speaker = Speaker(self.get_logger())
        self._time_jumps = 0
        self._channels = [
            CameraChannel(self, one, lambda: self.settings, self._hand_over)
            for one in dict.fromkeys(self.settings.cameras)
        ]
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # paused simulations are diagnosed too
        period_s = self.settings.diagnostics_period_s
        self.create_timer(period_s, self._publish_diagnostics, clock=steady)
        self.create_timer(HOUSEKEEPING_S, self._keep_house, clock=steady)
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=self._on_time_jump,
        )
        self._autostart: Timer | None = None
        if self.settings.autostart:
            self._autostart = self.create_timer(0.0, self._start, clock=steady)

    @property
    def settings(self) -> DepthNodeSettings:
        """The parameters as they are now."""
        return self._given.settings

    @property
    def is_active(self) -> bool:
        """Whether frames are worked on."""
        return self._worker is not None

    @_said
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the network."""
        settings = self.settings
        slot = EngineSlot(self._factory, settings.device, settings.backend)
        slot.load(settings.checkpoint, self._expected_cameras())
        self._slot, self._problem = slot, ''
        self._reloader = Reloader(
            self, slot, settings.checkpoint, self._expected_cameras, self._refuse_engine
        )
        engine = slot.engine
        self.get_logger().info(
            f'{engine.checkpoint.info.name} ({engine.checkpoint.id}) runs on {engine.device} '
            f'with {engine.backend}'
        )
        return SUCCESS

    @_said
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Refuse what would not be metric, then subscribe and begin."""
        try:
            self._begin()
        except Exception:
            self._stop()
            raise
        return SUCCESS

    def _begin(self) -> None:
        assert self._slot is not None
        refuse_unscaled(self.settings.scale, self._slot.engine)
        self._scales = ScaleInputs(self, lambda: self.settings)
        results = ResultPublisher(lambda: self.settings, self.get_clock())
        self._worker = DepthWorker(
            DepthPipeline(
                self._slot, self._scales, results, lambda: self.settings, self._known_cameras
            ),
            Speaker(self.get_logger()),
            cameras=len(self._channels),
            patience_s=lambda: self.settings.batch_wait_s if len(self._channels) > 1 else 0.0,
            is_alive=self.context.ok,
        )
        self._worker.start()
        for channel in self._channels:
            channel.open()
        self._problem = ''

    @_said
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the frame in work and unsubscribe."""
        self._stop()
        return SUCCESS

    @_said
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the network's memory back."""
        self._release()
        return SUCCESS

    @_said
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release, from any state."""
        self.close()
        return SUCCESS

    @_said
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured with nothing held."""
        self.close()
        return SUCCESS

    def fail(self, reason: str) -> None:
        """Say why a transition failed; diagnostics show it until the next success."""
        self._problem = reason
        if self.context.ok():  # else Ctrl-C came in the middle of it
            self.get_logger().error(reason)

    def close(self) -> None:
        """Stop the worker and release the network; a second call does nothing."""
        self._stop()
        self._release()

    def _start(self) -> None:
        """Configure and activate once, as a lifecycle manager would."""
        assert self._autostart is not None
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        for channel in self._channels:
            channel.close()
        if self._scales is not None:
            self._scales.destroy()
            self._scales = None

    def _release(self) -> None:
        if self._slot is not None:
            self._slot.close()  # first: its loader tells the reloader how it ended
            self._slot = None
        if self._reloader is not None:
            self._reloader.destroy()
            self._reloader = None

    def _hand_over(self, channel: CameraChannel, frame: ArrivedFrame) -> bool:
        return self._worker is not None and self._worker.hand_over(channel, frame)

    def _known_cameras(self) -> list[Camera]:
        """The cameras whose images have come."""
        return [one.camera for one in self._channels if one.camera is not None]

    def _expected_cameras(self) -> list[Camera]:
        """All cameras, those that were not heard yet as the parameters tell."""
        nominal = nominal_camera(self.settings.image_width, self.settings.image_height)
        return [one.camera or nominal for one in self._channels]

    def _refuse_engine(self, engine: Engine) -> None:
        if self.is_active:
            refuse_unscaled(self.settings.scale, engine)

    def _judge(
        self, old: DepthNodeSettings, new: DepthNodeSettings, changed: frozenset[str]
    ) -> str:
        """Tell why a change of parameters cannot be made now, '' where it can."""
        if 'checkpoint' in changed and self._reloader is not None:
            return self._reloader.refuse(new.checkpoint)
        if not self.is_active or self._slot is None:
            return ''
        if 'scale.mode' in changed and 'relative' in (old.scale.mode, new.scale.mode):
            return (
                'scale.mode relative has other topics (depth_relative/...) than '
                f'{old.scale.mode if new.scale.mode == "relative" else new.scale.mode}; '
                'deactivate the node first'
            )
        if any(name.startswith('scale.') for name in changed):
            try:
                refuse_unscaled(new.scale, self._slot.engine)
            except PsdDepthError as error:
                return str(error)
        return ''

    def _apply(
        self, old: DepthNodeSettings, new: DepthNodeSettings, changed: frozenset[str]
    ) -> None:
        if 'checkpoint' in changed and self._reloader is not None:
            self._reloader.start(new.checkpoint)
        if self._scales is not None and any(name.startswith('scale.') for name in changed):
            self._scales.renew()

    def _on_time_jump(self, jump: TimeJump) -> None:
        self._time_jumps += 1
        self._speaker.warn(
            'time jump',
            f'time jumped by {jump.delta.nanoseconds / 1e9:.3f} s: scale starts anew '
            f'({self._time_jumps} jumps so far; more are said in {REPEAT_S:g} s)',
            REPEAT_S,
        )
        if self._scales is not None:
            self._scales.forget()
        for channel in self._channels:
            channel.reset()

    def _keep_house(self) -> None:
        for channel in self._channels:
            channel.refresh()
        if self._scales is not None:
            self._scales.refresh()

    def _publish_diagnostics(self) -> None:
        name, active = self.get_name(), self.is_active
        problem = self._problem or (self._reloader.problem if self._reloader else '')
        state = 'active' if active else 'unconfigured' if self._slot is None else 'inactive'
        statuses = [engine_status(name, state, self._slot, problem)]
        for channel in self._channels:
            extra = self._scales.describe(channel) if self._scales is not None else {}
            warning = self._scales.warning(channel) if self._scales is not None else ''
            statuses.append(camera_status(name, channel, active, extra, warning))
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostic_array(stamp, statuses))


def main(arguments: Sequence[str] | None = None, factory: EngineFactory | None = None) -> int:
    """Run the node until Ctrl-C; returns the exit code."""
    make: Callable[[], Any] = functools.partial(DepthNode, factory)
    return run_node(make, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
