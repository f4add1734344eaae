"""Furniture: what stands on floors and hangs on walls.

Each function returns primitive rows on the floor about their own origin, with the back, where
there is one, towards +y (the wall). `layouts` decides what stands in which room.
"""

from __future__ import annotations

import math

import numpy as np

from psd_depth_ros.synth import clutter
from psd_depth_ros.synth.finishes import (
    BLACK,
    plain,
    Rng,
    sample_material,
    sample_print,
    sample_tint,
    STEEL,
)
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


def make_table(rng: Rng, palette: Palette) -> Rows:
    """Build a table or a counter to stand at, and what lies on it."""
    long, deep, tall = rng.uniform(0.7, 2.4), rng.uniform(0.6, 1.1), rng.uniform(0.68, 0.8)
    if rng.random() < 0.12:
        tall = rng.uniform(0.95, 1.1)
    elif rng.random() < 0.12:
        tall, deep = rng.uniform(0.35, 0.5), rng.uniform(0.4, 0.7)
    top = sample_material(rng, palette, 'wood', 'wood', 'plain', tile=0.9)
    leg = top if rng.random() < 0.5 else sample_material(rng, palette, 'plain', accent=0.05)
    thick = rng.uniform(0.02, 0.06)
    round_top = rng.random() < 0.15
    if round_top:
        radius = min(long, 1.3) / 2
        long = deep = 1.4 * radius
        parts = [make_post(0, 0, tall - thick, tall, radius, top)]
    else:
        parts = [make_box((0, 0, tall - thick / 2), (long, deep, thick), top)]
    parts += _stand_on_legs(rng, leg, long, deep, tall - thick, round_top)
    dense = rng.choice([1, 4, 10], p=[0.3, 0.4, 0.3])
    count = int(rng.integers(dense, 2 * dense + 2))
    things = clutter.make_clutter(rng, palette, count, (long * 0.9, deep * 0.8))
    return join_rows([*parts, place(things, 0, 0, tall)])


def _stand_on_legs(
    rng: Rng, leg: Material, long: float, deep: float, tall: float, one_foot: bool
) -> list[Rows]:
    if one_foot or rng.random() < 0.15:
        return [make_post(0, 0, 0, tall, 0.05, leg), make_post(0, 0, 0, 0.04, 0.3, leg)]
    thick, kind = rng.uniform(0.03, 0.1), rng.random()
    corners = [(x * (long / 2 - 0.07), y * (deep / 2 - 0.07)) for x in (-1, 1) for y in (-1, 1)]
    if kind < 0.6:
        parts = [make_box((x, y, tall / 2), (thick, thick, tall), leg) for x, y in corners]
    else:
        parts = [make_post(x, y, 0, tall, thick / 2.5, leg) for x, y in corners]
    if rng.random() < 0.6:
        parts.append(make_box((0, 0, tall - 0.05), (long - 0.16, deep - 0.16, 0.1), leg))
    if rng.random() < 0.2:
        parts.append(make_box((0, deep / 2 - 0.05, 0.55 * tall), (long - 0.1, 0.03, 0.4), leg))
    return parts


