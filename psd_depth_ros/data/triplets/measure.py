"""How sharp and well exposed a frame is, and how far the image moves from one to another.

Everything is measured on small grey images. Which frames are good enough is left to `choose`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.odometry.tracking import Grey, Pixels, Tracker

GREY_WIDTH = 208
TRACKER = Tracker(200, 0.005, 4, window_px=13, return_px=0.75)
_BLACK, _WHITE = 4, 251
_FEWEST_POINTS = 8


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
