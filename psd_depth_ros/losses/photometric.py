"""Photometric reprojection loss, edge-aware smoothness and depth consistency.

After monodepth2 (Godard et al. 2019, "Digging Into Self-Supervised Monocular Depth Estimation"):
SSIM and L1 mixed 0.85 to 0.15, the minimum over the source images and the auto-mask. Depth
consistency is that of SC-Depth (Bian et al. 2019).
"""

from __future__ import annotations

from typing import Any, cast, NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.losses.photometric_cpu import (
    C1,
    C2,
    find_kernels,
    inverse_count,
    photometric_error_compiled,
    SSIM_WEIGHT,
)

OUTSIDE = 10.0  # error where no source image covers the pixel; above every real one


class SsimStatistics(NamedTuple):
    """An image (B, 3, H, W) and its local statistics, computed once for every source image."""

    image: Tensor
    mean: Tensor
    square: Tensor  # local mean of the squared image


class Reprojection(NamedTuple):
    """Result of `reprojection_loss`."""

    loss: Tensor  # (B,) mean over the valid pixels of each sample
    error: Tensor  # (B, 1, H, W) error of the best warped source, detached
    auto_mask: Tensor  # (B, 1, H, W) bool: the pixel contributes a photometric gradient


def ssim_statistics(image: Tensor) -> SsimStatistics:
    """Prepare a target image (B, 3, H, W) for `photometric_error`."""
    return SsimStatistics(image, local_mean(image), local_mean(image.square()))


def photometric_error(target: SsimStatistics, image: Tensor) -> Tensor:
    """0.85 (1 - SSIM) / 2 + 0.15 |difference|, averaged over colours: (B, 1, H, W).

    SSIM uses 3x3 uniform windows (`local_mean`).
    """
    if _suits_kernels(target, image):
        return photometric_error_compiled(image, *target)
    mean, square = local_mean(image), local_mean(image.square())
    product = local_mean(image * target.image)
    means = mean * target.mean
    squared_means = mean.square() + target.mean.square()
    top = (2.0 * means + C1) * (2.0 * (product - means) + C2)
    bottom = (squared_means + C1) * (square + target.square - squared_means + C2)
    dissimilarity = (0.5 - 0.5 * top / bottom).clamp(0.0, 1.0)
    difference = (image - target.image).abs()
    mixed = SSIM_WEIGHT * dissimilarity + (1.0 - SSIM_WEIGHT) * difference
    return mixed.mean(dim=1, keepdim=True)


def _suits_kernels(target: SsimStatistics, image: Tensor) -> bool:
    """Whether Numba can do it: nothing is traced, and no target has a gradient of its own."""
    if image.device.type != 'cpu' or torch.compiler.is_compiling():
        return False
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in target)
    alike = all(one.shape == image.shape and one.dtype == torch.float32 for one in target)
    return alike and image.dtype == torch.float32 and not learns and find_kernels() is not None


def unwarped_error(target: SsimStatistics, sources: Tensor) -> Tensor:
    """Minimum error of the unwarped sources (S, B, 3, H, W): (B, 1, H, W), no gradient."""
    with torch.no_grad():
        return torch.stack([photometric_error(target, one) for one in sources]).amin(dim=0)


def reprojection_loss(
    target: SsimStatistics,
    warped: Tensor,
    inside: Tensor,
    unwarped: Tensor | None,
    valid: Tensor,
    *,
    minimum: bool,
    weight: Tensor | None = None,
    exempt_from_auto_mask: Tensor | None = None,
) -> Reprojection:
    """Photometric loss of S source images warped into the target view.

    Args:
        target: The target image with its statistics.
        warped: (S, B, 3, H, W) the sources, sampled at the target's pixels.
        inside: (S, B, 1, H, W) bool, where the sample lies inside its source image; elsewhere the
            source is ignored.
        unwarped: (B, 1, H, W) `unwarped_error`, or None for no auto-mask. Where it is the smaller
            error, or no source is inside, it takes the place of the error: a constant.
        valid: (B, 1, H, W) bool, the pixels over which the loss is averaged.
        minimum: Take the minimum over the sources inside, otherwise their mean.
        weight: (B, 1, H, W) factor on the error of the warped sources.
        exempt_from_auto_mask: (B, 1, H, W) bool, pixels that keep their gradient even where an
            unwarped source fits better.
    """
    errors = torch.stack([photometric_error(target, image) for image in warped])
    covered = inside.any(dim=0)
    if minimum:
        error = torch.where(inside, errors, OUTSIDE).amin(dim=0)
    else:
        error = torch.where(inside, errors, 0.0).sum(dim=0) / inside.sum(dim=0).clamp(min=1)
    auto_mask = valid & covered
    if unwarped is not None:
        better = error < unwarped
        if exempt_from_auto_mask is not None:
            better = better | exempt_from_auto_mask
        auto_mask = auto_mask & better
    weighted = error if weight is None else error * weight
    rest = torch.zeros_like(error) if unwarped is None else unwarped
    loss = masked_mean(torch.where(auto_mask, weighted, rest), valid)
    return Reprojection(loss, torch.where(covered, error.detach(), OUTSIDE), auto_mask)


