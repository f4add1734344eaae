"""A street without end: what stands where along it, chunk by chunk.

The ego vehicle follows the line y = bend(x); everything is placed by position x along it and
lateral offset from that line (left positive), so the way ahead is always free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np

from psd_depth_ros.synth import objects
from psd_depth_ros.synth.primitives import (
    join_rows,
    make_ball,
    make_box,
    make_post,
    mark_moving,
    Material,
    place,
    Rows,
)
from psd_depth_ros.synth.render import Ground
from psd_depth_ros.synth.textures import Palette

_WAYS = ('dense', 'suburb', 'avenue', 'country', 'highway', 'mixed')
_WAY_PROBABILITIES = (0.3, 0.2, 0.2, 0.07, 0.06, 0.17)
_VERGES = {
    'dense': (0, 1.5), 'suburb': (1, 7), 'avenue': (3, 14), 'country': (4, 30),
    'highway': (4, 20), 'mixed': (0, 8),
}  # fmt: skip
_TREES = {
    'dense': 0.25,
    'suburb': 0.5,
    'avenue': 1.1,
    'country': 0.6,
    'highway': 0.8,
    'mixed': 0.5,
}
_GAPS = {
    'dense': 0.05,
    'suburb': 0.25,
    'avenue': 0.6,
    'country': 0.85,
    'highway': 0.95,
    'mixed': 0.3,
}

_LOOP_M = 250.0
_STRIDE_PHASES = 8
_CROSS_FROM_M, _CROSS_TO_M = 45.0, 12.0  # distance ahead at which somebody crosses the road

CHUNK_M = 40.0
AHEAD_M = 240.0
Rng = np.random.Generator


@dataclass(frozen=True)
class Profile:
    """Everything that holds along a whole street."""

    way: str
    left_edge: float
    right_edge: float  # negative
    lane: float
    oncoming: float  # offset of the lane of oncoming traffic; 0: none
    median: tuple[float, float]  # right edge and width of a strip between carriageways
    parking: tuple[float, float]  # fraction of the kerb that is parked on, left and right
    strip: tuple[float, float]  # grass between road and pavement, left and right
    pavement: tuple[float, float]  # widths, left and right
    verge: tuple[float, float]  # beyond the pavement, before what lines the street
    kerb: float
    trees: float
    posts: float
    gaps: float  # fraction of plots without a house
    junctions: tuple[float, float, float]  # period (0: none), phase, half width
    zebra: bool
    bends: tuple[tuple[float, float, float], ...]  # amplitude m, 2 pi / length, phase

    def bend(self, x: float) -> tuple[float, float]:
        """Lateral position (m) and heading (rad) of the ego line at x."""
        y = sum(a * math.sin(k * x + p) for a, k, p in self.bends)
        slope = sum(a * k * math.cos(k * x + p) for a, k, p in self.bends)
        return y, math.atan(slope)

    def edge(self, side: int) -> float:
        """Distance of the kerb from the ego line, left (1) or right (-1)."""
        return self.left_edge if side > 0 else -self.right_edge

    def widths(self, side: int) -> tuple[float, float, float]:
        """Widths of the grass strip, the pavement and the verge of a side."""
        i = 0 if side > 0 else 1
        return self.strip[i], self.pavement[i], self.verge[i]

    def meets_junction(self, low: float, high: float) -> bool:
        """Whether a side street opens between two positions along the street."""
        period, phase, half = self.junctions
        if period <= 0:
            return False
        nearest = round(((low + high) / 2 - phase) / period) * period + phase
        return low - half < nearest < high + half


def sample_profile(rng: np.random.Generator) -> Profile:
    """Sample a street."""
    way = str(rng.choice(_WAYS, p=_WAY_PROBABILITIES))
    highway, wide = way == 'highway', way in ('avenue', 'country', 'highway')
    built = way in ('dense', 'suburb', 'mixed')
    lane = rng.uniform(3.5, 3.8) if highway else rng.uniform(2.7, 3.7)
    parking = rng.uniform(0.3, 1.0, 2) * (rng.random(2) < (0.75 if built else 0.35))
    parking = parking * (not highway)
    own = lane / 2 + lane * int(rng.integers(0, 3) if wide else 0)
    divided = highway or (wide and rng.random() < 0.5)
    median = (own + 0.3, rng.uniform(0.8, 7.0)) if divided else (0.0, 0.0)
    left, oncoming = own, 0.0
    if divided or rng.random() < 0.75:
        start = own + (0.6 + median[1] if divided else 0.0)
        oncoming = start + lane / 2
        left = start + lane * (int(rng.integers(1, 3)) if wide else 1)
    left += 2.1 * (parking[0] > 0)
    right = lane / 2 + 2.1 * (parking[1] > 0) + rng.uniform(0, 3.0 if highway else 1.0)
    return Profile(
        way, left, -right, lane, oncoming, median, (float(parking[0]), float(parking[1])),
        strip=_pair(rng.uniform(0.6, 5.0, 2) * (rng.random(2) < (0.5 if wide else 0.15))),
        pavement=(0.3, 0.3) if highway else _pair(rng.uniform(0.8, 4.0, 2)),
        verge=_pair(rng.uniform(*_VERGES[way], 2)),
        kerb=0.01 if way in ('country', 'highway') else rng.uniform(0.02, 0.18),
        trees=_TREES[way] * rng.uniform(0.2, 1.3),
        posts=rng.uniform(0.1, 0.9),
        gaps=_GAPS[way],
        junctions=_sample_junctions(rng, way),
        zebra=bool(rng.random() < 0.4),
        bends=_sample_bends(rng),
    )  # fmt: skip


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])


def _sample_junctions(rng: np.random.Generator, way: str) -> tuple[float, float, float]:
    if way == 'highway' or rng.random() < 0.35:
        return 0.0, 0.0, 0.0
    period = rng.uniform(60, 200)
    return period, rng.uniform(0, period), rng.uniform(2.5, 7.0)


def _sample_bends(rng: np.random.Generator) -> tuple[tuple[float, float, float], ...]:
    scale = 0.0 if rng.random() < 0.35 else 1.0
    return tuple(
        (scale * rng.uniform(0.2, 1) * size, 2 * math.pi / length, rng.uniform(0, 6.28))
        for size, length in ((9.0, rng.uniform(180, 400)), (2.0, rng.uniform(90, 160)))
    )


def sample_ground(
    rng: np.random.Generator, street: Profile, palette: Palette, condition: str
) -> Ground:
    """Sample the look of the road: surface, markings, what lies beside it."""
    lines, lane = [], street.lane
    dash = float(rng.choice([6.0, 9.0, 12.0]))
    own = street.median[0] - 0.3 if street.median[1] > 0 else lane / 2
    if rng.random() < 0.75:
        lines += [(y, 0.07, dash / 3, dash) for y in np.arange(lane / 2, own - 0.5, lane)]
        lines.append((own, 0.07, dash / 3, float(rng.choice([0.0, dash]))))
    if rng.random() < 0.5:
        lines.append((street.left_edge - 0.3, 0.07, 3.0, 0.0))
        lines.append((street.right_edge + 0.3, 0.07, 3.0, 0.0))
    if street.oncoming and street.left_edge > street.oncoming + lane:
        lines.append((street.oncoming + lane / 2, 0.07, dash / 3, dash))
    beside = 'paving' if street.way == 'dense' or rng.random() < 0.1 else 'grass'
    surface = 'asphalt' if rng.random() < 0.88 else 'paving'
    return Ground(
        palette.pick(rng, surface), palette.pick(rng, beside),
        tile_m=float(rng.uniform(2.5, 6)), tint=float(rng.uniform(0.6, 1.9)),
        left_edge=street.left_edge, right_edge=street.right_edge, lines=tuple(lines),
        line_value=float(rng.uniform(0.5, 1.0)), bends=street.bends,
        junctions=street.junctions, zebra=street.zebra,
        wet=float(rng.uniform(0.05, 0.5)) if condition == 'rain' else 0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Mover:
    """Something that moves along the street, across it, or in front of the ego."""

    shapes: tuple[Rows, ...]  # one per phase of the stride
    start: float
    speed: float  # m/s along the street
    offset: float
    behaviour: str  # 'along', 'lead' or 'cross'

    def rows(self, street: Profile, ego_x: float, time: float) -> Rows:
        """Rows in the world at `time` seconds, with the ego at `ego_x`."""
        ahead, offset, yaw = self._locate(street, ego_x, time)
        stride = self.shapes[int(time * _STRIDE_PHASES) % len(self.shapes)]
        y, heading = street.bend(ego_x + ahead)
        x = ego_x + ahead - math.sin(heading) * offset
        on_road = street.right_edge < offset < street.left_edge
        height = 0.0 if on_road else street.kerb
        return place(stride, x, y + math.cos(heading) * offset, height, heading + yaw)

    def _locate(self, street: Profile, ego_x: float, time: float) -> tuple[float, float, float]:
        """Distance ahead of the ego, offset from its line, turn."""
        if self.behaviour == 'lead':
            return self.start * (1 + 0.25 * math.sin(0.3 * time)), self.offset, 0.0
        if self.behaviour == 'cross':
            ahead = (self.start - ego_x + 25) % 130.0 - 25
            progress = (_CROSS_FROM_M - ahead) / (_CROSS_FROM_M - _CROSS_TO_M)
            span = street.left_edge - street.right_edge + 2
            return ahead, street.right_edge - 1 + min(max(progress, 0), 1) * span, math.pi / 2
        ahead = (self.start - ego_x + self.speed * time + 30) % _LOOP_M - 30
        return ahead, self.offset, 0.0 if self.speed > 0 else math.pi


def sample_movers(
    rng: np.random.Generator, palette: Palette, street: Profile, night: bool, count: int
) -> list[Mover]:
    """Sample `count` movers, or a few where it is negative."""
    number = int(rng.integers(1, 8)) if count < 0 else count
    movers: list[Mover] = []
    vehicles = 0
    speed = -float(rng.uniform(6, 14)) * (2 if street.way == 'highway' else 1)
    for _ in range(number):
        kind = rng.random()
        if kind < 0.4 and street.oncoming:
            # One speed and even spacing, so that oncoming vehicles never meet each other.
            lorry = rng.random() < 0.15
            make = objects.make_lorry if lorry else objects.make_car
            rows = mark_moving(make(rng, palette, night))
            start = 12.0 + 62.5 * vehicles
            vehicles = (vehicles + 1) % 4
            movers.append(Mover((rows,), start, speed, street.oncoming, 'along'))
        elif kind < 0.55 and not any(mover.behaviour == 'lead' for mover in movers):
            rows = mark_moving(objects.make_car(rng, palette, night))
            movers.append(Mover((rows,), float(rng.uniform(9, 60)), 0.0, 0.0, 'lead'))
        elif street.way != 'highway':
            movers.append(_sample_person(rng, palette, street))
    return movers


def _sample_person(rng: np.random.Generator, palette: Palette, street: Profile) -> Mover:
    start, kind, seed = float(rng.uniform(8, 200)), rng.random(), int(rng.integers(1 << 31))
    if kind < 0.3:
        offset = (street.oncoming or street.left_edge - 0.8) + 0.5
        return Mover(_stride(objects.make_cyclist, seed, palette), start, -4.5, offset, 'along')
    shapes = _stride(objects.make_person, seed, palette)
    if kind < 0.45:
        return Mover(shapes, start, 0.0, 0.0, 'cross')
    side = 1 if rng.random() < 0.5 else -1
    strip, pavement, _ = street.widths(side)
    offset = side * (street.edge(side) + strip + rng.uniform(0.2, 0.9) * pavement)
    return Mover(shapes, start, float(rng.choice([-1.4, 1.4])), offset, 'along')


def _stride(
    make: Callable[[np.random.Generator, Palette, float], Rows], seed: int, palette: Palette
) -> tuple[Rows, ...]:
    phases = np.arange(_STRIDE_PHASES) * 2 * math.pi / _STRIDE_PHASES
    return tuple(mark_moving(make(np.random.default_rng(seed), palette, p)) for p in phases)


class Street:
    """Primitives of one street, built lazily in chunks of CHUNK_M."""

    def __init__(self, seed: int, palette: Palette, night: bool, movers: int) -> None:
        rng = np.random.default_rng([seed, 11])
        self.profile = sample_profile(rng)
        self._seed, self._palette, self._night = seed, palette, night
        self._chunks: dict[int, Rows] = {}
        self._paving = Material(palette.pick(rng, 'paving'), tile=(2.0, 2.0))
        self._grass = Material(palette.pick(rng, 'grass'), tile=(3.0, 3.0))
        self._movers = sample_movers(rng, palette, self.profile, night, movers)

    def collect(self, x: float, time: float) -> Rows:
        """All primitives in sight from position `x`, movers at `time` seconds."""
        first = math.floor((x - 25) / CHUNK_M)
        last = math.floor((x + AHEAD_M) / CHUNK_M)
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
        return join_rows(parts)

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
                car = objects.make_car(rng, self._palette)
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
        for _ in range(rng.poisson(0.5)):
            low = edge + strip + 0.2
            stand(objects.make_person(rng, palette), low, outer, rng.uniform(0, 6.3))
        for _ in range(rng.poisson(0.25 * verge)):
            stand(objects.make_bush(rng, palette), outer + 0.6, outer + max(verge, 1.2))
        if verge > 1 and rng.random() < 0.6 and not street.meets_junction(start, start + CHUNK_M):
            wall = objects.make_wall(rng, palette, rng.uniform(8, CHUNK_M))
            parts.append(self._put(wall, start + CHUNK_M / 2, side * (outer + 0.4)))
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
