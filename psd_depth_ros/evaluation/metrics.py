"""The metrics of one depth image against the truth, in float64, and their mean over images.

Definitions and order of steps are those of the KITTI Eigen protocol (Eigen et al. 2014): mask the
truth to the range, scale by the ratio of medians where asked, clamp the prediction to the range,
average per image. Reading data and choosing crops is left to the callers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

MINIMUM_DEPTH_M = 1e-3
MAXIMUM_DEPTH_M = 80.0


@dataclass(frozen=True)
class DepthMetrics:
    """Errors over the pixels that have both a truth in range and a prediction.

    `scale` is what the prediction was multiplied by (1 where it was taken as it is). `coverage`
    is the share of pixels with a truth in range that have a prediction: errors of two methods
    compare only at like coverage.
    """

    absrel: float
    sqrel: float
    rmse: float
    rmse_log: float
    delta1: float
    delta2: float
    delta3: float
    scale: float
    coverage: float


def measure(
    depth: np.ndarray,
    truth: np.ndarray,
    *,
    median_scaled: bool,
    minimum_m: float = MINIMUM_DEPTH_M,
    maximum_m: float = MAXIMUM_DEPTH_M,
) -> DepthMetrics | None:
    """Measure one depth image (H, W) in metres against the truth of the same shape.

    A truth that is not finite, or outside `(minimum_m, maximum_m)`, is no truth. A prediction of
    NaN is no prediction; +Inf (beyond range) and -Inf (nearer than range) are clamped like any
    other value. None where no pixel has both. Raises ValueError for shapes that differ.
    """
    if depth.shape != truth.shape:
        raise ValueError(f'depth is {depth.shape} and its truth is {truth.shape}')
    known = np.isfinite(truth) & (truth > minimum_m) & (truth < maximum_m)
    both = known & ~np.isnan(depth)
    if not both.any():
        return None
    predicted, true = depth[both].astype(np.float64), truth[both].astype(np.float64)
    scale = median_scale(predicted, true) if median_scaled else 1.0
    if not np.isfinite(scale):
        return None
    clamped = np.clip(predicted * scale, minimum_m, maximum_m)
    coverage = float(np.count_nonzero(both) / np.count_nonzero(known))
    return DepthMetrics(**_errors(clamped, true), scale=scale, coverage=coverage)


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


def _errors(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    error = predicted - true
    log_error = np.log(predicted) - np.log(true)
    ratio = np.maximum(predicted / true, true / predicted)
    return {
        'absrel': float(np.mean(np.abs(error) / true)),
        'sqrel': float(np.mean(error**2 / true)),
        'rmse': float(np.sqrt(np.mean(error**2))),
        'rmse_log': float(np.sqrt(np.mean(log_error**2))),
        'delta1': float(np.mean(ratio < 1.25)),
        'delta2': float(np.mean(ratio < 1.25**2)),
        'delta3': float(np.mean(ratio < 1.25**3)),
    }