def fit_brightness(target: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """`image` with a gain and offset that match its mean and spread to those of `target`.

    Exposure and white balance may change from frame to frame. One pair per sample and colour from
    the pixels of `mask` (B, 1, H, W); no gradient flows through the pair. Gains are limited to
    0.5 .. 2.
    """
    with torch.no_grad():
        weight = mask.to(image.dtype)
        count = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
        mean_t = (target * weight).sum(dim=(2, 3), keepdim=True) / count
        mean_i = (image * weight).sum(dim=(2, 3), keepdim=True) / count
        variance_t = ((target - mean_t).square() * weight).sum(dim=(2, 3), keepdim=True) / count
        variance_i = ((image - mean_i).square() * weight).sum(dim=(2, 3), keepdim=True) / count
        gain = ((variance_t + 1e-6) / (variance_i + 1e-6)).sqrt().clamp(0.5, 2.0)
        offset = mean_t - gain * mean_i
    return gain * image + offset


def depth_difference(projected_m: Tensor, sampled_m: Tensor) -> Tensor:
    """D = |a - b| / (a + b) of two positive depths (B, 1, H, W), in [0, 1) (SC-Depth).

    Args:
        projected_m: Depth of the target's points in the source frame.
        sampled_m: The source's own depth at the pixels where they land.
    """
    return (projected_m - sampled_m).abs() / (projected_m + sampled_m).clamp(min=1e-6)


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware smoothness: mean |grad(d / mean d)| exp(-|grad image|), (B,) (monodepth2).

    `disparity` (B, 1, H, W) is any positive map inverse to depth; `image` (B, 3, H, W).
    """
    d = disparity / disparity.mean(dim=(2, 3), keepdim=True).clamp(min=1e-7)
    image_x = (image[..., :, 1:] - image[..., :, :-1]).abs().mean(dim=1, keepdim=True)
    image_y = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(dim=1, keepdim=True)
    x = (d[..., :, 1:] - d[..., :, :-1]).abs() * (-image_x).exp()
    y = (d[..., 1:, :] - d[..., :-1, :]).abs() * (-image_y).exp()
    return x.flatten(1).mean(dim=1) + y.flatten(1).mean(dim=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` (B, 1, H, W) over `mask` for each sample (B,); 0 where it is empty."""
    weight = mask.to(values.dtype)
    total = (values * weight).flatten(1).sum(dim=1)
    return total / weight.flatten(1).sum(dim=1).clamp(min=1.0)


def local_mean(image: Tensor) -> Tensor:
    """Mean over 3x3 pixels; at the border over those that exist."""
    if image.device.type != 'cpu':
        return F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    return cast(Tensor, _LocalMean.apply(image))


class _LocalMean(torch.autograd.Function):
    """Sums of shifted views: a tenth of the time of `avg_pool2d` on a CPU."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        return _sum_3x3(image).mul_(_inverse_count_3x3(image))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum_3x3(gradient * _inverse_count_3x3(gradient))


def _sum_3x3(image: Tensor) -> Tensor:
    rows = image.clone()
    rows[..., 1:] += image[..., :-1]
    rows[..., :-1] += image[..., 1:]
    both = rows.clone()
    both[..., 1:, :] += rows[..., :-1, :]
    both[..., :-1, :] += rows[..., 1:, :]
    return both


def _inverse_count_3x3(image: Tensor) -> Tensor:
    """1 / number of pixels in the window of each pixel (H, W)."""
    return torch.from_numpy(inverse_count(*image.shape[-2:])).to(image.dtype)
