"""Cars, vans, lorries, buses and trailers.

Each function returns primitive rows on the ground about its own origin, facing +x.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psd_depth_ros.synth.primitives import (
    join_rows,
    make_ball,
    make_box,
    make_rod,
    Material,
    Rows,
)
from psd_depth_ros.synth.textures import Palette

Rng = np.random.Generator
Colour = tuple[float, float, float]

PAINTS: list[Colour] = [
    (0.75, 0.76, 0.78), (0.6, 0.6, 0.6), (0.35, 0.36, 0.38), (0.2, 0.2, 0.22), (0.07, 0.07, 0.08),
    (0.03, 0.03, 0.035), (0.02, 0.02, 0.025), (0.02, 0.03, 0.07), (0.05, 0.1, 0.3),
    (0.4, 0.03, 0.03), (0.15, 0.02, 0.03), (0.06, 0.1, 0.07), (0.3, 0.25, 0.17),
    (0.5, 0.36, 0.06),
]  # fmt: skip
_GLASS: Colour = (0.02, 0.024, 0.028)


def choose_colour(rng: Rng, colours: list[Colour]) -> Colour:
    """One of the colours, changed a little."""
    shade = rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3)
    base = np.asarray(colours[rng.integers(len(colours))]) * shade
    return (float(base[0]), float(base[1]), float(base[2]))


@dataclass(frozen=True)
class _Shape:
    """Proportions of a body: fractions of its length are from the tail, heights in metres."""

    length: tuple[float, float]
    height: tuple[float, float]
    width: tuple[float, float]
    belt: tuple[float, float]  # height of the lower edge of the windows
    cabin: tuple[float, float]  # where the glass begins and ends at the belt
    front: tuple[float, float]  # how far the windscreen leans, in heights of the cabin
    rear: tuple[float, float]
    clearance: float
    bonnet: float  # height of the bonnet's edge over that of the belt
    closed: bool = False  # no windows behind the driver


_SHAPES: dict[str, _Shape] = {
    'saloon': _Shape((4.4, 5.0), (1.38, 1.5), (1.72, 1.9), (0.88, 0.97), (0.14, 0.72),
                     (1.1, 1.5), (0.9, 1.4), 0.17, 0.8),
    'hatchback': _Shape((3.5, 4.3), (1.4, 1.58), (1.62, 1.82), (0.88, 0.98), (0.03, 0.72),
                        (0.9, 1.3), (0.25, 0.6), 0.17, 0.82),
    'estate': _Shape((4.3, 4.9), (1.42, 1.55), (1.72, 1.88), (0.9, 0.97), (0.02, 0.72),
                     (1.0, 1.4), (0.3, 0.7), 0.17, 0.82),
    'suv': _Shape((4.2, 4.9), (1.62, 1.9), (1.8, 2.0), (1.02, 1.14), (0.02, 0.72),
                  (0.7, 1.1), (0.2, 0.5), 0.24, 0.9),
    'minibus': _Shape((4.6, 5.3), (1.85, 2.1), (1.85, 2.0), (1.05, 1.2), (0.01, 0.83),
                      (0.6, 0.9), (0.08, 0.2), 0.2, 0.85),
    'van': _Shape((4.8, 6.2), (2.1, 2.7), (1.9, 2.1), (1.15, 1.3), (0.01, 0.84),
                  (0.5, 0.8), (0.03, 0.1), 0.22, 0.85, closed=True),
}  # fmt: skip
_KINDS = tuple(_SHAPES)
_KIND_PROBABILITIES = (0.25, 0.27, 0.17, 0.17, 0.07, 0.07)


def make_car(rng: Rng, palette: Palette, night: bool = False, detail: bool = True) -> Rows:
    """Build a car of one of six kinds; without `detail` only what is seen from far."""
    shape = _SHAPES[_KINDS[rng.choice(len(_KINDS), p=_KIND_PROBABILITIES)]]
    plain = palette.layers['plain'][0]
    length, height, width, belt = (
        float(rng.uniform(*bounds))
        for bounds in (shape.length, shape.height, shape.width, shape.belt)
    )
    paint = Material(plain, tint=choose_colour(rng, PAINTS), gloss=0.7)
    black = Material(plain, tint=(0.02, 0.02, 0.02))
    low = shape.clearance
    tail, nose = shape.cabin[0] * length - length / 2, shape.cabin[1] * length - length / 2
    rise = height - belt
    split = min(nose + 0.15, length / 2 - 0.4)
    hood = 0.5 + (belt - 0.5) * shape.bonnet
    lower = 0.58 * belt
    parts = [
        # Sill, lower body, shoulders that draw in towards the windows, bonnet.
        make_box((0, 0, low + 0.06), (0.95 * length, 0.95 * width, 0.14), black),
        make_box((0, 0, (low + lower) / 2 + 0.04), (length, 0.985 * width, lower - low - 0.06),
                 paint),
        make_box(((split - length / 2) / 2, 0, (lower + belt) / 2),
                 (split + length / 2, width, belt - lower), paint, (0.0, 0.04, 0.07)),
        make_box(((split + length / 2) / 2, 0, (lower + hood) / 2 - 0.02),
                 (length / 2 - split, 0.97 * width, hood - lower + 0.04), paint,
                 (float(rng.uniform(0.15, 0.5)), 0.0, 0.14)),
        _make_cabin(rng, paint, shape, (tail, nose, width), (belt, rise)),
        _make_wheels(rng, plain, length, width, 0.3 + 0.5 * (low - 0.17), detail),
        _make_ends(rng, plain, paint, length, width, belt, 1.5 if night else 0.0, detail),
    ]  # fmt: skip
    if detail:
        for side in (-1.0, 1.0):
            y = side * (0.5 * width + 0.08)
            parts.append(make_ball((nose - 0.5 * rise, y, belt + 0.06), (0.07, 0.1, 0.07), paint))
        if rng.random() < 0.2 and height < 1.95:
            rail = Material(plain, tint=(0.05, 0.05, 0.05))
            for side in (-1.0, 1.0):
                y, z = side * 0.36 * width, height + 0.06
                parts.append(make_rod((tail + 0.6, y, z), (nose - 1.0, y, z), 0.02, rail))
    return join_rows(parts)


def _make_cabin(
    rng: Rng,
    paint: Material,
    shape: _Shape,
    plan: tuple[float, float, float],
    heights: tuple[float, float],
) -> Rows:
    """Glass with leaning screens, pillars and a rounded roof; a van's rear is closed."""
    (tail, nose, width), (belt, rise) = plan, heights
    glass = Material(paint.side, tint=_GLASS, gloss=1.0)
    length, x, z = nose - tail, (nose + tail) / 2, belt + rise / 2
    front = min(0.45, float(rng.uniform(*shape.front)) * rise / length)
    rear = min(0.45, float(rng.uniform(*shape.rear)) * rise / length)
    roof, middle = length * (1 - front - rear), x + length * (rear - front) / 2
    taper = (2 * front, 2 * rear, 0.26)
    parts = [
        make_box((x, 0, z), (length, 0.94 * width, rise), glass, taper),
        make_box((middle, 0, belt + rise - 0.02), (roof + 0.05, 0.73 * width, 0.1), paint,
                 (0.2, 0.2, 0.2)),
    ]  # fmt: skip
    # Pillars stand proud of the glass by a centimetre.
    for at in np.linspace(tail + 0.24 * length, nose - 0.42 * length, 1 if length < 2 else 2):
        parts.append(make_box((float(at), 0, z), (0.1, 0.955 * width, rise), paint, (0, 0, 0.26)))
    # The rear pillars, as one block that leans with the rear window, which lies upon it.
    last = 0.2 * length
    lean = min(1.9, 2 * rear * length / last)
    at = tail + last / 2 + 0.03
    block = make_box((at, 0, z), (last, 0.955 * width, rise), paint, (-lean, lean, 0.26))
    low = 0.84
    window = make_box((at - 0.025, 0, z), (last, 0.76 * width, low * rise), glass,
                      (-low * lean, low * lean, low * 0.26))  # fmt: skip
    window[0, 0] += 0.08 * lean * last / 2
    parts += [block, window]
    if shape.closed:
        load = (0.68 * length, 0.97 * width, rise + 0.04)
        parts.append(make_box((tail + 0.345 * length, 0, z), load, paint, (0, 0.04, 0.14)))
    return join_rows(parts)


