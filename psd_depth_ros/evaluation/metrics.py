"""The metrics of one depth image against the truth, in float64, and their mean over images.

Definitions and order of steps are those of the KITTI Eigen protocol (Eigen et al. 2014): mask the
truth to the range, scale by the ratio of medians where asked, clamp the prediction to the range,
average per image. SILog is the root of the variance of ln p/gt, log10 the mean of |log10 p/gt|.
Reading data and choosing crops is left to the callers.

This is the only copy of each formula: errors of an image (`measure`), errors by distance
(`measure_bands`), edges (`measure_edges`) and the worth of the confidence (`measure_confidence`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float64]  # (H, W)
Mask = NDArray[np.bool_]  # (H, W)
Values = NDArray[np.float64]  # (N,) of pixels
Order = NDArray[np.intp]  # (N,) indices of pixels
Bands = tuple[tuple[float, float], ...]  # [low, high) in metres

MINIMUM_DEPTH_M = 1e-3
MAXIMUM_DEPTH_M = 80.0
DRIVING_BANDS_M: Bands = ((0.0, 10.0), (10.0, 20.0), (20.0, 40.0), (40.0, 80.0))
INDOOR_BANDS_M: Bands = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 10.0))

# Between these ratios of depth a step to the neighbour counts as an occlusion.
LOWEST_RATIO, HIGHEST_RATIO, RATIOS = 1.05, 1.25, 10
GRID_CELLS = 128 * 96
MOST_GAP = 2  # unknown cells between neighbours
FARTHEST_PX = 10.0
_BLUR_PX = 1.0
_WEAK_STEP, _STRONG_STEP = 0.05, 0.1  # of ln depth from pixel to pixel, after the blur
_CANNY_UNIT = 8192.0  # steps of ln depth as the 16-bit integers that cv2.Canny takes

QUANTILES = 50


@dataclass(frozen=True)
class DepthMetrics:
    """Errors over the pixels that have both a truth in range and a prediction.

    `a1 a2 a3` (delta1 to delta3 in papers) are the fractions of pixels with max(p/gt, gt/p) below
    1.25, 1.25^2, 1.25^3. `scale` is what the prediction was multiplied by (1 where it was taken as
    it is). `coverage` is the fraction of pixels with a truth in range that have a prediction:
    errors of two methods compare only at like coverage.
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
    """The mean over images, each counting the same. Raises ValueError without images."""
    if not metrics:
        raise ValueError('there is no image to average over')
    names = [field.name for field in fields(DepthMetrics)]
    return DepthMetrics(
        **{name: float(np.mean([getattr(image, name) for image in metrics])) for name in names}
    )


def relative_error(predicted: Values, true: Values) -> Values:
    """|p - gt| / gt of every pixel (N,); its mean is AbsRel."""
    return np.abs(predicted - true) / true


def ratio_error(predicted: Values, true: Values) -> Values:
    """max(p / gt, gt / p) of every pixel (N,), 1 where it is right."""
    return np.maximum(predicted / true, true / predicted)


def _errors(predicted: Values, true: Values) -> dict[str, float]:
    error = predicted - true
    log_error = np.log(predicted) - np.log(true)
    ratio = ratio_error(predicted, true)
    return {
        'abs_rel': float(np.mean(relative_error(predicted, true))),
        'sq_rel': float(np.mean(error**2 / true)),
        'rmse': float(np.sqrt(np.mean(error**2))),
        'rmse_log': float(np.sqrt(np.mean(log_error**2))),
        'a1': float(np.mean(ratio < 1.25)),
        'a2': float(np.mean(ratio < 1.25**2)),
        'a3': float(np.mean(ratio < 1.25**3)),
        'silog': float(np.std(log_error)),
        'log10': float(np.mean(np.abs(log_error)) / np.log(10.0)),
    }


@dataclass(frozen=True)
class BandMetrics:
    """Errors over the pixels whose truth lies in one band, or over those of moving things.

    `bias` is the median of ln p/gt: above 0 is seen too far, below too near. They are so many
    `pixels`, the fraction `share` of all that are measured in the image.
    """

    abs_rel: float
    a1: float
    bias: float
    share: float
    pixels: int


def band_name(band: tuple[float, float]) -> str:
    """The name of a band of metres, such as `10-20`."""
    return f'{band[0]:g}-{band[1]:g}'


