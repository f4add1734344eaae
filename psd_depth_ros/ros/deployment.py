"""Deployment of accepted weights: a running depth node takes them, and is seen to run them.

The node loads them beside the running network and swaps between two images (see
`depth_node.node.CheckpointReloader`). Success is read from its diagnostics, a refusal from the
answers of its services.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.task import Future
from std_srvs.srv import Trigger

from psd_depth_ros.errors import PsdDepthError

POLL_S = 0.1
ASK_AGAIN_S = 5.0  # an answer is lost where the node has not yet discovered our reader


class DeployError(PsdDepthError):
    """A depth node was not found, refused the weights or did not report that it runs them."""


@dataclass
class _Wait:
    """A condition that a coroutine waits for."""

    holds: Callable[[], Any]
    end_s: float
    future: Future


class Deployer:
    """Deploys weights to depth nodes; belongs to one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._waits: list[_Wait] = []
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(POLL_S, self._check, clock=steady)
        self._timer.cancel()

    async def deploy(self, target: str, path: str, checkpoint_id: str, timeout_s: float) -> str:
        """Let a depth node run a checkpoint.

        Args:
            target: Full name of the depth node.
            path: Checkpoint file.
            checkpoint_id: Content id of the checkpoint.
            timeout_s: How long it may take.

        Returns:
            The answer, in words.

        Raises:
            DeployError: The reason, where the node does not run it.
        """
        end_s = time.monotonic() + timeout_s
        running = _RunningCheckpoint(target, path, checkpoint_id)
        listening = self._node.create_subscription(
            DiagnosticArray, '/diagnostics', running.on_diagnostics, 10
        )
        try:
            return await self._deploy(target, path, running, end_s)
        finally:
            self._node.destroy_subscription(listening)

    async def _deploy(
        self, target: str, path: str, running: _RunningCheckpoint, end_s: float
    ) -> str:
        if await self._parameter(target, end_s) == path:
            return await self._reload(target, end_s)  # setting it to the same would do nothing
        value = Parameter('checkpoint', value=path).to_parameter_msg()
        request = SetParameters.Request(parameters=[value])
        answer = await self._ask(SetParameters, f'{target}/set_parameters', request, end_s)
        if not answer.results[0].successful:
            raise DeployError(f'{target} refused {path}: {answer.results[0].reason}')
        while not await self._until(lambda: running.is_seen, min(end_s, _soon(1.0))):
            if await self._parameter(target, end_s) != path:
                why = running.problem or 'its log and diagnostics say why'
                raise DeployError(f'{target} could not load {path}: {why}')
            if time.monotonic() >= end_s:
                raise DeployError(
                    f'{target} took {path}, but its diagnostics do not show {running.id} as '
                    'running; is it active, and is /diagnostics of this domain?'
                )
        return f'{target} runs {running.id}'

    async def _reload(self, target: str, end_s: float) -> str:
        answer = await self._ask(
            Trigger, f'{target}/reload', Trigger.Request(), end_s, again=False
        )
        if not answer.success:
            raise DeployError(f'{target} could not load its checkpoint again: {answer.message}')
        return f'{target}: {answer.message}'

    async def _parameter(self, target: str, end_s: float) -> Any:
        request = GetParameters.Request(names=['checkpoint'])
        answer = await self._ask(GetParameters, f'{target}/get_parameters', request, end_s)
        value = parameter_value_to_python(answer.values[0]) if answer.values else None
        if value is None:
            raise DeployError(
                f'{target} has no parameter checkpoint; deploy_to must name a depth node'
            )
        return value

    async def _ask(
        self, kind: type[Any], name: str, request: Any, end_s: float, again: bool = True
    ) -> Any:
        """Call a service; with `again`, repeat the call where the answer was lost."""
        client = self._node.create_client(kind, name)
        try:
            if not await self._until(client.service_is_ready, end_s):
                raise DeployError(
                    f'there is no service {name}: is the node of deploy_to running, under this '
                    'name and in this domain?'
                )
            while time.monotonic() < end_s:
                future = client.call_async(request)
                patience_s = min(end_s, _soon(ASK_AGAIN_S)) if again else end_s
                if await self._until(future.done, patience_s):
                    return future.result()
            raise DeployError(f'{name} does not answer')
        finally:
            self._node.destroy_client(client)

    async def _until(self, holds: Callable[[], Any], end_s: float) -> bool:
        """Wait for a condition; returns whether it held before the time was over."""
        wait = _Wait(holds, end_s, Future())
        self._waits.append(wait)
        self._timer.reset()
        return bool(await wait.future)

    def _check(self) -> None:
        waits, self._waits = self._waits, []
        for wait in waits:
            if wait.holds() or time.monotonic() >= wait.end_s:
                wait.future.set_result(bool(wait.holds()))
            else:
                self._waits.append(wait)
        if not self._waits:
            self._timer.cancel()


class _RunningCheckpoint:
    """Reads from diagnostics whether the engine of a depth node runs a checkpoint."""

    def __init__(self, target: str, path: str, checkpoint_id: str) -> None:
        self.id = checkpoint_id
        self.is_seen = False
        self.problem = ''
        self._name = f'{target.rpartition("/")[2]}: engine'
        self._path = path

    def on_diagnostics(self, message: Any) -> None:
        """Take the status of the engine."""
        for status in message.status:
            if status.name == self._name:
                values = {pair.key: pair.value for pair in status.values}
                is_new = values.get('checkpoint', '').endswith(self.id)
                self.is_seen = is_new and values.get('checkpoint_path') == self._path
                failed = status.level == DiagnosticStatus.ERROR
                self.problem = status.message if failed else ''


def _soon(seconds: float) -> float:
    return time.monotonic() + seconds
