"""PSD, top to bottom: patches, self-distillation, bin regularisers, PatchMix.

Yu, Pan, Chen, Tian, Wang, Yu, Leung 2025, "Exploiting the Potential of Self-Supervised Monocular
Depth Estimation via Patch-Based Self-Distillation", IEEE Internet of Things Journal,
https://doi.org/10.1109/JIOT.2025.3540917. The paper's ideas; equations that are not public are
our own:

1. A patch is a distant region, enlarged and cropped from finer pixels (`augment.patches`). The
   student sees it as an image of its own camera, and photometry judges it (`patch`).
2. Depth of the patch is a pseudo-label of the full image, where the patch explains the images
   better, or where photometry says nothing (`distillation`).
3. Bins stay in use and do not collapse (`bin_usage`, `bin_uniformity`).
4. PatchMix: parts of another image are pasted into the target, and every part is judged by the
   geometry of its own image (`mix`, `mix_consistency`).

`distant` is our own: it judges the full image's depth by the finer pixels of the patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.augment.patch_mix import Mix, sample_mix
from psd_depth_ros.augment.patches import Patches, sample_patches
from psd_depth_ros.config import setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry.warp import (
    backproject_pixels,
    camera_matrix,
    inside_image,
    inverse_warp,
    pixel_grid,
    project,
    resize_intrinsics,
    sample,
    transform,
)
from psd_depth_ros.losses.depth import huber, scale_invariant, warp_sensitivity
from psd_depth_ros.losses.photometric import Reprojection, smoothness
from psd_depth_ros.objectives.base import (
    Context,
    draw_depth,
    EARLIER,
    Image,
    Input,
    LATER,
    Prediction,
    STUDENT,
    Term,
    TermSettings,
)
from psd_depth_ros.objectives.photometric import (
    find_parallax,
    MAX_SHOWN_ERROR,
    Photometric,
    Target,
)
from psd_depth_ros.teachers import EMA
from psd_depth_ros.visualisation import draw_box, draw_heat

MAX_DIFFERENCE = 0.7  # of log-depth, between teacher and student
MIN_ERROR_GAIN = 0.002  # photometric, for the teacher to count as better
MIN_PARALLAX_PX = 0.25  # below it, photometry says nothing
MAX_TEACHER_SIGMA = 0.15  # of the teacher where photometry says nothing
SENSITIVITY_SCALE_PX = 2.0
MARGIN = 4  # cells of stride 2 at the border of a patch that teach nothing
PATCH_COLOUR = (255, 220, 0)
MIX_SEED, DONOR_SEED = 2, 3  # added to a sample's seed for draws that are independent


# 1. Patches.


@dataclass(frozen=True)
class PatchSettings(TermSettings):
    """Which patches are cut."""

    minimum_zoom: float = setting(1.5, 'Smallest enlargement', minimum=1.0, maximum=8.0)
    maximum_zoom: float = setting(2.5, 'Largest enlargement', minimum=1.0, maximum=8.0)
    width: float = setting(
        0.6, "Width of the patch over that of the network's input", minimum=0.1, maximum=1.0
    )
    height: float = setting(
        0.75, "Height of the patch over that of the network's input", minimum=0.1, maximum=1.0
    )
    fraction: float = setting(
        1.0, 'Fraction of the steps that have patches, for all their images: a network is slow at '
        'few images', minimum=0.001, maximum=1.0,
    )  # fmt: skip
    selection: str = setting(
        'distant', 'Where patches are cut: distant and textured, at random, or about the '
        'principal point', choices=('distant', 'random', 'centre'),
    )  # fmt: skip
    largest_offset: float = setting(
        0.2, "Largest difference of the median log-depth of a patch from the full image's; the "
        'excess is removed before the patch is judged', minimum=0.0, maximum=10.0,
    )  # fmt: skip
    convention: str = setting(
        'canonical', 'Depth that the network predicts of a patch: canonical, to be multiplied by '
        'the zoom, or metric as the control of the ablation', choices=('canonical', 'metric'),
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse an empty range of zooms."""
        super().__post_init__()
        if self.minimum_zoom > self.maximum_zoom:
            raise SettingsError(
                f'minimum_zoom {self.minimum_zoom:g} is above maximum_zoom {self.maximum_zoom:g}'
            )


