"""Things that stand in streets, yards and on paths, from bollards to gantries.

Each function returns primitive rows about its own origin, on the ground. What has a length has it
along x; what has a front has it towards -y.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from psd_depth_ros.synth.furniture import make_bicycle
from psd_depth_ros.synth.primitives import (
    join_rows,
    make_ball,
    make_box,
    make_post,
    make_rod,
    Material,
    place,
    Rows,
)
from psd_depth_ros.synth.textures import Palette
from psd_depth_ros.synth.vehicles import choose_colour, Colour, PAINTS

Rng = np.random.Generator

_METALS: list[Colour] = [(0.35, 0.35, 0.36), (0.08, 0.09, 0.08), (0.12, 0.12, 0.13)]
_SIGNALS: list[Colour] = [(0.6, 0.05, 0.02), (0.6, 0.25, 0.02), (0.7, 0.7, 0.7), (0.02, 0.1, 0.4)]


def _metal(rng: Rng, palette: Palette) -> Material:
    return Material(palette.layers['plain'][0], tint=choose_colour(rng, _METALS), gloss=0.2)


def make_bin(rng: Rng, palette: Palette) -> Rows:
    """Build a litter bin on a post, or a waste bin on wheels."""
    plain = palette.layers['plain'][0]
    body = Material(plain, tint=choose_colour(rng, [*PAINTS[3:8], (0.05, 0.12, 0.06)]))
    if rng.random() < 0.5:
        tall = rng.uniform(0.7, 1.1)
        return join_rows(
            [
                make_post(0, 0, 0, tall, 0.04, _metal(rng, palette)),
                make_box((0, -0.15, 0.7 * tall), (0.36, 0.3, 0.55 * tall), body),
            ]
        )
    size = rng.uniform((0.45, 0.5, 0.9), (1.3, 0.9, 1.3))
    lid = Material(plain, tint=choose_colour(rng, [*PAINTS[3:8], (0.4, 0.3, 0.02)]))
    return join_rows(
        [
            make_box((0, 0, size[2] / 2), (size[0], size[1], size[2]), body, (-0.1, -0.1, -0.1)),
            make_box((0, 0, size[2]), (1.12 * size[0], 1.12 * size[1], 0.08), lid),
        ]
    )


def make_bench(rng: Rng, palette: Palette) -> Rows:
    """Build a park bench of boards."""
    wood, metal = Material(palette.pick(rng, 'wood')), _metal(rng, palette)
    parts = [make_box((0, y, 0.44), (1.7, 0.1, 0.04), wood) for y in (-0.2, -0.06, 0.08)]
    parts += [make_box((0, 0.2, z), (1.7, 0.03, 0.1), wood) for z in (0.6, 0.78)]
    for x in (-0.7, 0.7):
        parts.append(make_box((x, -0.05, 0.21), (0.06, 0.36, 0.42), metal))
        parts.append(make_rod((x, 0.15, 0.4), (x, 0.22, 0.85), 0.025, metal))
    return join_rows(parts)


def make_bollards(rng: Rng, palette: Palette) -> Rows:
    """Build a row of bollards or of warning posts along x."""
    metal = _metal(rng, palette)
    plain = palette.layers['plain'][0]
    band = Material(plain, tint=choose_colour(rng, _SIGNALS))
    tall, radius, step = rng.uniform(0.6, 1.1), rng.uniform(0.04, 0.12), rng.uniform(1.2, 2.2)
    parts = []
    for i in range(int(rng.integers(2, 7))):
        parts.append(make_post(step * i, 0, 0, tall, radius, metal))
        parts.append(make_post(step * i, 0, 0.75 * tall, 0.9 * tall, 1.04 * radius, band))
    return join_rows(parts)


def make_bicycle_rack(rng: Rng, palette: Palette) -> Rows:
    """Build a row of parked bicycles."""
    parts = []
    for i in range(int(rng.integers(1, 5))):
        yaw = np.pi / 2 + rng.normal(0, 0.15)
        parts.append(place(make_bicycle(rng, palette), 0.55 * i, rng.normal(0, 0.1), 0.0, yaw))
    return join_rows(parts)


def make_planter(rng: Rng, palette: Palette) -> Rows:
    """Build a box or tub with flowers or a small tree."""
    stone = Material(palette.pick(rng, 'masonry'), tile=(1.2, 1.2))
    leaves = Material(palette.pick(rng, 'leaves'), tile=(1.0, 1.0))
    size = rng.uniform((0.7, 0.6, 0.4), (2.2, 1.2, 0.8))
    parts = [make_box((0, 0, size[2] / 2), (size[0], size[1], size[2]), stone)]
    for x in np.arange(-size[0] / 2 + 0.3, size[0] / 2, 0.5):
        r = rng.uniform(0.25, 0.5)
        parts.append(make_ball((float(x), 0, size[2] + 0.5 * r), (r, r, r), leaves, True))
    return join_rows(parts)


def make_box_thing(rng: Rng, palette: Palette) -> Rows:
    """Build a switch box, vending machine, crate, skip or container."""
    kind = 'poster' if rng.random() < 0.3 else 'plain'
    tint = choose_colour(rng, PAINTS) if kind == 'plain' else (1.0, 1.0, 1.0)
    low, high = ((0.5, 0.3, 0.7), (1.8, 0.8, 1.9))
    if rng.random() < 0.2:
        low, high = (2.5, 1.5, 1.2), (6.0, 2.5, 2.6)
    size = rng.uniform(low, high)
    face = Material(palette.pick(rng, kind), tint=tint, tile=(1.4, 1.4))
    parts = [make_box((0, 0, size[2] / 2), (size[0], size[1], size[2]), face)]
    for x in np.arange(-size[0] / 2 + 0.2, size[0] / 2, 0.5):
        parts.append(
            make_box((float(x), 0, size[2] / 2), (0.05, size[1] + 0.03, size[2] - 0.1), face)
        )
    return join_rows(parts)


def make_fence(rng: Rng, palette: Palette, length: float) -> Rows:
    """Build a railing, a wire fence on posts, a noise barrier or a concrete barrier."""
    kind, metal = rng.random(), _metal(rng, palette)
    if kind < 0.25:  # concrete, as between carriageways and at works
        stone = Material(palette.pick(rng, 'plaster'), tint=(1.1, 1.1, 1.1), tile=(2.0, 2.0))
        return join_rows(
            [
                make_box((0, 0, 0.15), (length, 0.6, 0.3), stone, (0, 0, 0.25)),
                make_box((0, 0, 0.6), (length, 0.36, 0.6), stone, (0, 0, 0.35)),
            ]
        )
    if kind < 0.4:
        board = Material(palette.pick(rng, 'wood' if rng.random() < 0.5 else 'plaster'))
        tall = rng.uniform(2.0, 4.0)
        parts = [make_box((0, 0, tall / 2), (length, 0.12, tall), board)]
        for x in np.arange(-length / 2, length / 2, 3.0):
            parts.append(make_box((float(x), 0, tall / 2), (0.2, 0.25, tall + 0.1), metal))
        return join_rows(parts)
    tall = rng.uniform(0.9, 2.0)
    bars = np.linspace(0.15, tall - 0.02, int(rng.integers(2, 7)))
    parts = [make_box((0, 0, float(z)), (length, 0.03, 0.04), metal) for z in bars]
    step = 0.18 if kind < 0.6 else 2.0
    reach = min(length / 2, 6.0) if step < 1 else length / 2
    for x in np.arange(-reach, reach, step):
        thick = 0.012 if step < 1 else 0.04
        parts.append(make_post(float(x), 0, 0, tall, thick, metal))
    return join_rows(parts)


def make_gantry(rng: Rng, palette: Palette, left: float, right: float) -> Rows:
    """Build a bridge of signs, a footbridge or a road bridge over the road, along y."""
    metal, wide = _metal(rng, palette), left - right
    middle, tall = (left + right) / 2, rng.uniform(5.2, 7.0)
    if rng.random() < 0.35:
        stone = Material(palette.pick(rng, 'plaster'), tile=(3.0, 3.0))
        deep = rng.uniform(3.0, 12.0)
        parts = [make_box((0, middle, tall + 0.6), (deep, wide + 16, 1.3), stone)]
        for y in (left + 0.8, right - 0.8):
            parts.append(make_box((0, y, tall / 2), (0.7 * deep, 0.8, tall), stone))
        rail = tall + 1.3 + 0.55
        for x in (-deep / 2, deep / 2):
            parts.append(make_box((x, middle, rail), (0.06, wide + 16, 1.0), metal))
        return join_rows(parts)
    parts = [make_post(0, y, 0, tall + 0.8, 0.15, metal) for y in (left, right)]
    for z in (tall, tall + 0.8):
        parts.append(make_box((0, middle, z), (0.15, wide, 0.12), metal))
    for y in np.arange(right + 1.5, left - 1.5, 4.2):
        if rng.random() < 0.7:
            board = Material(palette.layers['plain'][0], tint=choose_colour(rng, [(0.02, 0.1, 0.4),
                             (0.02, 0.2, 0.08), (0.6, 0.6, 0.6)]))  # fmt: skip
            size = (0.08, rng.uniform(1.5, 3.6), rng.uniform(1.0, 2.2))
            parts.append(make_box((-0.15, float(y) + 1, tall + 0.4), size, board))
    return join_rows(parts)


def make_wires(rng: Rng, palette: Palette, length: float) -> Rows:
    """Build a pole with wires that hang to the next, `length` further along x."""
    wood = Material(palette.pick(rng, 'bark'), tile=(0.5, 2.0))
    black = Material(palette.layers['plain'][0], tint=(0.02, 0.02, 0.02))
    tall = rng.uniform(6.5, 9.0)
    parts = [
        make_post(0, 0, 0, tall, 0.14, wood),
        make_box((0, 0, tall - 0.5), (0.12, 2.0, 0.12), wood),
    ]
    for y in (-0.9, 0.0, 0.9):
        sag = [(x, y, tall - 0.4 - 0.9 * (1 - (2 * x / length - 1) ** 2)) for x in
               np.linspace(0, length, 5).tolist()]  # fmt: skip
        parts += [make_rod(a, b, 0.02, black) for a, b in pairwise(sag)]
    return join_rows(parts)


def make_awning(rng: Rng, palette: Palette, width: float) -> Rows:
    """Build the awning of a shop with what stands below it, out from a front at y = 0."""
    cloth = Material(palette.pick(rng, 'weave'), tint=(1.5, 1.5, 1.5), tile=(1.0, 1.0))
    out = rng.uniform(0.8, 1.6)
    parts = [make_box((0, -out / 2, 2.5), (width, out, 0.1), cloth)]
    parts.append(make_box((0, -out, 2.35), (width, 0.03, 0.25), cloth))
    for _ in range(int(rng.integers(0, 4))):
        x = rng.uniform(-0.45, 0.45) * width
        size = rng.uniform((0.4, 0.3, 0.4), (0.9, 0.5, 1.2))
        goods = Material(palette.pick(rng, 'poster'), tile=(0.6, 0.6))
        parts.append(make_box((x, -0.35, size[2] / 2), (size[0], size[1], size[2]), goods))
    return join_rows(parts)


STANDING = (
    make_bin, make_bench, make_bollards, make_bicycle_rack, make_planter, make_box_thing,
    make_bin,
)  # fmt: skip
