"""Some test frames as every variant sees them, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.training.ablation_folder import AblationFolder
from psd_depth_ros.visualisation import colour_depth

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]

FARTHEST_M = 80.0
TILE_WIDTH = 448
_MARGIN = 64
_GAP = 4
_BACKGROUND, _INK = 24, 235


def draw_sheet(folder: AblationFolder, variants: Sequence[str], seed: int = 1) -> bytes | None:
    """A PNG: a column for every frame; image, truth and each variant of a seed below each other.

    Depth is scaled by the median. None where nothing has been trained yet.
    """
    frames = folder.frames()
    rows = {name: folder.depths(name, seed) for name in variants}
    rows = {name: depths for name, depths in rows.items() if len(depths) == len(frames)}
    if not frames or not rows:
        return None
    limits = [_limits(truth) for _, truth in frames]
    truths = [truth for _, truth in frames]
    strips = [
        _strip('image', [image for image, _ in frames]),
        _strip('truth', [_colours(t, t, limit) for t, limit in zip(truths, limits, strict=True)]),
    ]
    for name, depths in rows.items():
        tiles = [_colours(*one) for one in zip(depths, truths, limits, strict=True)]
        strips.append(_strip(name, tiles))
    sheet = np.concatenate(strips)
    done, data = cv2.imencode('.png', cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert done, 'OpenCV writes PNG'
    return data.tobytes()


def _limits(truth: Map) -> tuple[float, float]:
    known = truth[np.isfinite(truth) & (truth < FARTHEST_M)]
    nearest = float(np.percentile(known, 1)) if known.size else 1.0
    return nearest, max(FARTHEST_M, 2.0 * nearest)


def _colours(depth: Map, truth: Map, limits: tuple[float, float]) -> Picture:
    """Depth on the scale of the truth's median, up to the farthest that is measured."""
    known = np.isfinite(truth) & (truth < FARTHEST_M) & np.isfinite(depth) & (depth > 0)
    scale = float(np.median(truth[known]) / np.median(depth[known])) if known.any() else 1.0
    return colour_depth((depth * np.float32(scale)).astype(np.float32), *limits)


def _strip(title: str, tiles: Sequence[Picture]) -> Picture:
    """Pictures side by side, their title in the margin."""
    fitted = [
        cv2.resize(tile, (TILE_WIDTH, round(tile.shape[0] * TILE_WIDTH / tile.shape[1])),
                   interpolation=cv2.INTER_AREA)
        for tile in tiles
    ]  # fmt: skip
    height = max(tile.shape[0] for tile in fitted) + _GAP
    width = _MARGIN + len(fitted) * (TILE_WIDTH + _GAP)
    strip = np.full((height, width, 3), _BACKGROUND, np.uint8)
    for index, tile in enumerate(fitted):
        left = _MARGIN + index * (TILE_WIDTH + _GAP)
        strip[: tile.shape[0], left : left + TILE_WIDTH] = tile
    place = (6, height // 2 + 5)
    cv2.putText(strip, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (_INK,) * 3, 1, cv2.LINE_AA)
    return strip
