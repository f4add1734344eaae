"""The rules of each benchmark: which pixels count, up to which distance, in which bands.

How the files of a benchmark lie is in `layouts`; the mathematics is in `metrics`. Sources: Eigen
et al. 2014 and Garg et al. 2016 (KITTI), Uhrig et al. 2017 (improved ground truth), Saxena et al.
2009 with the central crop of Godard et al. 2017 (Make3D), Watson et al. 2021 (Cityscapes), Eigen
and Fergus 2015 (NYUv2).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.metrics import Bands, DRIVING_BANDS_M, INDOOR_BANDS_M


@dataclass(frozen=True)
class Crop:
    """The window that is measured: rows `top` to `bottom`, columns `left` to `right`.

    Shares of the image, or pixels where `in_pixels`; ends are rounded down and left out.
    """

    top: float
    bottom: float
    left: float
    right: float
    in_pixels: bool = False

    def window(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of an image of this size. Raises EvaluationError where it is empty."""
        down, across = (1, 1) if self.in_pixels else (height, width)
        rows = slice(int(self.top * down), min(height, int(self.bottom * down)))
        columns = slice(int(self.left * across), min(width, int(self.right * across)))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            raise EvaluationError(
                f'the crop of the protocol starts at row {rows.start} and column {columns.start}, '
                f'which leaves nothing of a truth of {width}x{height}; choose another with '
                '--protocol'
            )
        return rows, columns


GARG_CROP = Crop(0.40810811, 0.99189189, 0.03594771, 0.96405229)


@dataclass(frozen=True)
class Protocol:
    """What is measured of an image.

    Truth in `(minimum_m, truth_maximum_m)` counts, predictions are clamped to
    `[minimum_m, maximum_m]`; `truth_maximum_m` of 0 is `maximum_m`.
    """

    name: str
    description: str
    maximum_m: float
    minimum_m: float = 1e-3
    truth_maximum_m: float = 0.0
    crop: Crop | None = None
    bands_m: Bands = DRIVING_BANDS_M

    @property
    def truth_limit_m(self) -> float:
        """Truth from here on does not count."""
        return self.truth_maximum_m or self.maximum_m

    def restrict(self, truth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Copy a truth (H, W), NaN outside the crop."""
        if self.crop is None:
            return truth
        window = self.crop.window(*truth.shape)
        inside = np.full_like(truth, np.nan)
        inside[window] = truth[window]
        return inside

    def capped(self, maximum_m: float) -> Protocol:
        """The same rules with another cap, in metres. Raises EvaluationError."""
        if not self.minimum_m < maximum_m < math.inf:
            raise EvaluationError(f'--max-depth is {maximum_m:g}, expected metres above 0')
        return replace(self, maximum_m=maximum_m, truth_maximum_m=0.0)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol('kitti', 'lidar, Garg crop, 80 m', 80.0, crop=GARG_CROP),
        Protocol('kitti_eigen', '697 images, raw velodyne, Garg crop, 80 m', 80.0, crop=GARG_CROP),
        Protocol(
            'kitti_eigen_improved',
            '652 images, improved ground truth, no crop, 80 m',
            80.0,
            truth_maximum_m=math.inf,
        ),
        Protocol('make3d', '134 images, central 2:1 crop, laser grid, 70 m', 70.0),
        Protocol(
            'cityscapes',
            'bottom quarter cut off, rows from 256, columns 192 to 1856, 80 m',
            80.0,
            crop=Crop(256, 768, 192, 1856, in_pixels=True),
        ),
        Protocol(
            'nyuv2',
            '654 images, rows 45 to 471, columns 41 to 601, 10 m',
            10.0,
            crop=Crop(45, 471, 41, 601, in_pixels=True),
            bands_m=INDOOR_BANDS_M,
        ),
        Protocol('indoor', 'every pixel, 10 m', 10.0, bands_m=INDOOR_BANDS_M),
        Protocol('outdoor', 'every pixel, 80 m', 80.0),
    )
}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name. Raises EvaluationError with the names there are."""
    if name not in PROTOCOLS:
        raise EvaluationError(
            f'protocol {name!r} is not known, expected auto, {", ".join(sorted(PROTOCOLS))}'
        )
    return PROTOCOLS[name]
