"""SS-MDE, top to bottom: pseudo-depth with forgetting, mean teacher, multi-view filter, movers.

Hu, Feng, Li, Zhang, Zhao 2024, "Monocular Depth Estimation via Self-Supervised Self-Distillation",
Sensors 24(13):4090, https://doi.org/10.3390/s24134090. The paper's ideas, as its abstract states
them; equations are our own, or those of the papers named below:

1. Depth of a pretrained network, known up to scale and shift, teaches the static part of the image
   at first. A forgetting factor takes it back while geometry is learned (`pseudo_depth`).
2. A teacher, the moving average of the student, gives depth that is steady. A multi-view mask
   filter keeps what neighbouring frames confirm (`ema_teacher`; the round trip as in SRD-Depth).
3. What moves has no photometric error, but an order in depth and a shape (`dynamic_ranking`,
   `dynamic_normals`; after SC-DepthV3, Sun et al. 2023, "SC-DepthV3: Robust Self-supervised
   Monocular Depth Estimation for Dynamic Scenes").
4. A decoder with depth at several scales, for training only (`multi_scale`; as in monodepth2).

The light pose network of the paper is `networks.pose_net`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
import math
from typing import cast, NamedTuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.config import setting
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry.warp import (
    backproject,
    camera_matrix,
    inverse_warp,
    resize_intrinsics,
)
from psd_depth_ros.losses.affine import (
    Affine,
    affine_invariant_loss,
    fit_affine,
    fit_scale,
    LEAST_CONTRAST,
    scaled_log_loss,
)
from psd_depth_ros.losses.depth import huber, surface_normals
from psd_depth_ros.losses.multi_view import multi_view_masks, Thresholds
from psd_depth_ros.losses.photometric import (
    masked_mean,
    photometric_error,
    smoothness,
    ssim_statistics,
)
from psd_depth_ros.losses.ranking import draw_pixels, draw_positions, order_labels, ranking_error
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.objectives.base import Context, draw_depth, Image, Term, TermSettings
from psd_depth_ros.objectives.photometric import Photometric
from psd_depth_ros.teachers import TEACHER
from psd_depth_ros.visualisation import draw_regions

ALIGNMENTS = {'affine': fit_affine, 'scale': fit_scale}
Fit = Callable[[Tensor, Tensor, Tensor], Affine]
PSEUDO_DEPTH = 'pseudo_depth'  # the term, and the batch field
TARGET = 'clean_target'  # what the teacher sees, in the colours of the recording
SOURCES = ('clean_earlier', 'clean_later')
FORGOTTEN = 0.05  # of the weight at the start, below which it is 0
FIRST_STEPS = 100  # whose mean photometric error later ones are compared with
ADAPTIVE_DECAY = 0.99  # of the average photometric error in a step
OUTLIER = 3.0 * 1.4826  # median absolute deviations: three standard deviations of a normal one
MOST_DYNAMIC = 0.5  # of an image; where more seems to move, depth or motion is wrong
RANKING_SEED = 11  # added to a sample's seed
STRIDES = (16, 8, 4)
ALL_VALID = 0.999  # of the four pixels that one of half the size is the mean of
STATIC, DYNAMIC, NOISY = (40, 160, 60), (230, 50, 40), (60, 110, 230)  # colours of previews


# 1. Pseudo-depth, and how it is forgotten.


@dataclass(frozen=True)
class PseudoDepthSettings(TermSettings):
    """Who teaches, and how long."""

    teacher: str = setting(
        '', 'Who teaches: a folder of maps, a network (.onnx, .tflite, a checkpoint) or hf:NAME'
    )
    forgetting: str = setting(
        'epochs', 'How the weight falls: not at all, by a factor after each of `epochs` parts of '
        'the run, or with the photometric error', choices=('none', 'epochs', 'adaptive'),
    )  # fmt: skip
    forgetting_factor: float = setting(
        0.7, 'Factor of the weight from one part to the next', minimum=0.0, maximum=1.0
    )
    epochs: int = setting(
        20, 'Equal parts of the run, for `forgetting: epochs`', minimum=1, maximum=10000
    )
    alignment: str = setting(
        'affine', 'What each map lacks: scale and shift of disparity (MiDaS, LeReS, Depth '
        'Anything), or a scale alone, as the maps of networks that give depth; with a scale they '
        'say how deep a scene is, too, and differences of log-depth count',
        choices=tuple(ALIGNMENTS),
    )  # fmt: skip
    least_contrast: float = setting(
        LEAST_CONTRAST, 'With `alignment: affine`: disparity whose deviation is a smaller '
        'fraction of its median is drawn apart; photometry says how far. Streets have 0.3 to '
        '1.0, rooms 0.1 to 0.5', minimum=0.0, maximum=10.0,
    )  # fmt: skip
    pixels: str = setting(
        'not_dynamic', 'What is taught where `ema_teacher` filters: all valid pixels, those that '
        'do not move, or only those whose depth neighbouring frames confirm',
        choices=('all', 'not_dynamic', 'static'),
    )  # fmt: skip

    def weight_at(self, progress: float) -> float:
        """The weight at `progress` of the run.

        lambda_0 gamma^e in part e (0, 1 ...) of the run, and 0 below 5 % of lambda_0.
        """
        weight = super().weight_at(progress)
        if self.forgetting != 'epochs':
            return weight
        part = math.floor(progress * self.epochs + 1e-9)
        kept = self.forgetting_factor**part
        return weight * kept if kept >= FORGOTTEN else 0.0


class PseudoDepth(Term):
    """Disparity of another network, known up to scale and shift, on what is static.

    Each map is aligned to the student's disparity by a robust fit without gradient. A pixel
    without a map counts for nothing, a sample without one gives 0. Where `ema_teacher` filters,
    its dynamic pixels do not count: static here means the scene, not only what the teacher has
    right already.
    """

    name = PSEUDO_DEPTH
    Settings = PseudoDepthSettings
    settings: PseudoDepthSettings

    def __init__(self, settings: PseudoDepthSettings) -> None:
        super().__init__(settings)
        if settings.forgetting == 'adaptive':
            self.requires = frozenset({Photometric.name})

    @property
    def maps(self) -> Mapping[str, str]:
        """The teacher that the recipe names. Raises SettingsError where it names none."""
        settings = self.settings
        if settings.teacher:
            return {PSEUDO_DEPTH: settings.teacher}
        if settings.weight == 0:
            return {}
        raise SettingsError(
            f'objective.{self.name}.teacher is empty: give objective.{self.name}.teacher=PATH (a '
            'folder of maps, an .onnx or .tflite network, a checkpoint, or hf:NAME), or leave the '
            f'prior out by objective.{self.name}=off'
        )

    def look_at(self, sequences: Iterable[Sequence]) -> None:
        """Raise SettingsError where the recipe names no teacher."""
        _ = self.maps

    def make_module(self, depth: DepthModel) -> nn.Module | None:
        """The state of adaptive forgetting."""
        return AdaptiveForgetting() if self.settings.forgetting == 'adaptive' else None

    def __call__(self, context: Context) -> Tensor:
        """`affine_invariant_loss` or `scaled_log_loss` of each sample."""
        mask = self._pixels(context)
        log_depth, pseudo = context.prediction().log_depth, context.batch.pseudo_depth
        if self.settings.alignment == 'scale':
            loss = scaled_log_loss(log_depth, pseudo, mask)
        else:
            least = self.settings.least_contrast
            loss = affine_invariant_loss((-log_depth).exp(), pseudo, mask, least)
        return loss * self._adaptive_factor(context)

    def visualise(self, context: Context) -> dict[str, Image]:
        """The map of the first sample, aligned to the depth of the student."""
        return _draw_pseudo_depth(context)

    def _pixels(self, context: Context) -> Tensor:
        """The pixels that are taught (B, 1, H, W) bool."""
        valid: Tensor = context.batch.valid
        teacher = context.terms.get(EmaTeacher.name)
        if self.settings.pixels == 'all' or not isinstance(teacher, EmaTeacher):
            return valid
        masks = teacher.masks(context)
        return masks.static if self.settings.pixels == 'static' else valid & ~masks.dynamic

    def _adaptive_factor(self, context: Context) -> Tensor | float:
        """What is left of the weight; 1 without adaptive forgetting."""
        if self.settings.forgetting != 'adaptive':
            return 1.0
        state = cast(AdaptiveForgetting, context.module(self.name))
        photometric: Photometric = self.others[Photometric.name]
        factor = state.factor.clone()  # the same in all processes; `update` sees only its own part
        if state.training and torch.is_grad_enabled():
            state.update(photometric.reprojection(context).loss.mean())
        return factor


class AdaptiveForgetting(nn.Module):
    """A factor that falls as the photometric error does: min over time of EMA(L) / EMA_0(L).

    EMA_0 is the mean error of the first 100 steps, EMA the moving average from there on. The
    factor begins at 1, stays within [0, 1] and never rises again. An error that rises late in a
    run comes from a new term, harder data or a mask; none of them makes the prior, which geometry
    has outgrown, right again, and a weight that follows the loss up and down would make the prior
    strongest where photometry fails, which is where the student should not lean on it unnoticed.
    The photometric error falls to a floor, not to 0, and so does the factor: to a half, say. To
    forget all, set `end`.

    All state is in buffers: saved with the run, and taken from the first process by the others.
    """

    count: Tensor
    first: Tensor
    average: Tensor
    factor: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ('count', 'first', 'average'):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer('factor', torch.ones(()))

    @torch.no_grad()
    def update(self, error: Tensor) -> None:
        """Take the photometric error () of a step; nothing waits for a GPU."""
        self.count += 1.0
        young = self.count <= FIRST_STEPS
        mean = self.first + (error - self.first) / self.count
        self.first.copy_(torch.where(young, mean, self.first))
        later = ADAPTIVE_DECAY * self.average + (1.0 - ADAPTIVE_DECAY) * error
        self.average.copy_(torch.where(young, self.first, later))
        ratio = (self.average / self.first.clamp(min=1e-12)).clamp(0.0, 1.0)
        self.factor.copy_(torch.where(young, self.factor, torch.minimum(self.factor, ratio)))


# 2. Mean teacher and multi-view mask filter.


@dataclass(frozen=True)
class EmaTeacherSettings(TermSettings):
    """The teacher, and what of it is believed."""

    decay: float = setting(
        0.99, 'Decay of the average that teaches, in a step', minimum=0.0, maximum=1.0
    )
    filter: bool = setting(
        True, 'Only what neighbouring frames confirm is taught, and what moves has no photometric '
        'error'
    )  # fmt: skip
    relative_until: float = setting(
        0.2, "Progress up to which a pixel is confirmed below the image's mean difference of "
        'depth, when that is larger than `depth_tolerance`', minimum=0.0, maximum=1.0,
    )  # fmt: skip
    depth_tolerance: float = setting(
        0.05, 'Largest relative difference of depth of a confirmed pixel after the way to a '
        'neighbour and back', minimum=0.0, maximum=10.0,
    )  # fmt: skip
    pixel_tolerance_px: float = setting(
        1.0, 'Largest distance from where it was', 'px', minimum=0.0, maximum=1000.0
    )
    dynamic_difference: float = setting(
        0.15, 'A pixel has moved where |a - b| / (a + b) of its depths is larger in every '
        'neighbour that sees it', minimum=0.0, maximum=1.0,
    )  # fmt: skip
    pseudo_difference: float = setting(
        0.0, 'With pseudo-depth: a pixel has also moved where ln Z differs from that of the '
        'aligned map by more than this and far more than elsewhere, and explains the images '
        'better; 0: not compared',
        minimum=0.0, maximum=10.0,
    )  # fmt: skip
    huber: float = setting(
        0.05, 'Difference of log-depth from which the loss is linear', minimum=1e-6, maximum=10.0
    )


class Masks(NamedTuple):
    """Every pixel is in one of the masks; (B, 1, H, W), no gradient."""

    static: Tensor  # bool: valid, and a neighbour confirms its depth
    dynamic: Tensor  # bool: valid, and it has moved
    noisy: Tensor  # bool: all the rest
    weight: Tensor  # float: of the photometric error, 0 where it has moved


class EmaTeacher(Term):
    """Log-depth against that of an averaged student on clean images, where views confirm it.

    Motion along the line of sight hides from views: a car ahead that keeps its distance looks
    infinitely far, an oncoming one too near, and a student that has learned this is consistent
    with itself. With maps of pseudo-depth, `pseudo_difference` (own addition) finds these.
    """

    name = 'ema_teacher'
    Settings = EmaTeacherSettings
    settings: EmaTeacherSettings

    @property
    def averages(self) -> Mapping[str, float]:
        """The teacher."""
        return {TEACHER: self.settings.decay}

    def __call__(self, context: Context) -> Tensor:
        """Mean Huber of u - u_T over the static pixels of each sample."""
        difference = context.prediction().log_depth - context.prediction(TEACHER, TARGET).log_depth
        return masked_mean(huber(difference, self.settings.huber), self.masks(context).static)

    def photometric_weight(self, context: Context) -> Tensor | None:
        """0 for what moves, 1 for what is static, 1 - D for the rest."""
        return self.masks(context).weight if self.settings.filter else None

    def masks(self, context: Context) -> Masks:
        """What is static, what moves, what is neither; all valid pixels are static unfiltered."""

        def compute() -> Masks:
            valid = context.batch.valid
            if not self.settings.filter:
                never = torch.zeros_like(valid)
                return Masks(valid, never, ~valid, torch.ones_like(context.images[0, :, :1]))
            with torch.no_grad():
                return self._filter(context, valid)

        return context.once(self.name, compute)

    def visualise(self, context: Context) -> dict[str, Image]:
        """The image: static green, moving red, noisy blue; and the pseudo-depth if there is any.

        The latter here, too, since its own term may be forgotten by the end of a run.
        """
        image = context.batch.image[0, 0].permute(1, 2, 0).cpu().numpy()
        masks = self.masks(context)
        regions = [
            (mask[0, 0].cpu().numpy(), colour)
            for mask, colour in zip(masks[:3], (STATIC, DYNAMIC, NOISY), strict=True)
        ]
        return {
            'static_dynamic_noisy': draw_regions(image, regions),
            **_draw_pseudo_depth(context),
        }

    def _filter(self, context: Context, valid: Tensor) -> Masks:
        settings = self.settings
        depth = context.prediction(TEACHER, TARGET).depth
        found = multi_view_masks(
            depth,
            torch.stack([context.prediction(TEACHER, name).depth for name in SOURCES]),
            context.poses().detach(),
            context.K,
            Thresholds(
                settings.depth_tolerance,
                settings.pixel_tolerance_px,
                settings.dynamic_difference,
                relative=context.progress < settings.relative_until,
            ),
        )
        static, dynamic = found.static & valid, found.dynamic & valid
        pseudo = context.batch.get(PSEUDO_DEPTH)
        if pseudo is not None and settings.pseudo_difference > 0:
            fit = pseudo_fit(context)
            moved = disagreement(depth, pseudo, valid, settings.pseudo_difference, fit)
            moved = moved & explains_better(context, depth, pseudo)
            static, dynamic = static & ~moved, dynamic | moved
        share = dynamic.sum(dim=(2, 3), keepdim=True) / valid.sum(dim=(2, 3), keepdim=True)
        believed = share <= MOST_DYNAMIC
        dynamic = dynamic & believed
        noisy = ~(static | dynamic)
        weight = torch.where(noisy & believed, 1.0 - found.difference, 1.0)
        return Masks(static, dynamic, noisy, torch.where(dynamic, 0.0, weight))


def half_size(context: Context) -> tuple[Tensor, Tensor]:
    """The images (3, B, 3, H / 2, W / 2) of `Context.images` and their intrinsics (B, 4)."""

    def shrink() -> tuple[Tensor, Tensor]:
        images = F.avg_pool2d(context.images.flatten(0, 1), 2).unflatten(0, (3, -1))
        return images, resize_intrinsics(context.intrinsics, 0.5)

    return context.once('half size', shrink)


@torch.no_grad()
def explains_better(context: Context, depth: Tensor, pseudo: Tensor) -> Tensor:
    """Where a depth map explains the images better than aligned pseudo-depth, (B, 1, H, W) bool.

    What moves along the line of sight is explained by a wrong depth, not by the true one. Where
    the student is only wrong, the prior explains the images better: these pixels have not moved.
    Photometric errors are those at half the size, over 5x5 of these pixels. (own)

    Args:
        context: With images and poses.
        depth: (B, 1, H, W) Z.
        pseudo: (B, 1, H, W) disparity to be aligned, NaN where unknown.
    """
    images, intrinsics = half_size(context)
    K = camera_matrix(intrinsics)
    known = context.batch.valid & torch.isfinite(pseudo)
    aligned, _ = align_pseudo_depth(depth.log(), pseudo, known, pseudo_fit(context))
    target = ssim_statistics(images[0])
    errors = []
    for log_depth in (depth.log(), torch.where(known, aligned, depth.log())):
        half = F.avg_pool2d(log_depth, 2).exp()
        found = [
            (photometric_error(target, image), inside)
            for image, inside in (
                inverse_warp(source, half, pose, K, K)
                for source, pose in zip(images[1:], context.poses().detach(), strict=True)
            )
        ]
        seen = torch.stack([torch.where(inside, error, 1.0) for error, inside in found])
        errors.append(F.avg_pool2d(seen.amin(dim=0), 5, 1, 2, count_include_pad=False))
    better = (errors[0] < errors[1]).float()
    return F.interpolate(better, depth.shape[-2:], mode='nearest') > 0.5


def pseudo_fit(context: Context) -> Fit:
    """How maps of pseudo-depth are aligned in this recipe."""
    term = context.objective.terms.get(PSEUDO_DEPTH)
    return ALIGNMENTS[term.settings.alignment] if isinstance(term, PseudoDepth) else fit_affine


@torch.no_grad()
def disagreement(
    depth: Tensor, pseudo: Tensor, valid: Tensor, largest: float, align: Fit = fit_affine
) -> Tensor:
    """Where a depth map contradicts an aligned map of pseudo-depth, (B, 1, H, W) bool.

    |ln Z - ln Z_Q| is above `largest`, and the disparities differ by more than three standard
    deviations of their differences in the image, estimated robustly: an affine fit says little
    about ln Z where disparity is near 0. Also below that deviation disparity counts as that.

    Args:
        depth: (B, 1, H, W) Z.
        pseudo: (B, 1, H, W) disparity up to scale and shift, NaN where unknown.
        valid: (B, 1, H, W) bool, pixels that count.
        largest: Difference of log-depth.
        align: How the map is aligned.
    """
    known = valid & torch.isfinite(pseudo)
    disparity = 1.0 / depth
    fit = align(pseudo, disparity, known)
    aligned = fit(torch.where(known, pseudo, 0.0))
    difference = (aligned - disparity).abs()
    median = torch.where(known, difference, torch.nan).flatten(1).nanmedian(dim=1).values
    noise = (OUTLIER * median.nan_to_num(0.0)).clamp(min=1e-6)[:, None, None, None]
    ratio = torch.maximum(aligned, noise).log() - torch.maximum(disparity, noise).log()
    found = known & fit.known[:, None, None, None]
    return found & (difference > noise) & (ratio.abs() > largest)


# 3. What moves.


class Label(NamedTuple):
    """Depth that teaches what moves; no gradient."""

    log_depth: Tensor  # (B, 1, H, W), finite everywhere
    known: Tensor  # (B, 1, H, W) bool


class _OfMovers(Term):
    """A loss on what `ema_teacher` finds to move."""

    requires = frozenset({'ema_teacher'})

    def bind(self, terms: Mapping[str, Term]) -> None:
        """Take the other terms. Raises SettingsError where the teacher does not filter."""
        super().bind(terms)
        teacher = terms[EmaTeacher.name]
        if not teacher.settings.filter:
            raise SettingsError(
                f'term {self.name} needs what moves, but objective.{teacher.name}.filter is '
                f'false: set it to true, or leave {self.name} out'
            )

    def masks(self, context: Context) -> Masks:
        """What is static and what moves."""
        teacher: EmaTeacher = self.others[EmaTeacher.name]
        return teacher.masks(context)


@dataclass(frozen=True)
class RankingSettings(TermSettings):
    """How many pairs."""

    pairs: int = setting(
        1024, 'Pairs of a moving and a static pixel in an image; an image with fewer moving '
        'pixels counts for less', minimum=1, maximum=1_000_000,
    )  # fmt: skip


class DynamicRanking(_OfMovers):
    """Order in depth of what moves against random static pixels of the same image.

    The order is that of the aligned pseudo-depth where there is some, else of the teacher. Only
    the moving pixel learns.
    """

    name = 'dynamic_ranking'
    Settings = RankingSettings
    settings: RankingSettings

    def __call__(self, context: Context) -> Tensor:
        """ln(1 + e^(-l (a - b))), or (a - b)^2 where depths are about equal, of each sample."""
        count = self.settings.pairs
        masks, label = self.masks(context), make_label(context)
        u, taught = context.prediction().log_depth.flatten(1), label.log_depth.flatten(1)
        seeds = [seed + RANKING_SEED for seed in context.batch.seeds.tolist()]
        drawn = draw_positions(seeds, count).to(u.device, non_blocking=True)
        first, moving = draw_pixels(masks.dynamic & label.known, drawn[0])
        second, static = draw_pixels(masks.static & label.known, drawn[1])
        order = order_labels(taught.gather(1, first), taught.gather(1, second))
        error = ranking_error(u.gather(1, first), u.gather(1, second).detach(), order)
        fraction = (moving / count).clamp(max=1.0) * (static > 0)
        return error.mean(dim=1) * fraction


class DynamicNormals(_OfMovers):
    """Normals of what moves: those of the aligned pseudo-depth, or of the teacher.

    Every second pixel and row counts, whose camera has half the focal length and centre.
    """

    name = 'dynamic_normals'

    def __call__(self, context: Context) -> Tensor:
        """Mean 1 - cos of each sample."""
        label = make_label(context)
        dynamic, known, log_depth, taught = (
            one[..., ::2, ::2]
            for one in (
                self.masks(context).dynamic,
                label.known,
                context.prediction().log_depth,
                label.log_depth,
            )
        )
        K = context.K * context.K.new_tensor([0.5, 0.5, 1.0])[:, None]
        mask = _inner(dynamic) & _known_around(known)
        own, wanted = (surface_normals(backproject(one.exp(), K)) for one in (log_depth, taught))
        return masked_mean(normal_error(own, wanted), mask)


def normal_error(normals: Tensor, others: Tensor) -> Tensor:
    """1 - cos of the angle between unit normals (B, 3, H, W), (B, 1, H, W)."""
    return 1.0 - (normals * others).sum(dim=1, keepdim=True)


def make_label(context: Context) -> Label:
    """Log-depth that teaches what moves: pseudo-depth, aligned to the teacher's, or the latter.

    Samples without a map have the teacher's depth everywhere. The fit is made of static pixels.
    """

    def compute() -> Label:
        with torch.no_grad():
            own = context.prediction(TEACHER, TARGET).log_depth
            pseudo = context.batch.get(PSEUDO_DEPTH)
            if pseudo is None:
                return Label(own, torch.ones_like(own, dtype=torch.bool))
            known = torch.isfinite(pseudo) & context.batch.valid
            teacher = context.objective.terms[EmaTeacher.name]
            assert isinstance(teacher, EmaTeacher)
            static = teacher.masks(context).static
            aligned, fitted = align_pseudo_depth(own, pseudo, known & static, pseudo_fit(context))
            has_map = fitted[:, None, None, None]
            return Label(torch.where(has_map & known, aligned, own), known | ~has_map)

    return context.once('label of movers', compute)


@torch.no_grad()
def align_pseudo_depth(
    log_depth: Tensor, pseudo: Tensor, mask: Tensor, align: Fit = fit_affine
) -> tuple[Tensor, Tensor]:
    """Log-depth of a map of pseudo-depth in the scale of a network's.

    Args:
        log_depth: (B, 1, H, W) of the network.
        pseudo: (B, 1, H, W) disparity up to scale and shift, NaN where unknown.
        mask: (B, 1, H, W) bool, pixels that are aligned.
        align: How.

    Returns:
        (B, 1, H, W), no farther than the farthest pixel of the network, NaN where unknown; and
        (B,) bool whether enough pixels were there.
    """
    disparity = (-log_depth).exp()
    fit = align(pseudo, disparity, mask)
    least = disparity.amin(dim=(1, 2, 3), keepdim=True)
    return -torch.maximum(fit(pseudo), least).log(), fit.known


def _draw_pseudo_depth(context: Context) -> dict[str, Image]:
    pseudo = context.batch.get(PSEUDO_DEPTH)
    if pseudo is None:
        return {}
    own, first = context.prediction().log_depth[:1], pseudo[:1]
    mask = context.batch.valid[:1] & torch.isfinite(first)
    aligned, _ = align_pseudo_depth(own, first, mask, pseudo_fit(context))
    return {PSEUDO_DEPTH: draw_depth(context, aligned[0, 0])}


def _inner(mask: Tensor) -> Tensor:
    """All pixels but those at the border."""
    return mask[..., 1:-1, 1:-1]


def _known_around(known: Tensor) -> Tensor:
    """Where a pixel and its four neighbours are known, of the inner pixels."""
    across = known[..., 1:-1, 2:] & known[..., 1:-1, :-2]
    down = known[..., 2:, 1:-1] & known[..., :-2, 1:-1]
    return across & down & _inner(known)


# 4. Depth at several scales.


@dataclass(frozen=True)
class MultiScaleSettings(TermSettings):
    """The weight falls linearly from `start` to `end`."""

    weight: float = setting(0.5, 'Weight at `start`', minimum=0.0, maximum=1000.0)
    end: float = setting(
        0.5, 'Progress at which the weight has fallen to 0', minimum=0.0, maximum=1.0
    )
    smoothness: float = setting(
        1e-3, 'Weight of the smoothness beside the photometric error, over the stride',
        minimum=0.0, maximum=1000.0,
    )  # fmt: skip

    def weight_at(self, progress: float) -> float:
        """The weight at `progress` of the run."""
        left = (self.end - progress) / max(self.end - self.start, 1e-9)
        return super().weight_at(progress) * min(max(left, 0.0), 1.0)


class ScaleHeads(nn.Module):
    """Canonical log-depth from the decoder's maps at strides 16, 8 and 4.

    They start at the middle of the network's range.
    """

    def __init__(self, depth: DepthModel) -> None:
        super().__init__()
        architecture = depth.architecture
        self.log_range = (
            math.log(architecture.min_canonical_depth_m),
            math.log(architecture.max_canonical_depth_m),
        )
        channels = architecture.decoder_channels[: len(STRIDES)]
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for width in channels)
        for head in self.heads:
            nn.init.constant_(cast(Tensor, head.bias), 0.0)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Log-depth (B, 1, H/s, W/s) of maps at strides s of 16, 8, 4."""
        low, high = self.log_range
        return [
            low + (high - low) * torch.sigmoid(head(one.float()))
            for head, one in zip(self.heads, maps, strict=True)
        ]


