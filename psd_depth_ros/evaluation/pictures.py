"""One measured image as four pictures: what the camera saw, prediction, truth and error."""

from __future__ import annotations

from collections.abc import Sequence
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.evaluation.examples import Example
from psd_depth_ros.evaluation.protocols import Protocol
from psd_depth_ros.inference.colour import colour_depth

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]

WIDTH_PX = 560
UNKNOWN = (52, 54, 58)
# The error that has the full colour: a factor of 1.5, nearer or farther.
ERROR_LIMIT = math.log(1.5)
TOO_NEAR, RIGHT, TOO_FAR = (33, 102, 200), (244, 244, 244), (200, 40, 40)
SPARSE_SHARE = 0.3
_DOT = ((0, 0), (0, 1), (1, 0), (1, 1))


def depth_range(examples: Sequence[Example], protocol: Protocol) -> tuple[float, float]:
    """Depths of the first and the last colour, from the truth of all that is shown."""
    known = [one.truth[np.isfinite(one.truth) & (one.truth > 0)] for one in examples]
    depths = np.concatenate([depth[depth < protocol.maximum_m] for depth in known])
    if not depths.size:
        return 1.0, protocol.maximum_m
    near, far = np.percentile(depths, [1, 99.5])
    return float(near), float(max(far, 1.5 * near))


def draw_example(
    example: Example, protocol: Protocol, limits_m: tuple[float, float]
) -> dict[str, Picture]:
    """RGB pictures by caption; prediction and error after scaling by the median."""
    scale = np.float32(example.errors.median_scaled.scale)
    prediction = example.depth * scale
    height = round(WIDTH_PX * example.rgb.shape[0] / example.rgb.shape[1])
    size = WIDTH_PX, height
    smooth = cv2.INTER_AREA if WIDTH_PX < example.rgb.shape[1] else cv2.INTER_LINEAR
    error = signed_error(prediction, protocol.restrict(example.truth), protocol)
    truth = np.where(example.truth > 0, example.truth, np.nan)
    return {
        'image': cv2.resize(example.rgb, size, interpolation=smooth),
        'prediction, median-scaled': colour_depth(_enlarge(prediction, size), *limits_m),
        'truth': _paint(colour_depth(truth, *limits_m), ~np.isnan(truth), size),
        'error': _paint(colour_error(error), ~np.isnan(error), size),
    }


def is_sparse(example: Example) -> bool:
    """Whether the truth is drawn as dots, which JPEG would smear."""
    return bool(np.mean(example.truth > 0) <= SPARSE_SHARE)


def signed_error(depth: Map, truth: Map, protocol: Protocol) -> Map:
    """Give ln p/gt where the protocol measures it, NaN elsewhere."""
    known = np.isfinite(truth) & (truth > protocol.minimum_m) & (truth < protocol.truth_limit_m)
    clamped = np.clip(depth, protocol.minimum_m, protocol.maximum_m)
    with np.errstate(invalid='ignore', divide='ignore'):
        error: Map = np.log(clamped / np.where(known, truth, np.nan))
    return error


def colour_error(error: Map) -> Picture:
    """Blue is seen too near, red too far, white is right."""
    share = np.clip(np.nan_to_num(error) / ERROR_LIMIT, -1.0, 1.0)[..., None]
    side = np.where(share > 0, np.array(TOO_FAR), np.array(TOO_NEAR))
    colours = np.abs(share) * side + (1.0 - np.abs(share)) * np.array(RIGHT)
    return np.rint(colours).astype(np.uint8)


def encode(picture: Picture, *, exact: bool) -> tuple[bytes, str]:
    """A picture as a file in memory and its media type: PNG where `exact`, else JPEG."""
    kind, options = ('.png', []) if exact else ('.jpg', [cv2.IMWRITE_JPEG_QUALITY, 88])
    done, data = cv2.imencode(kind, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)
    assert done, 'OpenCV writes both kinds'
    return data.tobytes(), 'image/png' if exact else 'image/jpeg'


def _enlarge(depth: Map, size: tuple[int, int]) -> Map:
    return cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST)


def _paint(colours: Picture, known: NDArray[np.bool_], size: tuple[int, int]) -> Picture:
    """Known pixels on grey; those of a sparse truth as dots, so that they can be seen."""
    width, height = size
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = UNKNOWN
    if np.count_nonzero(known) > SPARSE_SHARE * known.size:
        masked = np.where(known[..., None], colours, np.array(UNKNOWN, np.uint8))
        return cv2.resize(masked, size, interpolation=cv2.INTER_NEAREST)
    rows, columns = np.nonzero(known)
    y, x = rows * height // known.shape[0], columns * width // known.shape[1]
    for down, right in _DOT:
        places = np.minimum(y + down, height - 1), np.minimum(x + right, width - 1)
        canvas[places] = colours[rows, columns]
    return canvas
