"""What the benchmarks look at: a camera, and a picture with some texture."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera


def camera(width: int, height: int, lens: Sequence[float] | None = None) -> Camera:
    """Make a camera of 75 degrees across."""
    focal = 0.65 * width
    K = [[focal, 0, 0.5 * width - 0.5], [0, focal, 0.5 * height - 0.5], [0, 0, 1]]
    return Camera.from_K(K, width, height, lens)


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """Make blobs of several sizes, uint8 RGB, always the same."""
    rng = np.random.default_rng(0)
    total = np.zeros((height, width, 3), np.float32)
    for cells in (4, 16, 64):
        noise = rng.random((cells, cells, 3), np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) / 3
    return (255 * total.clip(0, 1)).astype(np.uint8)
