"""A street without end: what stands where along it, chunk by chunk, and what moves on it.

The ego vehicle follows the line y = bend(x); everything is placed by arc position x and lateral
offset from that line (left positive), so the way ahead is always free.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from psd_depth_ros.synth import buildings, objects
from psd_depth_ros.synth.primitives import join_rows, make_box, mark_moving, Material, place, Rows
from psd_depth_ros.synth.textures import Palette

CHUNK_M = 40.0
AHEAD_M = 240.0
_WAYS = ('dense', 'suburb', 'avenue', 'country', 'mixed')


@dataclass(frozen=True)
class Profile:
    """Cross-section and character of one street; offsets in metres from the ego line."""

    way: str
    left_edge: float
    right_edge: float  # negative
    lane: float
    oncoming: bool
    parking_left: float  # share of the kerb that is parked on
    parking_right: float
    pavement: tuple[float, float]  # widths, left and right
    kerb: float
    verge: tuple[float, float]  # grass beyond the pavement before what lines the street
    trees: float
    posts: float
    gaps: float  # share of plots without a house
    bends: tuple[tuple[float, float, float], ...]  # amplitude m, 2 pi / length, phase

    def bend(self, x: float) -> tuple[float, float]:
        """Lateral position (m) and heading (rad) of the ego line at x."""
        y = sum(a * math.sin(k * x + p) for a, k, p in self.bends)
        slope = sum(a * k * math.cos(k * x + p) for a, k, p in self.bends)
        return y, math.atan(slope)


def draw_profile(rng: np.random.Generator) -> Profile:
    """Draw a street's cross-section."""
    way = str(rng.choice(_WAYS, p=[0.34, 0.2, 0.2, 0.08, 0.18]))
    lane = rng.uniform(2.7, 3.7)
    built = way in ('dense', 'suburb', 'mixed')
    parking = rng.uniform(0.3, 1.0, 2) * (rng.random(2) < (0.75 if built else 0.35))
    oncoming = bool(rng.random() < 0.75)
    extra = int(rng.integers(0, 3)) if way in ('avenue', 'country') else 0
    left = lane / 2 + lane * oncoming + 2.1 * (parking[0] > 0) + extra * lane
    right = lane / 2 + 2.1 * (parking[1] > 0) + rng.uniform(0, 1.0)
    scale = 0.0 if rng.random() < 0.35 else 1.0
    bends = tuple(
        (scale * rng.uniform(0.2, 1) * size, 2 * math.pi / length, rng.uniform(0, 6.28))
        for size, length in ((9.0, rng.uniform(180, 400)), (2.0, rng.uniform(90, 160)))
    )
    wide = {'dense': (0, 1.5), 'suburb': (1, 7), 'avenue': (3, 14), 'country': (4, 30)}
    return Profile(
        way, left, -right, lane, oncoming, float(parking[0]), float(parking[1]),
        pavement=(rng.uniform(0.8, 4.0), rng.uniform(0.8, 4.0)),
        kerb=rng.uniform(0.02, 0.18) if way != 'country' else 0.01,
        verge=tuple(rng.uniform(*wide.get(way, (0, 8)), 2)),
        trees={'dense': 0.25, 'suburb': 0.5, 'avenue': 0.9, 'country': 0.6}.get(way, 0.5)
        * rng.uniform(0.2, 1.2),
        posts=rng.uniform(0.1, 0.9),
        gaps={'dense': 0.05, 'suburb': 0.25, 'avenue': 0.6, 'country': 0.85}.get(way, 0.3),
        bends=bends,
    )  # fmt: skip


