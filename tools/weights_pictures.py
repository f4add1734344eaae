"""Pictures of networks side by side: image and truth, then depth and error of each network."""

from __future__ import annotations

from collections.abc import Mapping
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.evaluation.evaluate import Example
from psd_depth_ros.evaluation.protocols import Protocol
from psd_depth_ros.evaluation.report import depth_range, draw_example, ERROR_LIMIT, WIDTH_PX
from psd_depth_ros.visualisation import (
    colour_depth,
    colour_log_error,
    draw_bar,
    draw_panel,
    encode_picture,
    join_panels,
)

Picture = NDArray[np.uint8]

MOST_BYTES = 150_000
QUALITIES = (88, 80, 72, 64)
TICKS_M = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 80.0)
MOST_TICKS = 6


def draw_networks(examples: Mapping[str, Example], protocol: Protocol, title: str) -> Picture:
    """One image under several networks, by name; all depths have the same colours.

    Depth is scaled by the median of the image, as the error, ln p/gt, is.
    """
    first = next(iter(examples.values()))
    limits = depth_range([first.truth], protocol)
    shown = {name: draw_example(one, protocol, limits) for name, one in examples.items()}
    common = next(iter(shown.values()))
    depth_bar, error_bar = _depth_bar(limits), _error_bar()
    left = [draw_panel('image', common['image'])]
    right = [draw_panel('truth', common['truth'], depth_bar)]
    for name, pictures in shown.items():
        caption = f'{name}: AbsRel {examples[name].abs_rel:.3f}'
        left.append(draw_panel(caption, pictures['prediction, median-scaled'], depth_bar))
        right.append(draw_panel(f'{name}: error', pictures['error'], error_bar))
    subtitle = 'depth scaled by the median; error: blue too near, red too far'
    return join_panels([left, right], title, subtitle)


def encode_small(picture: Picture) -> bytes:
    """A picture as JPEG of at most `MOST_BYTES`: of lower quality, then smaller."""
    while True:
        for quality in QUALITIES:
            data, _ = encode_picture(picture, lossless=False, quality=quality)
            if len(data) <= MOST_BYTES:
                return data
        picture = cv2.resize(picture, None, fx=0.85, fy=0.85, interpolation=cv2.INTER_AREA)


def _depth_bar(limits_m: tuple[float, float]) -> Picture:
    near, far = limits_m
    ramp = np.geomspace(near, far, WIDTH_PX, dtype=np.float32)[None]
    inside = [metres for metres in TICKS_M if near <= metres <= far]
    ticks = inside[:: math.ceil(len(inside) / MOST_TICKS) or 1]
    places = [math.log(metres / near) / math.log(far / near) for metres in ticks]
    return draw_bar(colour_depth(ramp, near, far), [f'{one:g} m' for one in ticks], places)


def _error_bar() -> Picture:
    ramp = np.linspace(-ERROR_LIMIT, ERROR_LIMIT, WIDTH_PX, dtype=np.float32)[None]
    factor = math.exp(ERROR_LIMIT)
    labels = [f'x {1 / factor:.2f}', 'right', f'x {factor:.2f}']
    return draw_bar(colour_log_error(ramp, ERROR_LIMIT), labels, [0.0, 0.5, 1.0])
