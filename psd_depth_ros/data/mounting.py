"""How camera and lidar sit on the robot, from the transforms of a bag.

Only transforms that never change count: a camera that pans has no one pose on the robot.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.pose import invert
from psd_depth_ros.messages import transform_pose

Array = NDArray[np.float64]

TF_TYPE = 'tf2_msgs/msg/TFMessage'
_ENOUGH = 400
_SAME = 1e-6
_FOOTPRINT = 'base_footprint'


class Mounting:
    """The fixed transforms among the frames of a robot."""

    def __init__(self, reader: BagReader) -> None:
        self._parents: dict[str, tuple[str, Array]] = {}
        loose: set[str] = set()
        for parent, child, pose in _transforms(reader):
            known = self._parents.setdefault(child, (parent, pose))
            if known[0] != parent or np.abs(known[1] - pose).max() > _SAME:
                loose.add(child)
        for child in loose:
            del self._parents[child]

    def transform(self, target: str, source: str) -> Array | None:
        """T_target_source of two frames, None where they are not fixed to each other."""
        from_target, from_source = self._ancestors(target), self._ancestors(source)
        common = [frame for frame in from_source if frame in from_target]
        if not common:
            return None
        return invert(from_target[common[0]]) @ from_source[common[0]]

    def height_m(self, frame: str) -> float | None:
        """Height above base_footprint, which by convention (REP 120) is on the ground."""
        pose = self.transform(_FOOTPRINT, frame)
        return None if pose is None else float(pose[2, 3])

    def _ancestors(self, frame: str) -> dict[str, Array]:
        """T_ancestor_frame by ancestor, the frame itself first."""
        found = {frame: np.eye(4)}
        pose = found[frame]
        while frame in self._parents:
            frame, step = self._parents[frame]
            if frame in found:  # a loop, which no tree has
                break
            pose = step @ pose
            found[frame] = pose
        return found


def _transforms(reader: BagReader) -> Iterator[tuple[str, str, Array]]:
    """Parent, child and T_parent_child of the first messages on every topic of transforms."""
    for topic, info in reader.topics.items():
        if info.msgtype != TF_TYPE:
            continue
        for count, item in enumerate(reader.messages([topic])):
            if count >= _ENOUGH:
                break
            try:
                for one in item.message.transforms:
                    parent, child = one.header.frame_id, one.child_frame_id
                    yield parent.lstrip('/'), child.lstrip('/'), transform_pose(one.transform)
            except MessageError:
                continue
