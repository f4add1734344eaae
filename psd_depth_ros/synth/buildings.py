"""Houses, walls, hedges and fences: what lines a street.

A maker builds about its own origin with the street towards -y, on the ground.
"""

from __future__ import annotations

import numpy as np

from psd_depth_ros.synth.primitives import (
    join_rows,
    make_box,
    make_post,
    Material,
    Rows,
)
from psd_depth_ros.synth.textures import Palette


def make_house(rng: np.random.Generator, palette: Palette, width: float, depth: float) -> Rows:
    """Build a house: storeys of window bays, plinth, roof, door, balconies, sills.

    The front is at y = 0 and the house reaches to y = depth; x is centred.
    """
    storey = rng.uniform(2.7, 3.5)
    floors = int(rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.3, 0.3, 0.2, 0.1]))
    plinth = rng.uniform(0.2, 1.2)
    height = floors * storey
    bays = max(int(width / rng.uniform(2.2, 3.8)), 1)
    bay = width / bays
    shade = rng.uniform(0.7, 1.2)
    wall = Material(
        palette.pick(rng, 'facade'), top=palette.pick(rng, 'roof'),
        tint=(shade, shade * rng.uniform(0.92, 1.05), shade * rng.uniform(0.85, 1.05)),
        tile=(bay, storey), shift=(0.5 * (bays % 2), 0.5 * (floors % 2)),
    )  # fmt: skip
    stone = Material(palette.pick(rng, 'masonry'), tile=(1.6, 1.6))
    middle = plinth + height / 2
    parts = [
        make_box((0, depth / 2, plinth / 2), (width + 0.06, depth + 0.06, plinth), stone),
        make_box((0, depth / 2, middle), (width, depth, height), wall),
    ]
    parts.append(_make_roof(rng, palette, width, depth, plinth + height, wall.tint))
    parts.append(_make_door(rng, palette, width))
    if rng.random() < 0.4:
        parts.append(_make_balconies(rng, palette, (bays, bay), (floors, storey), plinth))
    if rng.random() < 0.5:
        ledge = Material(palette.pick(rng, 'plaster'), tile=(2, 2))
        for floor in range(1, floors + 1):
            z = plinth + floor * storey - 0.1
            parts.append(make_box((0, depth / 2, z), (width + 0.2, depth + 0.2, 0.18), ledge))
    return join_rows(parts)


def _make_roof(
    rng: np.random.Generator,
    palette: Palette,
    width: float,
    depth: float,
    eaves: float,
    tint: tuple[float, float, float],
) -> Rows:
    tiles = Material(palette.pick(rng, 'roof'), tile=(3.0, 3.0))
    kind = rng.random()
    rise = rng.uniform(0.25, 0.55) * depth
    centre = (0.0, depth / 2, eaves + rise / 2)
    if kind < 0.5:
        return make_box(centre, (width + 0.5, depth + 0.8, rise), tiles, (0.1, 0.1, 1.0))
    if kind < 0.7:
        gable = make_box(
            (0, depth / 2, eaves + rise / 2), (depth + 0.4, width + 0.4, rise), tiles,
            (0, 0, 1.0), yaw=np.pi / 2,
        )  # fmt: skip
        return gable
    flat = Material(palette.pick(rng, 'plaster'), tint=tint, tile=(3, 3))
    return make_box((0, depth / 2, eaves + 0.25), (width + 0.3, depth + 0.3, 0.5), flat)


def _make_door(rng: np.random.Generator, palette: Palette, width: float) -> Rows:
    x = rng.uniform(-0.35, 0.35) * width
    wide = rng.choice([1.1, 1.4, 2.6, 3.2])
    kind = 'wood' if rng.random() < 0.6 else 'poster'
    leaf = Material(palette.pick(rng, kind), tint=(0.6, 0.6, 0.6), tile=(wide, 2.2))
    frame = Material(palette.pick(rng, 'plaster'), tile=(2, 2))
    return join_rows(
        [
            make_box((x, -0.04, 1.2), (wide + 0.35, 0.16, 2.4), frame),
            make_box((x, -0.06, 1.1), (wide, 0.16, 2.2), leaf),
        ]
    )


def _make_balconies(
    rng: np.random.Generator,
    palette: Palette,
    bays: tuple[int, float],
    floors: tuple[int, float],
    plinth: float,
) -> Rows:
    slab = Material(palette.pick(rng, 'plaster'), tile=(2, 2))
    rail = Material(palette.layers['plain'][0], tint=(0.1, 0.1, 0.11))
    front = Material(palette.pick(rng, 'weave'), tint=(1.2, 1.2, 1.2), tile=(1.5, 1.0))
    column = int(rng.integers(bays[0]))
    x = (column + 0.5 - bays[0] / 2) * bays[1]
    parts = []
    for floor in range(1, floors[0]):
        z = plinth + floor * floors[1]
        size = (bays[1] * 0.9, 1.2)
        parts.append(make_box((x, -0.6, z), (*size, 0.15), slab))
        if rng.random() < 0.5:
            parts.append(make_box((x, -1.18, z + 0.5), (size[0], 0.06, 0.95), front))
        else:
            parts.append(make_box((x, -1.18, z + 1.0), (size[0], 0.06, 0.06), rail))
            for step in np.linspace(-0.48, 0.48, 7):
                parts.append(make_post(x + step * size[0], -1.18, z, z + 1, 0.025, rail))
    return join_rows(parts)


def make_wall(rng: np.random.Generator, palette: Palette, length: float) -> Rows:
    """Build a garden wall, a hedge or a board fence along x."""
    kind = rng.random()
    height = rng.uniform(0.6, 2.2)
    if kind < 0.4:
        leaves = Material(palette.pick(rng, 'leaves'), tile=(1.5, 1.5))
        return make_box((0, 0, height / 2), (length, rng.uniform(0.5, 1.2), height), leaves)
    if kind < 0.7:
        stone = Material(palette.pick(rng, 'masonry'), tile=(1.8, 1.8))
        return make_box((0, 0, height / 2), (length, 0.25, height), stone)
    if kind < 0.85:
        boards = Material(palette.pick(rng, 'wood'), tint=(0.8, 0.8, 0.8), tile=(1.5, 1.5))
        return make_box((0, 0, height / 2), (length, 0.08, height), boards)
    metal = Material(palette.layers['plain'][0], tint=(0.08, 0.09, 0.08))
    parts = [make_box((0, 0, z), (length, 0.05, 0.05), metal) for z in (0.2, 1.1)]
    for x in np.arange(-length / 2, length / 2, 0.5):
        parts.append(make_post(float(x), 0, 0, 1.2, 0.02, metal))
    return join_rows(parts)
