"""Another checkpoint while the node runs: parameter `checkpoint` and service `~/reload`.

The new network is loaded beside the running one; what fails leaves the old one running, sets the
parameter back and says why. The loading and the swap itself are those of `engine_slot`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import queue
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_srvs.srv import Trigger

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.ros.engine_slot import Engine, EngineSlot


@dataclass(frozen=True)
class _Outcome:
    path: str
    reason: str


class Reloader:
    """Belongs to one configured node; `judge` refuses an engine by raising PsdDepthError."""

    def __init__(
        self,
        node: Node,
        slot: EngineSlot,
        path: str,
        cameras: Callable[[], Sequence[Camera]],
        judge: Callable[[Engine], None],
    ) -> None:
        self._node = node
        self._slot = slot
        self._running_path = path
        self._cameras = cameras
        self._judge = judge
        self._outcomes: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self._waiting: list[Future] = []
        self._reverting = False
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
        """Tell why `path` cannot be loaded now, '' where it may be tried."""
        if self._reverting:
            return ''
        if self._slot.is_loading:
            return 'another checkpoint is being loaded; try again when it is done'
        try:
            self._slot.check(path)
        except PsdDepthError as error:
            return str(error)
        return ''

    def start(self, path: str) -> None:
        """Load `path` beside the running network; returns at once."""
        if self._reverting:
            return
        self._node.get_logger().info(f'loading {path or "the default checkpoint"}')

        def done(reason: str) -> None:
            self._outcomes.put(_Outcome(path, reason))
            self._guard.trigger()  # on to the executor's thread

        self._slot.replace(path, self._cameras, self._judge, done)

    async def _on_reload(self, _request: Any, response: Any) -> Any:
        """Load the file of the parameter `checkpoint` again; answers when it is done."""
        path = str(self._node.get_parameter('checkpoint').value)
        reason = self.refuse(path)
        if not reason:
            future: Future = Future()
            self._waiting.append(future)
            self.start(path)
            reason = await future
        response.success = not reason
        response.message = reason or f'running {self._slot.engine.checkpoint.id}'
        return response

    def _finish(self) -> None:
        """Tell the outcome, in the executor's thread."""
        while not self._outcomes.empty():
            outcome = self._outcomes.get()
            self.problem = outcome.reason
            if outcome.reason:
                self._node.get_logger().error(
                    f'checkpoint not changed, the old one goes on: {outcome.reason}'
                )
                self._revert()
            else:
                self._running_path = outcome.path
                self._node.get_logger().info(f'running {self._slot.engine.checkpoint.path}')
            for future in self._waiting:
                future.set_result(outcome.reason)
            self._waiting.clear()

    def _revert(self) -> None:
        self._reverting = True
        parameter = Parameter('checkpoint', Parameter.Type.STRING, self._running_path)
        self._node.set_parameters([parameter])
        self._reverting = False
