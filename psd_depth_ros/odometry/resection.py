"""The motion of a camera from points of known depth that were found again in its next image.

Resection: of all rigid motions the one with the least distance in the image between where the
points come to lie and where they were seen (Hartley and Zisserman, Multiple View Geometry, 7.1 to
7.3; robust cost A6.8). Length and depth have the same unit, so depth need not be metric.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry.pose import make_pose

Array = NDArray[np.float64]

FEWEST_POINTS = 30
LEAST_AGREEING = 0.4  # of the points
_AGREE_PX = 2.0
_LEAST_WIDTH_PX = 0.2  # of the robust cost: corners are not found more exactly
_ROUNDS = 6
_DAMPING = 1e-6
_NEAREST = 1e-3  # of the median depth


def find_rigid_motion(points: Array, pixels: Array, K: Array) -> Array | None:
    """The motion (4, 4) that brings points (n, 3) to where pixels (n, 2) of a camera K show them.

    Gauss-Newton from no motion, with Cauchy's loss: for successive images of a video. None where
    there are fewer than 30 points, or fewer than 40 % of them come within 2 pixels.
    """
    if len(points) < FEWEST_POINTS:
        return None
    focal_px = float(np.sqrt(K[0, 0] * K[1, 1]))
    seen = (np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(K).T)[:, :2]
    unit = float(np.median(points[:, 2]))  # makes turns and shifts of like size
    scaled = points / unit
    rotation, translation = np.eye(3), np.zeros(3)
    for _ in range(_ROUNDS):
        x, y, inverse = _project(scaled, rotation, translation)
        off = np.stack([x - seen[:, 0], y - seen[:, 1]])
        square = np.sum(off**2, axis=0)
        width = max(1.5 * float(np.median(np.sqrt(square))), _LEAST_WIDTH_PX / focal_px)
        weight = 1.0 / (1.0 + square / width**2)
        zero = np.zeros_like(x)
        jacobian = np.array(
            [
                [-x * y, 1.0 + x * x, -y, inverse, zero, -x * inverse],
                [-(1.0 + y * y), x * y, x, zero, inverse, -y * inverse],
            ]
        ).transpose(0, 2, 1)  # of x and y by turn and shift, (2, n, 6)
        weighted = jacobian * weight[:, None]
        normal = np.einsum('ani,anj->ij', weighted, jacobian) + _DAMPING * len(x) * np.eye(6)
        change = -np.linalg.solve(normal, np.einsum('ani,an->i', weighted, off))
        turn = cv2.Rodrigues(change[:3])[0]
        rotation, translation = turn @ rotation, turn @ translation + change[3:]
    x, y, _ = _project(scaled, rotation, translation)
    agree = np.hypot(x - seen[:, 0], y - seen[:, 1]) < _AGREE_PX / focal_px
    if np.mean(agree) < LEAST_AGREEING:
        return None
    return make_pose(rotation, translation * unit)


def _project(points: Array, rotation: Array, translation: Array) -> tuple[Array, Array, Array]:
    """x/z, y/z and 1/z (n,) of moved points (n, 3)."""
    moved = points @ rotation.T + translation
    inverse = 1.0 / np.maximum(moved[:, 2], _NEAREST)
    return moved[:, 0] * inverse, moved[:, 1] * inverse, inverse
