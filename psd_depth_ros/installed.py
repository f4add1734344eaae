"""Files that come with the package: weights, recipes. Found wherever it was installed.

A source tree, `pip install` and `colcon build` put them in different places around the code; no
ROS index is needed to find them.
"""

from __future__ import annotations

from pathlib import Path

from psd_depth_ros.parsing import is_file


def find_installed(relative: str) -> Path | None:
    """The file `relative` ('weights/lite.safetensors') of the package, None where it is not."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent, parent / 'share' / 'psd_depth_ros'):
            if is_file(folder / relative):
                return folder / relative
    return None
