"""Objects of streets: people, cyclists, trees, posts, houses, walls.

Each function returns primitive rows about its own origin, on the ground. People face +x; houses
and walls have the street towards -y. `street` decides where they stand.
"""

from __future__ import annotations

import numpy as np

from psd_depth_ros.synth.primitives import (
    join_rows,
    make_ball,
    make_box,
    make_post,
    make_rod,
    Material,
    Rows,
)
from psd_depth_ros.synth.textures import Palette
from psd_depth_ros.synth.vehicles import choose_colour, Colour, PAINTS

_CLOTHES: list[Colour] = [
    (0.03, 0.04, 0.1), (0.05, 0.05, 0.05), (0.6, 0.6, 0.6), (0.4, 0.08, 0.06), (0.1, 0.2, 0.4),
    (0.3, 0.25, 0.15), (0.6, 0.3, 0.05), (0.15, 0.3, 0.15),
]  # fmt: skip


def make_person(rng: np.random.Generator, palette: Palette, stride: float = 0.0) -> Rows:
    """Build a walking person; `stride` (radians) swings legs and arms."""
    plain, cloth = palette.layers['plain'][0], palette.layers['mottle'][0]
    tall = rng.uniform(0.92, 1.08)
    red, green, blue = choose_colour(rng, _CLOTHES)
    top = Material(cloth, tint=(3 * red, 3 * green, 3 * blue))
    trousers = Material(plain, tint=choose_colour(rng, _CLOTHES[:3]))
    skin = Material(plain, tint=(0.5, 0.32, 0.24))
    hair = Material(plain, tint=(0.05, 0.035, 0.03))
    swing = 0.35 * float(np.sin(stride))
    parts = [
        make_ball((0, 0, 1.18 * tall), (0.15, 0.23, 0.34 * tall), top),
        make_ball((0, 0, 0.92 * tall), (0.15, 0.19, 0.18), trousers),
        make_ball((0.01, 0, 1.62 * tall), (0.1, 0.085, 0.125), skin),
        make_ball((-0.02, 0, 1.66 * tall), (0.1, 0.095, 0.11), hair),
    ]
    for side in (-1.0, 1.0):
        foot = (side * swing, side * 0.1, 0.03)
        parts.append(make_rod(foot, (0, side * 0.09, 0.9 * tall), 0.075, trousers))
        hand = (-side * 0.7 * swing + 0.05, side * 0.28, 0.85 * tall)
        parts.append(make_rod(hand, (0, side * 0.22, 1.4 * tall), 0.05, top))
    return join_rows(parts)


def make_cyclist(rng: np.random.Generator, palette: Palette, stride: float = 0.0) -> Rows:
    """Build a person on a bicycle."""
    plain = palette.layers['plain'][0]
    tube = Material(plain, tint=choose_colour(rng, PAINTS), gloss=0.4)
    black = Material(plain, tint=(0.03, 0.03, 0.03))
    rider = make_person(rng, palette, stride)
    rider[:, 2] += 0.25
    parts = [rider]
    for x in (-0.52, 0.52):
        parts.append(make_rod((x, -0.02, 0.34), (x, 0.02, 0.34), 0.34, black))
    for start, end in (
        ((-0.5, 0, 0.35), (-0.1, 0, 0.85)), ((-0.1, 0, 0.8), (0.4, 0, 0.85)),
        ((0.0, 0, 0.35), (0.4, 0, 0.8)), ((0.52, 0, 0.35), (0.38, 0, 1.0)),
    ):  # fmt: skip
        parts.append(make_rod(start, end, 0.025, tube))
    parts.append(make_rod((0.38, -0.28, 1.0), (0.38, 0.28, 1.0), 0.02, black))
    return join_rows(parts)


def make_tree(rng: np.random.Generator, palette: Palette) -> Rows:
    """Build a tree: trunk, a few boughs, torn balls of leaves."""
    bark = Material(palette.pick(rng, 'bark'), tile=(0.6, 1.2))
    tall = rng.uniform(4, 13)
    trunk = rng.uniform(0.3, 0.5) * tall
    radius = rng.uniform(0.015, 0.03) * tall
    leaves = Material(palette.pick(rng, 'leaves'), tile=(2.2, 2.2))
    parts = [make_rod((0, 0, -0.1), (0.1, 0.05, trunk * 1.3), radius, bark)]
    crown = rng.uniform(0.24, 0.42) * tall
    for _ in range(int(rng.integers(7, 14))):
        x, y = rng.normal(0, 0.5 * crown, 2)
        z = trunk + crown * rng.uniform(0.1, 1.7)
        size = crown * rng.uniform(0.35, 0.65)
        half = (size * rng.uniform(0.8, 1.2), size * rng.uniform(0.8, 1.2), size * 0.8)
        parts.append(make_ball((x, y, z), half, leaves, foliage=True))
        if rng.random() < 0.5:
            parts.append(make_rod((0, 0, trunk * 0.8), (x, y, z), radius * 0.35, bark))
    return join_rows(parts)


