"""Photometric error between the target and the views synthesised from its neighbours.

Equations of monodepth2 (Godard et al. 2019): SSIM and L1 mixed 0.85 to 0.15 (eq. 3 there), the
smaller error of both sources (eq. 4) and the mask of pixels that fit better unwarped (eq. 5).
Images are (B, 3, H, W) in [0, 1], errors (B, 1, H, W), all float32.
"""

from __future__ import annotations

from typing import Any, cast, NamedTuple

import torch
from torch import Tensor
import torch.nn.functional as F


def depth_difference(projected_m: Tensor, sampled_m: Tensor) -> Tensor:
    """D = |a - b| / (a + b) of two positive depths (B, 1, H, W): 0 where they agree, below 1.

    `projected_m` is the target's depth seen from the source, `sampled_m` the source's own depth at
    the pixel where it lands.
    """
    return (projected_m - sampled_m).abs() / (projected_m + sampled_m).clamp(min=1e-6)


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Mean |gradient of d / mean(d)| e^(-|gradient of the image|) of each sample, (B,).

    `disparity` (B, 1, H, W) is any positive map inverse to depth; `image` (B, 3, H, W).
    """
    d = disparity / disparity.mean(dim=(2, 3), keepdim=True).clamp(min=1e-7)
    image_x = (image[..., :, 1:] - image[..., :, :-1]).abs().mean(dim=1, keepdim=True)
    image_y = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(dim=1, keepdim=True)
    x = (d[..., :, 1:] - d[..., :, :-1]).abs() * (-image_x).exp()
    y = (d[..., 1:, :] - d[..., :-1, :]).abs() * (-image_y).exp()
    return x.flatten(1).mean(dim=1) + y.flatten(1).mean(dim=1)


C1, C2 = 1e-4, 9e-4
SSIM_SHARE = 0.85
OUTSIDE = 10.0  # the error of what no source saw; above every real one


class Reference(NamedTuple):
    """A target image and its local statistics, computed once for every source."""

    image: Tensor
    mean: Tensor
    square: Tensor  # local mean of the squared image


def refer(image: Tensor) -> Reference:
    """Prepare a target for `photometric_error`."""
    return Reference(image, blur(image), blur(image.square()))


def blur(image: Tensor) -> Tensor:
    """Mean over 3x3 pixels; at the border over those that exist."""
    if image.device.type != 'cpu':
        return F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
    return cast(Tensor, _Blur.apply(image))


class _Blur(torch.autograd.Function):
    """`avg_pool2d` of a CPU takes ten times as long as these additions of shifted views."""

    @staticmethod
    def forward(ctx: Any, image: Tensor) -> Tensor:
        return _sum_of_nine(image).mul_(_share_of_neighbours(image))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum_of_nine(gradient * _share_of_neighbours(gradient))


def _sum_of_nine(image: Tensor) -> Tensor:
    across = image.clone()
    across[..., 1:] += image[..., :-1]
    across[..., :-1] += image[..., 1:]
    both = across.clone()
    both[..., 1:, :] += across[..., :-1, :]
    both[..., :-1, :] += across[..., 1:, :]
    return both


def _share_of_neighbours(image: Tensor) -> Tensor:
    """1 / the number of neighbours, itself among them, of every pixel (H, W)."""
    sides = []
    for length in image.shape[-2:]:
        side = image.new_full((length,), 1.0 / 3.0)
        side[0] = side[-1] = 0.5
        sides.append(side)
    return sides[0][:, None] * sides[1]


def photometric_error(target: Reference, image: Tensor) -> Tensor:
    """0.85 (1 - SSIM) / 2 + 0.15 |difference|, the mean over colours (B, 1, H, W)."""
    mean, square = blur(image), blur(image.square())
    product = blur(image * target.image)
    means = mean * target.mean
    squared_means = mean.square() + target.mean.square()
    top = (2.0 * means + C1) * (2.0 * (product - means) + C2)
    bottom = (squared_means + C1) * (square + target.square - squared_means + C2)
    dissimilarity = (0.5 - 0.5 * top / bottom).clamp(0.0, 1.0)
    difference = (image - target.image).abs()
    mixed = SSIM_SHARE * dissimilarity + (1.0 - SSIM_SHARE) * difference
    return mixed.mean(dim=1, keepdim=True)


class Reprojection(NamedTuple):
    """What the comparison of a target with its synthesised views gives."""

    loss: Tensor  # (B,) mean over the pixels of each sample
    error: Tensor  # (B, 1, H, W) the best synthesised view's error, detached
    moving: Tensor  # (B, 1, H, W) bool: pixels with a gradient, those won by no unwarped source


def reprojection(
    target: Reference,
    warped: Tensor,
    inside: Tensor,
    unwarped: Tensor | None,
    valid: Tensor,
    *,
    minimum: bool,
    weight: Tensor | None = None,
    counted: Tensor | None = None,
) -> Reprojection:
    """The photometric loss of S synthesised views `warped` (S, B, 3, H, W) of `target`.

    `inside` (S, B, 1, H, W) tells where a view was sampled inside its source; elsewhere it does
    not count. `unwarped` (B, 1, H, W) is the least error of the unwarped sources; where it wins,
    or no view is inside, it is the error and there is no gradient (None: no such mask). The mean
    is over `valid` (B, 1, H, W) pixels. `minimum` False takes the mean over the views inside
    instead of the smallest error. `weight` (B, 1, H, W) multiplies the error of warped views.
    `counted` (B, 1, H, W) pixels count even where an unwarped source wins.
    """
    errors = torch.stack([photometric_error(target, view) for view in warped])
    seen = inside.any(dim=0)
    if minimum:
        error = torch.where(inside, errors, OUTSIDE).amin(dim=0)
    else:
        error = torch.where(inside, errors, 0.0).sum(dim=0) / inside.sum(dim=0).clamp(min=1)
    moving = valid & seen
    if unwarped is not None:
        better = error < unwarped
        moving = moving & (better if counted is None else better | counted)
    found = error if weight is None else error * weight
    rest = torch.zeros_like(error) if unwarped is None else unwarped
    loss = mean_over(torch.where(moving, found, rest), valid)
    return Reprojection(loss, torch.where(seen, error.detach(), OUTSIDE), moving)


def unwarped_error(target: Reference, sources: Tensor) -> Tensor:
    """The least error of sources (S, B, 3, H, W) as they are: what does not move fits well."""
    with torch.no_grad():
        return torch.stack([photometric_error(target, one) for one in sources]).amin(dim=0)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` (B, 1, H, W) over `mask` for each sample (B,); 0 where it is empty."""
    weight = mask.to(values.dtype)
    total = (values * weight).flatten(1).sum(dim=1)
    return total / weight.flatten(1).sum(dim=1).clamp(min=1.0)


def fit_brightness(target: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """`image` with the gain and offset that bring its mean and spread to the target's.

    One pair per sample and colour over `mask` (B, 1, H, W), without a gradient through the pair:
    exposure and white balance may change from frame to frame. Gains stay within 0.5 .. 2.
    """
    with torch.no_grad():
        weight = mask.to(image.dtype)
        count = weight.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)
        mean_t = (target * weight).sum(dim=(2, 3), keepdim=True) / count
        mean_i = (image * weight).sum(dim=(2, 3), keepdim=True) / count
        spread_t = ((target - mean_t).square() * weight).sum(dim=(2, 3), keepdim=True) / count
        spread_i = ((image - mean_i).square() * weight).sum(dim=(2, 3), keepdim=True) / count
        gain = ((spread_t + 1e-6) / (spread_i + 1e-6)).sqrt().clamp(0.5, 2.0)
        offset = mean_t - gain * mean_i
    return gain * image + offset
