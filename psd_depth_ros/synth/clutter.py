"""Small things that lie about: on tables, counters, shelves and floors.

Each function returns primitive rows that stand on z = 0 about the origin.
"""

from __future__ import annotations

from dataclasses import replace
import math

from psd_depth_ros.synth.finishes import BLACK, plain, Rng, sample_material, sample_print, STEEL
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


def make_mug(rng: Rng, palette: Palette) -> Rows:
    """Build a mug or a glass, some with a handle."""
    finish = sample_material(rng, palette, 'plain', 'plain', 'poster', tile=0.2)
    radius, tall = rng.uniform(0.032, 0.05), rng.uniform(0.07, 0.14)
    parts = [make_post(0, 0, 0, tall, radius, finish)]
    parts.append(make_post(0, 0, tall - 0.004, tall + 0.001, 0.85 * radius, plain(palette, BLACK)))
    if rng.random() < 0.7:
        x = radius + 0.022
        parts.append(make_rod((radius, 0, 0.8 * tall), (x, 0, 0.7 * tall), 0.006, finish))
        parts.append(make_rod((x, 0, 0.7 * tall), (x, 0, 0.35 * tall), 0.006, finish))
        parts.append(make_rod((x, 0, 0.35 * tall), (radius, 0, 0.2 * tall), 0.006, finish))
    return join_rows(parts)


def make_bottle(rng: Rng, palette: Palette) -> Rows:
    """Build a bottle, a can or a jar with a label."""
    glass = sample_material(rng, palette, 'plain', accent=0.5)
    radius, tall = rng.uniform(0.025, 0.055), rng.uniform(0.12, 0.3)
    label = sample_material(rng, palette, 'plain', 'poster', tile=0.15)
    parts = [
        make_post(0, 0, 0, tall * 0.7, radius, glass),
        make_post(0, 0, tall * 0.2, tall * 0.5, radius * 1.03, label),
    ]
    if rng.random() < 0.7:
        parts.append(make_post(0, 0, tall * 0.7, tall, radius * rng.uniform(0.3, 0.6), glass))
    return join_rows(parts)


def make_books(rng: Rng, palette: Palette) -> Rows:
    """Build a pile of one to four books, magazines or sheets of paper."""
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 5))):
        wide, deep = rng.uniform(0.14, 0.32), rng.uniform(0.18, 0.3)
        thick = rng.uniform(0.002, 0.04)
        cover = sample_print(rng, palette, wide, deep)
        x, y = rng.normal(0, 0.03, 2)
        yaw = rng.normal(0, 0.5)
        parts.append(make_box((x, y, z + thick / 2), (wide, deep, thick), cover, yaw=yaw))
        z += thick
    return join_rows(parts)


def make_leaflet(rng: Rng, palette: Palette) -> Rows:
    """Build an upright card, book or picture, leaning a little."""
    wide, tall = rng.uniform(0.1, 0.3), rng.uniform(0.14, 0.36)
    face = sample_print(rng, palette, wide, tall)
    thick = rng.uniform(0.006, 0.05)
    return make_box((0, 0, tall / 2), (wide, thick, tall), face, (0, 0, 0.2))


def make_carton(rng: Rng, palette: Palette) -> Rows:
    """Build a box: cardboard, packet, crate, sometimes another on top."""
    size = rng.uniform((0.08, 0.08, 0.05), (0.42, 0.38, 0.36))
    kinds = ('poster', 'wood', 'plain', 'mottle')
    finish = sample_material(rng, palette, *kinds, tile=0.35)
    if rng.random() < 0.4:
        finish = plain(palette, (0.42, 0.29, 0.17))
    parts = [make_box((0, 0, size[2] / 2), (size[0], size[1], size[2]), finish)]
    if rng.random() < 0.4:
        tape = plain(palette, (0.6, 0.5, 0.35), gloss=0.3)
        parts.append(make_box((0, 0, size[2]), (size[0], 0.05, 0.004), tape))
    if rng.random() < 0.3:
        other = 0.7 * size
        top = sample_material(rng, palette, *kinds, tile=0.3)
        yaw = rng.normal(0, 0.4)
        z = size[2] + other[2] / 2
        parts.append(make_box((0, 0, z), (other[0], other[1], other[2]), top, yaw=yaw))
    return join_rows(parts)


def make_bowl(rng: Rng, palette: Palette) -> Rows:
    """Build a bowl, basket or tray with fruit or other round things."""
    finish = sample_material(rng, palette, 'plain', 'weave', 'wood', tile=0.2)
    radius, tall = rng.uniform(0.09, 0.2), rng.uniform(0.04, 0.1)
    parts = [make_post(0, 0, 0, tall, radius, finish)]
    colour = sample_material(rng, palette, 'plain', accent=0.8)
    for _ in range(int(rng.integers(0, 8))):
        x, y = rng.uniform(-0.6, 0.6, 2) * radius
        r = rng.uniform(0.03, 0.05)
        parts.append(make_ball((x, y, tall + 0.4 * r), (r, r, r), colour))
    return join_rows(parts)


def make_ball_thing(rng: Rng, palette: Palette) -> Rows:
    """Build something round: a ball, a bag, a cloth, a cushion."""
    finish = sample_material(rng, palette, 'plain', 'weave', 'mottle', tile=0.3, accent=0.4)
    half = rng.uniform((0.05, 0.05, 0.03), (0.2, 0.18, 0.16))
    return make_ball((0, 0, 0.9 * half[2]), (half[0], half[1], half[2]), finish)


