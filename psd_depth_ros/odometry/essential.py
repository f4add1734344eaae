"""Two views of a still scene: the distance to epipolar lines, and the motion that makes it least.

Hartley and Zisserman, Multiple View Geometry, 9.6 (essential matrix), 11.4.3 (Sampson's distance)
and A6.8 (robust cost).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.geometry.pose import skew

Array = npt.NDArray[np.float64]

FARTHEST = 50.0  # in lengths of the motion: farther points do not tell which way it went
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
    essential, mask = cv2.findEssentialMat(
        here, there, K, method=cv2.USAC_MAGSAC, prob=0.999, threshold=largest_px
    )
    if essential is None or essential.shape != (3, 3):
        return None
    agreeing = mask[:, 0] > 0
    to, of = (pixel_rays(pixels[agreeing], K) for pixels in (there, here))
    motion = recover_motion(essential, to, of)
    return EpipolarMotion(motion.rotation, motion.direction, agreeing)


def pixel_rays(pixels: npt.NDArray, K: Array) -> Array:
    """Rays (n, 3) with Z = 1 of pixels (n, 2) of a camera K."""
    return np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(K).T


class RecoveredMotion(NamedTuple):
    """To ~ `rotation` (3, 3) of + the unit `direction` (3,), and points triangulated with it.

    `distance_of`, `distance_to` (n,) are Z in the frames moved from and moved to, in lengths of
    the motion; `in_front` (n,) bool where both are above 0 and below the farthest asked for.
    """

    rotation: Array
    direction: Array
    distance_of: Array
    distance_to: Array
    in_front: npt.NDArray[np.bool_]


def recover_motion(
    essential: Array, to: Array, of: Array, farthest: float = FARTHEST
) -> RecoveredMotion:
    """Of the four motions of an essential matrix that with most points in front of both views.

    As OpenCV's recoverPose, which triangulates every point four times by a singular value
    decomposition; here by least squares of 1/Z (to x t) = -(to x R of), which is linear in the
    pixels, so that errors of pixels do not make points nearer.

    Args:
        essential: (3, 3).
        to, of: rays (n, 3) with Z = 1 of the same points in the frame moved to and moved from.
        farthest: points farther than this, in lengths of the motion, say nothing.
    """
    one, other, column = cv2.decomposeEssentialMat(essential)
    found = [
        motion
        for rotation in (one, other)
        for motion in _both_ways(rotation, column[:, 0], to, of, farthest)
    ]
    return max(found, key=lambda motion: np.count_nonzero(motion.in_front))


def _both_ways(
    rotation: Array, direction: Array, to: Array, of: Array, farthest: float
) -> Iterator[RecoveredMotion]:
    """Points triangulated with a direction and with its opposite."""
    turned = of @ rotation.T
    across = np.cross(to, turned)
    with np.errstate(divide='ignore', invalid='ignore'):  # points at infinity, and the epipole
        distance_of, distance_to = (
            -np.sum(along**2, axis=1) / np.sum(along * across, axis=1)
            for along in (np.cross(to, direction), np.cross(turned, direction))
        )
    for sign in (1.0, -1.0):
        near, far = sign * distance_of, sign * distance_to
        in_front = (near > 0) & (far > 0) & (near < farthest) & (far < farthest)
        yield RecoveredMotion(rotation, sign * direction, near, far, in_front)


def essential_matrix(rotation: Array, direction: Array) -> Array:
    """E (3, 3) with to^T E of = 0 where to ~ rotation (3, 3) of + a multiple of `direction`."""
    return skew(direction) @ rotation


def epipolar_distance(to: Array, of: Array, rotation: Array, direction: Array) -> Array:
    """Sampson's signed distance (N,) of pairs of rays (N, 3), in units of the focal length."""
    return _sampson_distances(to, of, essential_matrix(rotation, direction)[None])[0]


def _sampson_distances(to: Array, of: Array, essentials: Array) -> Array:
    """The distances (M, N) for each of M essential matrices (M, 3, 3)."""
    line = essentials @ of.T  # (M, 3, N)
    back = essentials.transpose(0, 2, 1) @ to.T  # (M, 3, N)
    square = np.sum(line[:, :2] ** 2, axis=1) + np.sum(back[:, :2] ** 2, axis=1)
    distances: Array = np.sum(line * to.T, axis=1) / np.sqrt(np.maximum(square, 1e-18))
    return distances


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
        steps = (_move(rotation, direction, tangent, one) for one in _STEP * np.eye(5))
        moved = [essential_matrix(*motion) for motion in ((rotation, direction), *steps)]
        off, *stepped = _sampson_distances(to, of, np.stack(moved))
        jacobian = (np.stack(stepped, axis=1) - off[:, None]) / _STEP
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