@dataclass(frozen=True)
class PatchView:
    """Patches, with the cameras and motions that relate them to the full sources."""

    patches: Patches
    factor: float  # size of the fine images over that of the network's input
    intrinsics: Tensor  # (B, 4) of the patches
    K_fine: Tensor  # (B, 3, 3) of the sources
    poses: Tensor  # (2, B, 4, 4) T_source_target, no gradient
    sources: Tensor  # (2, B, 3, fH, fW) uint8
    target: Target
    full_log_depth: Tensor  # (B, 1, h, w) of the full image, at the pixels of the patch
    weight: Tensor | None  # (B, 1, h, w) of the photometric error, as in the full image; None: 1

    @property
    def K(self) -> Tensor:
        """(B, 3, 3) of the patches."""
        return camera_matrix(self.intrinsics)

    def warp(self, depth: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Both sources warped into the patches by depth (B, 1, h, w), and where they are seen."""
        warped = [
            inverse_warp(source, depth, pose, self.K, self.K_fine)
            for source, pose in zip(self.sources, self.poses, strict=True)
        ]
        return [(image / 255.0, inside) for image, inside in warped]

    def parallax(self, depth: Tensor) -> Tensor:
        """Parallax in pixels of the patch, (B, 1, h, w)."""
        return find_parallax(depth, self.poses, self.K, self.intrinsics[:, :2])


class Patch(Term):
    """Photometric error of enlarged patches, seen by the student as images of their own.

    In steps without patches it is 0; steps with them stand for those, too.
    """

    name = 'patch'
    Settings = PatchSettings
    settings: PatchSettings
    needs = frozenset({'fine', 'fine_augmented'})
    requires = frozenset({'photometric'})

    @property
    def field_fractions(self) -> Mapping[str, float]:
        """The student sees patches in a fraction of the steps."""
        settings = self.settings
        return {'fine_augmented': settings.fraction if settings.weight > 0 else 0.0}

    def __call__(self, context: Context) -> Tensor:
        """Mean error of each sample."""
        if not self.is_seen(context):
            return context.zeros()
        return self.reprojection(context).loss / self.settings.fraction

    def is_seen(self, context: Context) -> bool:
        """Whether the student sees patches in this step."""
        return self.name in context.terms and 'fine_augmented' in context.batch

    def view(self, context: Context) -> PatchView:
        """The patch of each sample, with all it is compared with."""

        def cut() -> PatchView:
            batch, full = context.batch, context.prediction()
            patches = self._draw(context, full)
            factor = batch.fine.shape[-1] / batch.image.shape[-1]
            fine = batch.fine.transpose(0, 1)  # (3, B, 3, fH, fW) uint8
            image, *sources = (patches.cut(one, factor) / 255.0 for one in fine)
            valid = sample(batch.valid.float(), patches.pixels()) > 0.5
            weight = context.photometric_weight
            return PatchView(
                patches,
                factor,
                patches.intrinsics(context.intrinsics),
                camera_matrix(resize_intrinsics(context.intrinsics, factor)),
                context.poses().detach(),
                fine[1:],
                self._photometric.prepare_target(image, torch.stack(sources), valid),
                sample(full.log_depth, patches.pixels()),
                None if weight is None else sample(weight, patches.pixels()),
            )

        return context.once('patch view', cut)

    def prediction(self, context: Context, network: str = STUDENT) -> Prediction:
        """Depth of the patches by a network, before `levelled`."""

        def compute() -> Prediction:
            view = self.view(context)
            shown = view.patches.cut(context.batch.fine_augmented, view.factor) / 255.0
            found = context.predict(
                context.network(network),
                Input(shown, view.intrinsics),
                with_grad=network == STUDENT,
            )
            if self.settings.convention == 'metric':
                return _shifted(found, -view.patches.zoom.log())
            return found

        return context.once(('patch prediction', network), compute)

    def levelled(self, context: Context, network: str = STUDENT) -> tuple[Prediction, Tensor]:
        """Depth of the patches at the level of the full image, and how far it was off (B,).

        The level is the median log-depth. Up to `largest_offset` the patch may know better.
        Beyond, the network has not learned yet that an enlarged thing is no nearer one: warped
        with a depth that is off by its zoom, a patch would be compared with pixels that have
        nothing to do with it.
        """

        def compute() -> tuple[Prediction, Tensor]:
            most = self.settings.largest_offset
            found = self.prediction(context, network)
            difference = self.view(context).full_log_depth - found.log_depth
            offset = difference.detach().flatten(1).median(dim=1).values
            excess = offset - offset.clamp(-most, most)
            off = F.relu(difference.mean(dim=(1, 2, 3)).abs() - most)
            return _shifted(found, excess), off

        return context.once(('levelled patch', network), compute)

    def reprojection(self, context: Context, network: str = STUDENT) -> Reprojection:
        """How well the patches' own depth explains them."""

        def compute() -> Reprojection:
            with torch.set_grad_enabled(network == STUDENT and torch.is_grad_enabled()):
                return self._compare(context, self.levelled(context, network)[0].log_depth)

        return context.once(('patch reprojection', network), compute)

    def full_reprojection(self, context: Context) -> Reprojection:
        """How well the depth of the full image explains the patches."""

        def compute() -> Reprojection:
            with torch.set_grad_enabled(Distant.name in context.terms and torch.is_grad_enabled()):
                return self._compare(context, self.view(context).full_log_depth)

        return context.once('full image in patch', compute)

    def visualise(self, context: Context) -> dict[str, Image]:
        """The image with the outline of its patch, the patch, its depth and its error."""
        if not self.is_seen(context):
            return {}
        view = self.view(context)
        patch = (255.0 * view.target.image[0]).byte().permute(1, 2, 0).cpu().numpy()
        pixels = view.patches.pixels()[0].cpu().numpy()
        corners = [(round(float(x)), round(float(y))) for x, y in (pixels[0, 0], pixels[-1, -1])]
        image = context.batch.image[0, 0].permute(1, 2, 0).cpu().numpy()
        error = self.reprojection(context).error[0, 0] / MAX_SHOWN_ERROR
        return {
            'image': draw_box(image, corners[0], corners[1], PATCH_COLOUR),
            'patch': np.ascontiguousarray(patch),
            'patch_depth': draw_depth(context, self.levelled(context)[0].log_depth[0, 0]),
            'patch_error': draw_heat(error.cpu().numpy()),
        }

    @property
    def _photometric(self) -> Photometric:
        photometric: Photometric = self.others['photometric']
        return photometric

    def _compare(self, context: Context, log_depth: Tensor) -> Reprojection:
        view, depth = self.view(context), log_depth.exp()
        limit_px = self._photometric.exempt_px(context.progress)
        exempt = view.parallax(depth) < limit_px if limit_px > 0 else None
        return self._photometric.compare(view.target, view.warp(depth), exempt, view.weight)

    def _draw(self, context: Context, full: Prediction) -> Patches:
        settings = self.settings
        height, width = context.images.shape[-2:]
        return sample_patches(
            full.log_depth.detach(),
            context.images[0],
            context.intrinsics,
            (_multiple_of_32(height * settings.height), _multiple_of_32(width * settings.width)),
            (settings.minimum_zoom, settings.maximum_zoom),
            settings.selection,
            context.batch.seeds.tolist(),
        )


class PatchSmoothness(Term):
    """Edge-aware smoothness of the patches."""

    name = 'patch_smoothness'
    requires = frozenset({Patch.name})

    def __call__(self, context: Context) -> Tensor:
        """Mean of each sample."""
        patch: Patch = self.others[Patch.name]
        if not patch.is_seen(context):
            return context.zeros()
        disparity = (-patch.levelled(context)[0].log_depth).exp()
        image = patch.view(context).target.image
        return smoothness(disparity, image) / patch.settings.fraction


class PatchLevel(Term):
    """How far the level of patches is off, beyond the largest offset."""

    name = 'patch_level'
    requires = frozenset({Patch.name})

    def __call__(self, context: Context) -> Tensor:
        """In log-depth, of each sample."""
        patch: Patch = self.others[Patch.name]
        if not patch.is_seen(context):
            return context.zeros()
        return patch.levelled(context)[1] / patch.settings.fraction


class Distant(Term):
    """Photometric error of the full image's depth on the finer pixels of the patches.

    Distant things hardly move in the pixels of the full image. In every step, whether the student
    sees patches or not.
    """

    name = 'distant'
    requires = frozenset({Patch.name})

    def __call__(self, context: Context) -> Tensor:
        """Mean error of each sample."""
        patch: Patch = self.others[Patch.name]
        return patch.full_reprojection(context).loss


# 2. Self-distillation.


@dataclass(frozen=True)
class DistillationSettings(TermSettings):
    """Who teaches, and where."""

    masked: bool = setting(
        True, 'Only where the patch explains the images better, or nothing does'
    )
    teacher: bool = setting(
        False, 'Take the patch depth of the averaged network, and what that explains'
    )


class Distillation(Term):
    """The depth of the patch is a pseudo-label of the full image."""

    name = 'distillation'
    Settings = DistillationSettings
    settings: DistillationSettings
    requires = frozenset({Patch.name})

    def __init__(self, settings: DistillationSettings) -> None:
        super().__init__(settings)
        if settings.teacher:
            self.teachers = frozenset({EMA})

    def __call__(self, context: Context) -> Tensor:
        """Mean over the pixels that are taught, of each sample."""
        patch: Patch = self.others[Patch.name]
        if not patch.is_seen(context):
            return context.zeros()
        return self.result(context).loss / patch.settings.fraction

    def result(self, context: Context) -> Taught:
        """The loss and the pixels that are taught, on the stride-2 grid of the patch."""

        def compute() -> Taught:
            patch: Patch = self.others[Patch.name]
            view = patch.view(context)
            teacher = EMA if self.settings.teacher else STUDENT
            if self.settings.teacher:
                with torch.no_grad():
                    label = patch.levelled(context, teacher)[0]
            else:
                label = patch.levelled(context)[0]
            return distillation_loss(
                F.avg_pool2d(view.full_log_depth, 2),
                F.avg_pool2d(label.log_depth, 2),
                self._inputs(context, patch, teacher, label),
                view.patches.zoom,
                masked=self.settings.masked,
            )

        return context.once(self.name, compute)

    def visualise(self, context: Context) -> dict[str, Image]:
        """The pixels of the patch that are taught."""
        patch: Patch = self.others[Patch.name]
        if not patch.is_seen(context):
            return {}
        image = patch.view(context).target.image[0]
        shown = (255.0 * image).byte().permute(1, 2, 0).cpu().numpy()
        mask = cv2.resize(
            self.result(context).mask[0, 0].cpu().numpy().astype(np.uint8), shown.shape[1::-1],
            interpolation=cv2.INTER_NEAREST_EXACT,
        )  # fmt: skip
        return {'taught': shown * mask[..., None]}

    @torch.no_grad()
    def _inputs(
        self, context: Context, patch: Patch, teacher: str, label: Prediction
    ) -> DistillationInputs:
        """Per-pixel inputs of the distillation mask; errors are those of who teaches."""
        view = patch.view(context)
        by_patch, by_full = patch.reprojection(context, teacher), patch.full_reprojection(context)
        auto_mask = F.avg_pool2d(by_patch.auto_mask.float(), 2)
        inside = torch.zeros_like(auto_mask, dtype=torch.bool)
        inside[..., MARGIN:-MARGIN, MARGIN:-MARGIN].fill_(True)  # `= True` waits for a GPU
        # the parallax is the sensitivity, too: a shift falls as 1 / Z
        zoom = view.patches.zoom[:, None, None, None]
        sensitivity = view.parallax(view.full_log_depth.exp()) / zoom
        return DistillationInputs(
            full_error=F.avg_pool2d(by_full.error, 2),
            patch_error=F.avg_pool2d(by_patch.error, 2),
            auto_mask=auto_mask > 0.5,
            sensitivity=F.avg_pool2d(sensitivity, 2),
            sigma=label.sigma.detach(),
            inside=inside,
        )


class DistillationInputs(NamedTuple):
    """Per-pixel inputs of the distillation mask on the patch's grid; (B, 1, h, w), no gradient."""

    full_error: Tensor  # photometric error of the full image's depth
    patch_error: Tensor  # photometric error of the patch's own depth
    auto_mask: Tensor  # bool, True: the pixel has a photometric gradient
    sensitivity: Tensor  # s_u of the full image, pixels per unit of log-depth
    sigma: Tensor  # standard deviation of the patch's log-depth
    inside: Tensor  # bool: not in the margin of the patch


class Taught(NamedTuple):
    """Result of `distillation_loss`."""

    loss: Tensor  # (B,)
    offset: Tensor  # (B,) median of u_full - u_patch, removed before the comparison
    mask: Tensor  # (B, 1, h, w) bool: pixels that are taught


def distillation_loss(
    full: Tensor, patch: Tensor, inputs: DistillationInputs, zoom: Tensor, *, masked: bool = True
) -> Taught:
    """Huber loss that draws the full image's log-depth to that of the patch, without its level.

    A pixel is taught where the depths of both differ by less than `MAX_DIFFERENCE`, the patch is
    reliable (`is_trusted`), and either (i) the photometric error of the patch is clearly smaller
    than the full image's, or (ii) photometry says nothing and the patch is certain. Pixels are
    weighted by exp(-s_u / 2 px): the less photometry tells, the more the patch does.

    Only the shape is taught: the median difference is removed, however large. Scale is free in
    self-supervision, and a patch that is still off by its zoom would draw the full image, and
    itself with it, farther and farther away.

    Args:
        full: (B, 1, h, w) log-depth of the full image on the patch's grid (the student).
        patch: (B, 1, h, w) log-depth of the patch (the teacher; detached here).
        inputs: What the mask and the weights are computed from.
        zoom: (B,) enlargement of each patch.
        masked: False teaches wherever the difference is small, a control for ablations.
    """
    teacher = patch.detach()
    with torch.no_grad():
        parallax_px = zoom[:, None, None, None] * inputs.sensitivity
        uninformative = ~inputs.auto_mask | (parallax_px < MIN_PARALLAX_PX)
        offset = _median(full.detach() - teacher, inputs.inside)
        better = inputs.patch_error < inputs.full_error - MIN_ERROR_GAIN
        difference = full.detach() - teacher - offset[:, None, None, None]
        mask = inputs.inside & (difference.abs() < MAX_DIFFERENCE)
        if masked:
            certain = inputs.sigma < MAX_TEACHER_SIGMA
            teaches = (better & inputs.auto_mask) | (uninformative & certain)
            mask = mask & is_trusted(inputs) & teaches
        weight = mask * (-inputs.sensitivity / SENSITIVITY_SCALE_PX).exp()
    error = huber(full - teacher - offset[:, None, None, None])
    total = (error * weight).flatten(1).sum(dim=1)
    return Taught(total / weight.flatten(1).sum(dim=1).clamp(min=1e-3), offset, mask)


def is_trusted(inputs: DistillationInputs) -> Tensor:
    """Whether a patch explains the pixels of the auto-mask better than the full image does.

    (B, 1, 1, 1). One that does not has nothing to teach yet. A patch that is flat, because the
    network cannot interpret enlarged images yet, would flatten the full image and thereby itself:
    a constant depth agrees with itself.
    """
    seen = inputs.auto_mask & inputs.inside
    gain = inputs.full_error - inputs.patch_error
    total = torch.where(seen, gain, 0.0).sum(dim=(2, 3), keepdim=True)
    return seen.any(dim=3, keepdim=True).any(dim=2, keepdim=True) & (total > 0.0)


def _median(values: Tensor, mask: Tensor) -> Tensor:
    """Median of `values` over `mask` for each sample (B,); 0 where it is empty."""
    known = torch.where(mask, values, torch.nan).flatten(1)
    return known.nanmedian(dim=1).values.nan_to_num(0.0)


# 3. Bins.


class BinUniformity(Term):
    """KL divergence of the bin widths from uniform ones: bins do not collapse."""

    name = 'bin_uniformity'

    def __call__(self, context: Context) -> Tensor:
        """0 for a network without bins."""
        bins = context.prediction().bins
        return context.zeros() if bins is None else bin_uniformity(bins.widths)


def bin_uniformity(widths: Tensor) -> Tensor:
    """KL divergence of bin widths (B, Q), sum 1, from uniform ones, (B,): bins do not collapse."""
    widths = widths.float()
    return (widths * (widths * widths.shape[1]).log()).sum(dim=1)


class BinUsage(Term):
    """ln Q minus the entropy of the mean use of the Q bins: 0 where all are used alike."""

    name = 'bin_usage'

    def __call__(self, context: Context) -> Tensor:
        """0 for a network without bins."""
        bins = context.prediction().bins
        if bins is None:
            return context.zeros()
        use = bins.logits.float().softmax(dim=1).mean(dim=(2, 3))  # (B, Q)
        return (use * (use * use.shape[1]).clamp(min=1e-8).log()).sum(dim=1)


# 4. PatchMix.


@dataclass(frozen=True)
class MixSettings(TermSettings):
    """How many images are mixed."""

    fraction: float = setting(
        0.25, 'Fraction of the images of a step that are mixed', minimum=0.0, maximum=1.0
    )


class Mixed(NamedTuple):
    """Mixed image i is that of sample `rows[i]` with parts of sample `donors[i]`."""

    rows: Tensor
    donors: Tensor
    mix: Mix


class MixedDepth(NamedTuple):
    """What the student says of mixed images, in the geometry of their parts."""

    log_depth: Tensor  # (b, 1, H, W) metres of the image that each pixel comes from
    agreement: Tensor  # (b,) scale-invariant difference from the depth of the clean images


class PatchMix(Term):
    """Photometric error of images with parts of others, each judged by its own geometry."""

    name = 'mix'
    Settings = MixSettings
    settings: MixSettings
    requires = frozenset({'photometric'})

    def __call__(self, context: Context) -> Tensor:
        """0 for samples that are not mixed."""
        mixed = self.mixed(context)
        if mixed is None:
            return context.zeros()
        found = self._reprojection(context, mixed, self.depth(context, mixed).log_depth)
        return context.zeros().index_add(0, mixed.rows, found.loss)

    def extra_inputs(self, context: Context) -> Mapping[str, Input]:
        """The mixed images."""
        mixed = self.mixed(context)
        if mixed is None:
            return {}
        shown = context.batch.image_augmented[:, 0]
        image = mixed.mix.apply(shown[mixed.rows] / 255.0, shown[mixed.donors] / 255.0)
        return {self.name: Input(image, context.intrinsics[mixed.rows])}

    def mixed(self, context: Context) -> Mixed | None:
        """Which samples are mixed with which, drawn by their seeds; None without mixing."""

        def draw() -> Mixed | None:
            seeds = context.batch.seeds
            if self.name not in context.terms or len(seeds) < 2:
                return None
            chosen = _choose_samples(seeds, self.settings.fraction)
            if not chosen:
                return None
            device, (height, width) = context.intrinsics.device, context.images.shape[-2:]
            donors = [_partner(i, len(seeds)) for i in chosen]
            mix = sample_mix((height, width), [int(seeds[i]) + DONOR_SEED for i in chosen])
            return Mixed(
                torch.tensor(chosen).to(device, non_blocking=True),
                torch.tensor(donors).to(device, non_blocking=True),
                mix.to(device),
            )

        return context.once('mixed', draw)

    def depth(self, context: Context, mixed: Mixed) -> MixedDepth:
        """Depth of the mixed images, and its difference from that of the clean ones."""

        def compute() -> MixedDepth:
            rows, donors, mix = mixed
            own = context.prediction(image=self.name).log_depth
            # a pasted pixel has the focal length of the donor, enlarged
            focal = mix.zoom * context.intrinsics[donors, 0] / context.intrinsics[rows, 0]
            pasted = own + focal.log()[:, None, None, None]
            log_depth = torch.where(mix.pasted, pasted, own)
            full = context.prediction().log_depth.detach()
            clean = mix.apply(full[rows], full[donors])
            return MixedDepth(log_depth, scale_invariant(log_depth - clean, mix.judged))

        return context.once('mixed depth', compute)

    def _reprojection(self, context: Context, mixed: Mixed, log_depth: Tensor) -> Reprojection:
        rows, donors, mix = mixed
        photometric: Photometric = self.others['photometric']
        depth, images, batch = log_depth.exp(), context.images, context.batch
        target, *sources = (mix.apply(one[rows], one[donors]) for one in images)
        donor_valid = sample(batch.valid[donors].float(), mix.pixels) > 0.5
        valid = mix.judged & torch.where(mix.pasted, donor_valid, batch.valid[rows])
        exempt = None
        limit_px = photometric.exempt_px(context.progress)
        if limit_px > 0:
            exempt = _mixed_parallax(context, mixed, depth) < limit_px
        weight = context.photometric_weight
        return photometric.compare(
            photometric.prepare_target(target, torch.stack(sources), valid),
            _warp_mixed(context, mixed, depth),
            exempt,
            None if weight is None else mix.apply(weight[rows], weight[donors]),
        )


class MixConsistency(Term):
    """Log-depth of mixed images against that of the clean ones, scale-invariant."""

    name = 'mix_consistency'
    requires = frozenset({PatchMix.name})

    def __call__(self, context: Context) -> Tensor:
        """0 for samples that are not mixed."""
        mix: PatchMix = self.others[PatchMix.name]
        mixed = mix.mixed(context)
        if mixed is None:
            return context.zeros()
        return context.zeros().index_add(0, mixed.rows, mix.depth(context, mixed).agreement)


def _warp_mixed(context: Context, mixed: Mixed, depth: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Both sources warped by a mixed depth, every pixel in the geometry of its own image."""
    warped = []
    for source in (EARLIER, LATER):
        parts = []
        for index, points in _moved_points(context, mixed, depth, source):
            pixels = project(points, context.K[index])
            inside = inside_image(pixels, points, depth.shape[-2:])
            parts.append((sample(context.images[1 + source][index], pixels), inside))
        image, inside = (
            torch.where(mixed.mix.pasted, donor, own) for own, donor in zip(*parts, strict=True)
        )
        warped.append((image, inside))
    return warped


@torch.no_grad()
def _mixed_parallax(context: Context, mixed: Mixed, depth: Tensor) -> Tensor:
    """Parallax in pixels, the larger of both motions, each pixel in its own geometry."""
    found = []
    for source in (EARLIER, LATER):
        own, donor = (
            warp_sensitivity(
                points, context.poses()[source][index, :3, 3], context.intrinsics[index, :2]
            )
            for index, points in _moved_points(context, mixed, depth, source)
        )
        found.append(torch.where(mixed.mix.pasted, donor, own))
    return torch.maximum(*found)


def _moved_points(
    context: Context, mixed: Mixed, depth: Tensor, source: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The points of a mixed depth in the frame of a source: as of the target, as of the donor.

    Each with the samples of the batch that these are.
    """
    height, width = depth.shape[-2:]
    grid = pixel_grid(height, width, depth.device).expand(len(depth), -1, -1, -1)
    for index, pixels in ((mixed.rows, grid), (mixed.donors, mixed.mix.pixels)):
        points = backproject_pixels(depth, pixels, context.K[index])
        yield index, transform(context.poses()[source][index].detach(), points)


def _choose_samples(seeds: Tensor, fraction: float) -> list[int]:
    """Which samples of a batch are mixed, each by its own seed."""
    chosen = []
    for index, seed in enumerate(seeds.tolist()):
        generator = torch.Generator().manual_seed(seed + MIX_SEED)
        if float(torch.rand((), generator=generator)) < fraction:
            chosen.append(index)
    return chosen


def _partner(index: int, count: int) -> int:
    """The neighbour in a batch whose parts are pasted into sample `index`."""
    return index + 1 if index % 2 == 0 and index + 1 < count else index - 1


def _shifted(prediction: Prediction, offset: Tensor) -> Prediction:
    """A prediction with an offset (B,) added to its log-depth."""
    return replace(prediction, log_depth=prediction.log_depth + offset[:, None, None, None])


def _multiple_of_32(length: float) -> int:
    """The multiple of 32 nearest to `length`, at least 32."""
    return max(32, round(length / 32) * 32)
