"""The self-supervised objective, PSD complete: every term a named method with its own switch.

Conventions of every transform are those of `geometry`; depth of the network is canonical, so one
rule Z = Z' fx / f_c serves the full image, an enlarged patch and a pasted part. Networks run under
the caller's autocast; depth, warping and losses are float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.geometry.warp import (
    backproject,
    camera_matrix,
    inside_image,
    inverse_warp,
    invert,
    project,
    sample,
    transform,
)
from psd_depth_ros.losses.distillation import huber
from psd_depth_ros.losses.photometric import (
    depth_difference,
    masked_mean,
    Reprojection,
    smoothness,
)
from psd_depth_ros.losses.scale import camera_height_error, lidar_error, velocity_error
from psd_depth_ros.losses.supervised import bin_uniformity
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.odometry.alignment import refine_motions
from psd_depth_ros.training.mix_branch import MixBranch
from psd_depth_ros.training.patch_branch import PatchBranch
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.views import (
    aim,
    compare,
    EARLIER,
    find_parallax,
    LATER,
    Mixed,
    Pictures,
    predict,
    Prediction,
    Step,
)

NARROWEST = 64  # px of the pose network's input, which is halved six times


class SelfSupervision(nn.Module):
    """Depth and pose network with the losses that train them from image triplets.

    `start` is the network the run began with, for the terms against forgetting; `teacher`, when
    set, is the averaged network. Neither is trained or saved with the module.
    """

    def __init__(
        self, recipe: VideoRecipe, depth: DepthModel, pose: PoseNet, start: DepthModel | None
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.depth = depth
        self.pose = pose
        self._others: dict[str, DepthModel] = {} if start is None else {'start': start}
        self._patches = PatchBranch(recipe, lambda: self.teacher)
        self._mixes = MixBranch(recipe)

    @property
    def teacher(self) -> DepthModel | None:
        """The averaged network, where it was given."""
        return self._others.get('teacher')

    def _apply(self, function: Callable[..., Any], recurse: bool = True) -> SelfSupervision:
        """Move the other networks with the module."""
        for network in self._others.values():
            network._apply(function, recurse)
        super()._apply(function, recurse)
        return self

    def set_teacher(self, teacher: DepthModel) -> None:
        """Take the patch depth that teaches from `teacher` (settings `distillation.teacher`)."""
        self._others['teacher'] = teacher

    def forward(
        self, batch: TripletBatch, share: float, pictures: Pictures | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms of a step at `share` of the run; their sum is the loss.

        Each is a mean over the samples of the batch. `pictures` is filled where given.
        """
        return self._terms(self._begin(self.depth, batch, share), pictures or Pictures())

    def look(self, depth: DepthModel, batch: TripletBatch, pictures: Pictures) -> None:
        """Fill `pictures` with what another network, such as the averaged one, would see."""
        self._terms(self._begin(depth, batch, 1.0), pictures)

    def _terms(self, step: Step, pictures: Pictures) -> dict[str, Tensor]:
        share = step.share
        with torch.autocast(step.shown.device.type, enabled=False):
            sight = self._look(step)
            step.terms['smoothness'] = self._smoothness(step.full, step.clean[0])
            self._regularise_bins(step)
            self._tie_scale(step)
        self._anchor(step)
        pictures.full, pictures.sight = step.full, sight
        full_weight = 1.0
        if self.recipe.patch.enabled:
            self._patches.add(step, pictures)
            if share >= self.recipe.patch.start:
                full_weight = 1.0 / (1.0 + self.recipe.patch.weight)
        step.terms['photometric'] = full_weight * sight.loss.mean()
        step.terms['smoothness'] = full_weight * step.terms['smoothness']
        self._mixes.add(step)
        return step.terms

    def compare_full(self, batch: TripletBatch, full: Prediction, motions: Tensor) -> Reprojection:
        """Compare targets with what a prediction and aligned motions make of their neighbours.

        Motions are aligned whatever the recipe says: depth is to be judged here, not the pose
        network.
        """
        shown = self.depth.normalise(batch.image_augmented)
        step = self._gather(self.depth, batch, 1.0, full, motions, shown)
        step.motions = self._align(step)
        return self._look(step)

    def _begin(self, depth: DepthModel, batch: TripletBatch, share: float) -> Step:
        shown = self.depth.normalise(batch.image_augmented)
        full, mixed = self._predict_both(depth, batch, share, shown[:, 0])
        step = self._gather(depth, batch, share, full, self.motions(batch, shown), shown)
        step.mixed = mixed
        if self.refines(share):
            with torch.autocast(shown.device.type, enabled=False):
                aligned = self._align(step)
                unit = full.depth.detach().flatten(1).median(dim=1).values
                step.terms['pose'] = pose_error(step.motions, aligned, unit)
                step.motions = aligned
        return step

    def _gather(
        self,
        network: DepthModel,
        batch: TripletBatch,
        share: float,
        full: Prediction,
        motions: Tensor,
        shown: Tensor,
    ) -> Step:
        clean = (batch.image.float() / 255.0).transpose(0, 1).contiguous()
        K = camera_matrix(batch.intrinsics)
        return Step(network, batch, share, shown, clean, K, motions, full)

    # The networks.

    def predict(self, network: DepthModel, image: Tensor, intrinsics: Tensor) -> Prediction:
        """Metric log-depth of normalised images."""
        return predict(network, image, intrinsics, self.recipe.canonical_focal_px)

    def _predict_both(
        self, network: DepthModel, batch: TripletBatch, share: float, shown: Tensor
    ) -> tuple[Prediction, Mixed | None]:
        """What a network says of the targets, and of the mixed ones: in one pass."""
        drawn = self._mixes.draw(batch, shown, share)
        if drawn is None:
            return self.predict(network, shown, batch.intrinsics), None
        images = torch.cat([shown, drawn.image])
        intrinsics = torch.cat([batch.intrinsics, batch.intrinsics[drawn.rows]])
        both = self.predict(network, images, intrinsics)
        mixed = both.take(slice(len(shown), None))
        return both.take(slice(len(shown))), Mixed(drawn.rows, drawn.donors, drawn.mix, mixed)

    def motions(self, batch: TripletBatch, shown: Tensor) -> Tensor:
        """T_source_target of both sources, (2, B, 4, 4): odometry where known, and a correction.

        The network sees frames in the order of time; the motion to the earlier source is the
        inverse of what it says.
        """
        height, width = (round(self.recipe.pose_width * side) for side in shown.shape[-2:])
        size = (height, max(width, NARROWEST))
        small = F.interpolate(shown.flatten(0, 1), size, mode='area')
        target, earlier, later = small.unflatten(0, shown.shape[:2]).unbind(1)
        found = self.pose(torch.cat([earlier, target]), torch.cat([target, later])).float()
        with torch.autocast(shown.device.type, enabled=False):
            before, after = found.chunk(2)
            motions = torch.stack([invert(before), after])
            if not (self.recipe.use_known_poses or self.recipe.estimate_poses):
                return motions
            odometry = batch.pose_prior.transpose(0, 1)
            known = torch.isfinite(odometry).all(dim=(-2, -1))[..., None, None]
            eye = torch.eye(4, device=motions.device)
            return torch.where(known, odometry, eye) @ motions

    def refines(self, share: float) -> bool:
        """Whether motions are refined at `share` of the run."""
        recipe = self.recipe
        return recipe.refine_from < 1.0 and recipe.refine_from <= share <= recipe.refine_until

    def _align(self, step: Step) -> Tensor:
        """The motions brought to where the images align; without a gradient."""
        return refine_motions(
            step.clean[0].repeat(2, 1, 1, 1),
            step.clean[1:].flatten(0, 1),
            step.full.depth.detach().repeat(2, 1, 1, 1),
            step.batch.intrinsics.repeat(2, 1),
            step.motions.detach().flatten(0, 1),
            step.batch.valid.repeat(2, 1, 1, 1),
        ).unflatten(0, (2, -1))

    # The full image.

    def _look(self, step: Step) -> Reprojection:
        """Compare the target with what its neighbours and the depth of the full image make."""
        batch, settings = step.batch, self.recipe.objective
        views = [
            inverse_warp(step.clean[1 + i], step.full.depth, step.motions[i], step.K, step.K)
            for i in (EARLIER, LATER)
        ]
        weight = self._agreement(step) if settings.geometry > 0 else None
        target = aim(settings, step.clean[0], step.clean[1:], batch.valid)
        counted = None
        unmasked_px = self.recipe.far.unmasked_at(step.share)
        if unmasked_px > 0:
            focal = batch.intrinsics[:, :2]
            parallax = find_parallax(step.full.depth, step.motions, step.K, focal)
            counted = parallax < unmasked_px
        return compare(settings, target, views, counted, weight)

    def _agreement(self, step: Step) -> Tensor:
        """The term of depth consistency; returns the weight 1 - D of the photometric error."""
        with torch.no_grad():
            other = self.predict(step.network, step.shown[:, 2], step.batch.intrinsics)
        points = transform(step.motions[LATER], backproject(step.full.depth, step.K))
        pixels = project(points, step.K)
        difference = depth_difference(points[:, 2:], sample(other.depth, pixels))
        mask = inside_image(pixels, points, difference.shape[-2:]) & step.batch.valid
        weight = self.recipe.objective.geometry
        step.terms['geometry'] = weight * masked_mean(difference, mask).mean()
        return 1.0 - torch.where(mask, difference.detach(), 0.0)

    def _smoothness(self, prediction: Prediction, image: Tensor) -> Tensor:
        disparity = (-prediction.log_depth).exp()
        return self.recipe.objective.smoothness * smoothness(disparity, image).mean()

    def _regularise_bins(self, step: Step) -> None:
        bins, settings = step.full.bins, self.recipe.objective
        if bins is None:
            return
        if settings.uniformity > 0:
            step.terms['uniformity'] = settings.uniformity * bin_uniformity(bins.widths)
        if settings.bin_usage > 0:
            step.terms['bin_usage'] = settings.bin_usage * unused_bins(bins.logits).mean()

    def _tie_scale(self, step: Step) -> None:
        settings, batch = self.recipe.objective, step.batch
        motions = step.motions
        if settings.velocity > 0:
            lengths = motions[..., :3, 3].transpose(0, 1)
            if self.refines(step.share):  # aligned motions are as long as depth is large
                mean = step.full.log_depth.mean(dim=(1, 2, 3))
                lengths = lengths * (mean - mean.detach()).exp()[:, None, None]
            error = velocity_error(lengths, batch.distance_m)
            step.terms['velocity'] = settings.velocity * error.mean()
        if settings.camera_height > 0:
            points = backproject(step.full.depth, step.K)[..., ::2, ::2]
            error = camera_height_error(points, batch.camera_height_m)
            step.terms['camera_height'] = settings.camera_height * error.mean()
        if settings.lidar > 0:
            error = lidar_error(step.full.log_depth, batch.lidar)
            step.terms['lidar'] = settings.lidar * error.mean()
        known = self.recipe.use_known_poses or self.recipe.estimate_poses
        if settings.pose_prior > 0 and known:
            step.terms['pose_prior'] = settings.pose_prior * correction_size(
                motions, batch.pose_prior.transpose(0, 1)
            )

    def _anchor(self, step: Step) -> None:
        settings = self.recipe.objective
        if 'start' not in self._others or settings.anchor + settings.anchor_scale == 0:
            return
        with torch.no_grad():
            start = self.predict(self._others['start'], step.shown[:, 0], step.batch.intrinsics)
        difference = step.full.log_depth - start.log_depth
        if settings.anchor > 0:
            step.terms['anchor'] = settings.anchor * huber(difference).mean()
        if settings.anchor_scale > 0:
            offset = huber(difference.mean(dim=(1, 2, 3)))
            step.terms['anchor_scale'] = settings.anchor_scale * offset.mean()


def unused_bins(logits: Tensor) -> Tensor:
    """ln Q - entropy of the mean use of the Q bins (B,): 0 where all are used alike."""
    use = logits.float().softmax(dim=1).mean(dim=(2, 3))  # (B, Q)
    return (use * (use * use.shape[1]).clamp(min=1e-8).log()).sum(dim=1)


def pose_error(motions: Tensor, wanted: Tensor, unit: Tensor) -> Tensor:
    """Mean difference of poses (2, B, 4, 4): entries of R, and of t in units (B,) of length."""
    difference = (motions - wanted).abs()
    turn = difference[..., :3, :3].sum(dim=(-2, -1))
    return (turn + difference[..., :3, 3].sum(dim=-1) / unit).mean()


def correction_size(motions: Tensor, odometry: Tensor) -> Tensor:
    """Mean squared difference of poses (2, B, 4, 4) from the known ones; 0 where none is known."""
    known = torch.isfinite(odometry)
    difference = torch.where(known, motions - torch.where(known, odometry, 0.0), 0.0)
    return difference.square().sum(dim=(-2, -1)).mean()