def make_chair(rng: Rng, palette: Palette) -> Rows:
    """Build a chair: wooden, of bent tube, a stool, or one on castors."""
    kind = rng.random()
    if kind < 0.3:
        return make_office_chair(rng, palette)
    finish = sample_material(rng, palette, 'wood', 'wood', 'plain', tile=0.7, accent=0.1)
    seat = finish if rng.random() < 0.4 else sample_material(rng, palette, 'weave', 'plain')
    wide, tall, back = rng.uniform(0.38, 0.5), rng.uniform(0.42, 0.48), rng.uniform(0.78, 1.05)
    if kind > 0.9:
        tall = rng.uniform(0.45, 0.8)
        parts = [make_post(0, 0, tall - 0.04, tall, 0.18, seat)]
        for angle in np.arange(4) * math.pi / 2 + 0.78:
            x, y = 0.2 * math.cos(angle), 0.2 * math.sin(angle)
            parts.append(make_rod((x, y, 0), (0.6 * x, 0.6 * y, tall), 0.015, finish))
        return join_rows(parts)
    w = wide / 2 - 0.025
    if kind > 0.65:  # bent steel tube
        tube = plain(palette, STEEL if rng.random() < 0.6 else BLACK, gloss=0.6)
        parts = [make_box((0, 0, tall), (wide, wide, 0.04), seat)]
        for x in (-w, w):
            parts.append(make_rod((x, -w, 0.015), (x, -w, tall), 0.013, tube))
            parts.append(make_rod((x, -w, 0.015), (x, w, 0.015), 0.013, tube))
            parts.append(make_rod((x, w, tall), (x, w + 0.06, back), 0.013, tube))
            if rng.random() < 0.5:
                parts.append(make_rod((x, w, 0.015), (x, w, tall), 0.013, tube))
        high = rng.uniform(0.18, 0.4)
        parts.append(make_box((0, w + 0.04, back - high / 2), (wide, 0.03, high), seat))
        return join_rows(parts)
    parts = [make_box((0, 0, tall), (wide, wide, 0.05), seat)]
    for x in (-w, w):
        parts.append(make_box((x, -w, tall / 2), (0.04, 0.04, tall), finish))
        parts.append(make_box((x, w, back / 2), (0.04, 0.04, back), finish))
    slats = int(rng.integers(1, 6))
    for z in np.linspace(tall + 0.15, back - 0.05, slats):
        size = 0.07 if slats > 1 else back - tall - 0.15
        parts.append(make_box((0, w, float(z) - (size / 2 if slats == 1 else 0)),
                              (wide, 0.025, size), finish))  # fmt: skip
    return join_rows(parts)


def make_office_chair(rng: Rng, palette: Palette) -> Rows:
    """Build a chair on a star of five castors."""
    cloth = sample_material(rng, palette, 'weave', 'plain', tile=0.4)
    black = plain(palette, BLACK if rng.random() < 0.8 else STEEL, gloss=0.2)
    tall = rng.uniform(0.42, 0.55)
    parts = [
        make_post(0, 0, 0.1, tall, 0.03, black),
        make_box((0, 0, tall), (0.48, 0.46, 0.08), cloth),
        make_box((0, 0.23, tall + 0.4), (0.44, 0.06, rng.uniform(0.35, 0.6)), cloth),
        make_rod((0, 0.2, tall), (0, 0.27, tall + 0.35), 0.025, black),
    ]
    turn = rng.uniform(0, 6.28)
    for k in range(5):
        x, y = 0.31 * math.cos(turn + 1.2566 * k), 0.31 * math.sin(turn + 1.2566 * k)
        parts.append(make_rod((0, 0, 0.11), (x, y, 0.08), 0.022, black))
        parts.append(make_ball((x, y, 0.03), (0.03, 0.03, 0.03), black))
    if rng.random() < 0.6:
        for x in (-0.28, 0.28):
            parts.append(make_rod((x, 0, tall), (x, 0, tall + 0.22), 0.015, black))
            parts.append(make_box((x, -0.02, tall + 0.23), (0.06, 0.26, 0.03), black))
    return join_rows(parts)


