"""The motion of a camera between two images, from corners and a depth map of the first.

Corners give the rotation and the direction whatever depth says (essential matrix, Nister, TPAMI
2004; MAGSAC, Barath et al., CVPR 2019), so that a wrong depth is not explained away by a wrong
motion. The length follows from the depth.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import make_pose
from psd_depth_ros.geometry.resample import sample_at
from psd_depth_ros.odometry.essential import essential_matrix, find_epipolar_motion, refine_motion
from psd_depth_ros.odometry.lengths import PairMotion, weighted_median
from psd_depth_ros.odometry.tracking import Grey, Pixels, Tracker

TRACKER = Tracker(1000, 0.003, 6)
LARGEST_ERROR_PX = 0.5
FARTHEST = 200.0  # in lengths of the motion: farther points say nothing of it
FEWEST_INLIERS = 30
LEAST_INLIER_FRACTION = 0.4


def find_motion(
    target: Grey,
    source: Grey,
    camera: Camera,
    depth_m: NDArray[np.float32],
    mask: NDArray[np.bool_] | None = None,
) -> PairMotion | None:
    """The motion T_source_target between two images (H, W) of a rectified camera.

    Args:
        target, source: grey images.
        camera: of both.
        depth_m: (h, w) metres along Z of the target, of any size.
        mask: (H, W), true where corners of the target may be taken.

    Returns:
        The motion, or None where too few corners agree on one.
    """
    corners = TRACKER.find(target, None if mask is None else mask.astype(np.uint8))
    if len(corners) < FEWEST_INLIERS:
        return None
    start, end, _ = TRACKER.follow(target, source, corners)
    if len(start) < FEWEST_INLIERS:
        return None
    return solve_motion(start, end, lift(start, depth_m, camera)[:, 2], camera.K)


def lift(pixels: Pixels, depth_m: NDArray[np.float32], camera: Camera) -> NDArray[np.float64]:
    """Points (n, 3) of pixels (n, 2) of a camera, by a depth map (h, w) of any size."""
    height, width = camera.size
    scale = np.array([depth_m.shape[1] / width, depth_m.shape[0] / height])
    places = (pixels.astype(np.float64) + 0.5) * scale - 0.5
    depth = sample_at(depth_m[..., None].astype(np.float64), places)[:, 0]
    return camera.backproject(pixels, depth)


def solve_motion(
    here: Pixels, there: Pixels, depth_m: NDArray[np.float64], K: NDArray[np.float64]
) -> PairMotion | None:
    """The motion that moves pixels (n, 2) of a camera K from here to there; None without one.

    Its length brings the triangulated points to the depths (n,): the median of their ratios, each
    weighted by its inverse depth, for an error in pixels is one in inverse depth.
    """
    found = find_epipolar_motion(here, there, K, LARGEST_ERROR_PX)
    if found is None:
        return None
    chosen = found.agreeing
    # RANSAC stops at a good sample; what it leaves differs from one release of OpenCV to the next.
    to, of = (
        np.column_stack([one[chosen], np.ones(chosen.sum())]) @ np.linalg.inv(K).T
        for one in (there, here)
    )
    width = LARGEST_ERROR_PX / float(np.sqrt(K[0, 0] * K[1, 1]))
    refined = refine_motion(to, of, found.rotation, found.direction, lambda off: width)
    essential = essential_matrix(*refined)
    _, rotation, direction, agreeing, points = cv2.recoverPose(
        essential, here, there, K, distanceThresh=FARTHEST, mask=chosen.astype(np.uint8)[:, None]
    )
    kept = agreeing[:, 0] > 0
    if kept.sum() < max(FEWEST_INLIERS, LEAST_INLIER_FRACTION * len(here)):
        return None
    distances = points[2, kept] / points[3, kept]  # in lengths of the motion
    length = weighted_median(depth_m[kept] / distances, 1.0 / depth_m[kept])
    corners = np.column_stack([here[kept], distances]).astype(np.float32)
    return PairMotion(make_pose(rotation, direction[:, 0] * length), corners)