def make_laptop(rng: Rng, palette: Palette) -> Rows:
    """Build an open laptop with a glowing or dark screen facing -y."""
    body = plain(palette, (0.4, 0.4, 0.42) if rng.random() < 0.5 else BLACK, gloss=0.3)
    lit = rng.random() < 0.6
    screen = make_screen(rng, palette, 0.32, 0.2, lit)
    return join_rows(
        [
            make_box((0, 0, 0.01), (0.34, 0.24, 0.02), body),
            make_box((0, -0.01, 0.021), (0.29, 0.11, 0.004), plain(palette, BLACK)),
            make_box((0, 0.125, 0.13), (0.34, 0.012, 0.22), body),
            make_box((0, 0.118, 0.13), (0.32, 0.004, 0.2), screen),
        ]
    )


def make_monitor(rng: Rng, palette: Palette) -> Rows:
    """Build a monitor on a foot, or a television, facing -y."""
    wide = rng.uniform(0.45, 0.75)
    tall = wide * rng.uniform(0.55, 0.75)
    z = 0.1 + tall / 2
    case = plain(palette, BLACK if rng.random() < 0.8 else (0.6, 0.6, 0.58), gloss=0.2)
    screen = make_screen(rng, palette, wide, tall, rng.random() < 0.6)
    return join_rows(
        [
            make_box((0, 0.02, z), (wide, 0.05, tall), case),
            make_box((0, -0.008, z), (wide - 0.03, 0.006, tall - 0.03), screen),
            make_box((0, 0.04, 0.08), (0.05, 0.03, 0.16), case),
            make_box((0, 0.02, 0.006), (0.24, 0.18, 0.012), case),
        ]
    )


def make_screen(rng: Rng, palette: Palette, wide: float, tall: float, lit: bool) -> Material:
    """Sample a dark, shiny screen, or one that shows something bright."""
    if not lit:
        return plain(palette, BLACK, gloss=0.8)
    shown = sample_print(rng, palette, wide, tall)
    return replace(shown, lamp=float(rng.uniform(0.5, 2.0)), gloss=0.3)


def make_tool(rng: Rng, palette: Palette) -> Rows:
    """Build a hand tool, a pen, cutlery: a rod with a head, lying."""
    handle = sample_material(rng, palette, 'plain', 'wood', tile=0.3, accent=0.5)
    steel = plain(palette, STEEL, gloss=0.6)
    long, thick = rng.uniform(0.12, 0.35), rng.uniform(0.006, 0.018)
    rows = join_rows(
        [
            make_rod((-long / 2, 0, thick), (0, 0, thick), thick, handle),
            make_rod((0, 0, thick), (long / 2, 0, thick), 0.6 * thick, steel),
            make_box((long / 2, 0, thick), (0.03, 0.03 + 3 * thick, 1.6 * thick), steel),
        ]
    )
    return rows


def make_cable(rng: Rng, palette: Palette) -> Rows:
    """Build a cable that winds over the floor or the table."""
    skin = plain(palette, BLACK if rng.random() < 0.6 else (0.7, 0.7, 0.7))
    radius = rng.uniform(0.004, 0.012)
    x, y, heading = 0.0, 0.0, rng.uniform(0, 6.28)
    parts = []
    for _ in range(int(rng.integers(4, 11))):
        heading += rng.normal(0, 0.6)
        step = rng.uniform(0.08, 0.2)
        to = (x + step * math.cos(heading), y + step * math.sin(heading))
        parts.append(make_rod((x, y, radius), (*to, radius), radius, skin))
        x, y = to
    return join_rows(parts)


def make_pot_plant(rng: Rng, palette: Palette) -> Rows:
    """Build a small plant in a pot."""
    leaves = sample_material(rng, palette, 'leaves', tile=0.3)
    pot = sample_material(rng, palette, 'plain', 'masonry', tile=0.4)
    size = rng.uniform(0.06, 0.16)
    parts = [make_post(0, 0, 0, size, 0.6 * size, pot)]
    for _ in range(int(rng.integers(1, 4))):
        x, y = rng.normal(0, 0.3 * size, 2)
        parts.append(make_ball((x, y, 1.8 * size), (size, size, size), leaves, True))
    return join_rows(parts)


SMALL = (
    make_mug, make_mug, make_bottle, make_bottle, make_books, make_books, make_books,
    make_leaflet, make_carton, make_bowl, make_ball_thing, make_laptop, make_monitor, make_tool,
    make_tool, make_cable, make_pot_plant,
)  # fmt: skip
FLOOR = (make_carton, make_carton, make_ball_thing, make_books, make_cable, make_tool, make_bottle)


def make_clutter(
    rng: Rng, palette: Palette, count: int, span: tuple[float, float], floor: bool = False
) -> Rows:
    """Scatter small things over a (x, y) span at z = 0; those on a floor are larger."""
    makers = FLOOR if floor else SMALL
    parts = []
    for _ in range(count):
        x, y = (rng.uniform(-0.5, 0.5, 2) * span).tolist()
        rows = makers[rng.integers(len(makers))](rng, palette)
        # Most things on a table face those who sit at it.
        yaw = rng.normal(0, 0.4) if rng.random() < 0.6 else rng.uniform(0, 2 * math.pi)
        parts.append(place(rows, x, y, 0.0, float(yaw)))
    return join_rows(parts)
