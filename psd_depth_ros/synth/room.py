"""One furnished room: walls, furniture along them and in the middle, and a way to walk.

The camera stays inside a disc that all furniture keeps clear of. Furniture itself is built in
``furniture``.
"""

from __future__ import annotations

import math

import numpy as np

from psd_depth_ros.synth import furniture, objects
from psd_depth_ros.synth.primitives import join_rows, make_box, mark_moving, Material, place, Rows
from psd_depth_ros.synth.render import Shell
from psd_depth_ros.synth.textures import Palette

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
        self.shell = self._draw_shell(rng)
        away = math.atan2(-self._spot[1], -self._spot[0])
        self._yaw = away + rng.normal(0, 0.7)
        self._turn = float(rng.uniform(0.1, 0.9))
        self._phase = rng.uniform(0, 6.28, 3)
        parts = self._line_walls(rng)
        parts += self._fill_floor(rng)
        self.fixed = join_rows(parts)
        self._people = self._draw_people(rng, movers)

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

    def _draw_shell(self, rng: np.random.Generator) -> Shell:
        palette = self._palette
        wall = furniture.draw_material(rng, palette, 'plain', 'plaster', 'plaster', 'tiles')
        layers, tints, tiles = [], [], []
        for _ in range(4):
            accent = rng.random() < 0.2
            finish = furniture.draw_material(rng, palette, 'plain', 'masonry') if accent else wall
            layers.append(finish.side)
            tints.append(finish.tint)
            tiles.append(1.5 * finish.tile[0])
        ceiling = rng.uniform(0.6, 0.95)
        floor = furniture.draw_material(rng, palette, 'wood', 'wood', 'tiles', 'weave', tile=1.1)
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
                run = furniture.make_cupboards(rng, self._palette, length * rng.uniform(0.6, 1.0))
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
            furniture.make_shelf, furniture.make_sofa, furniture.make_plant, furniture.make_shelf,
            furniture.make_floor_lamp,
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
            leaf = furniture.draw_material(rng, palette, 'wood', 'plain', tile=2.0)
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
                parts.append(place(furniture.make_table(rng, self._palette), x, y, 0, yaw))
                parts += self._surround(rng, x, y)
        for _ in range(int(rng.integers(0, 6))):
            x, y = rng.uniform(-0.5, 0.5, 2) * (self.size[:2] - 0.8)
            if self._is_free(x, y, 0.6, 0.6):
                rows = furniture.make_clutter(rng, self._palette, 2, (0.6, 0.6))
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
                chair = furniture.make_chair(np.random.default_rng(seed), self._palette)
                parts.append(place(chair, *at, 0.0, angle - math.pi / 2 + rng.normal(0, 0.4)))
        return parts

    def _draw_people(
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
