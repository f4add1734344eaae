"""A furnished room: walls, furniture along them and in the middle, and a path to walk.

The camera stays inside a disc that all furniture keeps clear of. Functions that make furniture
return primitive rows on the floor about their own origin, with the back, where there is one,
towards +y (the wall).
"""

from __future__ import annotations

import math

import numpy as np

from psd_depth_ros.synth import objects
from psd_depth_ros.synth.primitives import (
    join_rows,
    make_ball,
    make_box,
    make_post,
    make_rod,
    mark_moving,
    Material,
    place,
    Rows,
)
from psd_depth_ros.synth.render import Shell
from psd_depth_ros.synth.textures import Palette

Rng = np.random.Generator

_CLEAR_M = 0.35


class Room:
    """Primitives, shell and walking path of one room; the floor is z = 0, centred on x, y = 0."""

    def __init__(self, seed: int, palette: Palette, camera_height_m: float, movers: int) -> None:
        rng = np.random.default_rng([seed, 21])
        self._palette, self._eye_m = palette, camera_height_m
        self.size = rng.uniform((3.0, 2.8, 2.3), (9.0, 7.0, 3.3))
        self.size[2] = max(self.size[2], camera_height_m + 0.3)
        self._radius = float(rng.uniform(0.25, min(0.9, 0.2 * self.size[:2].min())))
        room_left = self.size[:2] / 2 - self._radius - _CLEAR_M - 0.3
        self._spot = rng.uniform(-1, 1, 2) * np.maximum(room_left, 0.0)
        self.shell = self._sample_shell(rng)
        away = math.atan2(-self._spot[1], -self._spot[0])
        self._yaw = away + rng.normal(0, 0.7)
        self._turn = float(rng.uniform(0.1, 0.9))
        self._phase = rng.uniform(0, 6.28, 3)
        parts = self._line_walls(rng)
        parts += self._fill_floor(rng)
        self.fixed = join_rows(parts)
        self._people = self._sample_people(rng, movers)

    def walk(self, travelled: float) -> tuple[float, float, float]:
        """Position and heading after walking `travelled` metres: x, y, yaw."""
        turn = travelled / max(self._radius, 0.1)
        x = self._spot[0] + self._radius * math.cos(0.7 * turn + self._phase[0])
        y = self._spot[1] + self._radius * math.sin(0.5 * turn + self._phase[1])
        yaw = self._yaw + self._turn * math.sin(0.6 * turn + self._phase[2])
        return float(x), float(y), float(yaw)

    def collect(self, time: float) -> Rows:
        """All primitives at `time` seconds."""
        moved = [
            place(shapes[int(time * 8) % len(shapes)], x + reach * math.sin(0.5 * time), y, 0, yaw)
            for shapes, x, y, reach, yaw in self._people
        ]
        return join_rows([self.fixed, *moved])

    def _sample_shell(self, rng: np.random.Generator) -> Shell:
        palette = self._palette
        wall = sample_material(rng, palette, 'plain', 'plaster', 'plaster', 'tiles')
        layers, tints, tiles = [], [], []
        for _ in range(4):
            accent = rng.random() < 0.2
            finish = sample_material(rng, palette, 'plain', 'masonry') if accent else wall
            layers.append(finish.side)
            tints.append(finish.tint)
            tiles.append(1.5 * finish.tile[0])
        ceiling = rng.uniform(0.6, 0.95)
        floor = sample_material(rng, palette, 'wood', 'wood', 'tiles', 'weave', tile=1.1)
        layers += [palette.layers['plain'][0], floor.side]
        tints += [(ceiling, ceiling, ceiling), floor.tint]
        tiles += [2.0, floor.tile[0]]
        half = self.size / 2
        return Shell(np.array([0, 0, half[2]]), half, tuple(layers), np.array(tints), tuple(tiles))  # type: ignore[arg-type]

    def _is_free(self, x: float, y: float, reach: float, top: float = 9.0) -> bool:
        """Whether the camera passes beside or well above something `top` metres high."""
        if top < self._eye_m - 0.3:
            return True
        distance = math.hypot(x - self._spot[0], y - self._spot[1])
        return distance > self._radius + reach + _CLEAR_M * 0.6

    def _line_walls(self, rng: np.random.Generator) -> list[Rows]:
        parts: list[Rows] = []
        kitchen = int(rng.integers(4)) if rng.random() < 0.6 else -1
        corner = rng.random() < 0.4
        for wall in range(4):
            # yaw turns "back towards +y" to this wall.
            yaw = wall * math.pi / 2
            length = self.size[0] if wall % 2 == 0 else self.size[1]
            distance = (self.size[1] if wall % 2 == 0 else self.size[0]) / 2
            fitted = wall == kitchen or (corner and wall == (kitchen + 1) % 4 and kitchen >= 0)
            if fitted and self._wall_is_free(wall, distance):
                run = make_cupboards(rng, self._palette, length * rng.uniform(0.6, 1.0))
                parts.append(place(run, *_toward(yaw, 0.0, distance), 0.0, yaw))
            else:
                parts += self._line_wall(rng, yaw, length, distance)
            parts += self._hang_on_wall(rng, yaw, length, distance, fitted)
        return parts

    def _wall_is_free(self, wall: int, distance: float) -> bool:
        out = _toward(wall * math.pi / 2, 0.0, 1.0)
        return (
            distance - 0.65 > out[0] * self._spot[0] + out[1] * self._spot[1] + self._radius + 0.2
        )

    def _line_wall(
        self, rng: np.random.Generator, yaw: float, length: float, distance: float
    ) -> list[Rows]:
        parts = []
        along = -length / 2 + 0.6
        makers = (
            make_shelf, make_sofa, make_plant, make_shelf,
            make_floor_lamp,
        )  # fmt: skip
        while along < length / 2 - 0.6:
            x, y = _toward(yaw, along + 0.5, distance - 0.05)
            if rng.random() < 0.6 and self._is_free(x, y, 1.1):
                rows = makers[rng.integers(len(makers))](rng, self._palette)
                parts.append(place(rows, x, y, 0.0, yaw))
            along += rng.uniform(1.2, 2.4)
        return parts

    def _hang_on_wall(
        self, rng: np.random.Generator, yaw: float, length: float, distance: float, fitted: bool
    ) -> list[Rows]:
        parts, palette = [], self._palette
        plain = palette.layers['plain'][0]
        frame = Material(plain, tint=(0.7, 0.7, 0.68))
        if rng.random() < 0.4 and not fitted:
            along, wide, tall = rng.uniform(-0.3, 0.3) * length, rng.uniform(0.8, 2.2), 1.2
            glow = Material(plain, tint=(0.8, 0.9, 1.0), lamp=rng.uniform(0.3, 1.5))
            parts.append(
                make_box((along, distance, 1.55), (wide + 0.15, 0.08, tall + 0.15), frame)
            )
            parts.append(make_box((along, distance - 0.03, 1.55), (wide, 0.04, tall), glow))
            parts.append(make_box((along, distance - 0.05, 1.55), (0.05, 0.04, tall), frame))
        elif rng.random() < 0.5 and not fitted:
            along = rng.uniform(-0.35, 0.35) * length
            leaf = sample_material(rng, palette, 'wood', 'plain', tile=2.0)
            parts.append(make_box((along, distance, 1.02), (1.0, 0.09, 2.08), frame))
            parts.append(make_box((along, distance - 0.02, 1.0), (0.85, 0.09, 2.0), leaf))
        for _ in range(int(rng.integers(0, 6))):
            along, z = rng.uniform(-0.45, 0.45) * length, rng.uniform(1.2, 1.9)
            size = (rng.uniform(0.15, 0.9), 0.03, rng.uniform(0.15, 0.7))
            picture = Material(
                palette.pick(rng, 'poster'), tile=(size[0], size[2]), shift=(0.5, 0.5)
            )
            parts.append(make_box((along, distance, z), size, picture))
        return [place(p, 0, 0, 0, yaw) for p in parts]

    def _fill_floor(self, rng: np.random.Generator) -> list[Rows]:
        parts, inside = [], self.size[:2] / 2 - 0.7
        ahead = np.array([math.cos(self._yaw), math.sin(self._yaw)])
        for i in range(int(rng.integers(1, 4))):
            spot = rng.uniform(-1, 1, 2) * inside
            if i == 0:
                spot = self._spot + ahead * rng.uniform(0.9, 2.5) + rng.normal(0, 0.3, 2)
            x, y = np.clip(spot, -inside, inside)
            yaw = rng.uniform(0, 6.28) if rng.random() < 0.4 else rng.integers(4) * math.pi / 2
            if self._is_free(x, y, 1.05, 1.2):
                parts.append(place(make_table(rng, self._palette), x, y, 0, yaw))
                parts += self._surround(rng, x, y)
        for _ in range(int(rng.integers(0, 6))):
            x, y = rng.uniform(-0.5, 0.5, 2) * (self.size[:2] - 0.8)
            if self._is_free(x, y, 0.6, 0.6):
                rows = make_clutter(rng, self._palette, 2, (0.6, 0.6))
                rows[:, 12:15] *= 1.5
                parts.append(place(rows, x, y, 0.0))
        return parts

    def _surround(self, rng: np.random.Generator, x: float, y: float) -> list[Rows]:
        """Chairs about a table, most of them turned towards it."""
        parts, seed = [], int(rng.integers(1 << 31))
        for _ in range(int(rng.integers(0, 6))):
            angle, far = rng.uniform(0, 6.28), rng.uniform(0.6, 1.3)
            at = (x + far * math.cos(angle), y + far * math.sin(angle))
            inside = bool((np.abs(at) < self.size[:2] / 2 - 0.35).all())
            if inside and self._is_free(*at, 0.35, 1.05):
                chair = make_chair(np.random.default_rng(seed), self._palette)
                parts.append(place(chair, *at, 0.0, angle - math.pi / 2 + rng.normal(0, 0.4)))
        return parts

    def _sample_people(
        self, rng: np.random.Generator, movers: int
    ) -> list[tuple[tuple[Rows, ...], float, float, float, float]]:
        people = []
        for _ in range(int(rng.random() < 0.25) if movers < 0 else min(movers, 3)):
            seed = int(rng.integers(1 << 31))
            shapes = tuple(
                mark_moving(objects.make_person(np.random.default_rng(seed), self._palette, p))
                for p in np.arange(8) * math.pi / 4
            )
            for _ in range(8):
                x, y = rng.uniform(-0.5, 0.5, 2) * (self.size[:2] - 1.2)
                if self._is_free(x, y, 0.9):
                    people.append((shapes, float(x), float(y), 0.4, 0.0))
                    break
        return people


