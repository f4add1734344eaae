"""The motion of a camera between two images, from corners and a depth map of the first.

Corners give the rotation and the direction whatever depth says (essential matrix, Nister, TPAMI
2004; MAGSAC, Barath et al., CVPR 2019), so that a wrong depth is not explained away by a wrong
motion. The length follows from the depth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import make_pose
from psd_depth_ros.geometry.resample import sample_at
from psd_depth_ros.odometry.essential import (
    essential_matrix,
    find_epipolar_motion,
    pixel_rays,
    recover_motion,
    refine_motion,
)
from psd_depth_ros.odometry.lengths import PairMotion, weighted_median
from psd_depth_ros.odometry.tracking import Grey, Pixels, Tracker

# OpenCV's flow works on 8 columns at a time: a window of 16 takes less than half the time of 15 or
# 21. More corners, or a finer flow, do not bring the motion nearer to the true one.
TRACKER = Tracker(600, 0.003, 7, window_px=16)
LARGEST_ERROR_PX = 0.5
FARTHEST = 200.0  # in lengths of the motion: farther points say nothing of it
FEWEST_INLIERS = 30
LEAST_INLIER_FRACTION = 0.4

Mask = NDArray[np.bool_]


class TrackedMotion(NamedTuple):
    """Two views of the same corners, and the motion there ~ `rotation` here + `direction`.

    The length of the motion is the unit of lengths; `reversed` is the motion back.

    Attributes:
        rotation: (3, 3).
        direction: (3,), of length 1.
        here, there: (n, 2) pixels of the corners in either image.
        distance_here, distance_there: (n,) Z in either camera.
    """

    rotation: NDArray[np.float64]
    direction: NDArray[np.float64]
    here: Pixels
    there: Pixels
    distance_here: NDArray[np.float32]
    distance_there: NDArray[np.float32]

    def reversed(self) -> TrackedMotion:
        """The motion from there to here."""
        return TrackedMotion(
            self.rotation.T,
            -self.rotation.T @ self.direction,
            self.there,
            self.here,
            self.distance_there,
            self.distance_here,
        )

    def scaled(self, length: float) -> PairMotion:
        """The motion with its length."""
        corners = np.column_stack([self.here, self.distance_here]).astype(np.float32)
        return PairMotion(make_pose(self.rotation, self.direction * length), corners)


def find_motion(
    target: Grey,
    source: Grey,
    camera: Camera,
    depth_m: NDArray[np.float32],
    mask: Mask | None = None,
) -> PairMotion | None:
    """The motion T_source_target between two images (H, W) of a rectified camera.

    Args:
        target, source: grey images.
        camera: of both.
        depth_m: (h, w) metres along Z of the target, of any size.
        mask: (H, W), true where corners may be taken.

    Returns:
        The motion, or None where too few corners agree on one.
    """
    tracked = track_motion(target, source, find_corners(target, mask), camera, mask)
    return None if tracked is None else tracked.scaled(measure_length(tracked, depth_m, camera))


def find_corners(grey: Grey, mask: Mask | None = None) -> Pixels:
    """Corners (n, 2) of an image (H, W) for `track_motion`, where the mask is true."""
    return TRACKER.find(grey, None if mask is None else mask.astype(np.uint8))


def track_motion(
    target: Grey, source: Grey, corners: Pixels, camera: Camera, mask: Mask | None = None
) -> TrackedMotion | None:
    """The motion between two images (H, W), up to its length, from corners (n, 2) of the first.

    Corners that leave the image or the mask (H, W) are left out, so that the motion back has the
    same corners. None where too few agree on a motion.
    """
    if len(corners) < FEWEST_INLIERS:
        return None
    start, end, _ = TRACKER.follow(target, source, corners)
    seen = _seen(end, target.shape, mask)
    start, end = start[seen], end[seen]
    if len(start) < FEWEST_INLIERS:
        return None
    return _solve(start, end, camera.K)


def _seen(pixels: Pixels, shape: tuple[int, ...], mask: Mask | None) -> Mask:
    """Which pixels (n, 2) lie in an image and in its mask."""
    column, row = np.rint(pixels).astype(np.intp).T
    inside: Mask = (column >= 0) & (row >= 0) & (column < shape[1]) & (row < shape[0])
    if mask is not None:
        inside[inside] = mask[row[inside], column[inside]]
    return inside


def _solve(here: Pixels, there: Pixels, K: NDArray[np.float64]) -> TrackedMotion | None:
    """The motion that moves pixels (n, 2) of a camera K from here to there; None without one."""
    found = find_epipolar_motion(here, there, K, LARGEST_ERROR_PX)
    if found is None:
        return None
    # RANSAC stops at a good sample; what it leaves differs from one release of OpenCV to the next.
    chosen = np.flatnonzero(found.agreeing)
    to, of = (pixel_rays(pixels[chosen], K) for pixels in (there, here))
    width = LARGEST_ERROR_PX / float(np.sqrt(K[0, 0] * K[1, 1]))
    refined = refine_motion(to, of, found.rotation, found.direction, lambda off: width)
    motion = recover_motion(essential_matrix(*refined), to, of, FARTHEST)
    kept = motion.in_front
    if kept.sum() < max(FEWEST_INLIERS, LEAST_INLIER_FRACTION * len(here)):
        return None
    return TrackedMotion(
        motion.rotation,
        motion.direction,
        here[chosen[kept]],
        there[chosen[kept]],
        motion.distance_of[kept].astype(np.float32),
        motion.distance_to[kept].astype(np.float32),
    )


def measure_length(tracked: TrackedMotion, depth_m: NDArray[np.float32], camera: Camera) -> float:
    """The length of a motion that brings its corners to a depth map (h, w) of the frame here.

    It is the median of the ratios of depth and distance, each weighted by its inverse depth, for
    an error in pixels is one in inverse depth.
    """
    depth = lift(tracked.here, depth_m, camera)[:, 2]
    return weighted_median(depth / tracked.distance_here, 1.0 / depth)


def lift(pixels: Pixels, depth_m: NDArray[np.float32], camera: Camera) -> NDArray[np.float64]:
    """Points (n, 3) of pixels (n, 2) of a camera, by a depth map (h, w) of any size."""
    height, width = camera.size
    scale = np.array([depth_m.shape[1] / width, depth_m.shape[0] / height])
    places = (pixels.astype(np.float64) + 0.5) * scale - 0.5
    depth = sample_at(depth_m[..., None].astype(np.float64), places)[:, 0]
    return camera.backproject(pixels, depth)