def _make_wheels(
    rng: Rng, plain: int, length: float, width: float, radius: float, detail: bool
) -> Rows:
    tyre = Material(plain, tint=(0.025, 0.025, 0.025))
    rim = Material(plain, tint=(0.35, 0.35, 0.36), gloss=0.4)
    base = float(rng.uniform(0.29, 0.32)) * length
    parts = []
    for x in (-base, base):
        if detail:  # the arch, a shade darker than the tyre would be in the open
            y = width / 2 + 0.002
            parts.append(
                make_rod((x, -y, radius + 0.03), (x, y, radius + 0.03), radius + 0.06, tyre)
            )
        for side in (-1.0, 1.0):
            y = side * (width / 2 - 0.1)
            outer = y + side * 0.12
            parts.append(make_rod((x, y - 0.11, radius), (x, y + 0.115, radius), radius, tyre))
            parts.append(
                make_rod(
                    (x, outer - 0.005, radius), (x, outer + 0.008, radius), 0.64 * radius, rim
                )
            )
    return join_rows(parts)


def _make_ends(
    rng: Rng,
    plain: int,
    paint: Material,
    length: float,
    width: float,
    belt: float,
    glow: float,
    detail: bool,
) -> Rows:
    """Lights, plates, grille, bumpers."""
    red = Material(plain, tint=(0.4, 0.015, 0.015), gloss=0.5, lamp=glow)
    white = Material(plain, tint=(0.75, 0.75, 0.7), gloss=0.8, lamp=2.5 * glow)
    plate = Material(plain, tint=(0.75, 0.75, 0.7) if rng.random() < 0.8 else (0.7, 0.5, 0.05))
    black = Material(plain, tint=(0.02, 0.02, 0.02), gloss=0.2)
    end = length / 2
    tall = rng.uniform(0.1, 0.3)
    wide = float(rng.uniform(0.18, 0.36))
    parts = [
        make_box((-end, 0, float(rng.uniform(0.5, 0.85)) * belt), (0.04, 0.5, 0.11), plate),
        make_box((end, 0, 0.42), (0.04, 0.5, 0.11), plate),
    ]
    for side in (-1.0, 1.0):
        y = side * (width / 2 - wide / 2 - 0.03)
        parts.append(make_box((-end + 0.02, y, 0.86 * belt - 0.02), (0.1, wide, tall), red))
        parts.append(make_box((end - 0.02, y, 0.74 * belt), (0.1, 0.36, 0.14), white))
    if detail:
        bumper = black if rng.random() < 0.3 else paint
        parts += [
            make_box((end, 0, 0.7 * belt), (0.03, 0.55 * width - 0.2, 0.12), black),
            make_box((end, 0, 0.3), (0.05, 0.7 * width, 0.1), black),
            make_box((-end, 0, 0.44), (0.12, 0.97 * width, 0.2), bumper),
            make_box((end, 0, 0.46), (0.1, 0.95 * width, 0.16), bumper),
            make_box((-end, 0, 0.29), (0.06, 0.85 * width, 0.1), black),
        ]
    return join_rows(parts)


