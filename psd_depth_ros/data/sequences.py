"""A recording made ready for training: decoded once, rectified, at one size, on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera


@dataclass(frozen=True)
class Sequence:
    """The frames of one recording and the triplets that can be learned from.

    `rgb` (N, H, W, 3) uint8 is memory-mapped: rectified, resized to the size of `camera`, whose
    sides are `fine_factor` times those of the network's input. `poses` (N, 4, 4) are metres, NaN
    where unknown, None where the recording has none; T_world_camera where `poses_are_of_camera`,
    else of the robot's body (their distances are right, their rotations about other axes). `lidar`
    holds for every frame points (n, 3): x, y in pixels of `rgb` and Z in metres. `depth` (N, H, W)
    float16 metres is the truth, of rendered worlds only. `valid` (H, W) is false on the bonnet,
    other fixed regions and the border of the rectification. Triplets are (M, 3) indices into
    `rgb`: target, earlier source, later source. `pair_poses` are motions T_source_target by
    (target, source) that were estimated from the pictures, in no certain scale; they count where
    `poses` say nothing. `fingerprint` says which data this is.
    """

    name: str
    rgb: NDArray[np.uint8]
    camera: Camera
    stamps_ns: NDArray[np.int64]
    valid: NDArray[np.bool_]
    triplets: NDArray[np.int32]
    held_out: NDArray[np.int32]
    poses: NDArray[np.float64] | None = None
    poses_are_of_camera: bool = True
    lidar: tuple[NDArray[np.float32], ...] | None = None
    camera_height_m: float | None = None
    fine_factor: int = 1
    depth: NDArray[np.float16] | None = None
    pair_poses: Mapping[tuple[int, int], NDArray[np.float64]] | None = None
    fingerprint: str = ''
