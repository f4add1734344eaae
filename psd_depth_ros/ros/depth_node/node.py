"""The depth node: camera topics in, metric depth and point clouds out.

A lifecycle node. Configure loads and warms up the network (a bad file is a failed configure, not a
crash), activate subscribes, cleanup gives the device's memory back. Callbacks only hand images
over; one worker thread runs the network and publishes. There is no mathematics here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import functools
import queue
import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from rclpy.timer import Timer
from std_srvs.srv import Trigger

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.data.calibration_file import ASSUMED_FOV_DEG, camera_from_fov
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.external.open import check_external, is_external
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.exported import OPENVINO, SUFFIXES
from psd_depth_ros.inference.scale import ScaleSettings
from psd_depth_ros.inference.scale_calibration import CalibrationFile, default_file
from psd_depth_ros.inference.scale_monitor import MEASURING_MODES
from psd_depth_ros.parsing import user_path
from psd_depth_ros.ros.common import REPEAT_S, run_node, ThrottledLogger
from psd_depth_ros.ros.depth_node.calibrate_scale import ScaleCalibrator
from psd_depth_ros.ros.depth_node.camera import CameraStream
from psd_depth_ros.ros.depth_node.diagnostics import (
    camera_status,
    diagnostic_array,
    engine_status,
)
from psd_depth_ros.ros.depth_node.scale import CameraScales, refuse_unscaled, ScaleInputs
from psd_depth_ros.ros.depth_node.settings import DepthNodeSettings, EngineSettings
from psd_depth_ros.ros.depth_node.worker import (
    DepthWorker,
    Engine,
    EngineFactory,
    EngineHandle,
)
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.runtime import configure_runtime

HOUSEKEEPING_S = 0.5
RELOADED = frozenset({'checkpoint', 'pixel_budget'})  # parameters that ask for another engine
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
Transition = Callable[['DepthNode', LifecycleState], TransitionCallbackReturn]


class DepthEngineFactory:
    """Loads checkpoints into a `DepthEngine`; all but the first beside one that is running."""

    def __init__(self) -> None:
        self._has_loaded = False

    def load(self, path: str, device: str, backend: str, pixel_budget: int) -> Engine:
        """Load a network, the shipped one for ''; budget 0 is its own. Raises PsdDepthError."""
        engine: Engine = DepthEngine.from_checkpoint(
            path or None,
            device=device,
            backend=backend,
            pixel_budget=pixel_budget,
            in_subprocess=self._has_loaded,
        )
        configure_runtime(engine.backend)
        self._has_loaded = True
        return engine

    def check(self, path: str) -> None:
        """Raise PsdDepthError where the description of a network cannot be read."""
        if path.endswith(SUFFIXES[OPENVINO]):
            return  # read as a whole when it is loaded
        if is_external(path):
            check_external(path)
        else:
            load_checkpoint(path or None)


def _with_reason(transition: Transition) -> Transition:
    """Fail a transition with its reason logged: rclpy drops exceptions of transitions."""

    @functools.wraps(transition)
    def wrapped(node: DepthNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except PsdDepthError as error:
            node.fail(str(error))
            return FAILURE
        except Exception as error:  # noqa: BLE001 - the node survives and reports the reason
            node.fail(f'{type(error).__name__}: {error}')
            return FAILURE

    return wrapped


class DepthNode(LifecycleNode):
    """Depth of one or more cameras.

    Args:
        factory: Makes the engines.
        **options: Options of rclpy's Node.
    """

    def __init__(self, factory: EngineFactory | None = None, **options: Any) -> None:
        super().__init__('depth_node', **options)
        self._factory = factory or DepthEngineFactory()
        self._node_parameters = NodeParameters(self, DepthNodeSettings, self._judge, self._apply)
        settings = self.settings
        self._engine: EngineHandle | None = None
        self._reloader: CheckpointReloader | None = None
        self._worker: DepthWorker | None = None
        self._scale_inputs: ScaleInputs | None = None
        self._scales: CameraScales | None = None
        self._calibrations = CalibrationFile()
        self._problem = ''
        self._loading = ''  # what the first engine is made of, while it is
        self._throttled = ThrottledLogger(self.get_logger())
        self._time_jumps = 0
        self._cameras = [
            CameraStream(self, namespace, settings, settings)
            for namespace in dict.fromkeys(settings.cameras)
        ]
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # runs while a simulation is paused
        self.create_timer(settings.diagnostics_period_s, self._publish_diagnostics, clock=steady)
        self.create_timer(HOUSEKEEPING_S, self._refresh, clock=steady)
        self._jumps = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False
            ),
            post_callback=self._on_time_jump,
        )
        self._reset_service = self.create_service(Trigger, '~/reset_scale', self._on_reset_scale)
        self._calibrator = ScaleCalibrator(
            self,
            self._cameras,
            lambda: self._engine.engine.checkpoint if self._engine and self.is_active else None,
            lambda: self.settings.scale,
            lambda: self._read_calibrations(self.settings.scale),
            self._take_calibrations,
        )
        self._autostart: Timer | None = None
        if settings.autostart:
            self._autostart = self.create_timer(0.0, self._start, clock=steady)

    @property
    def settings(self) -> DepthNodeSettings:
        """The parameters as they are now."""
        return self._node_parameters.settings

    @property
    def is_active(self) -> bool:
        """Whether images are processed."""
        return self._worker is not None

    @_with_reason
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load and warm up the network."""
        settings = self.settings
        handle = EngineHandle(self._factory, settings.device, settings.backend)
        with self._tell_loading(settings):
            handle.load(settings.checkpoint, self._expected_cameras(), settings.pixel_budget)
        self._engine, self._problem = handle, ''
        self._reloader = CheckpointReloader(
            self, handle, settings, self._expected_cameras, self._refuse_engine
        )
        engine = handle.engine
        self.get_logger().info(
            f'{engine.checkpoint.info.name} ({engine.checkpoint.id}) runs on {engine.device} '
            f'with {engine.backend}'
        )
        _tell_limits(self, engine)
        return SUCCESS

    @_with_reason
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Refuse what would not be metric, then subscribe and begin."""
        try:
            self._begin()
        except Exception:
            self._stop()
            raise
        return SUCCESS

    @_with_reason
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the batch in progress and unsubscribe."""
        self._stop()
        return SUCCESS

    @_with_reason
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the network's memory back."""
        self._release()
        return SUCCESS

    @_with_reason
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release, from any state."""
        self.close()
        return SUCCESS

    @_with_reason
    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured with nothing held."""
        self.close()
        return SUCCESS

    def fail(self, reason: str) -> None:
        """Log why a transition failed; diagnostics show it until the next success."""
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

    def _begin(self) -> None:
        assert self._engine is not None
        settings = self.settings
        calibrations = self._calibrations_for(settings.scale)
        self._refuse_unscaled(settings.scale, calibrations, self._engine.engine)
        self._scale_inputs = ScaleInputs(self, settings.scale, settings.image_reliability)
        self._scales = CameraScales(self._scale_inputs, settings.scale, calibrations)
        self._calibrations = calibrations
        self._worker = DepthWorker(
            self._engine,
            self._scales,
            self._cameras,
            settings.depth,
            settings.batch_wait_s,
            ThrottledLogger(self.get_logger()),
            self.context.ok,
        )
        self._worker.start()
        for camera in self._cameras:
            camera.open(self._worker.hand_over, relative=settings.scale.mode == 'relative')
        self._problem = ''

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        for camera in self._cameras:
            camera.close()
        if self._scale_inputs is not None:
            self._scale_inputs.destroy()
            self._scale_inputs = self._scales = None

    def _release(self) -> None:
        if self._engine is not None:
            self._engine.close()  # first: its loader tells the reloader how it ended
            self._engine = None
        if self._reloader is not None:
            self._reloader.destroy()
            self._reloader = None

    @contextmanager
    def _tell_loading(self, settings: EngineSettings) -> Iterator[None]:
        """Log what is loaded, and publish diagnostics meanwhile: no timer runs in a transition."""
        self._loading = settings.checkpoint or 'the default checkpoint'
        self.get_logger().info(f'loading {self._loading}')
        done = threading.Event()

        def tell() -> None:
            try:
                self._publish_diagnostics()
                while not done.wait(self.settings.diagnostics_period_s):
                    self._publish_diagnostics()
            except Exception:
                if self.context.ok():  # else Ctrl-C came in the middle of it
                    raise

        thread = threading.Thread(target=tell, name='loading_diagnostics', daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self._loading = ''

    def _expected_cameras(self) -> list[Camera]:
        """All cameras; those without images yet as the parameters describe them."""
        nominal = camera_from_fov(
            self.settings.image_width, self.settings.image_height, ASSUMED_FOV_DEG
        )
        return [camera.camera or nominal for camera in self._cameras]

    def _refuse_engine(self, engine: Engine) -> None:
        if self.is_active:
            self._refuse_unscaled(self.settings.scale, self._calibrations, engine)

    def _refuse_unscaled(
        self, settings: ScaleSettings, calibrations: CalibrationFile, engine: Engine
    ) -> None:
        checkpoint = engine.checkpoint
        found = [calibrations.find(camera.name, checkpoint.id) for camera in self._cameras]
        refuse_unscaled(settings, checkpoint, found)

    def _read_calibrations(self, settings: ScaleSettings) -> CalibrationFile:
        """Read the file that the settings name, or the node's own. Raises SettingsError."""
        named = settings.calibration
        path = user_path(named) if named else default_file(self.get_fully_qualified_name())
        return CalibrationFile.load(path, bool(named))

    def _calibrations_for(self, settings: ScaleSettings) -> CalibrationFile:
        """The same where the mode takes them, else none."""
        if settings.needs_metric_checkpoint:
            return self._read_calibrations(settings)
        return CalibrationFile()

    def _take_calibrations(self, calibrations: CalibrationFile) -> None:
        self._calibrations = calibrations
        if self._scales is not None:
            self._scales.configure(self.settings.scale, calibrations)

    def _judge(
        self, old: DepthNodeSettings, new: DepthNodeSettings, changed: frozenset[str]
    ) -> str:
        """Return why a change of parameters cannot be made now, '' where it can."""
        if changed & RELOADED and self._reloader is not None:
            return self._reloader.refuse(new.checkpoint)
        if not self.is_active or self._engine is None:
            return ''
        if 'scale.mode' in changed and 'relative' in (old.scale.mode, new.scale.mode):
            return (
                'scale.mode relative has other topics (depth_relative/...) than '
                f'{old.scale.mode if new.scale.mode == "relative" else new.scale.mode}; '
                'deactivate the node first'
            )
        if any(name.startswith('scale.') for name in changed):
            try:
                calibrations = self._calibrations_for(new.scale)
                self._refuse_unscaled(new.scale, calibrations, self._engine.engine)
            except PsdDepthError as error:
                return str(error)
        return ''

    def _apply(
        self, old: DepthNodeSettings, new: DepthNodeSettings, changed: frozenset[str]
    ) -> None:
        """Give each part the settings that it uses."""
        for camera in self._cameras:
            camera.configure(new, new)
        if self._worker is not None:
            self._worker.configure(new.depth, new.batch_wait_s)
        if self._scale_inputs is not None and self._scales is not None:
            self._scale_inputs.configure(new.scale, new.image_reliability)
            if any(name.startswith('scale.') for name in changed):
                self._take_calibrations(self._calibrations_for(new.scale))
        if changed & RELOADED and self._reloader is not None:
            self._reloader.start(new)

    def _on_time_jump(self, jump: TimeJump) -> None:
        self._time_jumps += 1
        self._throttled.warn(
            'time jump',
            f'time jumped by {jump.delta.nanoseconds / 1e9:.3f} s: scale starts anew '
            f'({self._time_jumps} jumps so far; more are logged in {REPEAT_S:g} s)',
            REPEAT_S,
        )
        if self._scale_inputs is not None:
            self._scale_inputs.forget()
        for camera in self._cameras:
            camera.reset()

    def _on_reset_scale(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Let every camera measure its scale anew, from its next image on."""
        mode = self.settings.scale.mode
        response.success = mode in MEASURING_MODES
        response.message = f'scale.mode is {mode}, which measures nothing'
        if response.success:
            for camera in self._cameras:
                camera.reset()
            response.message = 'the scale of every camera is measured anew, from its next image on'
        return response

    def _refresh(self) -> None:
        """Look up who publishes and who subscribes."""
        for camera in self._cameras:
            camera.refresh()
        if self._scale_inputs is not None and self._scales is not None:
            self._scale_inputs.refresh()
            self._scales.log_warnings(self._throttled)

    def _publish_diagnostics(self) -> None:
        name, active = self.get_name(), self.is_active
        problem = self._problem or (self._reloader.problem if self._reloader else '')
        if self._engine is None:
            state = 'configuring' if self._loading else 'unconfigured'
        else:
            state = 'active' if active else 'inactive'
        statuses = [engine_status(name, state, self._engine, problem, self._loading)]
        reports = {} if self._scales is None else self._scales.reports
        for camera in self._cameras:
            scale, mode = reports.get(camera.name), self.settings.scale.mode
            statuses.append(camera_status(name, camera.report(), active, scale, mode))
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostic_array(stamp, statuses))


def _tell_limits(node: Node, engine: Engine) -> None:
    """Log what licences forbid, a size that was not trained at, an export that went wrong."""
    if engine.checkpoint.info.restriction:
        node.get_logger().info(f'these weights are {engine.checkpoint.info.restriction}')
    untrained = engine.checkpoint.info.input.describe_untrained(engine.pixel_budget)
    if untrained:
        node.get_logger().warning(untrained)
    parity = getattr(engine, 'parity', None)
    if parity is not None and not parity.is_good:
        node.get_logger().warning(
            f'{engine.checkpoint.path} gives other depth than the network it was exported from: '
            f'{parity}; export it again on this machine'
        )


@dataclass(frozen=True)
class _Outcome:
    settings: EngineSettings
    reason: str


class CheckpointReloader:
    """Another engine while the node runs: parameters RELOADED and service `~/reload`.

    The new network is loaded beside the running one; one that fails leaves the old one running,
    sets the parameters back and logs why.

    Args:
        node: A configured node.
        engine: Its engine.
        settings: What the engine was made from.
        cameras: Tells which images to compile for.
        judge: May refuse an engine by raising PsdDepthError.
    """

    def __init__(
        self,
        node: Node,
        engine: EngineHandle,
        settings: EngineSettings,
        cameras: Callable[[], Sequence[Camera]],
        judge: Callable[[Engine], None],
    ) -> None:
        self._node = node
        self._engine = engine
        self._running = self._wanted = settings
        self._cameras = cameras
        self._judge = judge
        self._outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._waiting: list[Future] = []
        self._is_reverting = False
        self._guard = node.create_guard_condition(self._finish)
        # A group of its own: an answer that waits must not keep every other callback waiting.
        self._service = node.create_service(
            Trigger, '~/reload', self._on_reload, callback_group=MutuallyExclusiveCallbackGroup()
        )
        self.problem = ''

    def destroy(self) -> None:
        """Take the service down."""
        self._node.destroy_service(self._service)
        self._node.destroy_guard_condition(self._guard)

    def refuse(self, path: str) -> str:
        """Return why `path` cannot be loaded now, '' where it may be tried."""
        if self._is_reverting:
            return ''
        if self._engine.is_loading:
            return 'another checkpoint is being loaded; try again when it is done'
        try:
            self._engine.check(path)
        except PsdDepthError as error:
            return str(error)
        return ''

    def start(self, settings: EngineSettings) -> None:
        """Load what the settings name beside the running network; returns at once."""
        if self._is_reverting:
            return
        self._wanted = settings
        path, pixel_budget = settings.checkpoint, settings.pixel_budget
        size = f' for inputs of {pixel_budget} px' if pixel_budget else ''
        self._node.get_logger().info(f'loading {path or "the default checkpoint"}{size}')

        def done(reason: str) -> None:
            self._outcomes.put(_Outcome(settings, reason))
            self._guard.trigger()  # on to the executor's thread

        self._engine.replace(path, self._cameras, self._judge, done, pixel_budget)

    async def _on_reload(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Load the file of the parameter `checkpoint` again; answers when it is done."""
        reason = self.refuse(self._wanted.checkpoint)
        if not reason:
            future: Future = Future()
            self._waiting.append(future)
            self.start(self._wanted)
            reason = await future
        response.success = not reason
        response.message = reason or f'running {self._engine.engine.checkpoint.id}'
        return response

    def _finish(self) -> None:
        """Report the outcome, in the executor's thread."""
        while not self._outcomes.empty():
            outcome = self._outcomes.get()
            self.problem = outcome.reason
            if outcome.reason:
                self._node.get_logger().error(
                    f'checkpoint not changed, the old one goes on: {outcome.reason}'
                )
                self._revert()
            else:
                self._running = outcome.settings
                engine = self._engine.engine
                self._node.get_logger().info(f'running {engine.checkpoint.path}')
                _tell_limits(self._node, engine)
            for future in self._waiting:
                future.set_result(outcome.reason)
            self._waiting.clear()

    def _revert(self) -> None:
        self._is_reverting = True
        self._wanted = running = self._running
        parameters = [
            Parameter('checkpoint', Parameter.Type.STRING, running.checkpoint),
            Parameter('pixel_budget', Parameter.Type.INTEGER, running.pixel_budget),
        ]
        self._node.set_parameters_atomically(parameters)
        self._is_reverting = False


def main(arguments: Sequence[str] | None = None, factory: EngineFactory | None = None) -> int:
    """Run the node until Ctrl-C; returns the exit code."""
    make: Callable[[], Any] = functools.partial(DepthNode, factory)
    return run_node(make, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
