"""Two views of a still scene: the distance to epipolar lines, and the motion that makes it least.

Hartley and Zisserman, Multiple View Geometry, 9.6 (essential matrix), 11.4.3 (Sampson's distance)
and A6.8 (robust cost).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.geometry.pose import skew

Array = npt.NDArray[np.float64]

_ROUNDS = 5
_STEP = 1e-5  # of the numeric derivative: radians, and lengths of the motion


class EpipolarMotion(NamedTuple):
    """There ~ `rotation` (3, 3) of here + a multiple of the unit `direction` (3,).

    `agreeing` (n,) bool are the pairs that it was found from, outliers left out.
    """

    rotation: Array
    direction: Array
    agreeing: npt.NDArray[np.bool_]


def find_epipolar_motion(
    here: npt.NDArray, there: npt.NDArray, K: Array, largest_px: float
) -> EpipolarMotion | None:
    """The motion between pixels (n, 2) of a camera K, by the five-point algorithm (Nister 2004).

    `largest_px` is how far a pair may be off its epipolar line. None where no motion is found.
    """
    essential, agreeing = cv2.findEssentialMat(
        here, there, K, method=cv2.USAC_MAGSAC, prob=0.999, threshold=largest_px
    )
    if essential is None or essential.shape != (3, 3):
        return None
    _, rotation, direction, _ = cv2.recoverPose(essential, here, there, K, mask=agreeing.copy())
    return EpipolarMotion(rotation, direction[:, 0], agreeing[:, 0] > 0)


def essential_matrix(rotation: Array, direction: Array) -> Array:
    """E (3, 3) with to^T E of = 0 where to ~ rotation (3, 3) of + a multiple of `direction`."""
    return skew(direction) @ rotation


def epipolar_distance(to: Array, of: Array, rotation: Array, direction: Array) -> Array:
    """Sampson's signed distance (N,) of pairs of rays (N, 3), in units of the focal length."""
    essential = essential_matrix(rotation, direction)
    line, back = of @ essential.T, to @ essential
    square = np.sum(line[:, :2] ** 2, axis=1) + np.sum(back[:, :2] ** 2, axis=1)
    distance: Array = np.sum(to * line, axis=1) / np.sqrt(np.maximum(square, 1e-18))
    return distance


def refine_motion(
    to: Array,
    of: Array,
    rotation: Array,
    translation: Array,
    width: Callable[[Array], float],
    information: Array | None = None,
) -> tuple[Array, Array]:
    """Rotation (3, 3) and unit direction (3,) of least distance to epipolar lines.

    Gauss-Newton from a first guess over five degrees of freedom (three of the turn, two across
    the direction), with Cauchy's loss.

    Args:
        to, of: rays (N, 3) with Z = 1 of the same points in the frame moved to and moved from.
        rotation, translation: the first guess; of the translation only the direction counts.
        width: gives the width of the loss for distances (N,), both in units of the focal length.
        information: (5, 5), how much each step holds against moving; None is not at all.
    """
    direction = translation / np.linalg.norm(translation)
    for _ in range(_ROUNDS):
        tangent = np.linalg.svd(direction[None])[2][1:]
        off = epipolar_distance(to, of, rotation, direction)
        jacobian = np.column_stack(
            [
                (epipolar_distance(to, of, *_move(rotation, direction, tangent, one)) - off)
                / _STEP
                for one in _STEP * np.eye(5)
            ]
        )
        limit = width(off)
        weighted = jacobian / (limit**2 + off**2)[:, None]
        normal = jacobian.T @ weighted
        if information is not None:
            normal += information
        change = -np.linalg.pinv(normal) @ (weighted.T @ off)
        rotation, direction = _move(rotation, direction, tangent, change)
    return rotation, direction


def _move(rotation: Array, direction: Array, tangent: Array, change: Array) -> tuple[Array, Array]:
    """Turn by a rotation vector (3), shift the unit direction along its two tangents."""
    moved = direction + change[3:] @ tangent
    return cv2.Rodrigues(change[:3])[0] @ rotation, moved / np.linalg.norm(moved)