def make_desk(rng: Rng, palette: Palette) -> Rows:
    """Build a desk against a wall: top, legs, drawers, monitors, keyboard, papers."""
    long, deep, tall = rng.uniform(1.1, 2.0), rng.uniform(0.6, 0.85), rng.uniform(0.7, 0.78)
    top = sample_material(rng, palette, 'wood', 'plain', tile=0.9, accent=0.05)
    leg = plain(palette, sample_tint(rng, 0.05))
    parts = [make_box((0, -deep / 2, tall - 0.015), (long, deep, 0.03), top)]
    for x in (-long / 2 + 0.06, long / 2 - 0.06):
        parts.append(make_box((x, -deep / 2, tall / 2), (0.05, 0.07, tall - 0.03), leg))
        parts.append(make_box((x, -deep / 2, 0.02), (0.06, deep - 0.05, 0.04), leg))
    if rng.random() < 0.6:
        x = rng.choice([-1, 1]) * (long / 2 - 0.32)
        drawers = place(_make_drawers(rng, palette, 0.4, 0.55), float(x), -0.1)
        parts.append(drawers)
    for _ in range(int(rng.integers(0, 3))):
        screen = clutter.make_monitor(rng, palette)
        x = rng.uniform(-0.35, 0.35) * long
        parts.append(place(screen, float(x), -0.2, tall, rng.normal(0, 0.25)))
        keys = make_box((x, -0.45, tall + 0.01), (0.42, 0.14, 0.02), plain(palette, BLACK))
        parts.append(keys)
    count = int(rng.integers(2, 10))
    things = clutter.make_clutter(rng, palette, count, (long * 0.9, deep * 0.8))
    return join_rows([*parts, place(things, 0, -deep / 2, tall)])


def _make_drawers(rng: Rng, palette: Palette, wide: float, tall: float) -> Rows:
    body = sample_material(rng, palette, 'plain', 'wood', accent=0.1)
    steel = plain(palette, STEEL, gloss=0.6)
    parts = [make_box((0, -0.25, tall / 2 + 0.03), (wide, 0.5, tall), body)]
    for z in np.linspace(0.12, tall - 0.1, 3):
        parts.append(make_box((0, -0.505, z + 0.03), (wide - 0.02, 0.02, tall / 3 - 0.02), body))
        parts.append(make_box((0, -0.525, z + 0.08), (0.14, 0.02, 0.012), steel))
    return join_rows(parts)


def make_counter(rng: Rng, palette: Palette, length: float) -> Rows:
    """Build a kitchen front along x: units, worktop, sink, hob, wall units, what stands there."""
    front = sample_material(rng, palette, 'plain', 'plain', 'wood', tile=1.0, accent=0.3)
    top = sample_material(rng, palette, 'plain', 'wood', 'mottle', tile=0.8, accent=0.05)
    steel, dark = plain(palette, (0.5, 0.5, 0.5), gloss=0.8), plain(palette, BLACK)
    parts = [
        make_box((0, -0.27, 0.05), (length, 0.5, 0.1), dark),
        make_box((0, -0.29, 0.48), (length, 0.56, 0.76), dark),
        make_box((0, -0.31, 0.88), (length, 0.62, 0.04), top),
    ]
    tiled = sample_material(rng, palette, 'tiles', 'tiles', 'plaster', 'plain', tile=0.8)
    parts.append(make_box((0, -0.005, 1.2), (length, 0.02, 0.62), tiled))
    parts += _pin_papers(rng, palette, length)
    units = max(1, round(length / rng.uniform(0.45, 0.8)))
    wide = length / units
    hung, drawers = rng.random() < 0.75, rng.random(units) < 0.3
    handles = rng.random() < 0.8
    for i in range(units):
        x = (i + 0.5 - units / 2) * wide
        for z, tall in ((0.72, 0.22), (0.35, 0.48)) if drawers[i] else ((0.48, 0.74),):
            parts.append(make_box((x, -0.575, z), (wide - 0.012, 0.025, tall), front))
            if handles:
                at = (x, -0.6, z + tall / 2 - 0.06)
                parts.append(make_box(at, (wide * 0.5, 0.025, 0.015), steel))
        if hung and rng.random() < 0.85:
            parts.append(make_box((x, -0.17, 1.85), (wide, 0.32, 0.7), dark))
            parts.append(make_box((x, -0.335, 1.85), (wide - 0.012, 0.02, 0.7), front))
            parts.append(make_box((x, -0.355, 1.55), (wide * 0.4, 0.02, 0.015), steel))
    parts += _fit_appliances(rng, palette, length, wide)
    count = int(rng.integers(2, 4 + int(5 * length)))
    things = clutter.make_clutter(rng, palette, count, (length * 0.95, 0.42))
    upright = [
        place(clutter.make_leaflet(rng, palette), rng.uniform(-0.48, 0.48) * length,
              rng.uniform(-0.25, -0.08), 0.9, rng.normal(0, 0.3))
        for _ in range(rng.poisson(1.2 * length))
    ]  # fmt: skip
    return join_rows([*parts, place(things, 0, -0.32, 0.9), *upright])