def _toward(yaw: float, along: float, distance: float) -> tuple[float, float]:
    """The point `distance` out towards a wall and `along` it."""
    c, s = math.cos(yaw), math.sin(yaw)
    return c * along - s * distance, s * along + c * distance


def sample_material(rng: Rng, palette: Palette, *kinds: str, tile: float = 1.0) -> Material:
    """Sample a finish of one of the kinds, freely tinted where the tile is plain."""
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
        finish = sample_material(rng, palette, 'plain', 'poster', 'poster', 'mottle', tile=0.25)
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
    top = sample_material(rng, palette, 'wood', 'wood', 'plain', tile=0.9)
    leg = top if rng.random() < 0.6 else sample_material(rng, palette, 'plain')
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
    finish = sample_material(rng, palette, 'wood', 'wood', 'plain', tile=0.7)
    seat = finish if rng.random() < 0.6 else sample_material(rng, palette, 'weave', tile=0.4)
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
    front = sample_material(rng, palette, 'plain', 'plain', 'wood', tile=1.0)
    top = sample_material(rng, palette, 'plain', 'wood', 'mottle', tile=0.8)
    steel = Material(palette.layers['plain'][0], tint=(0.5, 0.5, 0.5), gloss=0.8)
    dark = Material(palette.layers['plain'][0], tint=(0.03, 0.03, 0.03))
    parts = [
        make_box((0, -0.27, 0.05), (length, 0.5, 0.1), dark),
        make_box((0, -0.29, 0.48), (length, 0.56, 0.76), dark),
        make_box((0, -0.31, 0.88), (length, 0.62, 0.04), top),
    ]
    tiled = sample_material(rng, palette, 'tiles', 'tiles', 'plaster', tile=0.8)
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
    frame = sample_material(rng, palette, 'wood', 'plain', tile=1.0)
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
            cover = sample_material(rng, palette, 'plain', 'poster', tile=0.3)
            if rng.random() < 0.8:
                size = (book, deep * rng.uniform(0.5, 0.9), high)
                parts.append(
                    make_box((x + book / 2, -size[1] / 2 - 0.02, z + high / 2), size, cover)
                )
            x += book + (rng.uniform(0, 0.15) if rng.random() < 0.3 else 0.004)
    return join_rows(parts)


