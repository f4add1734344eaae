"""Self-supervision from image triplets: photometric reprojection and what goes with it.

- Godard, Mac Aodha, Firman, Brostow 2019, "Digging Into Self-Supervised Monocular Depth
  Estimation" (monodepth2): minimum reprojection, auto-mask, edge-aware smoothness.
- Bian et al. 2019, "Unsupervised Scale-Consistent Depth and Ego-Motion Learning from Monocular
  Video" (SC-Depth): geometry consistency and its weight on the photometric error.
- Direct alignment of the images of a pair (own; Gauss-Newton, `odometry.alignment`) in place of
  the pose network's motion, which it teaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from psd_depth_ros.config import setting
from psd_depth_ros.geometry.warp import (
    backproject,
    camera_matrix,
    inside_image,
    inverse_warp,
    project,
    sample,
    transform,
)
from psd_depth_ros.losses.depth import warp_sensitivity
from psd_depth_ros.losses.photometric import (
    depth_difference,
    fit_brightness,
    masked_mean,
    Reprojection,
    reprojection_loss,
    smoothness,
    ssim_statistics,
    SsimStatistics,
    unwarped_error,
)
from psd_depth_ros.objectives.base import Context, Image, LATER, Term, TermSettings
from psd_depth_ros.odometry.alignment import refine_motions
from psd_depth_ros.visualisation import draw_heat, draw_masked

MAX_SHOWN_ERROR = 0.3


@dataclass(frozen=True)
class Target:
    """Images that their neighbours are to explain, and how well these do unwarped."""

    statistics: SsimStatistics
    unwarped: Tensor | None  # (B, 1, H, W) least error of the unwarped sources
    valid: Tensor  # (B, 1, H, W) bool

    @property
    def image(self) -> Tensor:
        """(B, 3, H, W) in [0, 1]."""
        return self.statistics.image


@dataclass(frozen=True)
class PhotometricSettings(TermSettings):
    """How images are compared: in the full image, in patches and in mixed images alike."""

    auto_mask: bool = setting(True, 'No gradient where an unwarped source fits better')
    minimum_reprojection: bool = setting(True, 'The better of both sources, else their mean')
    brightness: bool = setting(False, 'Fit a gain and an offset between the frames of a pair')
    exempt_from_auto_mask_px: float = setting(
        0.0, 'Pixels whose depth says that they move by less keep their gradient: distant things '
        'that are taken for too near would be masked for ever', 'px', minimum=0.0, maximum=1000.0,
    )  # fmt: skip
    exempt_start: float = setting(
        0.0, 'Progress of the run at which that begins; where motions are learned, too, depth '
        'must have a shape by then', minimum=0.0, maximum=1.0,
    )  # fmt: skip


class Photometric(Term):
    """Photometric error of the target against its warped sources (monodepth2)."""

    name = 'photometric'
    Settings = PhotometricSettings
    settings: PhotometricSettings

    def __call__(self, context: Context) -> Tensor:
        """Mean error of each sample."""
        return self.reprojection(context).loss

    def reprojection(self, context: Context) -> Reprojection:
        """Compare the target with its sources, warped by the depth of the full image."""

        def compute() -> Reprojection:
            images = context.images
            return self.reproject(
                self.prepare_target(images[0], images[1:], context.batch.valid),
                images[1:],
                context.prediction().depth,
                context.poses(),
                context.intrinsics,
                self.exempt_px(context.progress),
                context.photometric_weight,
            )

        return context.once('reprojection', compute)

    def reproject(
        self,
        target: Target,
        sources: Tensor,
        depth: Tensor,
        poses: Tensor,
        intrinsics: Tensor,
        exempt_px: float,
        weight: Tensor | None,
    ) -> Reprojection:
        """Compare a target with its sources (2, B, 3, H, W), warped by a depth (B, 1, H, W).

        `poses` (2, B, 4, 4) are T_source_target, `intrinsics` (B, 4) those of all images. Pixels
        whose parallax is below `exempt_px` are not auto-masked; 0: no such limit. `weight`
        (B, 1, H, W) scales the error.
        """
        K = camera_matrix(intrinsics)
        warped = [
            inverse_warp(source, depth, pose, K, K)
            for source, pose in zip(sources, poses, strict=True)
        ]
        exempt = None
        if exempt_px > 0:
            exempt = find_parallax(depth, poses, K, intrinsics[:, :2]) < exempt_px
        return self.compare(target, warped, exempt, weight)

    def prepare_target(self, image: Tensor, sources: Tensor, valid: Tensor) -> Target:
        """Prepare images for `compare`.

        Args:
            image: (B, 3, H, W) in [0, 1].
            sources: (2, B, 3, H, W) its neighbours as they are, for the auto-mask.
            valid: (B, 1, H, W) bool, pixels that count.
        """
        statistics = ssim_statistics(image)
        unwarped = unwarped_error(statistics, sources) if self.settings.auto_mask else None
        return Target(statistics, unwarped, valid)

    def compare(
        self,
        target: Target,
        warped: Sequence[tuple[Tensor, Tensor]],
        exempt: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Reprojection:
        """Compare images with their warped sources (B, 3, H, W), each with where it is inside.

        `exempt` (B, 1, H, W) pixels are not auto-masked; `weight` (B, 1, H, W) scales the error.
        """
        if self.settings.brightness:
            warped = [(fit_brightness(target.image, one, mask), mask) for one, mask in warped]
        return reprojection_loss(
            target.statistics,
            torch.stack([one for one, _ in warped]),
            torch.stack([inside for _, inside in warped]),
            target.unwarped,
            target.valid,
            minimum=self.settings.minimum_reprojection,
            weight=weight,
            exempt_from_auto_mask=exempt,
        )

    def exempt_px(self, progress: float) -> float:
        """The parallax in pixels below which nothing is auto-masked; 0: no such limit."""
        settings = self.settings
        return settings.exempt_from_auto_mask_px if progress >= settings.exempt_start else 0.0

    def visualise(self, context: Context) -> dict[str, Image]:
        """Photometric error and auto-mask of the target."""
        image = context.batch.image[0, 0].permute(1, 2, 0).cpu().numpy()
        found = self.reprojection(context)
        return {
            'error': draw_heat((found.error[0, 0] / MAX_SHOWN_ERROR).cpu().numpy()),
            'auto_mask': draw_masked(image, found.auto_mask[0, 0].cpu().numpy()),
        }


class Smoothness(Term):
    """Edge-aware smoothness of mean-normalised disparity (monodepth2)."""

    name = 'smoothness'

    def __call__(self, context: Context) -> Tensor:
        """Mean of each sample."""
        return smoothness((-context.prediction().log_depth).exp(), context.images[0])


class GeometryConsistency(Term):
    """Depth of target and later source agree where they see the same point (SC-Depth).

    It weighs the photometric error by 1 - D, which takes out what moves or is hidden.
    """

    name = 'geometry'

    def __call__(self, context: Context) -> Tensor:
        """Mean difference D of each sample."""
        return masked_mean(*self._difference(context))

    def photometric_weight(self, context: Context) -> Tensor:
        """1 - D (B, 1, H, W), without gradient."""
        difference, mask = self._difference(context)
        return 1.0 - torch.where(mask, difference.detach(), 0.0)

    def _difference(self, context: Context) -> tuple[Tensor, Tensor]:
        """D (B, 1, H, W), and where it is known."""

        def compute() -> tuple[Tensor, Tensor]:
            other = context.prediction(image='later', with_grad=False)
            depth = context.prediction().depth
            points = transform(context.poses()[LATER], backproject(depth, context.K))
            pixels = project(points, context.K)
            difference = depth_difference(points[:, 2:], sample(other.depth, pixels))
            inside = inside_image(pixels, points, difference.shape[-2:])
            return difference, inside & context.batch.valid

        return context.once(self.name, compute)


class PoseAlignment(Term):
    """Poses from aligning the images directly; they teach the pose network.

    A few Gauss-Newton steps that begin with what the pose network says. Depth must have a shape
    by then. After `end` the pose network goes on by itself: motions that fit every image hide
    errors of distant depth.
    """

    name = 'pose_alignment'

    def __call__(self, context: Context) -> Tensor:
        """Difference of the pose network's motions from the aligned ones, of each sample."""
        unit_m = context.prediction().depth.detach().flatten(1).median(dim=1).values
        return pose_error(context.network_poses(), context.poses(), unit_m)

    def refine_poses(self, context: Context, poses: Tensor) -> Tensor:
        """Aligned poses (2, B, 4, 4), without gradient."""
        return align_poses(context, poses)


