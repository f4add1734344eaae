"""Shared memory that is big enough for images, chosen before the middleware starts.

The default segment of Fast DDS (0.5 MB) is smaller than a VGA image, which then goes over UDP in
a thousand pieces, with everything behind it waiting. Fast DDS reads its profile when the first
participant is made, so a process may still choose one before `rclpy.init`. Other middlewares are
left alone, and so is whoever made a choice of his own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
import shutil

from psd_depth_ros.files import find_installed

PROFILE = 'config/fastdds_shm.xml'
MEMORY = Path('/dev/shm')
NEEDED_BYTES = 128 * 2**20  # the segment of 64 MB, and as much for others
# Fast DDS 2 (Jazzy) and 3 (Kilted): files of profiles, and transports chosen by name.
_NAMES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
_CHOICES = (*_NAMES, 'FASTDDS_BUILTIN_TRANSPORTS')
_LOCAL_FILES = ('DEFAULT_FASTRTPS_PROFILES.xml', 'DEFAULT_FASTDDS_PROFILES.xml')


def shared_memory_environment(environment: Mapping[str, str], middleware: str) -> dict[str, str]:
    """Variables that give the process of a node big shared memory; none where it has a choice.

    `middleware` is what `rclpy.get_rmw_implementation_identifier` says.
    """
    chosen = any(environment.get(name) for name in _CHOICES)
    if chosen or not middleware.startswith('rmw_fastrtps') or not has_room():
        return {}
    profile = find_installed(PROFILE)
    if profile is None or any(Path(name).is_file() for name in _LOCAL_FILES):
        return {}
    return dict.fromkeys(_NAMES, str(profile))


def has_room() -> bool:
    """Whether there is enough shared memory; containers have little (`docker run --shm-size`)."""
    try:
        return shutil.disk_usage(MEMORY).free >= NEEDED_BYTES
    except OSError:
        return False
