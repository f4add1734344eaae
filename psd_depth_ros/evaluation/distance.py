"""Errors by true distance: a mean over all pixels says little of what is far.

One scale per image, found over all its distances, so that a band cannot scale itself right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from psd_depth_ros.evaluation.metrics import Matched

Bands = tuple[tuple[float, float], ...]

DRIVING_BANDS_M: Bands = ((0.0, 10.0), (10.0, 20.0), (20.0, 40.0), (40.0, 80.0))
INDOOR_BANDS_M: Bands = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0), (4.0, 10.0))


@dataclass(frozen=True)
class BandMetrics:
    """Errors over the pixels whose truth lies in one band.

    `bias` is the median of ln p/gt: above 0 is seen too far, below too near. The band has so many
    `pixels`, the `share` of all that are measured in the image.
    """

    abs_rel: float
    a1: float
    bias: float
    share: float
    pixels: int


def band_name(band: tuple[float, float]) -> str:
    """The name of a band of metres, such as `10-20`."""
    return f'{band[0]:g}-{band[1]:g}'


def measure_bands(matched: Matched, bands: Bands) -> dict[str, BandMetrics]:
    """Measure the bands `[low, high)` of one image; a band without pixels is left out."""
    found = {}
    for low, high in bands:
        inside = (matched.true >= low) & (matched.true < high)
        pixels = int(np.count_nonzero(inside))
        if pixels == 0:
            continue
        predicted, true = matched.predicted[inside], matched.true[inside]
        ratio = predicted / true
        found[band_name((low, high))] = BandMetrics(
            abs_rel=float(np.mean(np.abs(predicted - true) / true)),
            a1=float(np.mean(np.maximum(ratio, 1.0 / ratio) < 1.25)),
            bias=float(np.median(np.log(ratio))),
            share=pixels / len(inside),
            pixels=pixels,
        )
    return found


def average_bands(
    images: Sequence[Mapping[str, BandMetrics]], bands: Bands
) -> dict[str, dict[str, Any]]:
    """The means over the images that have pixels in a band, and how many `frames` those are.

    `pooled_abs_rel` is the mean over the pixels of all images: few far pixels of one image weigh
    little there. `share` is the mean over all images. A band that no image has holds None.
    """
    averages: dict[str, dict[str, Any]] = {}
    for name in map(band_name, bands):
        rows = [asdict(image[name]) for image in images if name in image]
        means = {
            key: float(np.mean([row[key] for row in rows])) if rows else None
            for key in ('abs_rel', 'a1', 'bias')
        }
        pixels = sum(row['pixels'] for row in rows)
        pooled = sum(row['abs_rel'] * row['pixels'] for row in rows) / pixels if rows else None
        share = sum(row['share'] for row in rows) / max(1, len(images))
        averages[name] = {
            **means, 'pooled_abs_rel': pooled, 'share': share, 'pixels': pixels,
            'frames': len(rows),
        }  # fmt: skip
    return averages