class Street:
    """Primitives of one street, built lazily in chunks of CHUNK_M."""

    def __init__(self, seed: int, palette: Palette, night: bool, movers: int) -> None:
        rng = np.random.default_rng([seed, 11])
        self.profile = draw_profile(rng)
        self._seed, self._palette, self._night = seed, palette, night
        self._chunks: dict[int, Rows] = {}
        self.paving = Material(palette.pick(rng, 'paving'), tile=(2.0, 2.0))
        self._movers = _draw_movers(rng, palette, self.profile, night, movers)

    def collect(self, x: float, travelled: float, time: float) -> Rows:
        """All primitives in sight from arc position `x`, movers at `time` seconds."""
        first = math.floor((x - 25) / CHUNK_M)
        last = math.floor((x + AHEAD_M) / CHUNK_M)
        for gone in [k for k in self._chunks if not first - 1 <= k <= last + 1]:
            del self._chunks[gone]
        parts = [self.chunk(k) for k in range(first, last + 1)]
        parts += self.collect_movers(x, travelled, time)
        return join_rows(parts)

    def collect_movers(self, x: float, travelled: float, time: float) -> list[Rows]:
        """Rows of each moving object at `time` seconds."""
        return [mover.rows(self.profile, x, travelled, time) for mover in self._movers]

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

    def _build_chunk(self, rng: np.random.Generator, start: float) -> Rows:
        street, parts = self.profile, []
        for side in (1, -1):
            edge = street.left_edge if side > 0 else -street.right_edge
            pavement = street.pavement[0 if side > 0 else 1]
            verge = street.verge[0 if side > 0 else 1]
            parts += self._line_kerb(start, side, edge, pavement)
            parts += self._line_parking(rng, start, side, edge)
            parts += self._line_furniture(rng, start, side, edge, pavement, verge)
            parts += self._line_houses(rng, start, side, edge + pavement + verge)
            parts += self._line_backdrop(rng, start, side, edge + pavement + verge)
        return join_rows(parts)

    def _line_kerb(self, start: float, side: int, edge: float, pavement: float) -> list[Rows]:
        parts = []
        for x in np.arange(start + 4, start + CHUNK_M, 8.0):
            slab = make_box((0, 0, 0), (8.1, pavement, 2 * self.profile.kerb), self.paving)
            parts.append(self._put(slab, float(x), side * (edge + pavement / 2)))
        return parts

    def _line_parking(
        self, rng: np.random.Generator, start: float, side: int, edge: float
    ) -> list[Rows]:
        share = self.profile.parking_left if side > 0 else self.profile.parking_right
        parts, x = [], start + rng.uniform(0, 3)
        while share > 0 and x < start + CHUNK_M - 3:
            if rng.random() < share:
                car = objects.make_car(rng, self._palette)
                yaw = rng.normal(0, 0.03) + (math.pi if (side > 0) != (rng.random() < 0.2) else 0)
                parts.append(self._put(car, x, side * (edge - 1.0 + rng.normal(0, 0.08)), 0, yaw))
            x += rng.uniform(5.2, 7.0)
        return parts

    def _line_furniture(
        self,
        rng: np.random.Generator,
        start: float,
        side: int,
        edge: float,
        pavement: float,
        verge: float,
    ) -> list[Rows]:
        parts: list[Rows] = []
        street, palette = self.profile, self._palette
        kerb = street.kerb

        def stand(rows: Rows, low: float, high: float, yaw: float = 0.0) -> None:
            parts.append(
                self._put(
                    rows, start + rng.uniform(0, CHUNK_M), side * rng.uniform(low, high), kerb, yaw
                )
            )

        outer = edge + pavement
        for _ in range(rng.poisson(3.2 * street.trees)):
            near = verge < 2 or rng.random() < 0.35
            low = edge + 0.5 if near else outer + 0.5
            stand(objects.make_tree(rng, palette), low, low + (0.8 if near else verge))
        for _ in range(rng.poisson(2.0 * street.posts)):
            yaw = math.pi if side > 0 else 0.0
            stand(objects.make_lamp_post(rng, palette, self._night), edge + 0.3, edge + 0.8, yaw)
        for _ in range(rng.poisson(1.5 * street.posts)):
            stand(objects.make_sign(rng, palette), edge + 0.35, edge + 0.9, rng.normal(0, 0.3))
        for _ in range(rng.poisson(0.5)):
            stand(objects.make_person(rng, palette), edge + 0.4, outer, rng.uniform(0, 6.3))
        for _ in range(rng.poisson(0.3 * verge)):
            stand(objects.make_bush(rng, palette), outer + 0.6, outer + max(verge, 1.2))
        if verge > 1 and rng.random() < 0.6:
            length = rng.uniform(8, CHUNK_M)
            wall = buildings.make_wall(rng, palette, length)
            parts.append(self._put(wall, start + CHUNK_M / 2, side * (outer + 0.4), 0.0))
        return parts

    def _line_houses(
        self, rng: np.random.Generator, start: float, side: int, front: float
    ) -> list[Rows]:
        parts, x = [], start
        while x < start + CHUNK_M - 4:
            width = min(rng.uniform(7, 22), start + CHUNK_M - x)
            if rng.random() > self.profile.gaps:
                house = buildings.make_house(rng, self._palette, width, rng.uniform(8, 14))
                back = rng.uniform(0, 0.8) if rng.random() < 0.7 else rng.uniform(0, 5)
                yaw = 0.0 if side > 0 else math.pi
                parts.append(self._put(house, x + width / 2, side * (front + back + 0.3), 0, yaw))
            x += width + (rng.uniform(2, 9) if rng.random() < 0.4 else 0)
        return parts

    def _line_backdrop(
        self, rng: np.random.Generator, start: float, side: int, front: float
    ) -> list[Rows]:
        parts = []
        for _ in range(rng.poisson(1.2)):
            rows = objects.make_tree(rng, self._palette)
            parts.append(
                self._put(
                    rows, start + rng.uniform(0, CHUNK_M), side * (front + rng.uniform(16, 70))
                )
            )
        if rng.random() < 0.35:
            house = buildings.make_house(rng, self._palette, rng.uniform(10, 40), 15)
            yaw = 0.0 if side > 0 else math.pi
            x, y = start + rng.uniform(0, CHUNK_M), side * (front + rng.uniform(25, 80))
            parts.append(self._put(house, x, y, 0, yaw))
        return parts


