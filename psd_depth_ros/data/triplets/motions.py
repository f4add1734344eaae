"""The motion between frames of a recording without poses, from features and the depth at hand.

A pose network needs thousands of images before it follows a camera, and is never exact to the
tenth of a pixel by which far things move; until then it would spoil a depth network that is good
already, and teach a new one nothing. Tracked corners give the turn of the camera and the direction
it moves in whatever depth says (essential matrix, Nister 2004; MAGSAC, Barath et al. 2019), so
that a wrong depth is not explained away by a wrong motion. How far it moves follows from the depth
of the network as it begins, so that a fine-tuned one keeps its scale; where it knows nothing yet,
`motion_lengths` sees to it that lengths agree. The pose network then learns corrections.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
import torch

from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.geometry.pose import make_pose
from psd_depth_ros.geometry.warp import sample
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.odometry.essential import essential_matrix, refine_motion
from psd_depth_ros.odometry.lengths import (
    agree_on_lengths,
    Motions,
    PairMotion,
    weighted_median,
)

CORNERS = 1000
LARGEST_RETURN_PX = 1.0  # a corner tracked there and back ends where it began
LARGEST_ERROR_PX = 0.5
FARTHEST = 200.0  # in lengths of the motion: farther points say nothing of it
FEWEST_INLIERS = 30
LEAST_SHARE = 0.4
BATCH = 8


def estimate_motions(
    sequence: Sequence,
    network: DepthModel,
    canonical_focal_px: float,
    *,
    knows_nothing: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[tuple[int, int], NDArray[np.float64]]:
    """T_source_target by (target, source) of all triplets; pairs that cannot be told are absent.

    Distances are in the units of `network`, whose canonical depth has `canonical_focal_px`. One
    that `knows_nothing` yet sees a wall everywhere, and all scenes would have one size: the ratios
    of lengths then come from the pictures. `report` gets the targets done and how many there are.
    """
    triplets = np.concatenate([sequence.triplets, sequence.held_out])
    found: Motions = {}
    targets = sorted({int(target) for target in triplets[:, 0]})
    sources = {int(target): (int(a), int(b)) for target, a, b in triplets}
    for start in range(0, len(targets), BATCH):
        report(start, len(targets))
        chosen = targets[start : start + BATCH]
        depths = predict_depth(sequence, chosen, network, canonical_focal_px)
        for target, depth_m in zip(chosen, depths, strict=True):
            for source in sources[target]:
                motion = find_motion(sequence, target, source, depth_m)
                if motion is not None:
                    found[target, source] = motion
    report(len(targets), len(targets))
    if knows_nothing and found:
        found = agree_on_lengths(found)
    return {key: motion.pose for key, motion in found.items()}


@torch.inference_mode()
def predict_depth(
    sequence: Sequence, frames: list[int], network: DepthModel, canonical_focal_px: float
) -> NDArray[np.float32]:
    """Depth (n, h, w) in metres of some frames, at half the size of the network's input."""
    device = next(network.parameters()).device
    factor = sequence.fine_factor
    height, width = (side // factor for side in sequence.camera.size)
    camera = sequence.camera.resize(width, height)
    small = [sequence.network_image(index) for index in frames]
    image = network.normalise(torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2))
    intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]]).float()
    was_training = network.training
    network.eval()
    output = network(image.to(device), intrinsics.expand(len(frames), 4).to(device))
    network.train(was_training)
    depth = output.log_depth.float().exp() * (camera.fx / canonical_focal_px)
    return depth[:, 0].cpu().numpy()


def find_motion(
    sequence: Sequence, target: int, source: int, depth_m: NDArray[np.float32]
) -> PairMotion | None:
    """The motion between two frames; None where too few corners agree on one."""
    here, there = (
        cv2.cvtColor(sequence.rgb[index], cv2.COLOR_RGB2GRAY) for index in (target, source)
    )
    corners = cv2.goodFeaturesToTrack(
        here, CORNERS, 0.003, 6, mask=sequence.valid.astype(np.uint8)
    )
    if corners is None or len(corners) < FEWEST_INLIERS:
        return None
    begun, ended = track(here, there, corners)
    if len(begun) < FEWEST_INLIERS:
        return None
    return solve(begun, ended, lift(begun, depth_m, sequence)[:, 2], sequence.camera.K)


def track(
    here: NDArray[np.uint8], there: NDArray[np.uint8], corners: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Corners (n, 2) that were found again, and where."""
    forward, _, _ = cv2.calcOpticalFlowPyrLK(here, there, corners, np.empty_like(corners))
    back, _, _ = cv2.calcOpticalFlowPyrLK(there, here, forward, np.empty_like(corners))
    kept = np.linalg.norm(back - corners, axis=2)[:, 0] < LARGEST_RETURN_PX
    return corners[kept, 0], forward[kept, 0]


def lift(
    pixels: NDArray[np.float32], depth_m: NDArray[np.float32], sequence: Sequence
) -> NDArray[np.float64]:
    """Points (n, 3) of pixels (n, 2) of the sequence's frames, by a depth map of any size."""
    height, width = sequence.camera.size
    scale = np.array([depth_m.shape[1] / width, depth_m.shape[0] / height])
    places = (pixels.astype(np.float64) + 0.5) * scale - 0.5
    # Not cv2.remap: that of OpenCV 4 rounds places to 1/32 pixel.
    depth = sample(
        torch.from_numpy(depth_m.astype(np.float64))[None, None],
        torch.from_numpy(places)[None, None],
    )
    return sequence.camera.backproject(pixels, depth[0, 0, 0].numpy())


def solve(
    here: NDArray[np.float32],
    there: NDArray[np.float32],
    depth_m: NDArray[np.float64],
    K: NDArray[np.float64],
) -> PairMotion | None:
    """The motion that moves pixels (n, 2) of a camera K from here to there; None without one.

    Its length brings the triangulated points to the depths (n,): the median of their ratios, each
    weighted by its inverse depth, for an error in pixels is one in inverse depth.
    """
    essential, agreeing = cv2.findEssentialMat(
        here, there, K, method=cv2.USAC_MAGSAC, prob=0.999, threshold=LARGEST_ERROR_PX
    )
    if essential is None or essential.shape != (3, 3):
        return None
    _, rotation, direction, _ = cv2.recoverPose(essential, here, there, K, mask=agreeing.copy())
    chosen = agreeing[:, 0] > 0
    # RANSAC stops at a good sample; what it leaves differs from one release of OpenCV to the next.
    to, of = (
        np.column_stack([one[chosen], np.ones(chosen.sum())]) @ np.linalg.inv(K).T
        for one in (there, here)
    )
    width = LARGEST_ERROR_PX / float(np.sqrt(K[0, 0] * K[1, 1]))
    refined = refine_motion(to, of, rotation, direction[:, 0], lambda off: width)
    essential = essential_matrix(*refined)
    _, rotation, direction, agreeing, points = cv2.recoverPose(
        essential, here, there, K, distanceThresh=FARTHEST, mask=agreeing
    )
    kept = agreeing[:, 0] > 0
    if kept.sum() < max(FEWEST_INLIERS, LEAST_SHARE * len(here)):
        return None
    distances = points[2, kept] / points[3, kept]  # in lengths of the motion
    length = weighted_median(depth_m[kept] / distances, 1.0 / depth_m[kept])
    corners = np.column_stack([here[kept], distances]).astype(np.float32)
    return PairMotion(make_pose(rotation, direction[:, 0] * length), corners)
