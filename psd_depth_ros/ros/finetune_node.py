"""The fine-tuning node: recordings in, better weights out, and on to the running depth node.

    python -m psd_depth_ros.ros.finetune_node --ros-args -p bags:=[drive.mcap] -p output:=run

The training runs in a process of its own with low priority; this node starts it, publishes its
progress and deploys the weights. Parameters are those of `FinetuneNodeSettings`, the values of
~/progress are PROGRESS_KEYS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
import functools
import math
import queue
from typing import Any

from builtin_interfaces.msg import Time
import cv2
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from rclpy.timer import Timer
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from psd_depth_ros.config import build, dump, flatten, section, setting, specs
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.finetune.child import COMMAND, Event, TrainingProcess
from psd_depth_ros.finetune.folder import (
    FINISHED,
    folder_state,
    FOREIGN,
    next_step,
    UNFINISHED,
)
from psd_depth_ros.finetune.report import (
    ACCEPTED,
    FinetuneReport,
    FinetuneStatus,
    KEPT,
    PREPARING,
    report_from,
    STOPPED,
)
from psd_depth_ros.finetune.run import make_recipe
from psd_depth_ros.finetune.settings import FinetuneSettings
from psd_depth_ros.messages import image_fields
from psd_depth_ros.parsing import user_path
from psd_depth_ros.ros.common import run_node
from psd_depth_ros.ros.conversions import image_message
from psd_depth_ros.ros.deployment import Deployer, DeployError
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.ros.qos import output_profile
from psd_depth_ros.runtime import LimitSettings

PREPARING_PERIOD_S = 10.0  # between lines of the log
PATIENCE_S = 20.0  # when this node ends, for the last step of the training
MAY_CHANGE = ('deploy_to', 'deploy_timeout_s')
IDLE, STARTING, STOPPING, DEPLOYING, FAILED = (
    'idle',
    'starting',
    'stopping',
    'deploying',
    'failed',
)
# Listed in docs/diagnostics.md; a test compares both with what the node publishes.
PROGRESS_KEYS = {
    'state': 'idle, starting, preparing, training, judging, deploying, accepted, kept (the old '
    'weights were no worse), stopping, stopped or failed',
    'step': 'steps done; while preparing, frames decoded; while judging, triplets measured',
    'of': 'total of these; of steps an estimate where `minutes` limits them; 0: unknown',
    'loss': 'training loss, the sum of the weighted terms; loss.TERM is one of them',
    'images_per_second': 'training images per second',
    'time_left_s': 'estimated time until training ends',
    'score': 'held-out error at the last validation; score.NAME are other figures',
    'output': 'folder of the run',
    'checkpoint': 'content id of best.safetensors in it',
    'deployed': 'result of deploying it to the depth node',
}


@dataclass(frozen=True)
class FinetuneNodeSettings(FinetuneSettings):
    """Parameters of the fine-tuning node."""

    deploy_to: str = setting(
        '', 'depth node that receives accepted weights, such as /depth_node; empty: none'
    )
    deploy_timeout_s: float = setting(
        60.0, 'time the depth node may take to load them', 's', minimum=1.0, maximum=3600.0
    )
    auto_start: bool = setting(False, 'start at once, without ~/start', read_only=True)
    progress_period_s: float = setting(
        1.0, 'period of ~/progress', 's', minimum=0.1, maximum=60.0,
        read_only=True,
    )  # fmt: skip
    limits: LimitSettings = section(LimitSettings)

    @property
    def run(self) -> FinetuneSettings:
        """Settings of the training process."""
        flat = flatten(self)
        return build(
            FinetuneSettings, {spec.name: flat[spec.name] for spec in specs(FinetuneSettings)}
        )


@dataclass(frozen=True)
class RunState:
    """State of a run, as far as the node knows it."""

    state: str = IDLE
    status: FinetuneStatus | None = None
    report: FinetuneReport | None = None
    problem: str = ''
    deployed: str = ''
    output: str = ''

    @property
    def is_busy(self) -> bool:
        """Whether a run is in progress."""
        return self.state not in (IDLE, ACCEPTED, KEPT, STOPPED, FAILED)

    def changed(self, **values: Any) -> RunState:
        """Return a copy with some values changed."""
        return replace(self, **values)

    def __str__(self) -> str:
        """Describe the state in one line."""
        if self.problem:
            return f'{self.state}: {self.problem}'
        if self.report is not None and not self.is_busy:
            deployed = f'; {self.deployed}' if self.deployed else ''
            return f'{self.state}: {self.report.reason}{deployed}'
        if self.status is not None and self.state == self.status.state:
            return str(self.status)
        return self.state


def progress_array(stamp: Time, node_name: str, run: RunState) -> DiagnosticArray:
    """Make the message: ERROR where the run failed, WARN where its weights were not deployed."""
    pairs = [KeyValue(key=key, value=value) for key, value in progress_values(run).items()]
    level = DiagnosticStatus.OK
    if run.problem:
        failed = run.state == FAILED
        level = DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN
    status = DiagnosticStatus(
        name=f'{node_name}: training', level=level, message=str(run), values=pairs
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def progress_values(run: RunState) -> dict[str, str]:
    """Return the values of PROGRESS_KEYS as text."""
    status = run.status or FinetuneStatus(run.state)
    report = run.report
    losses, scores = _numbers('loss', status.losses), _numbers('score', status.scores)
    return {
        'state': run.state,
        'step': str(report.steps if report else status.step),
        'of': str(report.of if report else status.of),
        'loss': _number(sum(status.losses.values())) if status.losses else '',
        **losses,
        'images_per_second': _number(status.images_per_second),
        'time_left_s': _number(status.seconds_left),
        'score': '',
        **scores,
        'output': run.output,
        'checkpoint': report.checkpoint if report else '',
        'deployed': run.deployed,
    }


def _numbers(name: str, values: Mapping[str, float]) -> dict[str, str]:
    """Every number as `name.KEY`; the one that is called like `name` itself as `name`."""
    return {
        name if key == name else f'{name}.{key}': _number(value) for key, value in values.items()
    }


def _number(value: float) -> str:
    return f'{value:.5g}' if math.isfinite(value) else ''


class FinetuneNode(Node):
    """Starts, monitors and stops one training at a time.

    Args:
        command: Starts the training process.
        **options: Options of rclpy's Node.
    """

    def __init__(self, command: Sequence[str] = COMMAND, **options: Any) -> None:
        super().__init__('finetune_node', **options)
        self._command = command
        self._node_parameters = NodeParameters(
            self, FinetuneNodeSettings, self._judge, self._apply
        )
        self._state = RunState()
        self._error = ''  # reported by the training before it ended
        self._process: TrainingProcess | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._guard = self.create_guard_condition(self._take_events)
        self._deployer = Deployer(self)
        self._waiting: list[Future] = []
        self._preview: Image | None = None
        self._viewers = 0
        self._progress = self.create_publisher(DiagnosticArray, '~/progress', 10)
        self._previews = self.create_publisher(Image, '~/preview', output_profile())
        group = (
            MutuallyExclusiveCallbackGroup()
        )  # an answer that waits must not block other callbacks
        self.create_service(Trigger, '~/start', self._on_start)
        self.create_service(Trigger, '~/stop', self._on_stop, callback_group=group)
        self.create_service(Trigger, '~/status', self._on_status)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period_s = self.settings.progress_period_s
        self.create_timer(period_s, self._publish_progress, clock=steady)
        self._auto_start: Timer | None = None
        if self.settings.auto_start:
            self._auto_start = self.create_timer(0.0, self._start_automatically, clock=steady)

    @property
    def settings(self) -> FinetuneNodeSettings:
        """The parameters as they are now."""
        return self._node_parameters.settings

    @property
    def _is_busy(self) -> bool:
        return self._process is not None or self._state.is_busy

    def close(self) -> None:
        """Stop the training, so that it can be resumed."""
        if self._process is not None:
            self._process.close(PATIENCE_S)

    def _on_start(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.message = self._start()
            response.success = True
        except PsdDepthError as error:
            response.message, response.success = str(error), False
        return response

    async def _on_stop(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Answers when the state is on disk."""
        if self._process is None:
            response.message, response.success = f'nothing to stop: {self._state}', False
            return response
        self._state = self._state.changed(state=STOPPING)
        self._process.ask_to_stop()
        future: Future = Future()
        self._waiting.append(future)
        await future
        response.success = self._state.state != FAILED
        response.message = str(self._state)
        return response

    def _on_status(
        self, _request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        response.success = self._state.state != FAILED
        response.message = str(self._state)
        return response

    def _start_automatically(self) -> None:
        assert self._auto_start is not None
        self.destroy_timer(self._auto_start)
        try:
            self._start()
        except PsdDepthError as error:
            self._fail(str(error))

    def _start(self) -> str:
        """Start or resume a run; returns which of them. Raises PsdDepthError."""
        if self._is_busy:
            raise SettingsError(f'a run is under way ({self._state}); stop it first')
        settings = self.settings.run
        make_recipe(settings)
        output = user_path(settings.output).absolute()
        state = folder_state(output)
        if state in (FINISHED, FOREIGN):
            raise SettingsError(f'output {output} is not empty; {next_step(state)}')
        order = {
            'settings': {**dump(settings), 'output': str(output)},
            'limits': dump(self.settings.limits),
            'resume': state == UNFINISHED,
        }
        self._state, self._error = RunState(STARTING, output=str(output)), ''
        self._process = TrainingProcess(order, self._hand_over, self._command)
        words = f'{"resumed" if state == UNFINISHED else "started"} the run in {output}'
        self.get_logger().info(f'{words} (process {self._process.pid})')
        self._publish_progress()
        return words

    def _hand_over(self, event: Event) -> None:
        """Pass an event on to the executor's thread."""
        self._events.put(event)
        with suppress(Exception):  # the node is going down
            self._guard.trigger()

    def _take_events(self) -> None:
        while not self._events.empty():
            event = dict(self._events.get())
            take: Callable[..., None] = {
                'status': self._on_training,
                'report': self._on_report,
                'error': self._on_error,
                'ended': self._on_ended,
            }[event.pop('event')]
            take(event)

    def _on_training(self, values: dict[str, Any]) -> None:
        former, status = self._state.status, FinetuneStatus(**values)
        state = STOPPING if self._state.state == STOPPING else status.state
        if state != self._state.state:
            self.get_logger().info(str(status))
        elif status.state == PREPARING and status.of:
            self.get_logger().info(str(status), throttle_duration_sec=PREPARING_PERIOD_S)
        self._state = self._state.changed(state=state, status=status)
        if status.preview and (former is None or former.preview != status.preview):
            self._show(status.preview)

    def _on_report(self, values: dict[str, Any]) -> None:
        report = report_from(values)
        self._state = self._state.changed(report=report)
        self.get_logger().info(f'{report.state}: {report.reason}')

    def _on_error(self, values: dict[str, Any]) -> None:
        self._error = str(values['text'])

    def _on_ended(self, values: dict[str, Any]) -> None:
        """The process has ended: report why, or deploy its weights."""
        self._process = None
        report = self._state.report
        if report is None:
            self._fail(self._error or _how_it_ended(values['code'], values['tail']))
        elif report.accepted and self.settings.deploy_to:
            self._state = self._state.changed(state=DEPLOYING)
            self.executor.create_task(self._deploy(report.best, report.checkpoint))
        else:
            self._state = self._state.changed(state=report.state)
        self._answer()

    async def _deploy(self, path: str, checkpoint_id: str) -> None:
        settings = self.settings
        problem = ''
        try:
            said = await self._deployer.deploy(
                settings.deploy_to, path, checkpoint_id, settings.deploy_timeout_s
            )
            self.get_logger().info(said)
        except DeployError as error:
            said = problem = f'accepted, but not deployed: {error}'
            self.get_logger().error(said)
        report = self._state.report
        assert report is not None
        self._state = self._state.changed(state=report.state, deployed=said, problem=problem)
        self._answer()

    def _answer(self) -> None:
        """Answer the services that wait for the end, and publish the state."""
        for future in self._waiting:
            future.set_result(None)
        self._waiting.clear()
        self._publish_progress()

    def _fail(self, reason: str) -> None:
        self._state = self._state.changed(state=FAILED, problem=reason)
        self.get_logger().error(reason)

    def _show(self, path: str) -> None:
        """Publish a picture of the run."""
        picture = cv2.imread(path)
        if picture is None:
            return
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id='')
        rgb = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
        self._preview = image_message(header, image_fields(rgb, 'rgb8'))
        self._previews.publish(self._preview)

    def _publish_progress(self) -> None:
        """Publish progress, and the last picture for new subscribers."""
        stamp = self.get_clock().now().to_msg()
        self._progress.publish(progress_array(stamp, self.get_name(), self._state))
        viewers = self._previews.get_subscription_count()
        if viewers > self._viewers and self._preview is not None:
            self._previews.publish(self._preview)
        self._viewers = viewers

    def _judge(
        self, old: FinetuneNodeSettings, new: FinetuneNodeSettings, changed: frozenset[str]
    ) -> str:
        """Return why a change of parameters cannot be made now, '' where it can."""
        fixed = sorted(changed - set(MAY_CHANGE))
        if fixed and self._is_busy:
            return f'{", ".join(fixed)} cannot change during a run; call ~/stop first'
        return ''

    def _apply(
        self, old: FinetuneNodeSettings, new: FinetuneNodeSettings, changed: frozenset[str]
    ) -> None:
        """Nothing to do: the next start reads them."""


def _how_it_ended(code: int, tail: str) -> str:
    """Explain the end of a process that reported nothing itself."""
    if code == -9:
        why = 'was killed, perhaps since the machine has no memory left; lower limits.memory_gb'
    elif code < 0:
        why = f'was ended by signal {-code}'
    else:
        why = f'ended with code {code}'
    words = f'; its last words:\n{tail}' if tail else ''
    return f'the training process {why}; ~/start resumes the run{words}'


def main(arguments: Sequence[str] | None = None, command: Sequence[str] = COMMAND) -> int:
    """Run the node until Ctrl-C; returns the exit code."""
    return run_node(functools.partial(FinetuneNode, command), arguments)


if __name__ == '__main__':
    raise SystemExit(main())