@dataclass(frozen=True)
class _Mover:
    """Something that moves along or across the street, periodically and forever."""

    shapes: tuple[Rows, ...]  # one per phase of the stride
    start: float
    speed: float  # along the street; relative to the ego for those it follows
    offset: float
    behaviour: str  # 'along', 'lead' or 'cross'

    def rows(self, street: Profile, ego_x: float, travelled: float, time: float) -> Rows:
        if self.behaviour == 'lead':
            ahead, offset = self.start + 0.25 * self.start * math.sin(0.3 * time), self.offset
            yaw = 0.0
        elif self.behaviour == 'cross':
            ahead = (self.start - travelled + 25) % 130.0 - 25
            progress = min(max((45 - ahead) / 33, 0.0), 1.0)
            span = street.left_edge + 1 - (street.right_edge - 1)
            offset = street.right_edge - 1 + progress * span
            yaw = math.pi / 2
        else:
            ahead = (self.start - travelled + self.speed * time + 30) % 250 - 30
            offset, yaw = self.offset, 0.0 if self.speed > 0 else math.pi
        stride = self.shapes[int(time * 8) % len(self.shapes)]
        y, heading = street.bend(ego_x + ahead)
        x = ego_x + ahead - math.sin(heading) * offset
        kerb = street.kerb if not street.right_edge < offset < street.left_edge else 0.0
        return place(stride, x, y + math.cos(heading) * offset, kerb, heading + yaw)


def _draw_movers(
    rng: np.random.Generator, palette: Palette, street: Profile, night: bool, count: int
) -> list[_Mover]:
    number = int(rng.integers(1, 8)) if count < 0 else count
    movers: list[_Mover] = []
    taken = 0
    for _ in range(number):
        kind, seed = rng.random(), int(rng.integers(1 << 31))
        start = float(rng.uniform(8, 200))
        if kind < 0.35 and street.oncoming:
            taken += 1
            make = objects.make_lorry if rng.random() < 0.15 else objects.make_car
            rows = (
                make(rng, palette)
                if make is objects.make_lorry
                else objects.make_car(rng, palette, night)
            )
            # One speed and even spacing, so that oncoming vehicles never meet each other.
            movers.append(
                _Mover((mark_moving(rows),), 250 * taken / 4.0 + 12, -9.0, street.lane, 'along')
            )
        elif kind < 0.5 and not any(m.behaviour == 'lead' for m in movers):
            rows = mark_moving(objects.make_car(rng, palette, night))
            movers.append(_Mover((rows,), float(rng.uniform(9, 60)), 0.0, 0.0, 'lead'))
        elif kind < 0.65:
            side = street.lane if street.oncoming else street.left_edge - 0.6
            rows_list = _stride(objects.make_cyclist, seed, palette)
            offset = side + 0.8 if street.oncoming else side + 0.3
            movers.append(_Mover(rows_list, start, -4.5, offset, 'along'))
        elif kind < 0.75:
            movers.append(
                _Mover(_stride(objects.make_person, seed, palette), start, 0.0, 0.0, 'cross')
            )
        else:
            left = rng.random() < 0.5
            wide = street.pavement[0 if left else 1]
            base = street.left_edge if left else street.right_edge
            offset = base + (1 if left else -1) * rng.uniform(0.3, 0.9) * wide
            speed = float(rng.choice([-1.4, 1.4]))
            movers.append(
                _Mover(_stride(objects.make_person, seed, palette), start, speed, offset, 'along')
            )
    return movers


def _stride(make: object, seed: int, palette: Palette) -> tuple[Rows, ...]:
    phases = np.arange(8) * math.pi / 4
    return tuple(
        mark_moving(make(np.random.default_rng(seed), palette, float(p)))  # type: ignore[operator]
        for p in phases
    )