def make_lorry(rng: Rng, palette: Palette, night: bool = False) -> Rows:
    """Build a lorry, a bus or a trailer behind a cab."""
    if rng.random() < 0.25:
        return make_bus(rng, palette, night)
    plain = palette.layers['plain'][0]
    length, height = rng.uniform(5.8, 12), rng.uniform(2.6, 3.9)
    side = palette.pick(rng, 'poster') if rng.random() < 0.4 else plain
    load = Material(side, top=plain, tint=choose_colour(rng, PAINTS[:3]), tile=(3.0, 2.5))
    paint = Material(plain, tint=choose_colour(rng, PAINTS), gloss=0.5)
    glass = Material(plain, tint=_GLASS, gloss=1.0)
    black = Material(plain, tint=(0.02, 0.02, 0.02))
    red = Material(plain, tint=(0.4, 0.015, 0.015), gloss=0.5, lamp=1.5 if night else 0.0)
    cab = length / 2 - 1.0
    parts = [
        make_box((-1.0, 0, 0.8 + height / 2), (length - 2.2, 2.45, height - 0.8), load),
        make_box((cab, 0, 1.55), (2.0, 2.3, 2.2), paint, (0.12, 0, 0.06)),
        make_box((cab + 0.4, 0, 2.08), (1.25, 2.26, 0.75), glass, (0.3, 0, 0.06)),
        make_box((0, 0, 0.7), (length - 0.6, 2.0, 0.35), black),
        make_box((-length / 2 + 0.1, 0, 0.55), (0.1, 2.3, 0.16), black),
    ]
    tail = -length / 2 + 0.08
    for y in (-1.0, 1.0):
        parts.append(make_box((tail, y, 0.75), (0.08, 0.36, 0.16), red))
        parts.append(
            make_box((cab + 1.0, 1.02 * y, 0.9), (0.06, 0.36, 0.2), plain_light(plain, night))
        )
        parts.append(make_box((cab + 0.8, 1.3 * y, 2.0), (0.1, 0.2, 0.45), black))
    for x in (-0.4 * length, -0.28 * length, 0.36 * length):
        for y in (-1.05, 1.05):
            parts.append(make_rod((x, y - 0.15, 0.48), (x, y + 0.15, 0.48), 0.48, black))
    return join_rows(parts)


