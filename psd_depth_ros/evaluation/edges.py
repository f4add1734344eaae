"""How well the edges of a depth image lie where those of the truth do; for dense truth only.

Boundary F1 is that of Depth Pro (Bochkovskii et al. 2024, section 4): free of scale, it asks of
each pair of neighbours whether one occludes the other. Accuracy and completeness of edges, in
pixels, are those of iBims-1 (Koch et al. 2018) on edges of ln depth.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Between these shares of depth a step to the neighbour counts as an occlusion.
LOWEST_RATIO, HIGHEST_RATIO, RATIOS = 1.05, 1.25, 10
FARTHEST_PX = 10.0
_BLUR_PX = 1.0
_WEAK_STEP, _STRONG_STEP = 0.05, 0.1  # of ln depth from pixel to pixel, after the blur
_CANNY_UNIT = 8192.0  # steps of ln depth as the 16-bit integers that cv2.Canny takes


@dataclass(frozen=True)
class EdgeMetrics:
    """`boundary_f1` in [0, 1], 1 is best. Distances in pixels, 0 is best, at most 10.

    `accuracy_px` is from predicted edges to true ones, `completeness_px` from true ones to
    predicted ones; NaN where there are none to start from.
    """

    boundary_f1: float
    accuracy_px: float
    completeness_px: float


def measure_edges(
    depth: NDArray, truth: NDArray, *, minimum_m: float, maximum_m: float
) -> EdgeMetrics:
    """Compare the edges of `depth` with those of `truth`, both (H, W) metres.

    +Inf is the sky: like all that is beyond, it counts as `maximum_m`. Pixels without a truth
    above 0, or without a prediction (NaN), and edges right beside them, do not count.
    """
    known = (truth > 0) & ~np.isnan(depth)
    log_depth, log_truth = (
        np.log(np.where(known, values, maximum_m).astype(np.float64).clip(minimum_m, maximum_m))
        for values in (depth, truth)
    )
    accuracy, completeness = edge_distances(log_depth, log_truth, known)
    return EdgeMetrics(boundary_f1(log_depth, log_truth, known), accuracy, completeness)


def boundary_f1(log_depth: Map, log_truth: Map, known: Mask | None = None) -> float:
    """The weighted F1 of occluding neighbours of two maps of ln depth (H, W).

    A pixel occludes a neighbour where that is farther by more than a ratio t. For each t of ten
    from 1.05 to 1.25, precision and recall are averaged over the four directions; the F1 are
    averaged with weights proportional to t. `known` (H, W): both pixels of a pair must be.
    """
    everywhere = np.ones(log_truth.shape, bool) if known is None else known
    steps = [
        _directed_steps(values, everywhere, axis) for values in (log_depth, log_truth)
        for axis in (0, 1)
    ]  # fmt: skip
    predicted, true = steps[:2], steps[2:]
    ratios = np.linspace(LOWEST_RATIO, HIGHEST_RATIO, RATIOS)
    scores = [_f1(predicted, true, math.log(ratio)) for ratio in ratios]
    return float(np.average(scores, weights=ratios))


def edge_distances(log_depth: Map, log_truth: Map, known: Mask) -> tuple[float, float]:
    """Mean distances in pixels: predicted edges to true ones, true ones to predicted ones.

    Edges farther than 10 px from any of the other map count as 10 px.
    """
    inside = cv2.erode(known.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    predicted, true = (_edges(values) & inside for values in (log_depth, log_truth))
    return _mean_distance(predicted, true), _mean_distance(true, predicted)


def _directed_steps(log_depth: Map, known: Mask, axis: int) -> Map:
    """ln ratio of each pair of neighbours along an axis; 0 where one of them is not known."""
    both = np.diff(known.astype(np.int8), axis=axis) == 0
    both &= np.delete(known, -1, axis=axis)
    return np.where(both, np.diff(log_depth, axis=axis), 0.0)


def _f1(predicted: list[Map], true: list[Map], threshold: float) -> float:
    precisions, recalls = [], []
    for p, t in zip(predicted, true, strict=True):
        for sign in (1.0, -1.0):
            found, there = sign * p > threshold, sign * t > threshold
            hits = int(np.count_nonzero(found & there))
            precisions.append(hits / max(1, int(np.count_nonzero(found))))
            recalls.append(hits / max(1, int(np.count_nonzero(there))))
    precision, recall = float(np.mean(precisions)), float(np.mean(recalls))
    both = precision + recall
    return 2.0 * precision * recall / both if both > 0 else 0.0


def _edges(log_depth: Map) -> Mask:
    """Thin edges: Canny on the steps of ln depth, the same thresholds for every map."""
    smooth = cv2.GaussianBlur(log_depth, (0, 0), _BLUR_PX)
    steps = []
    for axis in (1, 0):
        half = np.gradient(smooth, axis=axis) * _CANNY_UNIT
        steps.append(np.clip(np.rint(half), -32767, 32767).astype(np.int16))
    weak, strong = _WEAK_STEP * _CANNY_UNIT, _STRONG_STEP * _CANNY_UNIT
    return cv2.Canny(steps[0], steps[1], weak, strong, L2gradient=True) > 0


def _mean_distance(start: Mask, goal: Mask) -> float:
    if not start.any():
        return math.nan
    if not goal.any():
        return FARTHEST_PX
    away = cv2.distanceTransform((~goal).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(np.mean(np.minimum(away[start].astype(np.float64), FARTHEST_PX)))
