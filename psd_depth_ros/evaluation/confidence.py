"""What the confidence is worth: leaving out the doubtful pixels should leave out the wrong ones.

Sparsification curves over 50 quantiles (Ilg et al. 2018; Poggi et al. 2020). The error of what
is left, as ever more of the least confident pixels go, is compared with an oracle that leaves
out the greatest errors first, and with leaving out pixels at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.evaluation.metrics import Matched, Values

QUANTILES = 50

Order = NDArray[np.intp]


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
    error = np.abs(matched.predicted - matched.true)
    ratio = np.maximum(matched.predicted / matched.true, matched.true / matched.predicted)
    parts: dict[str, tuple[Values, Callable[[Values], Values]]] = {
        'abs_rel': (error / matched.true, np.asarray),
        'rmse': (error**2, np.sqrt),
        'a1': ((ratio >= 1.25).astype(np.float64), np.asarray),
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
