r"""Waits until a depth node is active and its outputs have subscribers; for programs and scripts.

    python -m psd_depth_ros.ros.wait_until_active --ros-args \\
        -p node:=depth_node -p 'outputs:=["depth", "points"]' -p timeout_s:=60.0

The state is read from /diagnostics. Exit code 0: active. Exit code 1: the node reports an error
(a checkpoint that cannot be loaded, for example) or did not become active in time; the reason is
logged at severity FATAL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from psd_depth_ros.config import setting
from psd_depth_ros.ros.common import run_node
from psd_depth_ros.ros.parameters import NodeParameters


@dataclass(frozen=True)
class WaitSettings:
    """What is waited for."""

    node: str = setting('depth_node', 'name of the depth node', read_only=True)
    outputs: tuple[str, ...] = setting(
        (),
        'outputs that must have subscribers, as diagnostics name them under `subscribed`; several '
        'cameras: each of them',
        read_only=True,
    )
    timeout_s: float = setting(
        60.0, 'how long to wait', 's', minimum=0.1, maximum=1e6, read_only=True
    )


class WaitUntilActive(Node):
    """Listens to the diagnostics of a depth node; ends the process with `exit_code`.

    `options` are those of rclpy's Node.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('wait_until_active', **options)
        parameters = NodeParameters(self, WaitSettings, lambda *_: '', lambda *_: None)
        self._settings = parameters.settings
        self.exit_code = 0
        self._seen = 'no diagnostics of it have come'
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(self._settings.timeout_s, self._on_timeout, clock=steady)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        name = self._settings.node
        statuses = [one for one in message.status if one.name.startswith(f'{name}: ')]
        engine = [one for one in statuses if one.name == f'{name}: engine']
        if not engine:
            return
        if engine[0].level == DiagnosticStatus.ERROR:
            self._fail(f'{name}: {engine[0].message}')
            return
        state = _values(engine[0])['state']
        self._seen = f'it is {state}'
        if state != 'active':
            return
        missing = {
            output
            for camera in statuses
            if camera is not engine[0]
            for output in self._settings.outputs
            if output not in _values(camera)['subscribed'].split(', ')
        }
        if not missing:
            self.context.try_shutdown()
        self._seen += f', but nobody subscribes to {", ".join(sorted(missing))}'

    def _on_timeout(self) -> None:
        name, patience_s = self._settings.node, self._settings.timeout_s
        self._fail(f'{name} is not ready after {patience_s:g} s: {self._seen}')

    def _fail(self, reason: str) -> None:
        self.exit_code = 1
        self.get_logger().fatal(reason)
        self.context.try_shutdown()


def _values(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def main(arguments: Sequence[str] | None = None) -> int:
    """Wait; returns the exit code."""
    return run_node(WaitUntilActive, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
