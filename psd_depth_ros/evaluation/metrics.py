"""The metrics of one depth image against the truth, in float64, and their mean over images.

Definitions and order of steps are those of the KITTI Eigen protocol (Eigen et al. 2014): mask the
truth to the range, scale by the ratio of medians where asked, clamp the prediction to the range,
average per image. SILog is the root of the variance of ln p/gt, log10 the mean of |log10 p/gt|.
Errors by distance are in `distance`, those of edges in `edges`, the worth of the confidence is in
`confidence`. Reading data and choosing crops is left to the callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MINIMUM_DEPTH_M = 1e-3
MAXIMUM_DEPTH_M = 80.0

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class DepthMetrics:
    """Errors over the pixels that have both a truth in range and a prediction.

    `a1 a2 a3` are the shares of pixels with max(p/gt, gt/p) below 1.25, 1.25^2, 1.25^3. `scale`
    is what the prediction was multiplied by (1 where it was taken as it is). `coverage` is the
    share of pixels with a truth in range that have a prediction: errors of two methods compare
    only at like coverage.
    """

    abs_rel: float
    sq_rel: float
    rmse: float
    rmse_log: float
    a1: float
    a2: float
    a3: float
    silog: float
    log10: float
    scale: float
    coverage: float


class TwoWays(NamedTuple):
    """The same images with each scaled by its median, and taken as they are."""

    median_scaled: DepthMetrics
    unscaled: DepthMetrics


class Matched(NamedTuple):
    """The pixels of an image that have both: `predicted` scaled and clamped, `true`, both (N,).

    `mask` (H, W) says where they are; `known` counts the pixels with a truth in range.
    """

    predicted: Values
    true: Values
    mask: Mask
    scale: float
    known: int


def measure(
    depth: np.ndarray,
    truth: np.ndarray,
    *,
    median_scaled: bool,
    minimum_m: float = MINIMUM_DEPTH_M,
    maximum_m: float = MAXIMUM_DEPTH_M,
    truth_maximum_m: float | None = None,
) -> DepthMetrics | None:
    """Measure one depth image (H, W) in metres against the truth of the same shape; see `match`.

    None where no pixel has both. Raises ValueError for shapes that differ.
    """
    matched = match(
        depth,
        truth,
        median_scaled=median_scaled,
        minimum_m=minimum_m,
        maximum_m=maximum_m,
        truth_maximum_m=truth_maximum_m,
    )
    return None if matched is None else measure_matched(matched)


def match(
    depth: np.ndarray,
    truth: np.ndarray,
    *,
    median_scaled: bool,
    minimum_m: float = MINIMUM_DEPTH_M,
    maximum_m: float = MAXIMUM_DEPTH_M,
    truth_maximum_m: float | None = None,
) -> Matched | None:
    """Take the pixels of a depth image (H, W) that can be compared with the truth.

    A truth that is not finite, or outside `(minimum_m, maximum_m)`, is no truth;
    `truth_maximum_m` is another end of it than the one that predictions are clamped to. A
    prediction of NaN is no prediction; +Inf (beyond range) and -Inf (nearer than range) are
    clamped like any other value. None where no pixel has both, or the median cannot be scaled.
    Raises ValueError for shapes that differ.
    """
    if depth.shape != truth.shape:
        raise ValueError(f'depth is {depth.shape} and its truth is {truth.shape}')
    farthest = maximum_m if truth_maximum_m is None else truth_maximum_m
    known = np.isfinite(truth) & (truth > minimum_m) & (truth < farthest)
    both = known & ~np.isnan(depth)
    if not both.any():
        return None
    predicted, true = depth[both].astype(np.float64), truth[both].astype(np.float64)
    scale = median_scale(predicted, true) if median_scaled else 1.0
    if not np.isfinite(scale):
        return None
    clamped = np.clip(predicted * scale, minimum_m, maximum_m)
    return Matched(clamped, true, both, scale, int(np.count_nonzero(known)))


def measure_matched(matched: Matched) -> DepthMetrics:
    """The metrics of pixels that have both."""
    coverage = len(matched.true) / matched.known
    errors = _errors(matched.predicted, matched.true)
    return DepthMetrics(**errors, scale=matched.scale, coverage=coverage)


def median_scale(predicted: np.ndarray, true: np.ndarray) -> float:
    """The factor that brings the median of `predicted` to that of `true` (NaN where it cannot)."""
    median = float(np.median(predicted))
    return float(np.median(true)) / median if np.isfinite(median) and median > 0 else float('nan')


def average(metrics: Sequence[DepthMetrics]) -> DepthMetrics:
    """The mean over images, each counting the same. Raises ValueError for none."""
    if not metrics:
        raise ValueError('there is no image to average over')
    names = [field.name for field in fields(DepthMetrics)]
    return DepthMetrics(
        **{name: float(np.mean([getattr(one, name) for one in metrics])) for name in names}
    )


def _errors(predicted: Values, true: Values) -> dict[str, float]:
    error = predicted - true
    log_error = np.log(predicted) - np.log(true)
    ratio = np.maximum(predicted / true, true / predicted)
    return {
        'abs_rel': float(np.mean(np.abs(error) / true)),
        'sq_rel': float(np.mean(error**2 / true)),
        'rmse': float(np.sqrt(np.mean(error**2))),
        'rmse_log': float(np.sqrt(np.mean(log_error**2))),
        'a1': float(np.mean(ratio < 1.25)),
        'a2': float(np.mean(ratio < 1.25**2)),
        'a3': float(np.mean(ratio < 1.25**3)),
        'silog': float(np.std(log_error)),
        'log10': float(np.mean(np.abs(log_error)) / np.log(10.0)),
    }