def measure_bands(matched: Matched, bands: Bands) -> dict[str, BandMetrics]:
    """Measure the bands `[low, high)` of one image; a band without pixels is left out."""
    found = {
        band_name((low, high)): measure_part(
            matched, (matched.true >= low) & (matched.true < high)
        )
        for low, high in bands
    }
    return {name: part for name, part in found.items() if part is not None}


def measure_part(matched: Matched, inside: NDArray[np.bool_]) -> BandMetrics | None:
    """Measure some of the pixels of an image, (N,) true; None where there are none."""
    pixels = int(np.count_nonzero(inside))
    if pixels == 0:
        return None
    predicted, true = matched.predicted[inside], matched.true[inside]
    return BandMetrics(
        abs_rel=float(np.mean(relative_error(predicted, true))),
        a1=float(np.mean(ratio_error(predicted, true) < 1.25)),
        bias=float(np.median(np.log(predicted / true))),
        share=pixels / len(inside),
        pixels=pixels,
    )


def average_bands(
    images: Sequence[Mapping[str, BandMetrics]], bands: Bands
) -> dict[str, dict[str, Any]]:
    """The means over the images by band of metres; see `average_parts`."""
    return average_parts(images, [band_name(band) for band in bands])


def average_parts(
    images: Sequence[Mapping[str, BandMetrics]], names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """The means over the images that have pixels in a part, and how many `frames` those are.

    `pooled_abs_rel` is the mean over the pixels of all images: few far pixels of one image weigh
    little there. `share` is the mean over all images. A part that no image has holds None.
    """
    averages: dict[str, dict[str, Any]] = {}
    for name in names:
        rows = [asdict(image[name]) for image in images if name in image]
        means = {
            key: float(np.mean([row[key] for row in rows])) if rows else None
            for key in ('abs_rel', 'a1', 'bias')
        }
        pixels = sum(row['pixels'] for row in rows)
        pooled = sum(row['abs_rel'] * row['pixels'] for row in rows) / pixels if rows else None
        share = sum(row['share'] for row in rows) / max(1, len(images))
        averages[name] = {
            **means, 'pooled_abs_rel': pooled, 'share': share, 'pixels': pixels,
            'frames': len(rows),
        }  # fmt: skip
    return averages


@dataclass(frozen=True)
class EdgeMetrics:
    """`boundary_f1` in [0, 1], 1 is best, NaN where the truth has no edges.

    Distances in pixels, 0 is best, at most 10:

    `accuracy_px` is from predicted edges to true ones, `completeness_px` from true ones to
    predicted ones; NaN where there are no such edges.
    """

    boundary_f1: float
    accuracy_px: float
    completeness_px: float


def measure_edges(
    depth: NDArray, truth: NDArray, *, minimum_m: float, maximum_m: float
) -> EdgeMetrics:
    """Compare the edges of `depth` with those of `truth`, both (H, W) metres.

    +Inf is the sky: like all that is beyond, it counts as `maximum_m`. Pixels without a truth
    above 0, or without a prediction (NaN), do not count; distances leave out edges right beside
    them.
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

    As in Depth Pro (Bochkovskii et al. 2024, "Depth Pro: Sharp Monocular Metric Depth in Less Than
    a Second", section 3.3): a cell occludes a neighbour where that is farther by more than a ratio
    t; the F1 for ten t from 1.05 to 1.25 are averaged with weights proportional to t. Different
    from there:

    - Neighbours are cells of a grid of about 128x96 over the image, not its pixels: at the
      recorded resolution the truth itself, reduced to the output of a small network and enlarged
      again, scores next to nothing, and the more so the larger the image.
    - Over a gap of at most two unknown cells the next known one is the neighbour: depth cameras
      see nothing right beside most edges.
    - The edges of the four directions are counted together, and a t that no neighbours of either
      map exceed is left out, so that the truth itself always scores 1.

    Args:
        log_depth: (H, W).
        log_truth: (H, W).
        known: (H, W), pixels that count; a cell needs half of its pixels.

    Returns:
        0 to 1, 1 is best; NaN where the truth has no edges.
    """
    everywhere = np.ones(log_truth.shape, bool) if known is None else known
    side = max(1, round(math.sqrt(log_truth.size / GRID_CELLS)))
    predicted, true = (
        _neighbour_steps(_reduce_to_cells(values, everywhere, side))
        for values in (log_depth, log_truth)
    )
    if not (np.abs(true) > math.log(LOWEST_RATIO)).any():
        return math.nan
    total = weights = 0.0
    for ratio in np.linspace(LOWEST_RATIO, HIGHEST_RATIO, RATIOS):
        edges, true_edges = (_directed_edges(one, math.log(ratio)) for one in (predicted, true))
        count = np.count_nonzero(edges) + np.count_nonzero(true_edges)
        if count:
            total += ratio * 2.0 * np.count_nonzero(edges & true_edges) / count
            weights += ratio
    return float(total / weights)


def edge_distances(log_depth: Map, log_truth: Map, known: Mask) -> tuple[float, float]:
    """Mean distances in pixels: predicted edges to true ones, true ones to predicted ones.

    Edges farther than 10 px from any of the other map count as 10 px.
    """
    inside = cv2.erode(known.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    predicted, true = (_edges(values) & inside for values in (log_depth, log_truth))
    return _mean_distance(predicted, true), _mean_distance(true, predicted)


def _reduce_to_cells(values: Map, known: Mask, side: int) -> Map:
    """The lower medians of the known pixels in squares, NaN where less than half is known.

    A median keeps steps sharp, where a mean would put a depth between both sides. Pixels beyond
    the last whole square do not count.
    """
    rows, columns = (length // side for length in values.shape)
    masked = np.where(known, values, np.nan)[: rows * side, : columns * side]
    squares = masked.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows, columns, -1)
    counts = np.count_nonzero(~np.isnan(squares), axis=-1)
    middle = np.maximum(counts - 1, 0)[..., None] // 2
    medians = np.take_along_axis(np.sort(squares, axis=-1), middle, axis=-1)[..., 0]
    return np.where(2 * counts >= side * side, medians, np.nan)


def _neighbour_steps(cells: Map) -> Values:
    """Steps from each known cell to the next one along both axes, over at most `MOST_GAP` NaN."""
    steps = []
    for lines in (cells, cells.T):
        for apart in range(1, MOST_GAP + 2):
            step = lines[:, apart:] - lines[:, :-apart]
            between = [lines[:, i : i - apart] for i in range(1, apart)]
            is_next = np.logical_and.reduce([~np.isnan(step), *map(np.isnan, between)])
            steps.append(step[is_next])
    return np.concatenate(steps)


def _directed_edges(steps: Values, threshold: float) -> Mask:
    """Whether each step exceeds a threshold upwards, then whether downwards, (2, N)."""
    return np.stack([steps > threshold, steps < -threshold])


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


@dataclass(frozen=True)
class Sparsification:
    """Areas for one error. `ause`: above the oracle's curve, 0 is best. `aurg`: below random."""

    ause: float
    aurg: float


def measure_confidence(matched: Matched, confidence: NDArray) -> dict[str, Sparsification]:
    """Areas for `abs_rel`, `rmse` and `a1` (as 1 - a1) with a confidence (H, W) of any scale.

    Among pixels of equal confidence the later ones go first.
    """
    trust = confidence[matched.mask].astype(np.float64)
    predicted, true = matched.predicted, matched.true
    parts: dict[str, tuple[Values, Callable[[Values], Values]]] = {
        'abs_rel': (relative_error(predicted, true), np.asarray),
        'rmse': ((predicted - true) ** 2, np.sqrt),
        'a1': ((ratio_error(predicted, true) >= 1.25).astype(np.float64), np.asarray),
    }
    most_trusted_first = np.argsort(-trust, kind='stable')
    return {
        name: sparsify(errors, most_trusted_first, finish)
        for name, (errors, finish) in parts.items()
    }


def sparsify(
    errors: Values, most_trusted_first: Order, finish: Callable[[Values], Values] = np.asarray
) -> Sparsification:
    """Areas for errors (N,) and the order of trust in them; `finish` is applied to their means.

    Of N pixels, N - floor(i N / 50) are left at quantile i = 0 .. 49, none at 50, where the error
    is 0. Areas by the trapezoidal rule over [0, 1].
    """
    by_trust = finish(_means_left(errors[most_trusted_first]))
    by_error = finish(_means_left(np.sort(errors)))
    area, best = _area(by_trust), _area(by_error)
    return Sparsification(ause=area - best, aurg=float(by_trust[0]) - area)


def _means_left(errors: Values) -> Values:
    """Means (50,) of what is left at each quantile, the last pixels leaving first."""
    sums = np.cumsum(errors)
    count = len(errors)
    left = count - (np.arange(QUANTILES) * count) // QUANTILES
    return sums[left - 1] / left


def _area(curve: Values) -> float:
    heights = np.append(curve, 0.0)
    return float(np.sum(0.5 * (heights[:-1] + heights[1:])) / QUANTILES)
