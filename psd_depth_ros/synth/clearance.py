"""Distance of points from primitives: where a camera has room."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from psd_depth_ros.synth.primitives import BASIS, CENTRE, HALF, Rows

Array = npt.NDArray[np.float64]


def distances(rows: Rows, points: Array) -> Array:
    """Distances (N, M) in metres of points (M, 3) from the boxes around N primitives; 0 inside."""
    offset = points[None] - rows[:, None, CENTRE]
    local = np.abs(np.matmul(offset, rows[:, BASIS].reshape(-1, 3, 3).transpose(0, 2, 1)))
    outside = np.maximum(local - rows[:, None, HALF], 0.0)
    result: Array = np.sqrt(np.square(outside).sum(-1))
    return result


def clearances(rows: Rows, points: Array) -> Array:
    """Distances (M,) of points (M, 3) from the nearest primitive; infinite without any."""
    if not len(rows):
        return np.full(len(points), np.inf)
    result: Array = distances(rows, points).min(0)
    return result