def _fit_appliances(rng: Rng, palette: Palette, length: float, wide: float) -> list[Rows]:
    """Sink, hob, oven and extractor in the units of a counter."""
    steel, dark = plain(palette, (0.5, 0.5, 0.5), gloss=0.8), plain(palette, BLACK, gloss=0.7)
    parts = []
    if rng.random() < 0.7:
        x = rng.uniform(-0.4, 0.4) * length
        parts.append(make_box((x, -0.3, 0.9), (0.55, 0.42, 0.012), steel))
        parts.append(make_box((x, -0.3, 0.905), (0.42, 0.32, 0.012), plain(palette, (0.1,) * 3)))
        parts.append(make_post(x, -0.1, 0.9, 1.15, 0.013, steel))
        parts.append(make_rod((x, -0.1, 1.15), (x, -0.28, 1.12), 0.011, steel))
    if rng.random() < 0.6:
        x = rng.uniform(-0.4, 0.4) * length
        parts.append(make_box((x, -0.3, 0.903), (0.58, 0.5, 0.01), dark))
        parts.append(make_box((x, -0.595, 0.48), (0.58, 0.02, 0.6), dark))
        parts.append(make_rod((x - 0.24, -0.63, 0.7), (x + 0.24, -0.63, 0.7), 0.01, steel))
        for step in (-0.2, -0.07, 0.07, 0.2):
            parts.append(make_rod((x + step, -0.6, 0.8), (x + step, -0.63, 0.8), 0.02, steel))
        parts.append(make_box((x, -0.22, 1.62), (0.6, 0.42, 0.14), steel, (0, 0, 0.5)))
    if rng.random() < 0.6:
        x = rng.uniform(-0.4, 0.4) * length
        shell = sample_material(rng, palette, 'plain', accent=0.1)
        parts.append(make_box((x, -0.2, 1.04), (0.48, 0.34, 0.28), shell))
        parts.append(make_box((x - 0.05, -0.372, 1.04), (0.32, 0.01, 0.2), dark))
    return parts


def _pin_papers(rng: Rng, palette: Palette, length: float) -> list[Rows]:
    parts = []
    for _ in range(rng.poisson(1.2 * length)):
        size = (rng.uniform(0.1, 0.35), 0.01, rng.uniform(0.15, 0.35))
        paper = sample_print(rng, palette, size[0], size[2])
        x, z = rng.uniform(-0.45, 0.45) * length, rng.uniform(1.05, 1.4)
        parts.append(make_box((x, -0.02, z), size, paper))
    return parts


def make_cabinet(rng: Rng, palette: Palette) -> Rows:
    """Build a sideboard, locker, wardrobe or refrigerator with doors and handles."""
    finish = sample_material(rng, palette, 'plain', 'plain', 'wood', tile=1.2, accent=0.12)
    wide, deep = rng.uniform(0.5, 1.8), rng.uniform(0.35, 0.65)
    tall = float((rng.uniform(0.7, 1.2), rng.uniform(1.6, 2.2))[rng.integers(2)])
    top = finish if rng.random() < 0.5 else sample_material(rng, palette, 'wood', 'plain')
    steel = plain(palette, STEEL if rng.random() < 0.7 else BLACK, gloss=0.5)
    parts = [
        make_box((0, -deep / 2, tall / 2), (wide, deep, tall), finish),
        make_box((0, -deep / 2, tall), (wide + 0.02, deep + 0.02, 0.03), top),
        make_box((0, -deep / 2, 0.03), (wide - 0.02, deep + 0.004, 0.06), plain(palette, BLACK)),
    ]
    doors = max(1, round(wide / rng.uniform(0.4, 0.7)))
    if rng.random() < 0.2:  # slats of a shutter
        slat = plain(palette, (0.2, 0.2, 0.2))
        for x in np.arange(-wide / 2 + 0.04, wide / 2, 0.06):
            parts.append(make_box((x, -deep - 0.004, tall / 2), (0.015, 0.01, tall - 0.12), slat))
    else:
        for i in range(doors):
            x = (i + 0.5 - doors / 2) * wide / doors
            size = (wide / doors - 0.015, 0.02, tall - 0.1)
            parts.append(make_box((x, -deep - 0.01, tall / 2 + 0.03), size, finish))
            grip = (x + 0.4 * wide / doors, -deep - 0.035, tall * 0.55)
            parts.append(make_box(grip, (0.015, 0.025, 0.18), steel))
    if tall < 1.3:
        count = int(rng.integers(0, 8))
        things = clutter.make_clutter(rng, palette, count, (wide * 0.9, deep * 0.7))
        parts.append(place(things, 0, -deep / 2, tall + 0.015))
    return join_rows(parts)