def plain_light(plain: int, night: bool) -> Material:
    """A head light."""
    return Material(plain, tint=(0.75, 0.75, 0.7), gloss=0.8, lamp=3.0 if night else 0.0)


def make_bus(rng: Rng, palette: Palette, night: bool = False) -> Rows:
    """Build a bus: rows of windows, doors, a board with its line."""
    plain = palette.layers['plain'][0]
    length, height = rng.uniform(8.0, 12.0), rng.uniform(2.8, 3.3)
    paint = Material(plain, tint=choose_colour(rng, PAINTS + [(0.6, 0.1, 0.02)] * 4), gloss=0.5)
    glass = Material(plain, tint=_GLASS, gloss=1.0, lamp=8.0 if night else 0.0)
    black = Material(plain, tint=(0.02, 0.02, 0.02))
    board = Material(plain, tint=(1.0, 0.5, 0.05), lamp=0.6)
    parts = [
        make_box(
            (0, 0, 0.35 + height / 2), (length, 2.5, height - 0.35), paint, (0.04, 0.02, 0.05)
        ),
        make_box((0, 0, 0.62 * height), (length + 0.01, 2.47, 0.3 * height), glass, (0, 0, 0.03)),
        make_box((0, 0, 0.3), (length - 0.6, 2.3, 0.3), black),
        make_box((length / 2 - 0.02, 0, 0.86 * height), (0.06, 1.4, 0.22), board),
    ]
    for x in np.arange(-length / 2 + 0.1, length / 2, float(rng.uniform(1.2, 2.0))):
        parts.append(make_box((float(x), 0, 0.62 * height), (0.12, 2.49, 0.32 * height), paint))
    for y in (-1.0, 1.0):
        parts.append(make_box((length / 2, y, 0.75), (0.06, 0.36, 0.2), plain_light(plain, night)))
        for x in (-0.28 * length, 0.33 * length):
            parts.append(make_rod((x, y * 1.1, 0.48), (x, y * 1.27, 0.48), 0.48, black))
    return join_rows(parts)


def make_trailer(rng: Rng, palette: Palette) -> Rows:
    """Build a small trailer, covered or open, or a waste container."""
    plain = palette.layers['plain'][0]
    paint = Material(plain, tint=choose_colour(rng, PAINTS), gloss=0.1)
    black = Material(plain, tint=(0.03, 0.03, 0.03))
    size = rng.uniform((1.6, 1.1, 0.5), (3.0, 1.8, 1.4))
    parts = [make_box((0, 0, 0.5 + size[2] / 2), (size[0], size[1], size[2]), paint, (0, 0, 0.1))]
    for y in (-size[1] / 2 - 0.1, size[1] / 2 + 0.1):
        parts.append(make_rod((0, y - 0.08, 0.3), (0, y + 0.08, 0.3), 0.3, black))
    parts.append(make_rod((size[0] / 2, 0, 0.45), (size[0] / 2 + 1.0, 0, 0.4), 0.04, black))
    return join_rows(parts)
