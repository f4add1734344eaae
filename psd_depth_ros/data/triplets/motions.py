"""The motions between the frames of triplets of a recording without poses.

A pose network needs thousands of images before it follows a camera, and is never exact to the
tenth of a pixel by which distant points move; until then it would spoil a depth network that is
good already, and teach a new one nothing. So motions are estimated from the images first
(`odometry.visual_odometry`); the pose network learns corrections. Their length follows from the
depth of the network as it begins, so that a fine-tuned one keeps its scale; where it is untrained,
`odometry.lengths` makes lengths agree.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray
import torch

from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.odometry.lengths import average_scales, Motions
from psd_depth_ros.odometry.visual_odometry import find_motion
from psd_depth_ros.runtime import autocast

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
            here = _grey(sequence, target)
            for source in sources[target]:
                motion = find_motion(
                    here, _grey(sequence, source), sequence.camera, depth_m, sequence.valid
                )
                if motion is not None:
                    found[target, source] = motion
    report(len(targets), len(targets))
    if knows_nothing and found:
        found = average_scales(found)
    return {key: motion.pose for key, motion in found.items()}


def _grey(sequence: Sequence, index: int) -> NDArray[np.uint8]:
    return cv2.cvtColor(sequence.rgb[index], cv2.COLOR_RGB2GRAY)


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
    with autocast(device.type):
        output = network(image.to(device), intrinsics.expand(len(frames), 4).to(device))
    network.train(was_training)
    depth = output.log_depth.float().exp() * (camera.fx / canonical_focal_px)
    return depth[:, 0].cpu().numpy()
