"""Keeps the best and the worst images of an evaluation to be drawn; the others are forgotten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.evaluation.metrics import TwoWays

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """One image with its prediction and truth.

    `rgb` (H, W, 3) is rectified, `depth` and `truth` (h, w) are metres, not scaled, not cropped.
    """

    name: str
    errors: TwoWays
    rgb: NDArray[np.uint8]
    depth: Map
    truth: Map

    @property
    def abs_rel(self) -> float:
        """What images are ordered by: AbsRel, scaled by the median."""
        return self.errors.median_scaled.abs_rel


@dataclass(frozen=True)
class Examples:
    """The best images, best first, and the worst ones, worst first; no image is in both."""

    best: tuple[Example, ...] = ()
    worst: tuple[Example, ...] = ()


class Extremes:
    """Takes images one by one and keeps the `most` best and the `most` worst."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[Example] = []

    def add(self, example: Example) -> None:
        """Take an image."""
        if self._most < 1:
            return
        self._kept.append(example)
        self._kept.sort(key=lambda one: one.abs_rel)
        if len(self._kept) > 2 * self._most:
            del self._kept[self._most]  # between the best and the worst

    @property
    def examples(self) -> Examples:
        """What was kept. Of few images, those in the better half are the best ones."""
        half = min(self._most, (len(self._kept) + 1) // 2)
        return Examples(tuple(self._kept[:half]), tuple(self._kept[half:][::-1]))
