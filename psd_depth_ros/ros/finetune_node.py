"""The fine-tuning node: recordings in, better weights out, and on to the running depth node.

    python -m psd_depth_ros.ros.finetune_node --ros-args -p bags:=[drive.mcap] -p output:=run

The training runs in a process of its own, which stands back for everything else; this node starts
it, tells how it goes and hands the weights on. Parameters are those of `FinetuneNodeSettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
import functools
import queue
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from rclpy.timer import Timer
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from psd_depth_ros.config import dump
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.finetune.folder import (
    FINISHED,
    folder_state,
    FOREIGN,
    next_step,
    UNFINISHED,
)
from psd_depth_ros.finetune.report import FinetuneStatus, report_from
from psd_depth_ros.finetune.run import make_recipe
from psd_depth_ros.messages import image_fields
from psd_depth_ros.parsing import user_path
from psd_depth_ros.ros.common import run_node
from psd_depth_ros.ros.conversions import image_message
from psd_depth_ros.ros.finetune_child import COMMAND, Event, TrainingProcess
from psd_depth_ros.ros.finetune_deploy import Deployer, DeployError
from psd_depth_ros.ros.finetune_progress import (
    DEPLOYING,
    FAILED,
    progress_array,
    Standing,
    STARTING,
    STOPPING,
)
from psd_depth_ros.ros.finetune_settings import FinetuneNodeSettings
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.ros.qos import output_profile

PATIENCE_S = 20.0  # of the end of this node with the training's last step
MAY_CHANGE = ('deploy_to', 'deploy_timeout_s')


class FinetuneNode(Node):
    """Starts, watches and stops one training at a time."""

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        super().__init__('finetune_node')
        self._command = command
        self._given = NodeParameters(self, FinetuneNodeSettings, self._judge, self._apply)
        self._standing = Standing()
        self._error = ''  # what the training said before it ended
        self._process: TrainingProcess | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._guard = self.create_guard_condition(self._take_events)
        self._deployer = Deployer(self)
        self._waiting: list[Future] = []
        self._preview: Image | None = None
        self._viewers = 0
        self._progress = self.create_publisher(DiagnosticArray, '~/progress', 10)
        self._previews = self.create_publisher(Image, '~/preview', output_profile())
        group = MutuallyExclusiveCallbackGroup()  # an answer that waits keeps nobody else waiting
        self.create_service(Trigger, '~/start', self._on_start)
        self.create_service(Trigger, '~/stop', self._on_stop, callback_group=group)
        self.create_service(Trigger, '~/status', self._on_status)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period_s = self.settings.progress_period_s
        self.create_timer(period_s, self._tell, clock=steady)
        self._auto_start: Timer | None = None
        if self.settings.auto_start:
            self._auto_start = self.create_timer(0.0, self._start_by_itself, clock=steady)

    @property
    def settings(self) -> FinetuneNodeSettings:
        """The parameters as they are now."""
        return self._given.settings

    @property
    def _is_busy(self) -> bool:
        return self._process is not None or self._standing.is_busy

    def close(self) -> None:
        """Stop the training, so that it can be resumed."""
        if self._process is not None:
            self._process.close(PATIENCE_S)

    def _on_start(self, _request: Any, response: Any) -> Any:
        try:
            response.message = self._start()
            response.success = True
        except PsdDepthError as error:
            response.message, response.success = str(error), False
        return response

    async def _on_stop(self, _request: Any, response: Any) -> Any:
        """Answers when the state is on disk."""
        if self._process is None:
            response.message, response.success = f'nothing to stop: {self._standing}', False
            return response
        self._standing = self._standing.changed(state=STOPPING)
        self._process.ask_to_stop()
        future: Future = Future()
        self._waiting.append(future)
        await future
        response.success = self._standing.state != FAILED
        response.message = str(self._standing)
        return response

    def _on_status(self, _request: Any, response: Any) -> Any:
        response.success = self._standing.state != FAILED
        response.message = str(self._standing)
        return response

    def _start_by_itself(self) -> None:
        assert self._auto_start is not None
        self.destroy_timer(self._auto_start)
        try:
            self._start()
        except PsdDepthError as error:
            self._fail(str(error))

    def _start(self) -> str:
        """Start or resume a run; returns what was done. Raises PsdDepthError."""
        if self._is_busy:
            raise SettingsError(f'a run is under way ({self._standing}); stop it first')
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
        self._standing, self._error = Standing(STARTING, output=str(output)), ''
        self._process = TrainingProcess(order, self._hand_over, self._command)
        words = f'{"resumed" if state == UNFINISHED else "started"} the run in {output}'
        self.get_logger().info(f'{words} (process {self._process.pid})')
        self._tell()
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
        former, status = self._standing.status, FinetuneStatus(**values)
        state = STOPPING if self._standing.state == STOPPING else status.state
        if state != self._standing.state:
            self.get_logger().info(str(status))
        self._standing = self._standing.changed(state=state, status=status)
        if status.preview and (former is None or former.preview != status.preview):
            self._show(status.preview)

    def _on_report(self, values: dict[str, Any]) -> None:
        report = report_from(values)
        self._standing = self._standing.changed(report=report)
        self.get_logger().info(f'{report.state}: {report.reason}')

    def _on_error(self, values: dict[str, Any]) -> None:
        self._error = str(values['text'])

    def _on_ended(self, values: dict[str, Any]) -> None:
        """The process is gone: tell, or hand its weights on."""
        self._process = None
        report = self._standing.report
        if report is None:
            self._fail(self._error or _how_it_ended(values['code'], values['tail']))
        elif report.accepted and self.settings.deploy_to:
            self._standing = self._standing.changed(state=DEPLOYING)
            self.executor.create_task(self._deploy(report.best, report.checkpoint))
        else:
            self._standing = self._standing.changed(state=report.state)
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
        report = self._standing.report
        assert report is not None
        self._standing = self._standing.changed(state=report.state, deployed=said, problem=problem)
        self._answer()

    def _answer(self) -> None:
        """Tell everybody who waits for the end, and everybody who listens."""
        for future in self._waiting:
            future.set_result(None)
        self._waiting.clear()
        self._tell()

    def _fail(self, reason: str) -> None:
        self._standing = self._standing.changed(state=FAILED, problem=reason)
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

    def _tell(self) -> None:
        """Publish progress, and the last picture to who came later."""
        stamp = self.get_clock().now().to_msg()
        self._progress.publish(progress_array(stamp, self.get_name(), self._standing))
        viewers = self._previews.get_subscription_count()
        if viewers > self._viewers and self._preview is not None:
            self._previews.publish(self._preview)
        self._viewers = viewers

    def _judge(
        self, old: FinetuneNodeSettings, new: FinetuneNodeSettings, changed: frozenset[str]
    ) -> str:
        """Tell why a change of parameters cannot be made now, '' where it can."""
        fixed = sorted(changed - set(MAY_CHANGE))
        if fixed and self._is_busy:
            return f'{", ".join(fixed)} cannot change during a run; call ~/stop first'
        return ''

    def _apply(
        self, old: FinetuneNodeSettings, new: FinetuneNodeSettings, changed: frozenset[str]
    ) -> None:
        """The next start takes them."""


def _how_it_ended(code: int, tail: str) -> str:
    """Say why a process ended that said nothing itself."""
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
