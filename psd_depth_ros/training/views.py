"""What the branches of the objective share: predictions, comparisons, the tensors of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.augment.patch_mix import Mix
from psd_depth_ros.augment.patches import Patches
from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.geometry.warp import backproject, transform
from psd_depth_ros.losses.distillation import warp_sensitivity
from psd_depth_ros.losses.photometric import (
    fit_brightness,
    Reprojection,
    reprojection_loss,
    ssim_statistics,
    SsimStatistics,
    unwarped_error,
)
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.bin_head import BinPrediction, expected_log_depth
from psd_depth_ros.training.recipe import ObjectiveSettings

EARLIER, LATER = 0, 1


@dataclass(frozen=True)
class Prediction:
    """What the depth network says of some images, in metres (as far as its scale is known)."""

    log_depth: Tensor  # (B, 1, H, W) u = ln Z at the size of the image
    sigma: Tensor  # (B, 1, H / 2, W / 2) spread of u
    bins: BinPrediction | None  # with the logits of every eighth pixel of every eighth row

    @property
    def depth(self) -> Tensor:
        """Z (B, 1, H, W)."""
        return self.log_depth.exp()

    def take(self, rows: slice) -> Prediction:
        """What it says of some of the images."""
        bins = None if self.bins is None else BinPrediction(*(part[rows] for part in self.bins))
        return Prediction(self.log_depth[rows], self.sigma[rows], bins)


@dataclass(frozen=True)
class Mixed:
    """Images with parts of others (PatchMix), and what the network says of them.

    Mixed image i is the one of sample `rows[i]` of the batch with parts of sample `donors[i]`.
    """

    rows: Tensor
    donors: Tensor
    mix: Mix
    prediction: Prediction


@dataclass(frozen=True)
class Target:
    """An image to be explained by its neighbours, and how well they do unwarped."""

    reference: SsimStatistics
    unwarped: Tensor | None  # (B, 1, H, W) least error of the sources as they are
    valid: Tensor  # (B, 1, H, W) bool


@dataclass
class Pictures:
    """What a step looked at, kept for previews."""

    full: Prediction | None = None
    sight: Reprojection | None = None
    patches: Patches | None = None
    patch_image: Tensor | None = None
    patch: Prediction | None = None
    patch_error: Tensor | None = None
    taught: Tensor | None = None


@dataclass
class Step:
    """What the terms of one step share; images (frame, B, ...)."""

    network: DepthModel
    batch: TripletBatch
    share: float
    shown: Tensor  # (B, 3, 3, H, W) normalised
    clean: Tensor  # (3, B, 3, H, W) in [0, 1]
    K: Tensor  # (B, 3, 3)
    motions: Tensor  # (2, B, 4, 4) T_source_target
    full: Prediction
    mixed: Mixed | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)


def predict(
    network: DepthModel, image: Tensor, intrinsics: Tensor, canonical_focal_px: float
) -> Prediction:
    """Metric log-depth of normalised images, Z = Z' fx / f_c."""
    image = image.contiguous(memory_format=torch.channels_last)
    bins = network.predict_bins(image, intrinsics) if network.has_bins else None
    output = network(image, intrinsics) if bins is None else None
    with torch.autocast(image.device.type, enabled=False):
        if bins is not None:
            canonical, sigma, scores = expected_log_depth(bins)
            bins = bins._replace(logits=scores)
        else:
            assert output is not None
            canonical, sigma = output.log_depth.float(), output.sigma
        ratio = intrinsics[:, :1, None, None] / canonical_focal_px
        coarse = canonical + ratio.log()
        log_depth = F.interpolate(coarse, image.shape[-2:], mode='bilinear')
    return Prediction(log_depth, sigma, bins)


def aim(settings: ObjectiveSettings, image: Tensor, sources: Tensor, valid: Tensor) -> Target:
    """Prepare images (B, 3, H, W) for `compare`.

    `sources` (2, B, 3, H, W) are their neighbours as they are, for the mask of what does not move.
    """
    reference = ssim_statistics(image)
    unwarped = unwarped_error(reference, sources) if settings.auto_mask else None
    return Target(reference, unwarped, valid)


def compare(
    settings: ObjectiveSettings,
    target: Target,
    views: Sequence[tuple[Tensor, Tensor]],
    counted: Tensor | None = None,
    weight: Tensor | None = None,
) -> Reprojection:
    """Compare images with the `views` of their two sources, each with its mask.

    `counted` (B, 1, H, W) pixels count whether they seem to move or not.
    """
    image = target.reference.image
    warped = [
        fit_brightness(image, view, mask) if settings.brightness else view for view, mask in views
    ]
    return reprojection_loss(
        target.reference, torch.stack(warped), torch.stack([mask for _, mask in views]),
        target.unwarped, target.valid, minimum=settings.minimum_reprojection, weight=weight,
        exempt_from_auto_mask=counted,
    )  # fmt: skip


@torch.no_grad()
def find_parallax(depth: Tensor, motions: Tensor, K: Tensor, focal: Tensor) -> Tensor:
    """The pixels by which the larger of two motions (2, B, 4, 4) moves things for not being far.

    (B, 1, H, W) from depth (B, 1, H, W) of cameras K; `focal` (B, 2) of the sources.
    """
    points = backproject(depth, K)
    found = [
        warp_sensitivity(transform(motion, points), motion[:, :3, 3], focal) for motion in motions
    ]
    return torch.stack(found).amax(dim=0)