def make_shelf(rng: Rng, palette: Palette) -> Rows:
    """Build an open shelf with books, boxes and other things."""
    frame = sample_material(rng, palette, 'wood', 'plain', tile=1.0, accent=0.08)
    wide, tall, deep = rng.uniform(0.6, 2.0), rng.uniform(0.9, 2.2), rng.uniform(0.25, 0.45)
    parts = [
        make_box((x * wide / 2, -deep / 2, tall / 2), (0.03, deep, tall), frame) for x in (-1, 1)
    ]
    if rng.random() < 0.7:
        parts.append(make_box((0, -0.01, tall / 2), (wide, 0.02, tall), frame))
    covers = [sample_material(rng, palette, 'plain', 'poster', tile=0.3) for _ in range(7)]
    for z in np.linspace(0.06, tall - 0.015, int(rng.integers(3, 7))):
        parts.append(make_box((0, -deep / 2, float(z)), (wide, deep, 0.025), frame))
        full, x = rng.random() < 0.7, -wide / 2 + 0.03
        while full and x < wide / 2 - 0.1 and z < tall - 0.2:
            thick, high = rng.uniform(0.03, 0.14), rng.uniform(0.14, 0.28)
            if rng.random() < 0.85:
                size = (thick, deep * rng.uniform(0.5, 0.9), high)
                at = (x + thick / 2, -size[1] / 2 - 0.02, z + high / 2)
                parts.append(make_box(at, size, covers[rng.integers(7)]))
            x += thick + (rng.uniform(0, 0.25) if rng.random() < 0.3 else 0.004)
        if not full and z < tall - 0.2:
            things = clutter.make_clutter(rng, palette, int(rng.integers(0, 4)), (wide * 0.8, 0.1))
            parts.append(place(things, 0, -deep / 2, float(z) + 0.013))
    return join_rows(parts)


def make_rack(rng: Rng, palette: Palette) -> Rows:
    """Build a metal rack of a store room: posts, boards, boxes, canisters."""
    steel = plain(palette, sample_tint(rng, 0.1), gloss=0.2)
    board = sample_material(rng, palette, 'wood', 'plain', tile=1.0, accent=0.0)
    wide, tall, deep = rng.uniform(1.0, 2.6), rng.uniform(1.5, 2.4), rng.uniform(0.4, 0.7)
    parts = []
    for x in (-wide / 2, wide / 2):
        for y in (-deep, -0.02):
            parts.append(make_box((x, y, tall / 2), (0.05, 0.05, tall), steel))
    for z in np.linspace(0.12, tall - 0.05, int(rng.integers(3, 6))):
        parts.append(make_box((0, -deep / 2, float(z)), (wide, deep, 0.05), board))
        x = -wide / 2 + 0.05
        while x < wide / 2 - 0.2 and z < tall - 0.25:
            thing = clutter.FLOOR[rng.integers(5)] if rng.random() < 0.5 else clutter.make_carton
            rows = thing(rng, palette)
            parts.append(place(rows, x + 0.18, -deep * rng.uniform(0.4, 0.7), float(z) + 0.025))
            x += rng.uniform(0.25, 0.6)
    return join_rows(parts)


