"""The patch branch of PSD: far regions enlarged, judged by photometry, and teaching the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.augment.patches import draw_patches, Patches
from psd_depth_ros.geometry.warp import (
    camera_matrix,
    inverse_warp,
    resize_intrinsics,
    sample,
)
from psd_depth_ros.losses.distillation import Distillation, distillation_loss, DistillationInputs
from psd_depth_ros.losses.photometric import Reprojection, smoothness
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.views import (
    aim,
    compare,
    find_parallax,
    Pictures,
    predict,
    Prediction,
    Step,
    Target,
)

MARGIN = 4  # cells of stride 2 at the border of a patch that teach nothing


class PatchBranch:
    """Adds the terms of patches to a step; `teacher()` is the averaged network, where given."""

    def __init__(self, recipe: VideoRecipe, teacher: Callable[[], DepthModel | None]) -> None:
        self.recipe = recipe
        self._teacher = teacher

    def add(self, step: Step, pictures: Pictures) -> None:
        """Photometry of enlarged patches, and what they teach the full image."""
        settings, far = self.recipe.patch, self.recipe.far
        has_patches = step.share >= settings.start and settings.share > 0
        if has_patches:
            self._begin(step)
        has_patches = has_patches and 'fine_augmented' in step.batch
        judges_full = far.fine_weight > 0 and step.share >= far.start
        if not (has_patches or judges_full):
            return
        with torch.autocast(step.K.device.type, enabled=False):
            view = self._cut(step)
            by_full = None
            if judges_full:
                by_full = self._judge(view, view.known)
                step.terms['far'] = far.fine_weight * by_full.loss.mean()
        if has_patches:
            self._add_patches(step, view, by_full, pictures)

    def _begin(self, step: Step) -> None:
        """Every term that patches may add, so that all processes have the same ones."""
        zero = step.motions.new_zeros(())
        step.terms.update(patch_photometric=zero, patch_smoothness=zero, patch_level=zero)
        if self._distillation_weight(step.share) > 0:
            step.terms['distillation'] = zero

    def _add_patches(
        self,
        step: Step,
        view: _PatchView,
        by_full: Reprojection | None,
        pictures: Pictures,
    ) -> None:
        """Let the network see patches; add their terms.

        `by_full` tells how well the full image explains them, where that is known already.
        """
        settings, batch, patches = self.recipe.patch, step.batch, view.patches
        cut = patches.cut(batch.fine_augmented, view.factor)
        shown = step.network.normalise(cut / 255.0)
        patch = predict(step.network, shown, view.intrinsics, self.recipe.canonical_focal_px)
        if settings.convention == 'metric':
            patch = Prediction(
                patch.log_depth - patches.zoom.log()[:, None, None, None], patch.sigma, patch.bins
            )
        with torch.autocast(shown.device.type, enabled=False):
            level, patch = self._keep_level(view.known, patch)
            seen = self._judge(view, patch.log_depth)
            image = view.target.reference.image
            # steps with patches count for those without, too
            scale = settings.weight / (1.0 + settings.weight) / settings.share
            step.terms['patch_photometric'] = scale * seen.loss.mean()
            disparity = (-patch.log_depth).exp()
            step.terms['patch_smoothness'] = (
                scale * self.recipe.objective.smoothness * smoothness(disparity, image).mean()
            )
            step.terms['patch_level'] = settings.level * scale * level.mean()
            pictures.patches, pictures.patch_image, pictures.patch = patches, image, patch
            pictures.patch_error = seen.error
        weight = self._distillation_weight(step.share)
        if weight > 0:
            taught = self._distil(shown, view, seen, by_full, patch)
            step.terms['distillation'] = weight * taught.loss.mean() / settings.share
            pictures.taught = taught.mask

    def _cut(self, step: Step) -> _PatchView:
        """Draw a patch of each sample, with all it is compared with."""
        batch = step.batch
        patches = self._draw_patches(step)
        factor = batch.fine.shape[-1] / batch.image.shape[-1]
        fine = batch.fine.transpose(0, 1)  # (3, b, 3, fH, fW) uint8
        image, *still = (patches.cut(one, factor) / 255.0 for one in fine)
        known = sample(step.full.log_depth, patches.pixels())
        valid = sample(batch.valid.float(), patches.pixels()) > 0.5
        intrinsics = patches.intrinsics(batch.intrinsics)
        return _PatchView(
            patches,
            factor,
            intrinsics,
            camera_matrix(resize_intrinsics(batch.intrinsics, factor)),
            step.motions.detach(),
            fine[1:],
            aim(self.recipe.objective, image, torch.stack(still), valid),
            known,
            self.recipe.far.unmasked_at(step.share),
        )

    def _judge(self, view: _PatchView, log_depth: Tensor) -> Reprojection:
        """How well a depth explains the patches."""
        depth = log_depth.exp()
        counted = view.parallax(depth) < view.unmasked_px if view.unmasked_px > 0 else None
        return compare(self.recipe.objective, view.target, view.warp(depth), counted)

    def _keep_level(self, known: Tensor, patch: Prediction) -> tuple[Tensor, Prediction]:
        """How far the level of patches is off (B,), and the patches with that taken off.

        The level is the median log-depth, compared with what the full image says there, `known`
        (B, 1, h, w). Up to `largest_offset` the patch may know better. Beyond, the network has not
        learned yet that an enlarged thing is no nearer one: warped with a depth that is off by its
        zoom, a patch would be judged by pixels that have nothing to do with it.
        """
        most = self.recipe.patch.largest_offset
        difference = known - patch.log_depth
        offset = difference.detach().flatten(1).median(dim=1).values
        excess = offset - offset.clamp(-most, most)
        off = F.relu(difference.mean(dim=(1, 2, 3)).abs() - most)
        log_depth = patch.log_depth + excess[:, None, None, None]
        return off, Prediction(log_depth, patch.sigma, patch.bins)

    def _draw_patches(self, step: Step) -> Patches:
        settings = self.recipe.patch
        height, width = step.clean.shape[-2:]
        size = (_multiple(height * settings.height_share), _multiple(width * settings.width_share))
        return draw_patches(
            step.full.log_depth.detach(),
            step.clean[0],
            step.batch.intrinsics,
            size,
            (settings.minimum_zoom, settings.maximum_zoom),
            settings.choice,
            step.batch.seeds.tolist(),
        )

    def _distillation_weight(self, share: float) -> float:
        settings = self.recipe.distillation
        if not settings.enabled or share < settings.start:
            return 0.0
        length = max(settings.full - settings.start, 1e-9)
        return settings.weight * min(1.0, (share - settings.start) / length)

    def _distil(
        self,
        shown: Tensor,
        view: _PatchView,
        seen: Reprojection,
        by_full: Reprojection | None,
        patch: Prediction,
    ) -> Distillation:
        """Let the patch, or what the averaged network makes of it, teach the full image."""
        teacher = self._teacher()
        if self.recipe.distillation.teacher and teacher is not None:
            with torch.no_grad():
                patch = predict(teacher, shown, view.intrinsics, self.recipe.canonical_focal_px)
        with torch.autocast(shown.device.type, enabled=False):
            return distillation_loss(
                F.avg_pool2d(view.known, 2),
                F.avg_pool2d(patch.log_depth, 2),
                self._evidence(view, seen, by_full, patch),
                view.patches.zoom,
                masked=self.recipe.distillation.masked,
            )

    @torch.no_grad()
    def _evidence(
        self,
        view: _PatchView,
        seen: Reprojection,
        by_full: Reprojection | None,
        patch: Prediction,
    ) -> DistillationInputs:
        """What distillation goes by, on the stride-2 grid."""
        by_full = by_full or self._judge(view, view.known)
        moving = seen.auto_mask.float()
        inside = torch.zeros_like(F.avg_pool2d(moving, 2), dtype=torch.bool)
        inside[..., MARGIN:-MARGIN, MARGIN:-MARGIN].fill_(True)  # `= True` waits for a GPU
        # the parallax is the sensitivity, too: a shift falls as 1 / Z
        sensitivity = view.parallax(view.known.exp()) / view.patches.zoom[:, None, None, None]
        return DistillationInputs(
            full_error=F.avg_pool2d(by_full.error, 2),
            patch_error=F.avg_pool2d(seen.error, 2),
            auto_mask=F.avg_pool2d(moving, 2) > 0.5,
            sensitivity=F.avg_pool2d(sensitivity, 2),
            sigma=patch.sigma.detach(),
            inside=inside,
        )


@dataclass(frozen=True)
class _PatchView:
    """Patches, the cameras and motions through which they are compared with the full sources.

    And what the full image says of their depth.
    """

    patches: Patches
    factor: float  # of the fine images
    intrinsics: Tensor  # (B, 4) of the patches
    K_fine: Tensor  # (B, 3, 3) of the sources
    motions: Tensor  # (2, B, 4, 4) T_source_target, no gradient
    sources: Tensor  # (2, B, 3, fH, fW) uint8
    target: Target
    known: Tensor  # (B, 1, h, w) log-depth of the full image
    unmasked_px: float

    @property
    def K(self) -> Tensor:
        """(B, 3, 3) of the patches."""
        return camera_matrix(self.intrinsics)

    def warp(self, depth: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The patches made from both sources, and where they lie inside them."""
        views = [
            inverse_warp(source, depth, motion, self.K, self.K_fine)
            for source, motion in zip(self.sources, self.motions, strict=True)
        ]
        return [(view / 255.0, inside) for view, inside in views]

    def parallax(self, depth: Tensor) -> Tensor:
        """The pixels of the patch by which the sources move for not being far."""
        return find_parallax(depth, self.motions, self.K, self.intrinsics[:, :2])


def _multiple(length: float) -> int:
    """The multiple of 32 nearest to `length`, at least 32."""
    return max(32, round(length / 32) * 32)
