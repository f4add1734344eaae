"""What is fixed to walls and ceilings: doors, windows, pictures, radiators, pipes, lights.

Functions of a wall return primitive rows with the wall at y = 0, its inside towards -y, the middle
of the thing at x = 0 and the floor at z = 0.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from psd_depth_ros.synth import clutter
from psd_depth_ros.synth.finishes import (
    BLACK,
    plain,
    Rng,
    sample_material,
    sample_print,
    STEEL,
)
from psd_depth_ros.synth.primitives import join_rows, make_box, make_post, make_rod, place, Rows
from psd_depth_ros.synth.textures import Palette


def make_door(rng: Rng, palette: Palette) -> Rows:
    """Build a door in its frame: shut, glazed, or standing open into the room."""
    wide, tall = rng.uniform(0.8, 1.1), rng.uniform(1.98, 2.15)
    frame = sample_material(rng, palette, 'plain', 'plain', 'wood', accent=0.05)
    leaf = sample_material(rng, palette, 'wood', 'plain', 'plain', tile=2.0, accent=0.1)
    steel = plain(palette, STEEL, gloss=0.6)
    parts = [
        make_box((side * (wide / 2 + 0.04), -0.02, tall / 2), (0.08, 0.09, tall), frame)
        for side in (-1, 1)
    ]
    parts.append(make_box((0, -0.02, tall + 0.04), (wide + 0.16, 0.09, 0.08), frame))
    kind = rng.random()
    if kind < 0.2:
        beyond = plain(palette, (0.05, 0.05, 0.05))
        if rng.random() < 0.5:
            beyond = plain(palette, (0.8, 0.85, 0.9), lamp=float(rng.uniform(0.2, 1.5)))
        parts.append(make_box((0, -0.002, tall / 2), (wide, 0.012, tall), beyond))
        hinge, yaw = rng.choice([-1, 1]) * wide / 2, rng.uniform(0.6, 1.7)
        opened = make_box((-np.sign(hinge) * wide / 2, 0, tall / 2), (wide, 0.04, tall), leaf)
        turn = yaw if hinge > 0 else -yaw
        parts.append(place(opened, float(hinge), -0.03, 0.0, float(turn)))
    else:
        parts.append(make_box((0, -0.012, tall / 2), (wide, 0.03, tall), leaf))
        if kind < 0.4:
            glass = plain(palette, (0.1, 0.12, 0.13), gloss=1.0, lamp=float(rng.uniform(0, 4)))
            parts.append(make_box((0, -0.03, 0.62 * tall), (0.6 * wide, 0.01, 0.55 * tall), glass))
        at = 0.42 * wide * float(rng.choice([-1, 1]))
        parts.append(make_box((at, -0.05, 1.02), (0.03, 0.06, 0.03), steel))
        parts.append(make_box((at * 0.85, -0.075, 1.02), (0.13, 0.02, 0.02), steel))
    return join_rows(parts)


def make_window(rng: Rng, palette: Palette, wide: float, low: float, high: float) -> Rows:
    """Build a window: bright outside, frame, bars, sill, sometimes blinds or curtains."""
    frame = plain(palette, (0.75, 0.75, 0.73) if rng.random() < 0.7 else (0.1, 0.1, 0.1))
    bright = float(np.exp(rng.uniform(np.log(0.4), np.log(5.0))))
    if rng.random() < 0.5:
        outside = plain(palette, (0.85, 0.93, 1.0), lamp=bright)
    else:
        scene = sample_material(rng, palette, 'leaves', 'mottle', 'masonry', tile=1.5)
        outside = replace(scene, lamp=2.5 * bright, gloss=0.4)
    middle, tall = (low + high) / 2, high - low
    parts = [make_box((0, -0.005, middle), (wide, 0.012, tall), outside)]
    for x in np.linspace(-wide / 2, wide / 2, max(2, round(wide / rng.uniform(0.5, 1.2)) + 1)):
        parts.append(make_box((float(x), -0.02, middle), (0.06, 0.07, tall), frame))
    for z in (low, high):
        parts.append(make_box((0, -0.02, z), (wide + 0.06, 0.07, 0.06), frame))
    parts.append(make_box((0, -0.08, low - 0.02), (wide + 0.1, 0.2, 0.03), frame))
    kind = rng.random()
    if kind < 0.2:
        slat = plain(palette, (0.6, 0.6, 0.58))
        for z in np.arange(high - 0.03, high - tall * rng.uniform(0.2, 1.0), -0.09):
            parts.append(make_box((0, -0.07, float(z)), (wide, 0.04, 0.012), slat))
    elif kind < 0.45:
        cloth = sample_material(rng, palette, 'weave', 'plain', tile=0.5)
        for side in (-1, 1):
            for step in np.arange(0, rng.uniform(0.15, 0.5), 0.08):
                x = side * (wide / 2 + 0.05 - step)
                parts.append(make_post(x, -0.1, max(0.05, low - 0.7), high + 0.1, 0.05, cloth))
    if rng.random() < 0.4:
        count = int(rng.integers(1, 5))
        things = clutter.make_clutter(rng, palette, count, (wide * 0.9, 0.05))
        parts.append(place(things, 0, -0.1, low))
    return join_rows(parts)


def make_radiator(rng: Rng, palette: Palette) -> Rows:
    """Build a radiator of ribs with its pipe."""
    white = plain(palette, (0.7, 0.7, 0.68), gloss=0.1)
    wide, tall = rng.uniform(0.6, 1.8), rng.uniform(0.4, 0.9)
    parts = [make_box((0, -0.05, 0.12 + tall / 2), (wide, 0.05, tall), white)]
    for x in np.arange(-wide / 2 + 0.04, wide / 2, 0.1):
        parts.append(
            make_box((float(x), -0.09, 0.12 + tall / 2), (0.05, 0.05, tall - 0.06), white)
        )
    parts.append(make_rod((wide / 2, -0.06, 0.2), (wide / 2 + 0.08, -0.06, 0.0), 0.012, white))
    return join_rows(parts)


def make_picture(rng: Rng, palette: Palette) -> Rows:
    """Build a picture, poster, notice or white board at the height of the eyes."""
    wide, tall = rng.uniform(0.15, 1.1), rng.uniform(0.15, 0.9)
    z = rng.uniform(1.2, 1.8)
    parts = []
    if rng.random() < 0.2:
        wide, tall = rng.uniform(1.0, 2.2), rng.uniform(0.8, 1.2)
        sheet = plain(palette, (0.8, 0.8, 0.8), gloss=0.5)
    else:
        sheet = sample_print(rng, palette, wide, tall)
    if rng.random() < 0.5:
        rim = plain(palette, BLACK if rng.random() < 0.5 else (0.6, 0.55, 0.45))
        parts.append(make_box((0, -0.01, z), (wide + 0.06, 0.03, tall + 0.06), rim))
    parts.append(make_box((0, -0.018, z), (wide, 0.02, tall), sheet))
    return join_rows(parts)


def make_television(rng: Rng, palette: Palette) -> Rows:
    """Build a large screen on the wall."""
    wide = rng.uniform(0.8, 1.5)
    tall, z = 0.57 * wide, rng.uniform(1.1, 1.8)
    shown = clutter.make_screen(rng, palette, wide, tall, rng.random() < 0.6)
    return join_rows(
        [
            make_box((0, -0.05, z), (wide, 0.07, tall), plain(palette, BLACK, gloss=0.3)),
            make_box((0, -0.088, z), (wide - 0.04, 0.008, tall - 0.04), shown),
        ]
    )


def make_wall_shelf(rng: Rng, palette: Palette) -> Rows:
    """Build a board on brackets with things on it."""
    board = sample_material(rng, palette, 'wood', 'plain', accent=0.2)
    wide, deep, z = rng.uniform(0.5, 1.6), rng.uniform(0.16, 0.32), rng.uniform(1.0, 1.9)
    parts = [make_box((0, -deep / 2, z), (wide, deep, 0.03), board)]
    for x in (-0.4 * wide, 0.4 * wide):
        parts.append(make_box((x, -deep / 2, z - 0.06), (0.025, deep - 0.04, 0.1), board))
    count = int(rng.integers(2, 8))
    things = clutter.make_clutter(rng, palette, count, (0.9 * wide, 0.4 * deep))
    parts.append(place(things, 0, -deep / 2, z + 0.015))
    return join_rows(parts)


def make_socket(rng: Rng, palette: Palette) -> Rows:
    """Build a socket or switch, some with a plug and its cable."""
    white = plain(palette, (0.75, 0.75, 0.73))
    z = 0.3 if rng.random() < 0.6 else 1.1
    parts = [make_box((0, -0.006, z), (0.085, 0.014, 0.085), white)]
    if z < 1 and rng.random() < 0.5:
        black = plain(palette, BLACK if rng.random() < 0.5 else (0.7, 0.7, 0.7))
        parts.append(make_box((0, -0.03, z), (0.045, 0.05, 0.045), black))
        parts.append(make_rod((0, -0.05, z), (0.06, -0.08, 0.01), 0.006, black))
        parts.append(place(clutter.make_cable(rng, palette), 0.06, -0.15))
    return join_rows(parts)


def make_pipe(rng: Rng, palette: Palette, height: float) -> Rows:
    """Build a pipe, duct or column from floor to ceiling."""
    finish = sample_material(rng, palette, 'plain', 'plaster', accent=0.15)
    if rng.random() < 0.5:
        return make_post(0, -0.1, 0, height, rng.uniform(0.02, 0.1), finish)
    size = rng.uniform((0.2, 0.15), (0.8, 0.5))
    return make_box((0, -size[1] / 2, height / 2), (size[0], size[1], height), finish)


def make_ceiling_lights(rng: Rng, palette: Palette, size: np.ndarray) -> list[Rows]:
    """Build rows of panels, tubes, hanging lamps, beams or ducts under a ceiling (z = size[2])."""
    parts: list[Rows] = []
    kind, top = rng.random(), float(size[2])
    glow = plain(palette, (1.0, 0.97, 0.9), lamp=float(rng.uniform(0.8, 3.0)))
    step = rng.uniform(1.4, 3.0)
    spots = [
        (float(x), float(y))
        for x in np.arange(-size[0] / 2 + 0.8, size[0] / 2 - 0.4, step)
        for y in np.arange(-size[1] / 2 + 0.7, size[1] / 2 - 0.4, step)
    ][:24]
    if kind < 0.4:
        panel = (0.6, 0.6) if rng.random() < 0.5 else (1.2, 0.2)
        parts = [make_box((x, y, top - 0.01), (*panel, 0.03), glow) for x, y in spots]
    elif kind < 0.6:
        cord = plain(palette, BLACK)
        drop = rng.uniform(0.3, min(1.0, top - 1.9)) if top > 2.3 else 0.2
        for x, y in spots[:6]:
            parts.append(make_post(x, y, top - drop, top, 0.006, cord))
            parts.append(
                make_post(x, y, top - drop - 0.15, top - drop, rng.uniform(0.1, 0.25), glow)
            )
    elif kind < 0.75:
        beam = sample_material(rng, palette, 'wood', 'plain', 'plaster', accent=0.05)
        for x in np.arange(-size[0] / 2 + 0.5, size[0] / 2, step):
            parts.append(make_box((float(x), 0, top - 0.1), (0.18, float(size[1]), 0.24), beam))
    if kind > 0.9 or top > 3.4:
        duct = plain(palette, STEEL, gloss=0.3)
        y = rng.uniform(-0.4, 0.4) * size[1]
        ends = ((-size[0] / 2, y, top - 0.35), (size[0] / 2, y, top - 0.35))
        parts.append(make_rod(*ends, rng.uniform(0.05, 0.2), duct))
    return parts