def make_sofa(rng: Rng, palette: Palette) -> Rows:
    """Build a sofa, an arm chair or a bed."""
    cloth = sample_material(rng, palette, 'weave', 'plain', 'mottle', tile=0.6, accent=0.15)
    wide, deep = rng.uniform(0.8, 2.4), rng.uniform(0.75, 0.95)
    bed = rng.random() < 0.15
    if bed:
        deep = 2.0
    back = rng.uniform(0.3, 0.6)
    parts = [
        make_box((0, -deep / 2, 0.24), (wide, deep, 0.36), cloth),
        make_box((0, -0.12, 0.4 + back / 2), (wide, 0.24, back), cloth, (0, 0, 0.3)),
        make_box((0, -0.55, 0.45), (wide - 0.2, deep - 0.3, 0.12), cloth),
    ]
    legs = plain(palette, BLACK)
    for x in (-wide / 2 + 0.1, wide / 2 - 0.1):
        parts.append(make_box((x, -deep / 2, 0.04), (0.06, deep - 0.1, 0.08), legs))
    if not bed:
        for side in (-1, 1):
            x = side * wide / 2
            parts.append(make_box((x, -deep / 2, 0.32), (0.2, deep, 0.56), cloth))
            if rng.random() < 0.5:
                parts.append(make_rod((x, 0, 0.6), (x, -deep, 0.6), 0.1, cloth))
    cushion = sample_material(rng, palette, 'weave', 'mottle', 'plain', tile=0.4, accent=0.5)
    for _ in range(int(rng.integers(0, 4))):
        x = rng.uniform(-0.4, 0.4) * wide
        parts.append(make_ball((x, -0.32, 0.65), (0.22, 0.1, 0.2), cushion))
    return join_rows(parts)


def make_plant(rng: Rng, palette: Palette) -> Rows:
    """Build a pot plant, up to the ceiling: stems, torn crowns, long leaves."""
    leaves = Material(palette.pick(rng, 'leaves'), tile=(0.6, 0.6))
    pot = sample_material(rng, palette, 'plain', 'masonry', accent=0.1)
    tall, wide = rng.uniform(0.5, 2.0), rng.uniform(0.12, 0.22)
    stem = plain(palette, (0.12, 0.09, 0.05))
    parts = [make_post(0, 0, 0, 1.8 * wide, wide, pot)]
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.normal(0, 0.12 * tall, 2)
        parts.append(make_rod((0, 0, 1.6 * wide), (x, y, tall), 0.012, stem))
        for _ in range(int(rng.integers(1, 3))):
            size = rng.uniform(0.12, 0.32)
            at = (x, y, tall * rng.uniform(0.7, 1.05))
            parts.append(make_ball(at, (size, size, 1.2 * size), leaves, True))
        for _ in range(int(rng.integers(0, 9))):
            angle, far = rng.uniform(0, 6.28), rng.uniform(0.25, 0.5)
            tip = (x + far * math.cos(angle), y + far * math.sin(angle),
                   tall + rng.uniform(-0.25, 0.35))  # fmt: skip
            parts.append(make_rod((x, y, tall), tip, 0.012, leaves))
    return join_rows(parts)


def make_floor_lamp(rng: Rng, palette: Palette) -> Rows:
    """Build a standing lamp."""
    metal = plain(palette, (0.1, 0.1, 0.1), gloss=0.5)
    glow = rng.uniform(0.8, 3.0) if rng.random() < 0.6 else 0.0
    shade = plain(palette, (0.9, 0.8, 0.6), lamp=glow)
    tall = rng.uniform(1.2, 1.8)
    return join_rows(
        [
            make_post(0, -0.2, 0, 0.03, 0.14, metal),
            make_post(0, -0.2, 0, tall, 0.015, metal),
            make_post(0, -0.2, tall, tall + 0.3, 0.17, shade),
        ]
    )


