"""The patch branch of PSD: far regions enlarged, judged by photometry, and teaching the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from psd_depth_ros.losses.distillation import distil, Evidence
from psd_depth_ros.losses.photometric import Reprojection
from psd_depth_ros.losses.smoothness import smoothness
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.views import (
    aim,
    compare,
    draw_samples,
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
        settings, batch = self.recipe.patch, step.batch
        assert batch.fine is not None, 'the batches lack fine images'
        assert batch.fine_shown is not None, 'the batches lack fine images'
        teaches = self._distillation_weight(step.share) > 0
        zero = step.motions.new_zeros(())
        step.terms.update(patch_photometric=zero, patch_smoothness=zero, patch_level=zero)
        if settings.full_image > 0:
            step.terms['patch_full_image'] = zero
        if teaches:
            step.terms['distillation'] = zero
        chosen = draw_samples(batch.seeds, settings.share, salt=1)
        if not chosen:
            return
        rows = torch.tensor(chosen, device=step.K.device)
        patches = self._draw_patches(step, chosen)
        factor = batch.fine.shape[-1] / batch.clean.shape[-1]
        fine = batch.fine[rows].transpose(0, 1).float()  # (3, b, 3, fH, fW), 0 .. 255
        image = patches.cut(fine[0], factor) / 255.0
        shown = patches.cut(batch.fine_shown[rows].float(), factor) / 127.5 - 1.0
        intrinsics = patches.intrinsics(batch.intrinsics[rows])
        patch = predict(step.network, shown, intrinsics, self.recipe.canonical_focal_px)
        if settings.convention == 'metric':
            patch = Prediction(
                patch.log_depth - patches.zoom.log()[:, None, None, None], patch.sigma, patch.bins
            )
        with torch.autocast(shown.device.type, enabled=False):
            geometry = _PatchGeometry(
                patches,
                camera_matrix(intrinsics),
                camera_matrix(resize_intrinsics(batch.intrinsics[rows], factor)),
                step.motions[:, rows].detach(),
                fine[1:],
            )
            known = sample(step.full.log_depth[rows], patches.pixels())
            level, patch = self._keep_level(known, patch)
            valid = sample(batch.valid[rows].float(), patches.pixels()) > 0.5
            with torch.no_grad():
                still = torch.stack([patches.cut(one, factor) for one in fine[1:]]) / 255.0
            target = aim(self.recipe.objective, image, still, valid)
            seen, _ = self._judge(target, geometry, patch.log_depth)
            scale = settings.weight / (1.0 + settings.weight) / (len(batch.seeds) * settings.share)
            step.terms['patch_photometric'] = scale * seen.loss.sum()
            by_full = None
            if settings.full_image > 0:
                by_full = self._judge(target, geometry, known)
                loss = settings.full_image * scale * by_full[0].loss.sum()
                step.terms['patch_full_image'] = loss
            elif teaches:
                by_full = self._judge(target, geometry, known.detach())
            disparity = (-patch.log_depth).exp()
            step.terms['patch_smoothness'] = (
                scale * self.recipe.objective.smoothness * smoothness(disparity, image).sum()
            )
            step.terms['patch_level'] = settings.level * scale * level.sum()
            pictures.patches, pictures.patch_image, pictures.patch = patches, image, patch
            pictures.patch_rows = chosen
            pictures.patch_error = seen.error
        if by_full is not None and teaches:
            evidence = self._evidence(seen, *by_full, patches.zoom, patch)
            self._distil(step, shown, intrinsics, patch, known, evidence, patches, pictures)

    def _judge(
        self, target: Target, geometry: _PatchGeometry, log_depth: Tensor
    ) -> tuple[Reprojection, Tensor]:
        """How well a depth explains the patches, and their parallax by it."""
        depth = log_depth.exp()
        parallax = geometry.parallax(depth)
        return compare(self.recipe.objective, target, geometry.warp(depth), parallax), parallax

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

    def _draw_patches(self, step: Step, chosen: Sequence[int]) -> Patches:
        settings = self.recipe.patch
        rows = torch.tensor(chosen, device=step.K.device)
        height, width = step.clean.shape[-2:]
        size = (_multiple(height * settings.height_share), _multiple(width * settings.width_share))
        return draw_patches(
            step.full.log_depth.detach()[rows],
            step.clean[0][rows],
            step.batch.intrinsics[rows],
            size,
            (settings.minimum_zoom, settings.maximum_zoom),
            settings.choice,
            [int(step.batch.seeds[i]) for i in chosen],
        )

    def _distillation_weight(self, share: float) -> float:
        settings = self.recipe.distillation
        if not settings.enabled or share < settings.start:
            return 0.0
        length = max(settings.full - settings.start, 1e-9)
        return settings.weight * min(1.0, (share - settings.start) / length)

    def _distil(
        self,
        step: Step,
        shown: Tensor,
        intrinsics: Tensor,
        patch: Prediction,
        known: Tensor,
        evidence: Evidence,
        patches: Patches,
        pictures: Pictures,
    ) -> None:
        teacher = self._teacher()
        if self.recipe.distillation.teacher and teacher is not None:
            with torch.no_grad():
                patch = predict(teacher, shown, intrinsics, self.recipe.canonical_focal_px)
        with torch.autocast(shown.device.type, enabled=False):
            result = distil(
                F.avg_pool2d(known, 2),
                F.avg_pool2d(patch.log_depth, 2),
                evidence,
                patches.zoom,
                masked=self.recipe.distillation.masked,
            )
            weight = self._distillation_weight(step.share)
            count = len(step.batch.seeds) * self.recipe.patch.share
            step.terms['distillation'] = weight * result.loss.sum() / count
            pictures.taught = result.mask

    @torch.no_grad()
    def _evidence(
        self,
        seen: Reprojection,
        by_full: Reprojection,
        parallax: Tensor,
        zoom: Tensor,
        patch: Prediction,
    ) -> Evidence:
        """What distillation goes by, on the stride-2 grid; `parallax` by the full image's depth.

        That is its sensitivity, too: a shift falls as 1 / Z.
        """
        moving = seen.moving.float()
        inside = torch.zeros_like(F.avg_pool2d(moving, 2), dtype=torch.bool)
        inside[..., MARGIN:-MARGIN, MARGIN:-MARGIN] = True
        return Evidence(
            full_error=F.avg_pool2d(by_full.error, 2),
            patch_error=F.avg_pool2d(seen.error, 2),
            moving=F.avg_pool2d(moving, 2) > 0.5,
            sensitivity=F.avg_pool2d(parallax / zoom[:, None, None, None], 2),
            sigma=patch.sigma.detach(),
            inside=inside,
        )


@dataclass(frozen=True)
class _PatchGeometry:
    """The cameras and motions through which patches are compared with the full sources."""

    patches: Patches
    K: Tensor  # (B, 3, 3) of the patches
    K_fine: Tensor  # (B, 3, 3) of the sources
    motions: Tensor  # (2, B, 4, 4) T_source_target, no gradient
    sources: Tensor  # (2, B, 3, fH, fW) in 0 .. 255

    def warp(self, depth: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The patches made from both sources, and where they lie inside them."""
        views = [
            inverse_warp(source, depth, motion, self.K, self.K_fine)
            for source, motion in zip(self.sources, self.motions, strict=True)
        ]
        return [(view / 255.0, inside) for view, inside in views]

    def parallax(self, depth: Tensor) -> Tensor:
        """The pixels of the patch by which the sources move for not being far."""
        focal = torch.stack([self.K[:, 0, 0], self.K[:, 1, 1]], dim=1)
        return find_parallax(depth, self.motions, self.K, focal)


def _multiple(length: float) -> int:
    """The multiple of 32 nearest to `length`, at least 32."""
    return max(32, round(length / 32) * 32)
