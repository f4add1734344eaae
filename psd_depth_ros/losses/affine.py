"""Alignment of two maps with outliers, and losses of a map known up to scale, or scale and shift.

A network that was trained on mixed data (LeReS, MiDaS, Depth Anything ...) knows disparity up to
a positive scale and a shift, differently in each image, and is wrong somewhere: what it says of
movers, of the sky and of mirrors must not tilt the fit of the rest.

- Rousseeuw and Van Driessen 2006, "Computing LTS Regression for Large Data Sets": least trimmed
  squares by concentration steps.
- Ranftl et al. 2022, "Towards Robust Monocular Depth Estimation" (MiDaS): the median and the
  deviation from it as shift and scale, the gradient matching over several scales.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KEPT = 0.6  # fraction of the pixels that a trimmed fit is made of
STEPS = 8  # concentration steps
MOST_FITTED = 2048  # pixels of an image that take part in a fit, evenly spread
LEAST_RATIO = 0.25  # of a trimmed scale to that of the spreads, below which it is not believed
HEAVY_TAIL = 0.25  # of the mean deviation, which the spread is at least: half a map may be flat
MIN_SPREAD = 0.01  # smallest deviation of a disparity map, as a fraction of its median
LEAST_CONTRAST = 0.2  # the same in the loss
GRADIENT_SCALES = 4
FEWEST_PIXELS = 32  # of a sample that is aligned
MOST_DIFFERENCE = 1.0  # of log-depth; a pixel that is farther off is an outlier and learns nothing


class Affine(NamedTuple):
    """y = scale x + shift for each sample; no gradient."""

    scale: Tensor  # (B,) positive
    shift: Tensor  # (B,)
    median: Tensor  # (B,) of x
    spread: Tensor  # (B,) deviation of x from its median, the unit of x
    known: Tensor  # (B,) bool: enough pixels were there

    def __call__(self, x: Tensor) -> Tensor:
        """Map x (B, 1, H, W) to y."""
        return self.scale[:, None, None, None] * x + self.shift[:, None, None, None]

    def steepened(self, least: float) -> Affine:
        """The line whose spread of y is at least the fraction `least` of y at the median of x."""
        middle = self.scale * self.median + self.shift
        scale = torch.maximum(self.scale, least * middle.abs() / self.spread)
        return self._replace(scale=scale, shift=middle - scale * self.median)

    def inverse(self, y: Tensor) -> Tensor:
        """Map y (B, 1, H, W) to x."""
        return (y - self.shift[:, None, None, None]) / self.scale[:, None, None, None]


@torch.no_grad()
def fit_affine(x: Tensor, y: Tensor, mask: Tensor) -> Affine:
    """Fit y = a x + b with a > 0 for each sample by least trimmed squares.

    It begins with the line that maps the median and the median absolute deviation of x to those
    of y, then repeats: keep the 60 % of the pixels with the least residuals, fit these by least
    squares. Up to 40 % of the pixels may be anything, unless they lie on another line together.
    Where the two maps hardly correlate (a network that has learned nothing yet), least squares
    gives a scale near 0 or a negative one: below a quarter of the first line's scale, that line
    stays.

    Args:
        x: (B, 1, H, W), NaN where unknown.
        y: (B, 1, H, W).
        mask: (B, 1, H, W) bool, the pixels that count.
    """
    stride = max(1, round((x[0].numel() / MOST_FITTED) ** 0.5))
    x, y, mask = (one[..., ::stride, ::stride].flatten(1) for one in (x, y, mask))
    mask = mask & torch.isfinite(x) & torch.isfinite(y)
    count = mask.sum(dim=1)
    x_median, x_spread = _median_and_deviation(x, mask)
    y_median, y_spread = _median_and_deviation(y, mask)
    x_spread = x_spread.clamp(min=1e-9)
    y_spread = torch.maximum(y_spread, MIN_SPREAD * y_median.abs()).clamp(min=1e-9)
    robust = y_spread / x_spread
    # in units of the deviations, about the medians, where float32 is exact enough
    x = torch.where(mask, (x - x_median[:, None]) / x_spread[:, None], 0.0)
    y = torch.where(mask, (y - y_median[:, None]) / y_spread[:, None], 0.0)
    slope, offset = torch.ones_like(robust), torch.zeros_like(robust)
    last = ((KEPT * count).long() - 1).clamp(min=0)[:, None]
    for _ in range(STEPS):
        residual = torch.where(mask, (y - slope[:, None] * x - offset[:, None]).abs(), torch.inf)
        limit = residual.sort(dim=1).values.gather(1, last)
        slope, offset = _least_squares(x, y, mask & (residual <= limit), slope, offset)
    believed = slope > LEAST_RATIO
    slope, offset = torch.where(believed, slope, 1.0), torch.where(believed, offset, 0.0)
    scale = slope * robust
    shift = y_median + offset * y_spread - scale * x_median
    known = count >= FEWEST_PIXELS
    return Affine(
        torch.where(known, scale, 1.0), torch.where(known, shift, 0.0), x_median, x_spread, known
    )


@torch.no_grad()
def fit_scale(x: Tensor, y: Tensor, mask: Tensor) -> Affine:
    """Fit y = a x, of positive maps, by the median of ln y - ln x; arguments as of `fit_affine`.

    Up to half of the pixels may be anything. Pixels that are not above 0 do not count.
    """
    mask = mask & torch.isfinite(x) & torch.isfinite(y) & (x > 0) & (y > 0)
    x, y, mask = x.flatten(1), y.flatten(1), mask.flatten(1)
    ratio = torch.where(mask, y / torch.where(mask, x, 1.0), torch.nan)
    known = mask.sum(dim=1) >= FEWEST_PIXELS
    scale = torch.where(known, ratio.nanmedian(dim=1).values, 1.0)
    median, spread = _median_and_deviation(x, mask)
    return Affine(scale, torch.zeros_like(scale), median, spread.clamp(min=1e-9), known)


def scaled_log_loss(log_depth: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """Difference of log-depth from a disparity known up to a factor, in value and slope, (B,).

    L = mean |e| + 1/2 sum_k mean |grad e|, e = u + ln q - median(u + ln q), over four scales k
    like `affine_invariant_loss`. The median has no gradient; where |e| is above 1 there is none
    either. A sample with less than 32 pixels gives 0.

    Args:
        log_depth: (B, 1, H, W) u, what is learned.
        other: (B, 1, H, W) q, the teacher's disparity, NaN where unknown.
        mask: (B, 1, H, W) bool, the pixels that count.
    """
    mask = mask & torch.isfinite(other) & (other > 0)
    known = mask.flatten(1).sum(dim=1) >= FEWEST_PIXELS
    sum_of_logs = log_depth + torch.where(mask, other, 1.0).log()
    middle = torch.where(mask, sum_of_logs.detach(), torch.nan).flatten(1).nanmedian(dim=1).values
    difference = sum_of_logs - middle.nan_to_num(0.0)[:, None, None, None]
    difference = torch.where(mask, difference, 0.0).clamp(-MOST_DIFFERENCE, MOST_DIFFERENCE)
    loss = _masked_mean(difference.abs(), mask) + 0.5 * gradient_error(difference, mask)
    return torch.where(known, loss, 0.0)


def affine_invariant_loss(
    disparity: Tensor, other: Tensor, mask: Tensor, least_contrast: float = LEAST_CONTRAST
) -> Tensor:
    """Difference of a disparity from a map known up to scale and shift, in value and slope, (B,).

    L = mean |d' - q'| + 1/2 sum_k mean |grad (d' - q')|, over four scales k, each of half the
    pixels a side. d' is the disparity over its mean, mapped to the scale and shift of the other by
    `fit_affine`; both in units of the deviation of the other from its median, so that L has no
    unit. The parameters of the fit have no gradient; that of the mean sees to it that L says
    nothing about a common factor of the disparity, which the other does not know: without, near
    pixels that are to come nearer took all others with them. A sample with less than 32 pixels
    gives 0.

    The disparity is the one that is mapped, not the other: a flat disparity would otherwise be
    matched perfectly by a scale of 0. For the same reason it is compared as if its contrast, the
    deviation over the median, were `least_contrast` at least: every shift is allowed, so a large
    one would make a nearly flat disparity perfect, and a network that begins flat would stay so.

    Args:
        disparity: (B, 1, H, W) what is learned.
        other: (B, 1, H, W) the teacher's, NaN where unknown.
        mask: (B, 1, H, W) bool, the pixels that count.
        least_contrast: Streets have 0.3 to 1.0, rooms 0.1 to 0.5.
    """
    mask = mask & torch.isfinite(other)
    target = torch.where(mask, other, 0.0)
    disparity = disparity / _masked_mean(disparity, mask).clamp(min=1e-9)[:, None, None, None]
    fit = fit_affine(other, disparity.detach(), mask).steepened(least_contrast)
    unit = fit.spread[:, None, None, None]
    difference = torch.where(mask, (fit.inverse(disparity) - target) / unit, 0.0)
    loss = _masked_mean(difference.abs(), mask) + 0.5 * gradient_error(difference, mask)
    return torch.where(fit.known, loss, 0.0)


def gradient_error(difference: Tensor, mask: Tensor, scales: int = GRADIENT_SCALES) -> Tensor:
    """Sum over scales of the mean |slope| of a difference between neighbours, (B,).

    Scale k takes every 2^k-th pixel and row; a pair of neighbours counts where both are in `mask`
    (B, 1, H, W), as an average over the pairs of both directions.
    """
    total = difference.new_zeros(len(difference))
    for scale in range(scales):
        step = 2**scale
        d, m = difference[..., ::step, ::step], mask[..., ::step, ::step]
        across, both_x = (d[..., 1:] - d[..., :-1]).abs(), m[..., 1:] & m[..., :-1]
        down, both_y = (d[..., 1:, :] - d[..., :-1, :]).abs(), m[..., 1:, :] & m[..., :-1, :]
        total = total + _masked_mean(across, both_x) + _masked_mean(down, both_y)
    return total


def _least_squares(
    x: Tensor, y: Tensor, kept: Tensor, slope: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """The line through the kept points of each sample; the one before where x does not vary."""
    weight = kept.to(x.dtype)
    count = weight.sum(dim=1).clamp(min=1.0)
    x_mean, y_mean = (x * weight).sum(dim=1) / count, (y * weight).sum(dim=1) / count
    dx = (x - x_mean[:, None]) * weight
    variance = dx.square().sum(dim=1)
    found = (dx * (y - y_mean[:, None])).sum(dim=1) / variance.clamp(min=1e-12)
    found = torch.where(variance > 1e-9 * count, found, slope)
    return found, torch.where(variance > 1e-9 * count, y_mean - found * x_mean, offset)


def _median_and_deviation(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Median and median absolute deviation of each row of values (B, n) over a mask."""
    known = torch.where(mask, values, torch.nan)
    median = known.nanmedian(dim=1).values.nan_to_num(0.0)
    distance = (known - median[:, None]).abs()
    deviation = distance.nanmedian(dim=1).values.nan_to_num(0.0)
    mean = distance.nanmean(dim=1).nan_to_num(0.0)
    return median, torch.maximum(deviation, HEAVY_TAIL * mean)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(values.dtype)
    total = (values * weight).flatten(1).sum(dim=1)
    return total / weight.flatten(1).sum(dim=1).clamp(min=1.0)
