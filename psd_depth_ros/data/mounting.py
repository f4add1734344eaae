"""How camera and lidar sit on the robot, from the transforms of a bag.

Only transforms that never change count: a camera that pans has no one pose on the robot. Those
that move are followed in `transforms`.
"""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.transforms import fixed_transforms, GROUND_FRAMES, TF_TYPE
from psd_depth_ros.errors import MessageError, TransformError

Array = NDArray[np.float64]

_ENOUGH = 400


class Mounting:
    """The fixed transforms among the frames of a robot."""

    def __init__(self, reader: BagReader) -> None:
        self._buffer = fixed_transforms(_messages(reader))

    def transform(self, target: str, source: str) -> Array | None:
        """T_target_source of two frames, None where they are not fixed to each other."""
        try:
            return self._buffer.lookup(target, source, 0)
        except TransformError:
            return None

    def height_m(self, frame: str) -> float | None:
        """Height above base_footprint, which by convention (REP 120) is on the ground."""
        pose = self.transform(GROUND_FRAMES[0], frame)
        return None if pose is None else float(pose[2, 3])


def transform_topics(reader: BagReader) -> dict[str, bool]:
    """Topics of transforms of a bag, and whether they are of fixed ones."""
    return {
        name: name.endswith('tf_static')
        for name, info in reader.topics.items()
        if info.msgtype == TF_TYPE
    }


def _messages(reader: BagReader) -> Iterator[Any]:
    """The first messages on every topic of transforms."""
    for topic in transform_topics(reader):
        for item in itertools.islice(reader.messages([topic]), _ENOUGH):
            try:
                yield item.message
            except MessageError:
                continue
