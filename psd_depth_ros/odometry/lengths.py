"""Relative scale averaging: consistent lengths of the motions of one recording.

A single camera does not observe the length of its motion. An untrained network predicts a
constant depth, by which the same motion is longer in a narrow lane than in an open place; a
network trained on such motions could not use cues of constant size, such as the height of the
camera above the ground.
"""

from __future__ import annotations

from collections.abc import Callable
import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FEWEST_COMMON = 20
COMMON_PX = 1.0  # between the places of a corner by two motions
RATIO_ERROR = 0.02  # of the logarithm of the ratio of neighbouring lengths
DEPTH_ERROR = 1.0  # of the logarithm of a length by the depth of an untrained network
MOST_ITERATIONS = 5000


class PairMotion(NamedTuple):
    """The motion between two frames, and what it was estimated from.

    `pose` is T_source_target (4, 4). `corners` (n, 3) hold x, y in pixels of the target's frame
    and Z in lengths of the motion.
    """

    pose: NDArray[np.float64]
    corners: NDArray[np.float32]


Motions = dict[tuple[int, int], PairMotion]  # by target and source


def average_scales(found: Motions) -> Motions:
    """Scale the motions of a recording so that their lengths are consistent.

    A corner has one depth, whichever of two motions of its frame it is triangulated by: that gives
    the ratio of their lengths, to a percent or two. The ratios of neighbouring motions form a
    chain; its drift is bounded by the lengths given (least squares of log-lengths).

    Args:
        found: motions by target and source, with the corners they were estimated from.

    Returns:
        The same motions with other lengths.
    """
    pairs = sorted({_unordered(*key) for key in found})
    number = {pair: index for index, pair in enumerate(pairs)}
    rows = np.array([number[_unordered(*key)] for key in found])
    links = _links(found, number)
    first, second = (np.array([link[i] for link in links], np.int64) for i in (0, 1))
    difference = np.array([link[2] for link in links])
    lengths = np.array([np.linalg.norm(motion.pose[:3, 3]) for motion in found.values()])
    ties, holds = RATIO_ERROR**-2, DEPTH_ERROR**-2
    held = holds * np.bincount(rows)

    def apply(x: NDArray[np.float64]) -> NDArray[np.float64]:
        result = held * x
        step = ties * (x[first] - x[second])
        np.add.at(result, first, step)
        np.add.at(result, second, -step)
        return result

    wanted = np.zeros(len(pairs))
    np.add.at(wanted, rows, holds * np.log(lengths))
    np.add.at(wanted, first, ties * difference)
    np.add.at(wanted, second, -ties * difference)
    agreed = np.exp(conjugate_gradients(apply, wanted))
    result = {}
    for row, length, (key, motion) in zip(rows, lengths, found.items(), strict=True):
        pose = motion.pose.copy()
        pose[:3, 3] *= agreed[row] / length
        result[key] = PairMotion(pose, motion.corners)
    return result


def _unordered(target: int, source: int) -> tuple[int, int]:
    """A motion and its inverse are equally long."""
    return min(target, source), max(target, source)


def _links(found: Motions, number: dict[tuple[int, int], int]) -> list[tuple[int, int, float]]:
    """Indices of two motions that share a target, and the logarithm of their ratio of lengths."""
    sources: dict[int, list[int]] = {}
    for target, source in found:
        sources.setdefault(target, []).append(source)
    links = []
    for target, group in sources.items():
        for a, b in itertools.pairwise(group):
            ratio = compare_lengths(found[target, a].corners, found[target, b].corners)
            if ratio is not None:
                one, other = number[_unordered(target, a)], number[_unordered(target, b)]
                links.append((one, other, math.log(ratio)))
    return links


def compare_lengths(one: NDArray[np.float32], other: NDArray[np.float32]) -> float | None:
    """The length of one motion over that of another of the same target, from their corners.

    A corner that was found in one image is nearly where the flow from another image leads to it:
    the nearest of the other motion counts, within COMMON_PX.
    """
    if min(len(one), len(other)) < FEWEST_COMMON:
        return None
    across, down = (one[:, None, axis] - other[None, :, axis] for axis in (0, 1))
    square = across * across + down * down  # (n, m)
    there = square.argmin(axis=1)
    here = np.flatnonzero(square[np.arange(len(one)), there] <= COMMON_PX**2)
    if len(here) < FEWEST_COMMON:
        return None
    near = one[here, 2]
    return weighted_median(other[there[here], 2] / near, 1.0 / near)


def weighted_median(values: NDArray[np.floating], weights: NDArray[np.floating]) -> float:
    """The value (of values (n,)) that has half of the weight (n,) on either side.

    Where the halves meet between two values, the middle between them, as of an unweighted median.
    """
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    half, last = 0.5 * total[-1], len(values) - 1
    low = min(int(np.searchsorted(total, half * (1 - 1e-9))), last)
    high = min(int(np.searchsorted(total, half * (1 + 1e-9))), last)
    return 0.5 * float(values[order[low]] + values[order[high]])


def conjugate_gradients(
    apply: Callable[[NDArray[np.float64]], NDArray[np.float64]], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """x with apply(x) = wanted, for a symmetric positive definite `apply`."""
    x = np.zeros_like(wanted)
    rest = wanted.copy()
    direction = rest.copy()
    size = rest @ rest
    enough = 1e-16 * size
    for _ in range(MOST_ITERATIONS):
        if size <= enough:
            break
        image = apply(direction)
        step = size / (direction @ image)
        x += step * direction
        rest -= step * image
        size, before = rest @ rest, size
        direction = rest + (size / before) * direction
    return x