def make_stand(rng: Rng, palette: Palette) -> Rows:
    """Build a tripod, a coat stand, a music stand: thin legs and something on top."""
    metal = plain(palette, BLACK if rng.random() < 0.7 else STEEL, gloss=0.3)
    tall, spread = rng.uniform(0.7, 1.8), rng.uniform(0.2, 0.45)
    hub = tall * rng.uniform(0.1, 0.8)
    parts = [make_rod((0, 0, hub), (0, 0, tall), 0.016, metal)]
    turn = rng.uniform(0, 6.28)
    for k in range(int(rng.integers(3, 6))):
        x, y = spread * math.cos(turn + 2.1 * k), spread * math.sin(turn + 2.1 * k)
        parts.append(make_rod((0, 0, hub), (x, y, 0.01), 0.014, metal))
    top = sample_material(rng, palette, 'plain', 'poster', tile=0.3)
    size = rng.uniform((0.08, 0.05, 0.06), (0.45, 0.3, 0.4))
    parts.append(make_box((0, 0, tall), (size[0], size[1], size[2]), top, yaw=turn))
    return join_rows(parts)


def make_bench(rng: Rng, palette: Palette) -> Rows:
    """Build a workbench against the wall, with tools on it and above it."""
    wood = sample_material(rng, palette, 'wood', tile=1.0)
    long, deep, tall = rng.uniform(1.2, 2.6), rng.uniform(0.55, 0.8), rng.uniform(0.85, 0.95)
    parts = [make_box((0, -deep / 2, tall - 0.04), (long, deep, 0.08), wood)]
    for x in (-long / 2 + 0.1, long / 2 - 0.1):
        for y in (-0.1, -deep + 0.1):
            parts.append(make_box((x, y, tall / 2 - 0.04), (0.09, 0.09, tall - 0.08), wood))
    parts.append(make_box((0, -deep / 2, 0.2), (long - 0.1, deep - 0.1, 0.04), wood))
    below = clutter.make_clutter(rng, palette, int(rng.integers(1, 5)), (long * 0.8, 0.2), True)
    parts.append(place(below, 0, -deep / 2, 0.22))
    count = int(rng.integers(3, 14))
    on_top = clutter.make_clutter(rng, palette, count, (long * 0.9, deep * 0.7))
    parts.append(place(on_top, 0, -deep / 2, tall))
    if rng.random() < 0.7:
        pegs = sample_material(rng, palette, 'wood', 'plain', tile=1.0, accent=0.0)
        parts.append(make_box((0, -0.01, tall + 0.6), (long, 0.02, 0.9), pegs))
        for _ in range(int(rng.integers(4, 14))):
            x, z = rng.uniform(-0.46, 0.46) * long, tall + rng.uniform(0.35, 0.95)
            low = z - rng.uniform(0.1, 0.3)
            handle = sample_material(rng, palette, 'plain', accent=0.6)
            parts.append(make_rod((x, -0.035, z), (x, -0.035, low), rng.uniform(0.006, 0.02),
                                  plain(palette, STEEL, gloss=0.5)))  # fmt: skip
            parts.append(make_rod((x, -0.035, low), (x, -0.035, low - 0.1), 0.016, handle))
    return join_rows(parts)