def make_sofa(rng: Rng, palette: Palette) -> Rows:
    """Build a sofa or a bed."""
    cloth = sample_material(rng, palette, 'weave', 'plain', 'mottle', tile=0.6)
    wide, deep = rng.uniform(0.8, 2.2), rng.uniform(0.75, 0.95)
    parts = [
        make_box((0, -deep / 2, 0.22), (wide, deep, 0.42), cloth),
        make_box((0, -0.12, 0.6), (wide, 0.24, rng.uniform(0.4, 0.7)), cloth),
    ]
    for side in (-1, 1):
        parts.append(make_box((side * wide / 2, -deep / 2, 0.32), (0.2, deep, 0.62), cloth))
    cushion = sample_material(rng, palette, 'weave', 'mottle', 'plain', tile=0.4)
    for _ in range(int(rng.integers(0, 4))):
        x = rng.uniform(-0.4, 0.4) * wide
        parts.append(make_ball((x, -0.32, 0.6), (0.22, 0.1, 0.2), cushion))
    return join_rows(parts)


def make_plant(rng: Rng, palette: Palette) -> Rows:
    """Build a pot plant."""
    leaves = Material(palette.pick(rng, 'leaves'), tile=(0.6, 0.6))
    pot = sample_material(rng, palette, 'plain', 'masonry')
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