class PosePrior(Term):
    """Size of the learned correction to known poses, mean squared over entries of T."""

    name = 'pose_prior'
    optional = frozenset({'pose_prior'})

    def __call__(self, context: Context) -> Tensor:
        """0 where no pose of a sample is known."""
        prior = context.batch.get('pose_prior')
        if prior is None:
            return context.zeros()
        prior = prior.transpose(0, 1)
        known = torch.isfinite(prior)
        difference = torch.where(known, context.poses() - torch.where(known, prior, 0.0), 0.0)
        return difference.square().sum(dim=(-2, -1)).mean(dim=0)


def align_poses(context: Context, poses: Tensor) -> Tensor:
    """Poses (2, B, 4, 4) brought to where the images align for the depth of the student."""
    with torch.autocast(poses.device.type, enabled=False):
        return refine_motions(
            context.images[0].repeat(2, 1, 1, 1),
            context.images[1:].flatten(0, 1),
            context.prediction().depth.detach().repeat(2, 1, 1, 1),
            context.intrinsics.repeat(2, 1),
            poses.detach().flatten(0, 1),
            context.batch.valid.repeat(2, 1, 1, 1),
        ).unflatten(0, (2, -1))


def pose_error(poses: Tensor, wanted: Tensor, unit_m: Tensor) -> Tensor:
    """Mean difference (B,) of poses (2, B, 4, 4): entries of R, and t in units (B,) of length."""
    difference = (poses - wanted).abs()
    rotation = difference[..., :3, :3].sum(dim=(-2, -1))
    return (rotation + difference[..., :3, 3].sum(dim=-1) / unit_m).mean(dim=0)


@torch.no_grad()
def find_parallax(depth: Tensor, poses: Tensor, K: Tensor, focal: Tensor) -> Tensor:
    """Parallax in pixels, the larger of two motions, (B, 1, H, W).

    Args:
        depth: (B, 1, H, W) of cameras K (B, 3, 3).
        poses: (2, B, 4, 4) T_source_target.
        focal: (B, 2) fx, fy of the sources.
    """
    points = backproject(depth, K)
    found = [warp_sensitivity(transform(pose, points), pose[:, :3, 3], focal) for pose in poses]
    return torch.stack(found).amax(dim=0)
