"""Message classes by their ROS names, where they are installed in this world."""

from __future__ import annotations

import importlib
import re
from typing import Any

from psd_depth_ros.errors import SettingsError

_NAME = re.compile(r'([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)')


def find_message_class(msgtype: str) -> type[Any] | None:
    """Find `sensor_msgs/msg/Image` and the like; None where the package is not installed.

    Raises SettingsError where the text is not the name of a message type.
    """
    match = _NAME.fullmatch(msgtype)
    if match is None:
        raise SettingsError(
            f'{msgtype!r} is no message type, expected a name such as sensor_msgs/msg/Image'
        )
    try:
        module = importlib.import_module(f'{match[1]}.msg')
    except ImportError:
        return None
    found: type[Any] | None = getattr(module, match[2], None)
    return found
