"""PatchMix in a step: images with foreign parts, every part judged by its own geometry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from psd_depth_ros.augment.patch_mix import draw_mix, Mix
from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.geometry.warp import (
    backproject_pixels,
    inside_image,
    pixel_grid,
    project,
    sample,
    transform,
)
from psd_depth_ros.losses.distillation import scale_invariant, warp_sensitivity
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.views import (
    aim,
    compare,
    EARLIER,
    LATER,
    Mixed,
    Step,
)


class Drawn(NamedTuple):
    """Which samples of a batch are mixed with parts of which others, and what comes of it."""

    rows: Tensor
    donors: Tensor
    mix: Mix
    image: Tensor  # (b, 3, H, W) normalised


class MixBranch:
    """Draws the mixed images of a step, and adds their terms.

    Between both the network sees them, together with the images as they are.
    """

    def __init__(self, recipe: VideoRecipe) -> None:
        self.recipe = recipe

    def draw(self, batch: TripletBatch, shown: Tensor, share: float) -> Drawn | None:
        """Mix some of the normalised targets (B, 3, H, W) at `share` of the run; None for none."""
        if not self._begins(share) or len(batch.seeds) < 2:
            return None
        chosen = _draw_samples(batch.seeds, self.recipe.patch_mix.share)
        if not chosen:
            return None
        partners = [_partner(i, len(batch.seeds)) for i in chosen]
        rows = torch.tensor(chosen).to(shown.device, non_blocking=True)
        donors = torch.tensor(partners).to(shown.device, non_blocking=True)
        seeds = [int(batch.seeds[i]) + 3 for i in chosen]
        mix = draw_mix((shown.shape[-2], shown.shape[-1]), seeds).to(shown.device)
        return Drawn(rows, donors, mix, mix.apply(shown[rows], shown[donors]))

    def _begins(self, share: float) -> bool:
        return self.recipe.patch_mix.enabled and share >= self.recipe.patch_mix.start

    def add(self, step: Step) -> None:
        """Judge every part of the mixed images by its own geometry."""
        if not self._begins(step.share):
            return
        settings, batch = self.recipe.patch_mix, step.batch
        zero = step.motions.new_zeros(())
        step.terms.update(mix_photometric=zero, mix_consistency=zero)
        if step.mixed is None:
            return
        rows, donors, mix = step.mixed.rows, step.mixed.donors, step.mixed.mix
        own = step.mixed.prediction
        with torch.autocast(step.K.device.type, enabled=False):
            # a pasted pixel has the focal length of the donor, enlarged
            focal = mix.zoom * batch.intrinsics[donors, 0] / batch.intrinsics[rows, 0]
            pasted = own.log_depth + focal.log()[:, None, None, None]
            log_depth = torch.where(mix.pasted, pasted, own.log_depth)
            views = self._mixed_views(step, step.mixed, log_depth.exp())
            image = mix.apply(step.clean[0][rows], step.clean[0][donors])
            still = torch.stack(
                [mix.apply(step.clean[1 + i][rows], step.clean[1 + i][donors]) for i in (0, 1)]
            )
            valid = mix.judged & torch.where(
                mix.pasted,
                sample(batch.valid[donors].float(), mix.pixels) > 0.5,
                batch.valid[rows],
            )
            target = aim(self.recipe.objective, image, still, valid)
            unmasked_px = self.recipe.far.unmasked_at(step.share)
            counted = None
            if unmasked_px > 0:
                counted = self._mixed_parallax(step, step.mixed, log_depth.exp()) < unmasked_px
            seen = compare(self.recipe.objective, target, views, counted)
            count = len(batch.seeds)
            step.terms['mix_photometric'] = settings.weight * seen.loss.sum() / count
            clean = mix.apply(
                step.full.log_depth.detach()[rows], step.full.log_depth.detach()[donors]
            )
            agreement = scale_invariant(log_depth - clean, mix.judged)
            step.terms['mix_consistency'] = settings.consistency * agreement.sum() / count

    def _mixed_views(self, step: Step, mixed: Mixed, depth: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both sources seen through a mixed depth, every pixel in the geometry of its image."""
        views = []
        for i in (EARLIER, LATER):
            result = []
            for index, points in self._moved(step, mixed, depth, i):
                landed = project(points, step.K[index])
                inside = inside_image(landed, points, depth.shape[-2:])
                result.append((sample(step.clean[1 + i][index], landed), inside))
            view, inside = (
                torch.where(mixed.mix.pasted, other, own)
                for own, other in zip(*result, strict=True)
            )
            views.append((view, inside))
        return views

    @torch.no_grad()
    def _mixed_parallax(self, step: Step, mixed: Mixed, depth: Tensor) -> Tensor:
        """The pixels by which the larger of both motions moves things for not being far."""
        found = []
        for i in (EARLIER, LATER):
            own, other = (
                warp_sensitivity(
                    points, step.motions[i][index, :3, 3], step.batch.intrinsics[index, :2]
                )
                for index, points in self._moved(step, mixed, depth, i)
            )
            found.append(torch.where(mixed.mix.pasted, other, own))
        return torch.maximum(*found)

    def _moved(
        self, step: Step, mixed: Mixed, depth: Tensor, source: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The points of a mixed depth in the frame of a source: as of the target, as of the donor.

        Each with the samples of the batch that these are.
        """
        height, width = depth.shape[-2:]
        grid = pixel_grid(height, width, depth.device).expand(len(depth), -1, -1, -1)
        for index, pixels in ((mixed.rows, grid), (mixed.donors, mixed.mix.pixels)):
            points = backproject_pixels(depth, pixels, step.K[index])
            yield index, transform(step.motions[source][index].detach(), points)


def _draw_samples(seeds: Tensor, share: float) -> list[int]:
    """Which samples of a batch are mixed, each with probability `share` by its own seed."""
    chosen = []
    for index, seed in enumerate(seeds.tolist()):
        generator = torch.Generator().manual_seed(seed + 2)
        if float(torch.rand((), generator=generator)) < share:
            chosen.append(index)
    return chosen


def _partner(index: int, count: int) -> int:
    """The neighbour in a batch whose parts are pasted into sample `index`."""
    return index + 1 if index % 2 == 0 and index + 1 < count else index - 1
