"""A furnished room: walls and what hangs there, furniture, clutter, and a path to walk.

Things are placed first, without a thought of the camera; then a place and a path are sought that
keep clear of all of them. The camera is therefore often close to something, but never inside.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from psd_depth_ros.synth import clutter, fittings, objects
from psd_depth_ros.synth.clearance import clearances
from psd_depth_ros.synth.finishes import sample_material, sample_tint
from psd_depth_ros.synth.furniture import make_chair, make_counter
from psd_depth_ros.synth.layouts import LAYOUTS
from psd_depth_ros.synth.primitives import (
    BASIS,
    CENTRE,
    empty_rows,
    HALF,
    join_rows,
    make_box,
    mark_moving,
    Material,
    place,
    Rows,
)
from psd_depth_ros.synth.render import Shell
from psd_depth_ros.synth.textures import Palette

Rng = np.random.Generator
Array = npt.NDArray[np.float64]

_START_CLEAR_M = 0.44  # between the camera and everything, where it starts
_PATH_CLEAR_M = 0.42  # and on its way, at the points that are looked at
_CANDIDATES = 120
_WAY_POINTS = 480
_SMALLEST_WAY_M = 0.02
_SLOT_M = 0.25
_HUNG = (
    fittings.make_picture, fittings.make_wall_shelf, fittings.make_socket,
    fittings.make_radiator, fittings.make_television,
)  # fmt: skip
_HUNG_BELOW = (0.52, 0.65, 0.77, 0.84, 0.92)


class Room:
    """Primitives, shell and walking path of one room; the floor is z = 0, centred on x, y = 0."""

    def __init__(
        self, seed: int, palette: Palette, layout: str, camera_height_m: float, movers: int
    ) -> None:
        rng = np.random.default_rng([seed, 21])
        self._palette, self._eye_m = palette, camera_height_m
        self._layout = LAYOUTS[layout]
        self.size = rng.uniform(self._layout.low, self._layout.high)
        self.size[2] = max(self.size[2], camera_height_m + 0.5)
        self.shell = self._sample_shell(rng)
        self._taken: list[Array] = []
        things = self._line_walls(rng)
        things += self._fill_floor(rng)
        things += fittings.make_ceiling_lights(rng, palette, self.size)
        self.fixed = self._find_way(np.random.default_rng([seed, 22]), things)
        self._people = self._sample_people(np.random.default_rng([seed, 23]), movers)

    def walk(self, travelled: float) -> tuple[float, float, float]:
        """Position and heading after walking `travelled` metres: x, y, yaw."""
        turn = travelled / max(float(self._reach.max()), 0.1)
        x, y = self._locate(np.array([turn]))[0]
        yaw = self._yaw + self._turn * math.sin(0.6 * turn + self._phase[2])
        return float(x), float(y), float(yaw)

    def collect(self, time: float) -> Rows:
        """All primitives at `time` seconds."""
        moved = [
            place(shapes[int(time * 8) % len(shapes)], x + reach * math.sin(0.5 * time), y, 0, yaw)
            for shapes, x, y, reach, yaw in self._people
        ]
        return join_rows([self.fixed, *moved])

    def _locate(self, turn: Array) -> Array:
        """Positions (N, 2) on the path."""
        u = np.sin(0.7 * turn + self._phase[0]) - math.sin(self._phase[0])
        v = np.sin(0.5 * turn + self._phase[1]) - math.sin(self._phase[1])
        return self._spot + self._reach * np.stack([u, v], axis=1)

    # ---- shell

    def _sample_shell(self, rng: Rng) -> Shell:
        palette, kinds = self._palette, self._layout
        wall = sample_material(rng, palette, *kinds.walls, accent=0.12)
        if rng.random() < 0.45:
            light = rng.uniform(0.5, 0.85) * np.exp(rng.normal(0, 0.03, 3))
            tint = (float(light[0]), float(light[1]), float(light[2]))
            wall = Material(palette.layers['plain'][0], tint=tint)
        layers, tints, tiles = [], [], []
        for _ in range(4):
            accent = rng.random() < 0.15
            finish = sample_material(rng, palette, 'plain', 'masonry') if accent else wall
            layers.append(finish.side)
            tints.append(finish.tint)
            tiles.append(1.5 * finish.tile[0])
        ceiling = rng.uniform(0.5, 0.9) if rng.random() < 0.85 else rng.uniform(0.05, 0.4)
        floor = sample_material(rng, palette, *kinds.floors, tile=1.1)
        self._floor = floor
        above = 'tiles' if rng.random() < 0.25 else 'plain'
        layers += [palette.pick(rng, above), floor.side]
        tints += [(ceiling, ceiling, ceiling), floor.tint]
        tiles += [2.4, floor.tile[0]]
        half = self.size / 2
        return Shell(
            np.array([0, 0, half[2]]), half, tuple(layers), np.array(tints), tuple(tiles),  # type: ignore[arg-type]
            gloss=float(rng.choice([0.0, 0.1, 0.5], p=[0.5, 0.3, 0.2])),
        )  # fmt: skip

    # ---- walls

    def _line_walls(self, rng: Rng) -> list[Rows]:
        parts = self._divide(rng)
        counter = int(rng.integers(4)) if rng.random() < self._layout.counters else -1
        second = (counter + 1) % 4 if counter >= 0 and rng.random() < 0.45 else -1
        for i in range(4):
            wall = _Wall(i, self.size)
            if i in (counter, second):
                wall.fitted = True
                part = make_counter(rng, self._palette, wall.length * rng.uniform(0.6, 1.0))
                self._try(parts, wall.place(part))
            self._open_wall(rng, parts, wall)
            self._hang_on_wall(rng, parts, wall)
            if not wall.fitted:
                self._line_wall(rng, parts, wall)
        return parts

    def _divide(self, rng: Rng) -> list[Rows]:
        """Now and then a piece of wall, a column or a block in a corner."""
        parts: list[Rows] = []
        wall = Material(self.shell.layers[0], tint=tuple(self.shell.tints[0]))
        for _ in range(int(rng.integers(1, 3)) if rng.random() < 0.4 else 0):
            side = _Wall(int(rng.integers(4)), self.size)
            half = (self.size[0] * self.size[1] / side.length) / 2
            long = float(rng.uniform(0.2, 0.9) * half)
            wide = float(rng.choice([0.12, 0.3, 1.2], p=[0.5, 0.3, 0.2]))
            tall = float(self.size[2] if rng.random() < 0.75 else rng.uniform(1.0, 1.6))
            block = make_box((0, -long / 2, tall / 2), (wide, long, tall), wall)
            along = float(rng.choice([rng.uniform(-0.3, 0.3), -0.48, 0.48])) * side.length
            self._try(parts, side.place(block, along))
        return parts

    def _open_wall(self, rng: Rng, parts: list[Rows], wall: _Wall) -> None:
        """Doors and windows."""
        kinds, palette = self._layout, self._palette
        metres = max(1, round(wall.length / 4))
        for _ in range(0 if wall.fitted else rng.binomial(metres, kinds.doors)):
            self._try(parts, wall.find_place(rng, fittings.make_door(rng, palette)))
        end = wall.length < 3 and kinds.doors > 0.8  # of a corridor
        if rng.random() < kinds.windows * (3 if end else 1):
            low = 1.5 if wall.fitted else float(rng.choice([0.1, 0.9, 1.0], p=[0.25, 0.5, 0.25]))
            high = min(float(self.size[2]) - 0.2, float(rng.uniform(1.9, 2.6)))
            for _ in range(metres if rng.random() < 0.5 else 1):
                wide = min(wall.length * 0.8, rng.uniform(0.8, 3.0))
                rows = fittings.make_window(rng, palette, wide, low, high)
                parts.append(wall.find_place(rng, rows))

    def _hang_on_wall(self, rng: Rng, parts: list[Rows], wall: _Wall) -> None:
        palette = self._palette
        for _ in range(rng.poisson(self._layout.hung_per_m * wall.length)):
            kind = rng.random()
            if kind > 0.92:
                pipe = fittings.make_pipe(rng, palette, float(self.size[2]))
                self._try(parts, wall.find_place(rng, pipe))
            elif kind < 0.83 or not wall.fitted:
                make = _HUNG[int(np.searchsorted(_HUNG_BELOW, kind))]
                parts.append(wall.find_place(rng, make(rng, palette)))
        if rng.random() < 0.6:
            skirting = sample_material(rng, palette, 'plain', 'wood', accent=0.05)
            parts.append(
                wall.place(make_box((0, -0.008, 0.04), (wall.length, 0.016, 0.08), skirting))
            )

    def _line_wall(self, rng: Rng, parts: list[Rows], wall: _Wall) -> None:
        """Furniture along a wall."""
        makers, along = self._layout.along_walls, -wall.length / 2 + rng.uniform(0.1, 0.8)
        while along < wall.length / 2 - 0.4:
            if rng.random() > self._layout.dense_walls + 0.1:
                along += rng.uniform(0.5, 1.6)
                continue
            rows = makers[rng.integers(len(makers))](rng, self._palette)
            low, high = _bounds(rows)
            back = 0.03 + max(0.0, float(high[1]))
            if along + high[0] - low[0] > wall.length / 2:
                break
            self._try(parts, wall.place(rows, along - float(low[0]), back))
            along += float(high[0] - low[0]) + rng.uniform(0.02, 0.5)

    # ---- floor

    def _try(self, parts: list[Rows], rows: Rows, overlap: float = 0.03) -> bool:
        """Add an object that stands inside the room and in nothing else."""
        if not len(rows):
            return False
        low, high = _bounds(rows)
        inside = (low[:2] > -self.size[:2] / 2 - 0.1).all()
        inside = inside and (high[:2] < self.size[:2] / 2 + 0.1).all()
        if not inside:
            return False
        for taken in self._taken:
            if (low[:2] + overlap < taken[1]).all() and (high[:2] - overlap > taken[0]).all():
                return False
        self._taken.append(np.stack([low[:2], high[:2]]))
        parts.append(rows)
        return True

    def _fill_floor(self, rng: Rng) -> list[Rows]:
        parts: list[Rows] = []
        kinds, palette, area = self._layout, self._palette, float(self.size[0] * self.size[1])
        for _ in range(min(14, rng.poisson(0.5 + 1.5 * kinds.floor_per_m2 * area))):
            rows = kinds.on_floor[rng.integers(len(kinds.on_floor))](rng, palette)
            x, y = (rng.uniform(-0.5, 0.5, 2) * (self.size[:2] - 0.8)).tolist()
            turned = rng.uniform(0, 6.28) if rng.random() < 0.35 else rng.integers(4) * math.pi / 2
            placed = place(rows, x, y, 0, float(turned))
            if self._try(parts, placed) and len(rows) > 4 and rng.random() < 0.8:
                self._surround(rng, parts, *_bounds(placed))
        for _ in range(min(24, rng.poisson(kinds.clutter_per_m2 * area))):
            x, y = (rng.uniform(-0.5, 0.5, 2) * (self.size[:2] - 0.4)).tolist()
            rows = clutter.make_clutter(rng, palette, int(rng.integers(1, 4)), (0.5, 0.5), True)
            rows = rows.copy()
            self._try(parts, place(rows, x, y, 0.0, float(rng.uniform(0, 6.28))), 0.15)
        parts += self._cover_floor(rng)
        return parts

    def _surround(self, rng: Rng, parts: list[Rows], low: Array, high: Array) -> None:
        """Chairs about a table, most of them turned towards it, some pushed under it."""
        if not 0.5 < high[2] < 1.6:
            return
        seed = int(rng.integers(1 << 31))
        for _ in range(int(rng.integers(0, 7))):
            side, push = int(rng.integers(4)), rng.uniform(-0.1, 0.35)
            yaw = side * math.pi / 2
            along = rng.uniform(-0.4, 0.4) * (high - low)[side % 2]
            out = (high - low)[1 - side % 2] / 2 + push
            x, y = _toward(yaw, along, out)
            middle = (low + high) / 2
            chair = make_chair(np.random.default_rng(seed), self._palette)
            rows = place(chair, middle[0] + x, middle[1] + y, 0.0, yaw + rng.normal(0, 0.25))
            self._try(parts, rows, 0.4)

    def _cover_floor(self, rng: Rng) -> list[Rows]:
        """Rugs, tape and patches of sunlight: things without height."""
        parts, palette = [], self._palette
        if rng.random() < 0.3:
            rug = sample_material(rng, palette, 'weave', 'mottle', 'plain', 'carpet', accent=0.4)
            x, y = (rng.uniform(-0.3, 0.3, 2) * self.size[:2]).tolist()
            size = rng.uniform((0.8, 0.6), (3.0, 2.0))
            parts.append(make_box((x, y, 0.004), (size[0], size[1], 0.01), rug))
        for _ in range(int(rng.integers(1, 5)) if rng.random() < 0.12 else 0):
            tape = Material(palette.layers['plain'][0], tint=sample_tint(rng, 0.6))
            x, y = (rng.uniform(-0.4, 0.4, 2) * self.size[:2]).tolist()
            strip = (float(rng.uniform(1, 5)), 0.05, 0.003)
            parts.append(
                make_box((x, y, 0.001), strip, tape, yaw=float(rng.choice([0.0, 1.57, 0.3])))
            )
        floor = self._floor
        for _ in range(int(rng.integers(1, 4)) if rng.random() < 0.25 else 0):
            bright = rng.uniform(2.0, 6.0) * np.array([1.0, 0.95, 0.85])
            tint = tuple(float(b * t) for b, t in zip(bright, floor.tint, strict=True))
            sunny = Material(floor.side, tint=tint, tile=floor.tile)  # type: ignore[arg-type]
            x, y = (rng.uniform(-0.4, 0.4, 2) * self.size[:2]).tolist()
            size = rng.uniform((0.3, 0.5), (0.8, 2.0))
            parts.append(make_box((x, y, 0.0), (size[0], size[1], 0.002), sunny,
                                  yaw=float(rng.uniform(0, 3.1))))  # fmt: skip
        return parts

    # ---- camera

    def _find_way(self, rng: Rng, things: list[Rows]) -> Rows:
        """Choose where the camera goes; remove what leaves it no place at all."""
        rows = join_rows(things)
        inside = self.size[:2] / 2 - _START_CLEAR_M
        spots = rng.uniform(-1, 1, (_CANDIDATES, 2)) * inside
        clear = self._clear(rows, spots)
        if clear.max() < _START_CLEAR_M:
            at = np.append(spots[int(clear.argmax())], self._eye_m)
            things = [t for t in things if clearances(t, at[None])[0] >= _START_CLEAR_M]
            rows = join_rows(things)
            clear = self._clear(rows, spots)
        wanted = math.exp(rng.uniform(math.log(_START_CLEAR_M), math.log(2.6)))
        allowed = np.nonzero(clear >= _START_CLEAR_M)[0]
        chosen = allowed[int(np.abs(np.log(clear[allowed] / wanted)).argmin())]
        self._spot = spots[chosen]
        self._yaw = self._sample_yaw(rng, rows)
        self._turn = float(rng.uniform(0.1, 0.9) if rng.random() < 0.7 else rng.uniform(0.9, 2.0))
        self._phase = rng.uniform(0, 6.28, 3)
        reach = rng.uniform(0.2, 0.45) * np.minimum(self.size[:2], (9.0, 9.0))
        self._reach: Array = reach
        near = np.abs(rows[:, CENTRE][:, :2] - self._spot) - rows[:, HALF].sum(1)[:, None]
        close = rows[(near < 2 * reach + 0.6).all(1)]
        while self._clear(close, self._way()).min() < _PATH_CLEAR_M:
            self._reach = 0.6 * self._reach * (self._reach > _SMALLEST_WAY_M)
        return rows

    def _way(self) -> Array:
        """Points (N, 2) of the whole path, which is closed."""
        return self._locate(np.linspace(0, 2 * math.pi / 0.1, _WAY_POINTS))

    def _clear(self, rows: Rows, spots: Array) -> Array:
        """Distances (N,) of the camera at spots (N, 2) from things and walls."""
        points = np.concatenate([spots, np.full((len(spots), 1), self._eye_m)], axis=1)
        walls = (self.size[:2] / 2 - np.abs(spots)).min(1)
        top = self.size[2] - self._eye_m
        near: Array = np.minimum(np.minimum(walls, top), clearances(rows, points))
        return near

    def _sample_yaw(self, rng: Rng, rows: Rows) -> float:
        """Where the camera looks: into the room, at something near, or anywhere."""
        kind = rng.random()
        long = int(self.size[1] > self.size[0])
        if self.size[long] > 3.5 * self.size[1 - long] and kind < 0.65:  # along a corridor
            way = -math.copysign(1.0, self._spot[long])
            return math.atan2(way * long, way * (1 - long)) + float(rng.normal(0, 0.3))
        if kind < 0.5:
            away = rng.uniform(-0.3, 0.3, 2) * self.size[:2] - self._spot
            return math.atan2(away[1], away[0]) + float(rng.normal(0, 0.4))
        if kind < 0.92 and len(rows):
            offset = rows[:, CENTRE][:, :2] - self._spot
            far = np.hypot(offset[:, 0], offset[:, 1])
            near = np.nonzero((far > 0.3) & (far < rng.uniform(1.0, 3.0)))[0]
            if len(near):
                to = offset[near[rng.integers(len(near))]]
                return math.atan2(to[1], to[0]) + float(rng.normal(0, 0.25))
        return float(rng.uniform(0, 2 * math.pi))

    def _sample_people(
        self, rng: Rng, movers: int
    ) -> list[tuple[tuple[Rows, ...], float, float, float, float]]:
        people = []
        way = self._way()
        for _ in range(int(rng.random() < 0.25) if movers < 0 else min(movers, 3)):
            seed = int(rng.integers(1 << 31))
            shapes = tuple(
                mark_moving(objects.make_person(np.random.default_rng(seed), self._palette, p))
                for p in np.arange(8) * math.pi / 4
            )
            for _ in range(8):
                spot = rng.uniform(-0.5, 0.5, 2) * (self.size[:2] - 1.2)
                if np.hypot(*(way - spot).T).min() > 1.2:
                    yaw = float(rng.uniform(0, 6.28))
                    people.append((shapes, float(spot[0]), float(spot[1]), 0.4, yaw))
                    break
        return people


class _Wall:
    """One wall of a room: where it is, and what of it is still free."""

    def __init__(self, index: int, size: Array) -> None:
        along, out = (0, 1) if index % 2 == 0 else (1, 0)
        self.yaw = index * math.pi / 2  # turns "back towards +y" to this wall
        self.length, self._distance = float(size[along]), float(size[out]) / 2
        self.fitted = False  # with a kitchen front
        self._free = np.ones(max(2, int(self.length / _SLOT_M)), bool)

    def place(self, rows: Rows, along: float = 0.0, out: float = 0.0) -> Rows:
        """Rows with their back to the wall, `along` it and `out` from it."""
        return place(rows, *_toward(self.yaw, along, self._distance - out), 0.0, self.yaw)

    def find_place(self, rng: Rng, rows: Rows) -> Rows:
        """Rows somewhere on the wall, where nothing hangs; no rows where there is no place."""
        low, high = _bounds(rows)
        need = max(1, math.ceil((high[0] - low[0]) / _SLOT_M))
        for _ in range(4 if need < len(self._free) else 0):
            start = int(rng.integers(0, len(self._free) - need))
            if self._free[start : start + need].all():
                self._free[start : start + need] = False
                middle = -self.length / 2 + (start + need / 2) * _SLOT_M
                return self.place(rows, middle - float(low[0] + high[0]) / 2)
        return empty_rows()


def _bounds(rows: Rows) -> tuple[Array, Array]:
    """Lowest and highest corner (3,) of an object."""
    axes = rows[:, BASIS].reshape(-1, 3, 3) * rows[:, HALF, None]
    reach = np.abs(axes).sum(1)
    low: Array = (rows[:, CENTRE] - reach).min(0)
    high: Array = (rows[:, CENTRE] + reach).max(0)
    return low, high


def _toward(yaw: float, along: float, distance: float) -> tuple[float, float]:
    """The point `distance` out towards a wall and `along` it."""
    c, s = math.cos(yaw), math.sin(yaw)
    return c * along - s * distance, s * along + c * distance