def make_bush(rng: np.random.Generator, palette: Palette) -> Rows:
    """Build a low bush."""
    leaves = Material(palette.pick(rng, 'leaves'), tile=(1.4, 1.4))
    size = rng.uniform(0.4, 1.3)
    parts = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.normal(0, 0.5 * size, 2)
        parts.append(make_ball((x, y, size * 0.6), (size, size, size * 0.8), leaves, True))
    return join_rows(parts)


def make_lamp_post(rng: np.random.Generator, palette: Palette, night: bool = False) -> Rows:
    """Build a street lamp with an arm towards +y, or a bare pole."""
    metal = Material(palette.layers['plain'][0], tint=choose_colour(rng, PAINTS[1:3]), gloss=0.2)
    tall, radius = rng.uniform(4, 9), rng.uniform(0.05, 0.15)
    parts = [make_post(0, 0, 0, tall, radius, metal)]
    if rng.random() < 0.6:
        reach = rng.uniform(0.5, 2.0)
        parts.append(make_rod((0, 0, tall), (0, reach, tall + 0.3), 0.05, metal))
        glow = Material(metal.side, tint=(1.0, 0.8, 0.5), lamp=3.0 if night else 0.0)
        parts.append(make_box((0, reach, tall + 0.25), (0.25, 0.6, 0.12), glow))
    return join_rows(parts)


def make_sign(rng: np.random.Generator, palette: Palette, night: bool = False) -> Rows:
    """Build a traffic sign, a traffic light or a direction board, facing -x."""
    plain = palette.layers['plain'][0]
    metal = Material(plain, tint=(0.35, 0.35, 0.35), gloss=0.2)
    tall = rng.uniform(2.1, 3.2)
    parts = [make_post(0, 0, 0, tall, rng.uniform(0.03, 0.06), metal)]
    kind = rng.random()
    if kind < 0.45:
        rim = Material(plain, tint=choose_colour(rng, [(0.6, 0.02, 0.02), (0.03, 0.1, 0.5)]))
        face = Material(plain, tint=(0.8, 0.8, 0.8))
        parts.append(make_rod((-0.05, 0, tall), (-0.07, 0, tall), 0.32, rim))
        parts.append(make_rod((-0.07, 0, tall), (-0.08, 0, tall), 0.23, face))
    elif kind < 0.7:
        board = Material(palette.pick(rng, 'poster'), tile=(0.9, 0.7))
        size = (0.04, rng.uniform(0.5, 1.6), rng.uniform(0.4, 0.9))
        parts.append(make_box((-0.08, 0, tall), size, board))
    else:
        black = Material(plain, tint=(0.02, 0.02, 0.02))
        parts.append(make_box((-0.1, 0, tall + 0.4), (0.2, 0.28, 0.85), black))
        lit = int(rng.integers(3))
        for i, colour in enumerate(((0.9, 0.05, 0.03), (0.9, 0.5, 0.03), (0.05, 0.8, 0.3))):
            lens = Material(plain, tint=colour if i == lit else (0.03, 0.03, 0.03), lamp=0.8)
            z = tall + 0.66 - 0.26 * i
            parts.append(make_rod((-0.2, 0, z), (-0.22, 0, z), 0.1, lens))
    return join_rows(parts)


def make_house(rng: np.random.Generator, palette: Palette, width: float, depth: float) -> Rows:
    """Build a house: storeys of window bays, plinth, roof, door, balconies, sills.

    The front is at y = 0 and the house reaches to y = depth; x is centred.
    """
    storey = rng.uniform(2.7, 3.5)
    floors = int(rng.choice([1, 2, 3, 4, 5], p=[0.1, 0.3, 0.3, 0.2, 0.1]))
    if width > 12 and rng.random() < 0.12:
        floors = int(rng.integers(7, 20))  # a tower
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