class MultiScale(Term):
    """Photometric error and smoothness of depth at coarser scales, at half the size of the image.

    monodepth2 enlarges every scale to the image; half of that takes a quarter of the time, and is
    still finer than the finest of these maps.
    """

    name = 'multi_scale'
    Settings = MultiScaleSettings
    settings: MultiScaleSettings
    requires = frozenset({Photometric.name})

    def make_module(self, depth: DepthModel) -> nn.Module:
        """The heads of the scales, which the checkpoint does not have."""
        return ScaleHeads(depth)

    def __call__(self, context: Context) -> Tensor:
        """Mean over the scales of each sample."""
        photometric: Photometric = self.others[Photometric.name]
        images, intrinsics = half_size(context)
        valid = F.avg_pool2d(context.batch.valid.float(), 2) > ALL_VALID
        target = photometric.prepare_target(images[0], images[1:], valid)
        limit_px = 0.5 * photometric.exempt_px(context.progress)
        weight = context.photometric_weight
        if weight is not None:
            weight = F.avg_pool2d(weight, 2)
        total = context.zeros()
        for log_depth, stride in zip(self.log_depths(context), STRIDES, strict=True):
            found = photometric.reproject(
                target, images[1:], log_depth.exp(), context.poses(), intrinsics, limit_px, weight
            )
            total = total + found.loss
            smooth = smoothness((-log_depth).exp(), images[0])
            total = total + self.settings.smoothness / stride * smooth
        return total / len(STRIDES)

    def log_depths(self, context: Context) -> list[Tensor]:
        """Log-depth (B, 1, H / 2, W / 2) of the scales, coarsest first."""

        def compute() -> list[Tensor]:
            heads = cast(ScaleHeads, context.module(self.name))
            found = heads(context.decoder_maps()[: len(STRIDES)])
            log_ratio = context.prediction().log_ratio
            size = [side // 2 for side in context.images.shape[-2:]]
            return [F.interpolate(one, size, mode='bilinear') + log_ratio for one in found]

        return context.once('depth of scales', compute)

    def visualise(self, context: Context) -> dict[str, Image]:
        """Depth of the coarsest scale."""
        return {'coarsest_depth': draw_depth(context, self.log_depths(context)[0][0, 0])}
