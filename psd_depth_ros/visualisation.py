"""Depth as colours, for people to look at: near is red, far is blue, equal ratios equal steps."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

_INVALID = (0, 0, 0)
_BEYOND = (24, 16, 40)  # sky and beyond range: dark, but not the black of "not trusted"


def colour_depth(
    depth_m: NDArray[np.float32], min_depth_m: float, max_depth_m: float
) -> NDArray[np.uint8]:
    """Make an RGB picture (H, W, 3) of depth (H, W) with the invalid values of REP 117.

    The turbo map (Mikhailov, 2019) over ln depth from `min_depth_m` to `max_depth_m`.
    """
    low = math.log(min_depth_m)
    span = math.log(max_depth_m) - low
    finite = np.isfinite(depth_m) & (depth_m > 0)
    share = (cv2.log(np.where(finite, depth_m, min_depth_m).astype(np.float32)) - low) / span
    index = (255.0 * (1.0 - np.clip(share, 0.0, 1.0))).astype(np.uint8)
    picture = cv2.cvtColor(cv2.applyColorMap(index, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    picture[~finite] = _INVALID
    picture[np.isposinf(depth_m)] = _BEYOND
    return picture
