"""How sharp a frame is, how well exposed, and how far the picture moves from one to another.

Everything is measured on small grey pictures. Which frames are good enough is left to `clips`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]

GREY_WIDTH = 208
_BLACK, _WHITE = 4, 251
_WINDOW = (13, 13)
_LEVELS = 3
_MOST_POINTS = 200
_RETURN_PX = 0.75
_FEWEST_POINTS = 8


@dataclass(frozen=True)
class Shift:
    """How the picture moved between two frames.

    `flow` is the median length of the optical flow in % of the width, `parallax` that of what is
    left after the best turn of the camera is taken out; NaN where nothing could be tracked.
    `tracked` is the share of corners found again.
    """

    flow: float
    parallax: float
    tracked: float


def shrink_grey(rgb: NDArray[np.uint8], width: int = GREY_WIDTH) -> Grey:
    """A grey picture (h, width) of an image (H, W, 3)."""
    height = max(8, round(rgb.shape[0] * width / rgb.shape[1]))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def measure_sharpness(grey: Grey) -> float:
    """Share of the gradient that a small blur takes away from where it was: 0 is flat or blurred.

    A picture that is blurred already loses little (Crete et al., The Blur Effect, SPIE 2007);
    being a ratio it depends little on what is seen. The axis that loses less counts, because
    motion blurs along one.
    """
    picture = grey.astype(np.float32)
    shares = []
    for axis, window in ((0, (1, 3)), (1, (3, 1))):
        before = np.abs(np.diff(picture, axis=axis))
        after = np.abs(np.diff(cv2.blur(picture, window), axis=axis))
        # Half a level: what rounding alone takes from a smooth picture.
        lost = float(np.maximum(before - after - 0.5, 0).sum())
        total = float(before.sum())
        shares.append(lost / total if total > 0.02 * before.size else 0.0)
    return min(shares)


def measure_saturation(grey: Grey) -> float:
    """Share of pixels that are black or white."""
    return float(np.mean((grey <= _BLACK) | (grey >= _WHITE)))


def find_corners(grey: Grey, mask: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
    """Up to 200 corners (N, 1, 2) spread over a small grey picture."""
    corners = cv2.goodFeaturesToTrack(grey, _MOST_POINTS, 0.005, 4, mask=mask)
    return np.zeros((0, 1, 2), np.float32) if corners is None else corners


def track(target: Grey, source: Grey, corners: NDArray[np.float32], focal: float) -> Shift:
    """Track the corners of `target` into `source` and back; see `Shift`.

    `focal` is the focal length over the width of the picture.
    """
    if len(corners) < _FEWEST_POINTS:
        return Shift(np.nan, np.nan, 0.0)
    there, found = _follow(target, source, corners)
    back, again = _follow(source, target, there)
    missed = np.linalg.norm((back - corners)[:, 0], axis=1)
    kept = (found[:, 0] > 0) & (again[:, 0] > 0) & (missed < _RETURN_PX)
    share = float(kept.mean())
    if kept.sum() < _FEWEST_POINTS:
        return Shift(np.nan, np.nan, share)
    start, flow = corners[kept, 0], (there - corners)[kept, 0]
    scale = 100.0 / target.shape[1]
    rest = flow - _turn(start, flow, target.shape, focal * target.shape[1])
    return Shift(_median_length(flow) * scale, _median_length(rest) * scale, share)


def _follow(first: Grey, second: Grey, points: NDArray) -> tuple[NDArray, NDArray]:
    """Where points of one picture are in another, and 1 where they were found."""
    moved, found, _ = cv2.calcOpticalFlowPyrLK(
        first, second, points, points.copy(), winSize=_WINDOW, maxLevel=_LEVELS
    )
    return moved, found


def _median_length(flow: NDArray) -> float:
    return float(np.median(np.linalg.norm(flow, axis=1)))


def _turn(points: NDArray, flow: NDArray, shape: tuple[int, ...], focal_px: float) -> NDArray:
    """The flow of the small rotation that explains most of it, by reweighted least squares.

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
