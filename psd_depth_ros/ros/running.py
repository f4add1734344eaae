"""Start of a node process, and its end: Ctrl-C and SIGTERM are a clean exit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import math
import os
import signal
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.ros.transport import shared_memory_environment

IMPATIENT_AFTER_S = 2.0


def run_node(make: Callable[[], Node], arguments: Sequence[str] | None = None) -> int:
    """Spin a node until it is told to stop; returns the exit code.

    The code is 0 after SIGINT, SIGTERM or `rclpy.shutdown`, unless the node has an `exit_code`,
    and 1 where it cannot be made: the reason is logged. Callbacks run in one thread (0.14 ms a
    callback; several threads take twice that). Where nothing else was chosen, Fast DDS gets shared
    memory for images. A node with a `close` method is closed before the
    middleware shuts down.
    """
    node: Node | None = None
    try:
        signal.signal(signal.SIGINT, _interrupt_late())
        middleware = rclpy.get_rmw_implementation_identifier()
        os.environ.update(shared_memory_environment(os.environ, middleware))
        rclpy.init(args=None if arguments is None else list(arguments))
        node = make()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except PsdDepthError as error:
        get_logger(node.get_name() if node else 'psd_depth_ros').fatal(str(error))
        return 1
    except Exception:
        if rclpy.ok():
            raise
        # Else a callback was caught by the shutdown of the middleware.
    finally:
        if node is not None and hasattr(node, 'close'):
            node.close()
        rclpy.try_shutdown()
    return int(getattr(node, 'exit_code', 0))


def _interrupt_late() -> Callable[[int, Any], None]:
    """Make a handler that lets the first Ctrl-C finish the callback at work.

    The handler of rclpy, which calls this one, ends the spinning; an exception in the middle of
    writing a file or changing a state would only do harm. Launchers, and `timeout`, send the same
    signal twice at once; one that comes later is a person who does not want to wait, and raises.
    """
    first_s = math.inf

    def handle(_number: int, _frame: Any) -> None:
        nonlocal first_s
        first_s = min(first_s, time.monotonic())
        if time.monotonic() - first_s > IMPATIENT_AFTER_S:
            raise KeyboardInterrupt

    return handle