def make_motorcycle(rng: Rng, palette: Palette) -> Rows:
    """Build a motorcycle along x: wheels of rim and spokes, engine, tank, forks, pipes."""
    paint = plain(palette, sample_tint(rng, 0.7), gloss=0.7)
    black, steel = plain(palette, BLACK, gloss=0.3), plain(palette, STEEL, gloss=0.8)
    base, wheel = rng.uniform(1.2, 1.5), rng.uniform(0.27, 0.33)
    front, rear = base / 2, -base / 2
    parts = []
    for x in (rear, front):
        parts += _make_wheel(x, wheel, 0.06, black, steel)
    parts += [
        make_ball((0.12, 0, 0.86), (0.32, 0.14, 0.14), paint),
        make_box((-0.38, 0, 0.82), (0.62, 0.24, 0.1), black, (0.2, 0.3, 0.2)),
        make_box((-0.72, 0, 0.74), (0.3, 0.16, 0.12), paint, (0.0, 0.7, 0.3)),
        make_box((0.08, 0, 0.45), (0.34, 0.3, 0.22), plain(palette, (0.2, 0.2, 0.2), gloss=0.4)),
        make_box((front, 0, wheel + wheel + 0.05), (0.45, 0.12, 0.03), paint, (0.3, 0.3, 0.2)),
        make_post(0.12, 0, 0.55, 0.74, 0.11, steel),
        make_rod((rear, 0, wheel), (0.35, 0, 0.8), 0.025, black),
        make_rod((-0.1, 0, 0.35), (0.4, 0, 0.9), 0.025, black),
        make_rod((front - 0.22, 0.33, 1.0), (front - 0.2, -0.33, 1.0), 0.015, steel),
        make_rod((front - 0.08, 0, 0.95), (front + 0.02, 0, 0.95), 0.1, steel),
    ]
    for y in (-0.1, 0.1):
        parts.append(make_rod((front, y, wheel), (front - 0.2, y, 1.0), 0.022, steel))
        parts.append(make_rod((rear, 1.4 * y, wheel), (rear + 0.2, 1.4 * y, 0.8), 0.03, steel))
        parts.append(make_rod((rear - 0.1, 2 * y, 0.38), (0.2, 2 * y, 0.3), 0.035, steel))
        parts.append(make_rod((front - 0.2, 2.8 * y, 1.0), (front - 0.3, 3.2 * y, 1.2), 0.008,
                              black))  # fmt: skip
        parts.append(make_ball((front - 0.3, 3.2 * y, 1.22), (0.02, 0.07, 0.05), black))
    return join_rows(parts)


def _make_wheel(
    x: float, radius: float, wide: float, tyre: Material, spoke: Material
) -> list[Rows]:
    """A wheel seen through: a ring of rods and spokes."""
    parts, count = [], 12
    rim = [
        (x + radius * math.cos(a), 0.0, radius + radius * math.sin(a))
        for a in np.arange(count + 1) * 2 * math.pi / count
    ]
    thick = min(wide, 0.2 * radius)
    low = [(px, 0.0, max(pz, thick)) for px, _, pz in rim]
    parts += [make_rod(low[i], low[i + 1], thick, tyre) for i in range(count)]
    parts += [make_rod((x, 0, radius), low[i], 0.006, spoke) for i in range(0, count, 2)]
    parts.append(make_rod((x, -wide, radius), (x, wide, radius), 0.2 * radius, spoke))
    return parts


def make_bicycle(rng: Rng, palette: Palette) -> Rows:
    """Build a bicycle along x: two wheels of spokes, frame, saddle, handlebar."""
    tube = plain(palette, sample_tint(rng, 0.4), gloss=0.5)
    black, steel = plain(palette, BLACK), plain(palette, STEEL, gloss=0.5)
    parts = []
    for x in (-0.52, 0.52):
        parts += _make_wheel(x, 0.34, 0.03, black, steel)
    lines = (
        ((-0.52, 0, 0.34), (-0.02, 0, 0.3)), ((-0.52, 0, 0.34), (-0.18, 0, 0.78)),
        ((-0.02, 0, 0.3), (-0.2, 0, 0.9)), ((-0.16, 0, 0.75), (0.36, 0, 0.82)),
        ((-0.02, 0, 0.3), (0.38, 0, 0.7)), ((0.52, 0, 0.34), (0.35, 0, 0.98)),
        ((0.35, -0.28, 1.0), (0.35, 0.28, 1.0)),
    )  # fmt: skip
    parts += [make_rod(a, b, 0.018, tube) for a, b in lines]
    parts.append(make_box((-0.22, 0, 0.93), (0.26, 0.14, 0.06), black, (0.5, 0.1, 0.3)))
    if rng.random() < 0.4:
        parts.append(make_box((0.5, 0, 0.92), (0.3, 0.3, 0.25), plain(palette, (0.2,) * 3)))
    return join_rows(parts)
