"""Things that stand in rooms: tables, chairs, cupboards, shelves, sofas, clutter.

Each maker returns primitive rows on the floor about its own origin, with its back towards +y
(the wall) where it has one. Where things stand is left to ``layout_room``.
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
    place,
    Rows,
)
from psd_depth_ros.synth.textures import Palette

Rng = np.random.Generator


def draw_material(rng: Rng, palette: Palette, *kinds: str, tile: float = 1.0) -> Material:
    """Draw a finish of one of the kinds, freely tinted where the tile is plain."""
    kind = str(rng.choice(kinds))
    if kind == 'plain':
        grey = rng.uniform(0.03, 0.8)
        spread = rng.choice([0.1, 0.7])
        tint = np.clip(grey * np.exp(rng.normal(0, spread, 3)), 0.01, 0.9)
    else:
        tint = np.exp(rng.normal(0, 0.15, 3))
    size = tile * rng.uniform(0.7, 1.6)
    return Material(
        palette.pick(rng, kind), tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        tile=(size, size), shift=(rng.random(), rng.random()),
        gloss=float(rng.choice([0.0, 0.15, 0.6])) if kind in ('plain', 'tiles') else 0.0,
    )  # fmt: skip


def make_clutter(rng: Rng, palette: Palette, count: int, span: tuple[float, float]) -> Rows:
    """Scatter small things (cups, books, boxes, bottles, bowls) over a (x, y) span at z = 0."""
    parts = []
    for _ in range(count):
        x, y = (rng.uniform(-0.5, 0.5, 2) * span).tolist()
        finish = draw_material(rng, palette, 'plain', 'poster', 'poster', 'mottle', tile=0.25)
        kind, yaw = rng.random(), rng.uniform(0, 6.28)
        if kind < 0.3:
            size = rng.uniform((0.12, 0.1, 0.01), (0.32, 0.25, 0.12))
        elif kind < 0.6:
            size = rng.uniform((0.03, 0.1, 0.12), (0.25, 0.25, 0.4))
        elif kind < 0.85:
            radius, tall = rng.uniform(0.025, 0.07), rng.uniform(0.06, 0.32)
            parts.append(make_post(x, y, 0, tall, radius, finish))
            if rng.random() < 0.4:
                parts.append(make_post(x, y, tall, tall * 1.3, radius * 0.4, finish))
            continue
        else:
            r = rng.uniform(0.05, 0.14)
            parts.append(make_ball((x, y, r * 0.8), (r, r, r * 0.8), finish))
            continue
        parts.append(make_box((x, y, size[2] / 2), tuple(size), finish, yaw=yaw))
    return join_rows(parts)


def make_table(rng: Rng, palette: Palette) -> Rows:
    """Build a table with four legs or one foot, and what lies on it."""
    long, deep, tall = rng.uniform(0.8, 2.0), rng.uniform(0.6, 1.0), rng.uniform(0.68, 0.78)
    top = draw_material(rng, palette, 'wood', 'wood', 'plain', tile=0.9)
    leg = top if rng.random() < 0.6 else draw_material(rng, palette, 'plain')
    parts = [make_box((0, 0, tall - 0.02), (long, deep, 0.04), top)]
    if rng.random() < 0.75:
        thick = rng.uniform(0.04, 0.1)
        parts += [
            make_box((x * (long / 2 - 0.08), y * (deep / 2 - 0.08), tall / 2 - 0.02),
                     (thick, thick, tall - 0.04), leg)
            for x in (-1, 1) for y in (-1, 1)
        ]  # fmt: skip
        parts.append(make_box((0, 0, tall - 0.09), (long - 0.16, deep - 0.16, 0.1), leg))
    else:
        parts.append(make_post(0, 0, 0, tall - 0.04, 0.06, leg))
        parts.append(make_post(0, 0, 0, 0.04, 0.3, leg))
    things = make_clutter(rng, palette, int(rng.integers(1, 14)), (long * 0.9, deep * 0.8))
    return join_rows([*parts, place(things, 0, 0, tall)])


def make_chair(rng: Rng, palette: Palette) -> Rows:
    """Build a chair: legs, seat, back of slats, boards or rods."""
    finish = draw_material(rng, palette, 'wood', 'wood', 'plain', tile=0.7)
    seat = finish if rng.random() < 0.6 else draw_material(rng, palette, 'weave', tile=0.4)
    wide, tall, back = rng.uniform(0.38, 0.5), rng.uniform(0.42, 0.48), rng.uniform(0.8, 1.05)
    parts = [make_box((0, 0, tall), (wide, wide, 0.05), seat)]
    w = wide / 2 - 0.025
    for x in (-w, w):
        parts.append(make_box((x, -w, tall / 2), (0.04, 0.04, tall), finish))
        parts.append(make_box((x, w, back / 2), (0.04, 0.04, back), finish))
    slats = int(rng.integers(1, 5))
    for z in np.linspace(tall + 0.15, back - 0.05, slats):
        size = 0.07 if slats > 1 else back - tall - 0.15
        parts.append(make_box((0, w, float(z) - (size / 2 if slats == 1 else 0)),
                              (wide, 0.025, size), finish))  # fmt: skip
    return join_rows(parts)


def make_cupboards(rng: Rng, palette: Palette, length: float) -> Rows:
    """Build a kitchen front along x: base units, worktop, splashback, wall units, clutter."""
    front = draw_material(rng, palette, 'plain', 'plain', 'wood', tile=1.0)
    top = draw_material(rng, palette, 'plain', 'wood', 'mottle', tile=0.8)
    steel = Material(palette.layers['plain'][0], tint=(0.5, 0.5, 0.5), gloss=0.8)
    dark = Material(palette.layers['plain'][0], tint=(0.03, 0.03, 0.03))
    parts = [
        make_box((0, -0.27, 0.05), (length, 0.5, 0.1), dark),
        make_box((0, -0.29, 0.48), (length, 0.56, 0.76), dark),
        make_box((0, -0.31, 0.88), (length, 0.62, 0.04), top),
    ]
    tiled = draw_material(rng, palette, 'tiles', 'tiles', 'plaster', tile=0.8)
    parts.append(make_box((0, -0.005, 1.2), (length, 0.02, 0.62), tiled))
    parts += _pin_papers(rng, palette, length)
    units = max(1, round(length / rng.uniform(0.45, 0.8)))
    wide = length / units
    hung, drawers = rng.random() < 0.8, rng.random(units) < 0.3
    for i in range(units):
        x = (i + 0.5 - units / 2) * wide
        for z, tall in ((0.72, 0.22), (0.35, 0.48)) if drawers[i] else ((0.48, 0.74),):
            parts.append(make_box((x, -0.575, z), (wide - 0.012, 0.025, tall), front))
            parts.append(
                make_box((x, -0.6, z + tall / 2 - 0.06), (wide * 0.5, 0.025, 0.015), steel)
            )
        if hung and rng.random() < 0.85:
            parts.append(make_box((x, -0.17, 1.85), (wide, 0.32, 0.7), dark))
            parts.append(make_box((x, -0.335, 1.85), (wide - 0.012, 0.02, 0.7), front))
            parts.append(make_box((x, -0.355, 1.55), (wide * 0.4, 0.02, 0.015), steel))
    things = make_clutter(rng, palette, int(3 + 6 * length * rng.random()), (length * 0.95, 0.4))
    return join_rows([*parts, place(things, 0, -0.3, 0.9)])


def _pin_papers(rng: Rng, palette: Palette, length: float) -> list[Rows]:
    parts = []
    for _ in range(rng.poisson(0.8 * length)):
        size = (rng.uniform(0.1, 0.35), 0.01, rng.uniform(0.15, 0.35))
        paper = Material(palette.pick(rng, 'poster'), tile=(size[0], size[2]), shift=(0.5, 0.5))
        x, z = rng.uniform(-0.45, 0.45) * length, rng.uniform(1.05, 1.35)
        parts.append(make_box((x, -0.02, z), size, paper))
    return parts


def make_shelf(rng: Rng, palette: Palette) -> Rows:
    """Build an open shelf with books and boxes."""
    frame = draw_material(rng, palette, 'wood', 'plain', tile=1.0)
    wide, tall, deep = rng.uniform(0.6, 1.6), rng.uniform(0.9, 2.2), rng.uniform(0.25, 0.4)
    parts = [
        make_box((x * wide / 2, -deep / 2, tall / 2), (0.03, deep, tall), frame) for x in (-1, 1)
    ]
    parts.append(make_box((0, -0.01, tall / 2), (wide, 0.02, tall), frame))
    for z in np.linspace(0.06, tall - 0.015, int(rng.integers(3, 7))):
        parts.append(make_box((0, -deep / 2, float(z)), (wide, deep, 0.025), frame))
        x = -wide / 2 + 0.03
        while x < wide / 2 - 0.1 and z < tall - 0.2:
            book, high = rng.uniform(0.03, 0.14), rng.uniform(0.14, 0.28)
            cover = draw_material(rng, palette, 'plain', 'poster', tile=0.3)
            if rng.random() < 0.8:
                size = (book, deep * rng.uniform(0.5, 0.9), high)
                parts.append(
                    make_box((x + book / 2, -size[1] / 2 - 0.02, z + high / 2), size, cover)
                )
            x += book + (rng.uniform(0, 0.15) if rng.random() < 0.3 else 0.004)
    return join_rows(parts)


def make_sofa(rng: Rng, palette: Palette) -> Rows:
    """Build a sofa or a bed."""
    cloth = draw_material(rng, palette, 'weave', 'plain', 'mottle', tile=0.6)
    wide, deep = rng.uniform(0.8, 2.2), rng.uniform(0.75, 0.95)
    parts = [
        make_box((0, -deep / 2, 0.22), (wide, deep, 0.42), cloth),
        make_box((0, -0.12, 0.6), (wide, 0.24, rng.uniform(0.4, 0.7)), cloth),
    ]
    for side in (-1, 1):
        parts.append(make_box((side * wide / 2, -deep / 2, 0.32), (0.2, deep, 0.62), cloth))
    cushion = draw_material(rng, palette, 'weave', 'mottle', 'plain', tile=0.4)
    for _ in range(int(rng.integers(0, 4))):
        x = rng.uniform(-0.4, 0.4) * wide
        parts.append(make_ball((x, -0.32, 0.6), (0.22, 0.1, 0.2), cushion))
    return join_rows(parts)


def make_plant(rng: Rng, palette: Palette) -> Rows:
    """Build a pot plant."""
    leaves = Material(palette.pick(rng, 'leaves'), tile=(0.6, 0.6))
    pot = draw_material(rng, palette, 'plain', 'masonry')
    tall = rng.uniform(0.4, 1.2)
    parts = [make_post(0, 0, 0, 0.3, 0.15, pot), make_post(0, 0, 0.3, tall, 0.02, pot)]
    for _ in range(int(rng.integers(2, 5))):
        x, y = rng.normal(0, 0.12, 2)
        size = rng.uniform(0.12, 0.3)
        parts.append(
            make_ball((x, y, tall + rng.normal(0, 0.1)), (size, size, size), leaves, True)
        )
    return join_rows(parts)


def make_floor_lamp(rng: Rng, palette: Palette) -> Rows:
    """Build a standing lamp."""
    metal = Material(palette.layers['plain'][0], tint=(0.1, 0.1, 0.1), gloss=0.5)
    shade = Material(palette.layers['plain'][0], tint=(0.9, 0.8, 0.6), lamp=0.5)
    tall = rng.uniform(1.2, 1.8)
    foot = make_rod((0, 0, 0), (0, 0, 0.03), 0.14, metal)
    return join_rows(
        [
            foot,
            make_post(0, 0, 0, tall, 0.015, metal),
            make_post(0, 0, tall, tall + 0.3, 0.17, shade),
        ]
    )
