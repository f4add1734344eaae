"""Which frames of a recording make triplets, and why the others do not.

Frames are measured on small grey images: how sharp and well exposed they are, how far the image
moves from one to another, and which regions never move. Regions that stay while the world moves
(bonnet, black bars, written-in text) have no parallax, so self-supervision would push them to
infinity. Sky and smooth road hardly change either, so a quiet region alone is no proof: see
`find_fixed`. Sources are chosen by how far the image moved, not by index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.settings import TripletSettings
from psd_depth_ros.odometry.tracking import Grey, Pixels, Tracker

GREY_WIDTH = 208
TRACKER = Tracker(200, 0.005, 4, window_px=16, return_px=0.75)
_BLACK, _WHITE = 4, 251
_FEWEST_POINTS = 8

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]

# Least motion of all frames together, in % of the width, to tell what is fixed.
_LEAST_TRAVEL = 50.0
_FEWEST_FRAMES, _MOST_FRAMES = 20, 300
# A quiet pixel varies by less than this fraction of the median pixel, and than so many levels:
# few at first, because smooth road is quiet too and would join the bonnet.
_QUIET_FRACTION, _QUIET_LEVELS = 0.3, (2.0, 4.0, 7.0, 12.0)
# What moves varies this much more than what is fixed, and by this many levels, right beside it.
_STEP, _STEP_LEVELS = 3.0, 10.0
_ACROSS = 0.2
_LEAST_BONNET, _MOST_BONNET = 0.004, 0.5
_LEAST_ISLAND = 12
_STRONG_EDGE = 6.0

LEAST_SHARPNESS = 0.1  # at the size of the network: 0 is flat, 0.2 to 0.5 usual
MOST_SATURATED = 0.4  # fraction of black or white pixels
LEAST_TRANSLATION_M = 0.01  # between target and source, where the recording knows it
# Least fraction of corners that is found again in the same scene.
_SAME_SCENE = 0.3
# A wait this many times as long as usual means that frames were lost.
_GAP = 3.0

REASONS = {
    'blurred': 'blurred',
    'saturated': 'mostly black or white',
    'stationary': 'the camera stands still',
    'turning': 'the camera turns on the spot',
    'fast': 'the image moves too far between frames',
    'cut': 'another scene, or too little to track',
    'gap': 'frames are missing before or after, or too far apart in time',
    'end': 'first or last of the recording',
    'split': 'at the border to what is held out',
    'unlisted': 'not in the lists of the split',
    'image': 'images that cannot be decoded',
    'camera_info': 'no camera that fits',
}


@dataclass(frozen=True)
class Shift:
    """How the image moved between two frames.

    `flow` is the median length of the optical flow in % of the width, `parallax` that of what is
    left after the best rotation of the camera is taken out; NaN where nothing could be tracked.
    `tracked` is the fraction of corners found again.
    """

    flow: float
    parallax: float
    tracked: float


def shrink_grey(rgb: NDArray[np.uint8], width: int = GREY_WIDTH) -> Grey:
    """A grey image (h, width) of an image (H, W, 3)."""
    height = max(8, round(rgb.shape[0] * width / rgb.shape[1]))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def measure_sharpness(grey: Grey) -> float:
    """Fraction of the gradient that a small blur takes away: 0 is flat or blurred.

    An image that is blurred already loses little (Crete et al., The Blur Effect, SPIE 2007);
    being a ratio it depends little on the scene. The axis that loses less counts, because motion
    blurs along one.
    """
    image = grey.astype(np.float32)
    fractions = []
    for axis, window in ((0, (1, 3)), (1, (3, 1))):
        before = np.abs(np.diff(image, axis=axis))
        after = np.abs(np.diff(cv2.blur(image, window), axis=axis))
        # Half a level: what rounding alone takes from a smooth image.
        lost = float(np.maximum(before - after - 0.5, 0).sum())
        total = float(before.sum())
        fractions.append(lost / total if total > 0.02 * before.size else 0.0)
    return min(fractions)


def measure_saturation(grey: Grey) -> float:
    """Fraction of pixels that are black or white."""
    return float(np.mean((grey <= _BLACK) | (grey >= _WHITE)))


def find_corners(grey: Grey) -> Pixels:
    """Up to 200 corners (n, 2) of a small grey image."""
    return TRACKER.find(grey)


def measure_shift(target: Grey, source: Grey, corners: Pixels, focal: float) -> Shift:
    """Follow the corners (n, 2) of `target` into `source`; see `Shift`.

    `focal` is the focal length as a fraction of the width of the image.
    """
    if len(corners) < _FEWEST_POINTS:
        return Shift(np.nan, np.nan, 0.0)
    start, end, fraction = TRACKER.follow(target, source, corners)
    if len(start) < _FEWEST_POINTS:
        return Shift(np.nan, np.nan, fraction)
    flow = end - start
    scale = 100.0 / target.shape[1]
    rest = flow - _rotational_flow(start, flow, target.shape, focal * target.shape[1])
    return Shift(_median_length(flow) * scale, _median_length(rest) * scale, fraction)


def _median_length(flow: NDArray) -> float:
    return float(np.median(np.linalg.norm(flow, axis=1)))


def _rotational_flow(
    points: NDArray, flow: NDArray, shape: tuple[int, ...], focal_px: float
) -> NDArray:
    """The flow (n, 2) of the small rotation that explains most of it, by reweighted least squares.

    Longuet-Higgins and Prazdny, The Interpretation of a Moving Retinal Image (1980).
    """
    x = (points[:, 0] - (shape[1] - 1) / 2) / focal_px
    y = (points[:, 1] - (shape[0] - 1) / 2) / focal_px
    rows = np.concatenate([
        np.stack([x * y, -(1 + x * x), y], axis=1), np.stack([1 + y * y, -x * y, -x], axis=1)
    ])  # fmt: skip
    values = np.concatenate([flow[:, 0], flow[:, 1]]) / focal_px
    weights = np.ones(len(points))
    turn: NDArray = np.zeros(3)
    for _ in range(5):
        both = np.tile(weights, 2)[:, None]
        turn = np.linalg.lstsq(rows * both, values * both[:, 0], rcond=None)[0]
        rest = (values - rows @ turn).reshape(2, -1)
        weights = 1 / np.sqrt(np.hypot(*rest) + 0.2 / focal_px)
    return (rows @ turn).reshape(2, -1).T * focal_px


def find_fixed(
    grey: NDArray[np.uint8], flow: NDArray[np.float32], centre: tuple[float, float]
) -> Mask:
    """Find regions that never move in small grey images (N, h, w); true there, (h, w).

    `flow` (N - 1,) is the median flow to the next frame in % of the width, `centre` is x, y of the
    principal point. Three things count:

    - rows and columns that are black from the border on;
    - a quiet region at the lower border: its outline must be a sharp step to what changes, and
      lie across the motion, because the outline of a lane lies along it;
    - quiet islands near the other borders with a sharp outline in the mean image too: that of
      the sky is smeared by what moves before it.
    """
    moving = np.flatnonzero(np.nan_to_num(flow) > 0.1)
    if len(moving) < _FEWEST_FRAMES or float(np.nansum(flow)) < _LEAST_TRAVEL:
        return np.zeros(grey.shape[1:], bool)
    kept = moving[np.linspace(0, len(moving) - 1, min(len(moving), _MOST_FRAMES)).astype(int)]
    frames = np.asarray(grey[kept], np.float32)
    mean, variation = frames.mean(axis=0), frames.std(axis=0)
    fixed = _black_bars(mean, variation)
    usual = _QUIET_FRACTION * float(np.median(variation))
    for levels in _QUIET_LEVELS:
        for region in _regions((variation < min(levels, usual)) & ~fixed):
            if region[-1].any():
                region = _fill_below(region)
                is_fixed = _is_bonnet(region, variation, centre)
            else:
                is_fixed = _is_island(region, variation, mean)
            if is_fixed:
                fixed |= cv2.dilate(region.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return fixed


def _black_bars(mean: Field, variation: Field) -> Mask:
    """Rows and columns that are black from the border on."""
    black = (mean < 20) & (variation < 2)
    fixed = np.zeros(mean.shape, bool)
    pairs = ((fixed, black), (fixed.T, black.T))
    for view, picture in (*pairs, *((a[::-1], b[::-1]) for a, b in pairs)):
        rows = picture.mean(axis=1) > 0.98
        view[: int(np.argmin(rows)) if not rows.all() else 0] = True
    return fixed


def _regions(quiet: Mask) -> Iterator[Mask]:
    """Give the connected regions of a mask."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        quiet.astype(np.uint8), connectivity=4
    )
    for label in range(1, count):
        if stats[label, cv2.CC_STAT_AREA] >= _LEAST_ISLAND:
            yield labels == label


