"""What every node shares: the life of its process, shared memory for images, throttled logging."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
import math
import os
from pathlib import Path
import shutil
import signal
import threading
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.logging import get_logger
from rclpy.node import Node

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.files import find_installed

IMPATIENT_AFTER_S = 2.0
REPEAT_S = 30.0  # a problem that lasts is logged again after so long

# Variable and file for Fast DDS 2 (Jazzy) and 3 (Kilted), which call one element differently.
PROFILES = {
    2: ('FASTRTPS_DEFAULT_PROFILES_FILE', 'config/fastdds_shm.xml'),
    3: ('FASTDDS_DEFAULT_PROFILES_FILE', 'config/fastdds3_shm.xml'),
}
LOADED_FILES = Path('/proc/self/maps')
SHARED_MEMORY = Path('/dev/shm')
NEEDED_BYTES = 128 * 2**20  # the segment of 64 MB, and as much for other processes
_USER_CHOICES = (*(name for name, _ in PROFILES.values()), 'FASTDDS_BUILTIN_TRANSPORTS')
_LOCAL_PROFILES = ('DEFAULT_FASTRTPS_PROFILES.xml', 'DEFAULT_FASTDDS_PROFILES.xml')

MAX_KEYS = 200  # remembered by a ThrottledLogger
BURST, PERIOD_S = 20, 10.0  # at most so many different messages in so many seconds


def run_node(make: Callable[[], Node], arguments: Sequence[str] | None = None) -> int:
    """Spin a node until it is told to stop.

    Callbacks run in one thread (0.14 ms per callback; a multi-threaded executor takes twice that).
    Unless the user chose otherwise, Fast DDS gets shared memory for images. A node with a `close`
    method is closed before the middleware shuts down.

    Args:
        make: Makes the node, after `rclpy.init`.
        arguments: Command line; None takes that of the process.

    Returns:
        The exit code: 0 after SIGINT, SIGTERM or `rclpy.shutdown`, unless the node has an
        `exit_code`; 1 where the node cannot be made (the reason is logged).
    """
    node: Node | None = None
    try:
        signal.signal(signal.SIGINT, _deferred_interrupt())
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
        # Else a callback was interrupted by the shutdown of the middleware.
    finally:
        if node is not None and hasattr(node, 'close'):
            node.close()
        rclpy.try_shutdown()
    return int(getattr(node, 'exit_code', 0))


def _deferred_interrupt() -> Callable[[int, Any], None]:
    """Make a SIGINT handler that lets the callback in progress finish.

    The handler of rclpy, which calls this one, ends the spinning; an exception in the middle of
    writing a file or of a state change would only do harm. Launchers, and `timeout`, send the same
    signal twice at once; one that comes later is a person who does not want to wait, and raises
    KeyboardInterrupt.
    """
    first_s = math.inf

    def handle(_number: int, _frame: Any) -> None:
        nonlocal first_s
        first_s = min(first_s, time.monotonic())
        if time.monotonic() - first_s > IMPATIENT_AFTER_S:
            raise KeyboardInterrupt

    return handle


def fast_dds_version() -> int:
    """2 or 3, by the library that `rclpy.get_rmw_implementation_identifier` has loaded."""
    return 3 if 'libfastdds.so' in LOADED_FILES.read_text() else 2


def shared_memory_environment(environment: Mapping[str, str], middleware: str) -> dict[str, str]:
    """Environment variables that give Fast DDS a shared-memory segment big enough for images.

    The default segment (0.5 MB) is smaller than a VGA image, which then goes over UDP in a
    thousand fragments that hold up everything behind them. Fast DDS reads its profile when the
    first participant is made, so a process may still choose one before `rclpy.init`.

    Args:
        environment: Environment of the process; a choice made there is respected.
        middleware: What `rclpy.get_rmw_implementation_identifier` returns.

    Returns:
        Variables to set: empty for other middlewares, without room in /dev/shm, or where the user
        made a choice.
    """
    has_choice = any(environment.get(name) for name in _USER_CHOICES)
    if has_choice or not middleware.startswith('rmw_fastrtps') or not _has_shared_memory():
        return {}
    variable, file = PROFILES[fast_dds_version()]
    profile = find_installed(file)
    if profile is None or any(Path(name).is_file() for name in _LOCAL_PROFILES):
        return {}
    return {variable: str(profile)}


def _has_shared_memory() -> bool:
    """Whether there is enough of it; containers have little (`docker run --shm-size`)."""
    try:
        return shutil.disk_usage(SHARED_MEMORY).free >= NEEDED_BYTES
    except OSError:
        return False


class ThrottledLogger:
    """Logs the first of many equal events, so that a log stays readable at 30 images per second.

    Events are equal where their `key` is; one is logged again after `every_s` seconds, by default
    never. Where everything differs, at most BURST messages are logged in PERIOD_S seconds.
    Thread-safe.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._logged_s: dict[Hashable, float] = {}
        self._recent_s: deque[float] = deque(maxlen=BURST)

    def error(self, key: Hashable, text: str, every_s: float = math.inf) -> None:
        """Log an error."""
        due = self._due(key, text, every_s)
        if due:
            self._logger.error(due)

    def info(self, key: Hashable, text: str, every_s: float = math.inf) -> None:
        """Log an information."""
        due = self._due(key, text, every_s)
        if due:
            self._logger.info(due)

    def warn(self, key: Hashable, text: str, every_s: float = math.inf) -> None:
        """Log a warning."""
        due = self._due(key, text, every_s)
        if due:  # a line of its own: rclpy allows one severity per line of code
            self._logger.warning(due)

    def _due(self, key: Hashable, text: str, every_s: float) -> str:
        """Return the text where it is to be logged now, else ''."""
        now_s = time.monotonic()
        with self._lock:
            last_s = self._logged_s.get(key)
            if (last_s is not None and now_s - last_s < every_s) or self._is_flooded(now_s):
                return ''
            self._recent_s.append(now_s)
            self._logged_s.pop(key, None)
            self._logged_s[key] = now_s
            if len(self._logged_s) > MAX_KEYS:
                del self._logged_s[next(iter(self._logged_s))]
            if self._is_flooded(now_s):
                text += f' (too many messages: no more are logged for up to {PERIOD_S:g} s)'
        return text

    def _is_flooded(self, now_s: float) -> bool:
        return len(self._recent_s) == BURST and now_s - self._recent_s[0] < PERIOD_S
