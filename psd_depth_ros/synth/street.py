"""A street without end: what stands where along it, chunk by chunk.

The way of the camera is free: it leads along the ego line, where nothing stands, or beside it,
where what would be in the way is left out.
"""

from __future__ import annotations

import math

import numpy as np

from psd_depth_ros.synth import objects, street_things, vehicles
from psd_depth_ros.synth.clearance import distances
from psd_depth_ros.synth.movers import sample_movers
from psd_depth_ros.synth.primitives import (
    HALF,
    join_rows,
    make_ball,
    make_box,
    make_post,
    Material,
    place,
    Rows,
)
from psd_depth_ros.synth.profile import sample_profile, WALKED
from psd_depth_ros.synth.textures import Palette
from psd_depth_ros.synth.viewpoint import Viewpoint

CHUNK_M = 40.0
AHEAD_M = 240.0
_CLEAR_M = 0.5  # between the camera and what stands beside its way
Rng = np.random.Generator


class Street:
    """Primitives of one street, built lazily in chunks of CHUNK_M."""

    def __init__(
        self, seed: int, palette: Palette, layout: str, night: bool, movers: int, view: Viewpoint
    ) -> None:
        rng = np.random.default_rng([seed, 11])
        self.profile = sample_profile(rng, layout)
        self._view, self._eye_m = view, view.height_m
        self.offset, self._base_m = self._sample_offset()
        self._eye_m += self._base_m
        aside = abs(view.yaw)
        self.reach = (
            (25.0, AHEAD_M) if aside < 0.5 else (90.0, 150.0) if aside < 2 else (150.0, 90.0)
        )
        self._seed, self._palette, self._night = seed, palette, night
        self._chunks: dict[int, Rows] = {}
        self._paving = Material(palette.pick(rng, 'paving'), tile=(2.0, 2.0))
        self._grass = Material(palette.pick(rng, 'grass'), tile=(3.0, 3.0))
        self._movers = sample_movers(rng, palette, self.profile, night, movers, self.offset)

    def _sample_offset(self) -> tuple[float, float]:
        """Offset of the camera from the ego line, and the height of the ground there."""
        if self._view.place == 'lane':
            return 0.0, 0.0
        side = 1 if self._view.place == 'left' else -1
        strip, pavement, _ = self.profile.widths(side)
        if self.profile.way in WALKED:
            return side * max(0.0, self.profile.edge(side) - 0.8), 0.0
        return side * (self.profile.edge(side) + strip + 0.5 * pavement), self.profile.kerb

    def locate(self, travelled: float) -> tuple[float, float, float, float]:
        """Ground under the camera after `travelled` metres (x, y, z), heading of the way."""
        y, heading = self.profile.bend(travelled)
        x = travelled - math.sin(heading) * self.offset
        return x, y + math.cos(heading) * self.offset, self._base_m, heading

    def collect(self, x: float, time: float) -> Rows:
        """All primitives in sight from position `x`, movers at `time` seconds."""
        behind, ahead = self.reach
        first, last = math.floor((x - behind) / CHUNK_M), math.floor((x + ahead) / CHUNK_M)
        for gone in [k for k in self._chunks if not first - 1 <= k <= last + 1]:
            del self._chunks[gone]
        parts = [self.chunk(k) for k in range(first, last + 1)]
        return join_rows(parts + self.collect_movers(x, time))

    def collect_movers(self, x: float, time: float) -> list[Rows]:
        """Rows of each moving object at `time` seconds."""
        return [mover.rows(self.profile, x, time) for mover in self._movers]

    def chunk(self, k: int) -> Rows:
        """Fixed primitives of the chunk that starts at k CHUNK_M."""
        if k not in self._chunks:
            rng = np.random.default_rng([self._seed, 12, k + 100000])
            self._chunks[k] = self._build_chunk(rng, k * CHUNK_M)
        return self._chunks[k]

    def _put(self, rows: Rows, x: float, offset: float, z: float = 0.0, yaw: float = 0.0) -> Rows:
        y, heading = self.profile.bend(x)
        along, across = -math.sin(heading) * offset, math.cos(heading) * offset
        return place(rows, x + along, y + across, z, heading + yaw)

    def _build_chunk(self, rng: Rng, start: float) -> Rows:
        parts = self._fill_median(rng, start)
        for side in (1, -1):
            parts += self._line_kerb(start, side)
            parts += self._line_parking(rng, start, side)
            parts += self._line_furniture(rng, start, side)
            parts += self._line_houses(rng, start, side)
            parts += self._line_backdrop(rng, start, side)
            parts += self._line_bays(rng, start, side)
            parts += self._fill_yard(rng, start, side)
        parts += self._span_road(rng, start)
        return self._clear_way(parts, start)

    def _clear_way(self, parts: list[Rows], start: float) -> Rows:
        """Leave out the objects that stand in the way of the camera."""
        rows = join_rows(parts)
        x = np.arange(start - 30, start + CHUNK_M + 30, 0.3)
        way = self.profile.lines(x, self.offset)
        points = np.stack([*way, np.full_like(x, self._eye_m)], 1)
        beside = np.abs(rows[:, 1] - np.interp(rows[:, 0], *way))
        tall = rows[:, 2] + rows[:, HALF].max(1) > self._base_m + 0.1
        near = np.nonzero((beside < rows[:, HALF].sum(1) + 2.0) & tall)[0]
        blocked = near[distances(rows[near], points).min(1) < _CLEAR_M]
        owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        return rows[~np.isin(owner, owner[blocked])]

    def _raise(self, start: float, offset: float, width: float, finish: Material) -> list[Rows]:
        """A strip of kerb height, cut where side streets open."""
        street, parts = self.profile, []
        step = 2.0 if street.meets_junction(start, start + CHUNK_M) else 8.0
        slab = make_box((0, 0, 0), (step + 0.1, width, 2 * street.kerb), finish)
        for x in np.arange(start + step / 2, start + CHUNK_M, step):
            if not street.meets_junction(x - step / 2, x + step / 2):
                parts.append(self._put(slab, float(x), offset))
        return parts

    def _line_kerb(self, start: float, side: int) -> list[Rows]:
        edge, (strip, pavement, _) = self.profile.edge(side), self.profile.widths(side)
        parts = self._raise(start, side * (edge + strip + pavement / 2), pavement, self._paving)
        if strip > 0:
            parts += self._raise(start, side * (edge + strip / 2), strip, self._grass)
        return parts

    def _fill_median(self, rng: Rng, start: float) -> list[Rows]:
        street = self.profile
        offset, width = street.median
        if width <= 0:
            return []
        finish = self._grass if width > 1.5 else self._paving
        parts = self._raise(start, offset + width / 2, width, finish)
        if street.way == 'highway':
            parts += self._set_rail(start, offset + width / 2)
        for _ in range(rng.poisson(2.0 * street.trees) if width > 2 else 0):
            x = start + rng.uniform(0, CHUNK_M)
            make = objects.make_tree if rng.random() < 0.7 else objects.make_bush
            parts.append(self._put(make(rng, self._palette), x, offset + width / 2, street.kerb))
        return parts

    def _set_rail(self, start: float, offset: float) -> list[Rows]:
        steel = Material(self._palette.layers['plain'][0], tint=(0.4, 0.4, 0.42), gloss=0.3)
        beam = make_box((0, 0, 0.62), (8.1, 0.08, 0.3), steel)
        bars = [make_post(x, 0.08, 0, 0.75, 0.06, steel) for x in (-3.0, -1.0, 1.0, 3.0)]
        rail = join_rows([beam, *bars])
        return [
            self._put(rail, float(x), offset) for x in np.arange(start + 4, start + CHUNK_M, 8.0)
        ]

    def _line_parking(self, rng: Rng, start: float, side: int) -> list[Rows]:
        street = self.profile
        parked = street.parking[0 if side > 0 else 1]
        parts, x = [], start + rng.uniform(0, 3)
        while parked > 0 and x < start + CHUNK_M - 3:
            if rng.random() < parked and not street.meets_junction(x - 4, x + 4):
                car = vehicles.make_car(rng, self._palette)
                yaw = rng.normal(0, 0.03) + (math.pi if (side > 0) != (rng.random() < 0.2) else 0)
                offset = side * (street.edge(side) - 1.0 + rng.normal(0, 0.08))
                parts.append(self._put(car, x, offset, 0, yaw))
            x += rng.uniform(5.2, 7.0)
        return parts

    def _line_furniture(self, rng: Rng, start: float, side: int) -> list[Rows]:
        parts: list[Rows] = []
        street, palette, kerb = self.profile, self._palette, self.profile.kerb
        edge, (strip, pavement, verge) = street.edge(side), street.widths(side)
        outer = edge + strip + pavement

        def stand(rows: Rows, low: float, high: float, yaw: float = 0.0) -> None:
            x = start + rng.uniform(0, CHUNK_M)
            if not street.meets_junction(x - 1, x + 1):
                parts.append(self._put(rows, x, side * rng.uniform(low, high), kerb, yaw))

        for _ in range(rng.poisson(3.2 * street.trees)):
            near = street.way != 'highway' and (verge < 2 or rng.random() < 0.4)
            low = edge + 0.5 if near else outer + 0.5
            stand(objects.make_tree(rng, palette), low, low + (max(0.8, strip) if near else verge))
        for _ in range(rng.poisson(2.0 * street.posts)):
            yaw = math.pi if side > 0 else 0.0
            stand(objects.make_lamp_post(rng, palette, self._night), edge + 0.3, edge + 0.8, yaw)
        for _ in range(rng.poisson(1.5 * street.posts)):
            stand(objects.make_sign(rng, palette), edge + 0.35, edge + 0.9, rng.normal(0, 0.3))
        if street.way == 'highway':
            return parts + self._set_rail(start, side * (outer + 0.5))
        for _ in range(rng.poisson(1.0 if street.way == 'dense' else 0.5)):
            low = edge + strip + 0.2
            stand(objects.make_person(rng, palette), low, outer, rng.uniform(0, 6.3))
        for _ in range(rng.poisson(0.25 * verge)):
            stand(objects.make_bush(rng, palette), outer + 0.6, outer + max(verge, 1.2))
        if verge > 1 and rng.random() < 0.6 and not street.meets_junction(start, start + CHUNK_M):
            wall = objects.make_wall(rng, palette, rng.uniform(8, CHUNK_M))
            parts.append(self._put(wall, start + CHUNK_M / 2, side * (outer + 0.4)))
        return parts

    def _line_bays(self, rng: Rng, start: float, side: int) -> list[Rows]:
        """Cars side by side, nose to tail in two rows, along the aisle of a car park."""
        street, parts = self.profile, []
        if street.way != 'parking':
            return []
        rows, slant = int(rng.integers(1, 3)), rng.choice([0.0, 0.0, 0.3])
        for row in range(rows):
            offset = side * (street.edge(side) + 2.7 + 5.3 * row)
            full = rng.uniform(0.3, 0.95)
            for x in np.arange(start + 1.5, start + CHUNK_M - 1, 2.7):
                if rng.random() < full:
                    make = vehicles.make_trailer if rng.random() < 0.03 else vehicles.make_car
                    yaw = math.pi / 2 * rng.choice([-1, 1]) + slant + rng.normal(0, 0.03)
                    parts.append(self._put(make(rng, self._palette), float(x), offset, 0, yaw))
        return parts

    def _fill_yard(self, rng: Rng, start: float, side: int) -> list[Rows]:
        """What stands about in yards, along paths and on pavements."""
        street, parts, palette = self.profile, [], self._palette
        edge = street.edge(side)
        strip, pavement, verge = street.widths(side)
        inner, outer, height = edge + strip + 0.3, edge + strip + pavement, street.kerb
        count = rng.poisson({'dense': 1.6, 'mixed': 1.2, 'suburb': 0.7}.get(street.way, 0.3))
        if street.way == 'yard':
            inner, outer, height, count = 1.8, edge, 0.0, rng.poisson(5)
        elif street.way == 'path':
            inner, outer, count = edge + 0.2, edge + strip + pavement + 1.0, rng.poisson(2.5)
        elif street.way in ('highway', 'country'):
            return []
        for _ in range(count):
            x, y = start + rng.uniform(0, CHUNK_M), side * rng.uniform(inner, max(inner, outer))
            turned = rng.normal(0, 0.15) + (0.0 if side > 0 else math.pi)
            if street.way == 'yard':
                turned = rng.uniform(0, 2 * math.pi)
                if rng.random() < 0.25 and abs(y) > 3.5:
                    parts.append(self._put(vehicles.make_car(rng, palette), x, y, 0, turned))
                    continue
            make = street_things.STANDING[rng.integers(len(street_things.STANDING))]
            if not street.meets_junction(x - 3, x + 3):
                parts.append(self._put(make(rng, palette), x, y, height, turned))
        along = start + CHUNK_M / 2
        fenced = {'path': 0.35, 'yard': 0.2, 'suburb': 0.15, 'avenue': 0.12, 'mixed': 0.12}
        if rng.random() < fenced.get(street.way, 0.0) and not street.meets_junction(
            start, start + CHUNK_M
        ):
            fence = street_things.make_fence(rng, palette, float(rng.uniform(10, CHUNK_M)))
            offset = outer + (0.3 if street.way != 'avenue' else -pavement)
            parts.append(self._put(fence, along, side * offset, street.kerb))
        if street.way == 'dense' and verge < 0.8 and rng.random() < 0.35:
            awning = street_things.make_awning(rng, palette, float(rng.uniform(3, 7)))
            x, front = start + rng.uniform(0, CHUNK_M), outer + verge
            if not street.meets_junction(x - 5, x + 5):
                yaw = 0.0 if side > 0 else math.pi
                parts.append(self._put(awning, x, side * front, street.kerb, yaw))
        return parts

    def _span_road(self, rng: Rng, start: float) -> list[Rows]:
        """Gantries and bridges over the road, wires along it."""
        street, parts = self.profile, []
        outer = [street.edge(side) + sum(street.widths(side)[:2]) for side in (1, -1)]
        crossed = {'highway': 0.22, 'avenue': 0.07}.get(street.way, 0.02)
        if rng.random() < crossed and street.way not in WALKED:
            gantry = street_things.make_gantry(rng, self._palette, outer[0] + 0.4, -outer[1] - 0.4)
            parts.append(self._put(gantry, start + rng.uniform(0, CHUNK_M), 0.0))
        if street.wires:
            side = 1 if street.wires > 0 else -1
            for x in (start, start + CHUNK_M / 2):
                wires = street_things.make_wires(rng, self._palette, CHUNK_M / 2)
                parts.append(self._put(wires, x, side * (outer[0 if side > 0 else 1] + 0.3)))
        return parts

    def _line_houses(self, rng: Rng, start: float, side: int) -> list[Rows]:
        street, parts, x = self.profile, [], start
        front = street.edge(side) + sum(street.widths(side))
        while x < start + CHUNK_M - 4:
            width = min(rng.uniform(7, 22), start + CHUNK_M - x)
            open_plot = street.meets_junction(x - 1.5, x + width + 1.5)
            if rng.random() > street.gaps and not open_plot:
                house = objects.make_house(rng, self._palette, width, rng.uniform(8, 14))
                back = rng.uniform(0, 0.8) if rng.random() < 0.7 else rng.uniform(0, 5)
                yaw = 0.0 if side > 0 else math.pi
                parts.append(self._put(house, x + width / 2, side * (front + back + 0.3), 0, yaw))
            x += 3.0 if open_plot else width
            x += rng.uniform(2, 9) if rng.random() < 0.4 else 0
        return parts

    def _line_backdrop(self, rng: Rng, start: float, side: int) -> list[Rows]:
        street, parts = self.profile, []
        front = street.edge(side) + sum(street.widths(side))
        yaw = 0.0 if side > 0 else math.pi
        for _ in range(rng.poisson(1.2)):
            x, y = start + rng.uniform(0, CHUNK_M), side * (front + rng.uniform(16, 70))
            parts.append(self._put(objects.make_tree(rng, self._palette), x, y))
        if rng.random() < 0.35:
            house = objects.make_house(rng, self._palette, rng.uniform(10, 40), 15)
            x, y = start + rng.uniform(0, CHUNK_M), side * (front + rng.uniform(25, 80))
            parts.append(self._put(house, x, y, 0, yaw))
        if street.gaps > 0.5 and rng.random() < 0.25:
            half = (rng.uniform(60, 150), rng.uniform(40, 90), rng.uniform(8, 45))
            kind = 'leaves' if rng.random() < 0.6 else 'grass'
            cover = Material(self._palette.pick(rng, kind), tile=(14.0, 14.0))
            hill = make_ball((0, 0, 0), half, cover)
            parts.append(self._put(hill, start, side * (front + 80 + half[1]), -0.3 * half[2]))
        return parts