def _fill_below(region: Mask) -> Mask:
    """Close small holes, and what lies between the region and the lower border."""
    closed = cv2.morphologyEx(
        np.pad(region.astype(np.uint8), 8, mode='edge'), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8)
    )[8:-8, 8:-8]
    return np.maximum.accumulate(closed, axis=0) > 0


def _is_bonnet(region: Mask, variation: Field, centre: tuple[float, float]) -> bool:
    if not _LEAST_BONNET < region.mean() < _MOST_BONNET or region[0].any():
        return False
    soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), 2.0)
    normal = np.stack([cv2.Sobel(soft, cv2.CV_32F, 1, 0), cv2.Sobel(soft, cv2.CV_32F, 0, 1)])
    y, x = np.mgrid[: region.shape[0], : region.shape[1]].astype(np.float32)
    radial = np.stack([x - centre[0], y - centre[1]])
    length = np.linalg.norm(normal, axis=0) * np.linalg.norm(radial, axis=0) + 1e-6
    across = np.abs((normal * radial).sum(axis=0)) / length > _ACROSS
    outline = _outline(region)
    return bool((across & _steps(region, variation))[outline].mean() > 0.5)


def _is_island(region: Mask, variation: Field, mean: Field) -> bool:
    height, width = region.shape
    y, x = np.nonzero(region)
    aside = x.max() < 0.35 * width or x.min() > 0.65 * width
    if not (aside or y.max() < 0.06 * height):
        return False
    gradient = np.hypot(cv2.Sobel(mean, cv2.CV_32F, 1, 0), cv2.Sobel(mean, cv2.CV_32F, 0, 1)) / 8
    outline = _outline(region)
    edge = cv2.dilate(gradient, np.ones((3, 3), np.uint8)) > _STRONG_EDGE
    return bool((edge & _steps(region, variation))[outline].mean() > 0.7)


