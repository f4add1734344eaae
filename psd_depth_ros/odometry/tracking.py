"""Corners followed from one image to another: the one KLT tracker of the package.

Shi and Tomasi, Good Features to Track (CVPR 1994); Lucas and Kanade's flow in a pyramid (Bouguet,
2001). What was found is followed back, and kept where it returns to its start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Pixels = NDArray[np.float32]


class Tracks(NamedTuple):
    """Corners that were found again: `start` and `end` (n, 2) in pixels of either image.

    `fraction` of all corners are among them, 0 without corners.
    """

    start: Pixels
    end: Pixels
    fraction: float


@dataclass(frozen=True)
class Tracker:
    """Finds and follows corners.

    Attributes:
        corners: at most so many are found.
        quality: least corner strength as a fraction of the strongest.
        spacing_px: least distance between two corners.
        window_px: side of the window that is compared, at every level of the pyramid.
        levels: of the pyramid, beyond the image itself.
        return_px: a corner followed there and back ends up nearer than this to its start.
    """

    corners: int
    quality: float
    spacing_px: float
    window_px: int = 21
    levels: int = 3
    return_px: float = 1.0

    def find(self, grey: Grey, mask: NDArray[np.uint8] | None = None) -> Pixels:
        """Corners (n, 2) of an image (H, W), where `mask` (H, W) is not 0."""
        found = cv2.goodFeaturesToTrack(
            grey, self.corners, self.quality, self.spacing_px, mask=mask
        )
        return np.zeros((0, 2), np.float32) if found is None else found[:, 0]

    def follow(self, first: Grey, second: Grey, corners: Pixels) -> Tracks:
        """Follow corners (N, 2) of the first image into the second and back."""
        if not len(corners):
            return Tracks(corners, corners, 0.0)
        end, found = self._flow(first, second, corners)
        back, returned = self._flow(second, first, end)
        kept = found & returned & (np.linalg.norm(back - corners, axis=1) < self.return_px)
        return Tracks(corners[kept], end[kept], float(kept.mean()))

    def _flow(
        self, first: Grey, second: Grey, corners: Pixels
    ) -> tuple[Pixels, NDArray[np.bool_]]:
        """Where corners (N, 2) are in the second image, and whether they were found (N,)."""
        moved, found, _ = cv2.calcOpticalFlowPyrLK(
            first,
            second,
            corners[:, None],
            np.empty_like(corners[:, None]),
            winSize=(self.window_px, self.window_px),
            maxLevel=self.levels,
        )
        return moved[:, 0], found[:, 0] > 0