def _steps(region: Mask, variation: Field) -> Mask:
    """Tell where, within 3 pixels, much more changes than inside the region."""
    inside = float(np.median(variation[region]))
    nearby = cv2.dilate(variation, np.ones((7, 7), np.uint8))
    return nearby > max(_STEP * inside, _STEP_LEVELS)


def _outline(region: Mask) -> Mask:
    """Pixels of the region beside one that is not; the border of the image is no outline."""
    inner = cv2.erode(region.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    return region & (inner == 0)


@dataclass(frozen=True)
class FrameMeasures:
    """What is known of the frames of a recording, (N,) each, and how two of them differ.

    `positions` (N, 3) are metres, NaN where unknown. `shift(i, j)` compares frames i < j.
    """

    stamps_ns: NDArray[np.int64]
    sharpness: NDArray[np.float32]
    saturation: NDArray[np.float32]
    positions: NDArray[np.float64]
    shift: Callable[[int, int], Shift]


@dataclass(frozen=True)
class Triplets:
    """Triplets (M, 3): target, earlier source, later source; `rejected` counts other frames.

    The triplets, those held out and the rejected add up to the frames of the recording.
    """

    triplets: NDArray[np.int32]
    held_out: NDArray[np.int32]
    rejected: dict[str, int]


def choose_triplets(measures: FrameMeasures, settings: TripletSettings) -> Triplets:
    """Choose for every possible target the nearest sources that moved enough.

    The last `held_out` of the recorded time is kept apart: no triplet reaches across.
    """
    chooser = _Chooser(measures, settings)
    count = len(measures.stamps_ns)
    border = chooser.border
    rows: dict[bool, list[list[int]]] = {False: [], True: []}
    rejected: Counter[str] = Counter()
    for target in range(count):
        reason, sources = chooser.sources(target)
        if reason:
            rejected[reason] += 1
        else:
            rows[target >= border].append([target, *sources])
    counts = {name: rejected[name] for name in REASONS if rejected[name]}
    return Triplets(_rows(rows[False]), _rows(rows[True]), counts)


def list_triplets(
    indices: NDArray[np.int64], train: frozenset[int], held_out: frozenset[int]
) -> Triplets:
    """Triplets of the targets that a benchmark lists, with the frames right before and after.

    `indices` are the numbers of the recording's frames.
    """
    places = {int(number): place for place, number in enumerate(indices)}
    rows: list[list[list[int]]] = [[], []]
    rejected: Counter[str] = Counter()
    for number, place in places.items():
        sources = [places.get(number - 1), places.get(number + 1)]
        if number not in train and number not in held_out:
            rejected['unlisted'] += 1
        elif None in sources:
            rejected['end'] += 1
        else:
            rows[number in held_out].append(
                [place, *(source for source in sources if source is not None)]
            )
    return Triplets(_rows(rows[False]), _rows(rows[True]), dict(rejected))


def _rows(triplets: list[list[int]]) -> NDArray[np.int32]:
    return np.array(triplets, np.int32).reshape(-1, 3)


class _Chooser:
    """Looks for the sources of one target after another."""

    def __init__(self, measures: FrameMeasures, settings: TripletSettings) -> None:
        self._measures = measures
        self._settings = settings
        steps = np.diff(measures.stamps_ns)
        usual = float(np.median(steps[steps > 0])) if np.any(steps > 0) else 0.0
        self._lost = (steps <= 0) | (steps > _GAP * usual)
        # Comparing frames takes time, and is left out where the steps between add up to little.
        # What could not be tracked may be anything.
        flows = [measures.shift(i, i + 1).flow for i in range(len(steps))]
        self._travel = np.concatenate([[0.0], np.cumsum(np.nan_to_num(flows, nan=1e9))])
        self._hardly = 0.7 * settings.minimum_flow
        # Recorded time: waits and jumps count as one step.
        clock = np.concatenate([[0.0], np.cumsum(np.where(self._lost, usual, steps))])
        self.border = int(np.searchsorted(clock, clock[-1] * (1 - settings.held_out), 'right'))
        if settings.held_out == 0 or len(clock) - self.border < 3:
            self.border = len(clock)

    def sources(self, target: int) -> tuple[str, list[int]]:
        """Give the earlier and the later source, or the reason why they are missing."""
        fault = self._fault(target)
        if not fault and target in (0, len(self._lost)):
            fault = 'end'
        if fault:
            return fault, []
        chosen = []
        for direction in (-1, 1):
            reason, source = self._search(target, direction)
            if reason:
                return reason, []
            chosen.append(source)
        return '', chosen

    def _fault(self, index: int) -> str:
        if self._measures.saturation[index] > MOST_SATURATED:
            return 'saturated'
        return 'blurred' if self._measures.sharpness[index] < LEAST_SHARPNESS else ''

    def _search(self, target: int, direction: int) -> tuple[str, int]:
        """Walk away from the target to the first frame that moved enough."""
        reason = ''
        for source, end in self._walk(target, direction):
            if end:
                return reason or end, -1
            fault = self._fault(source)
            if fault:
                reason = reason or fault
                continue
            if abs(self._travel[source] - self._travel[target]) < self._hardly:
                reason = 'stationary'
                continue
            shift = self._measures.shift(min(target, source), max(target, source))
            if not shift.tracked >= _SAME_SCENE:
                return 'cut', -1
            if shift.flow > self._settings.maximum_flow:
                return 'fast', -1
            reason = self._too_near(shift, target, source)
            if not reason:
                return '', source
        raise AssertionError('the walk says where it ends')

    def _walk(self, target: int, direction: int) -> Iterator[tuple[int, str]]:
        """Give frames one by one, and at last why there are no more."""
        stamps, longest = self._measures.stamps_ns, self._settings.maximum_gap_s * 1e9
        source = target
        while True:
            before, source = source, source + direction
            if not 0 <= source < len(stamps):
                yield -1, 'end'
            elif self._lost[min(before, source)]:
                yield -1, 'gap'
            elif (source >= self.border) != (target >= self.border):
                yield -1, 'split'
            elif abs(int(stamps[source]) - int(stamps[target])) > longest:
                yield -1, 'gap'
            else:
                yield source, ''

    def _too_near(self, shift: Shift, target: int, source: int) -> str:
        settings, positions = self._settings, self._measures.positions
        distance_m = float(np.linalg.norm(positions[target] - positions[source]))
        if shift.flow < settings.minimum_flow:
            return 'stationary'
        near = distance_m < LEAST_TRANSLATION_M  # false where unknown
        return 'turning' if near or shift.parallax < settings.minimum_parallax else ''
