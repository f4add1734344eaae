"""What moves in streets: traffic, queues of a jam, cyclists and people."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np

from psd_depth_ros.synth import objects, vehicles
from psd_depth_ros.synth.primitives import mark_moving, place, Rows
from psd_depth_ros.synth.profile import Profile
from psd_depth_ros.synth.textures import Palette

Rng = np.random.Generator

_LOOP_M = 250.0
_STRIDE_PHASES = 8
_LEAD_FROM_M, _LEAD_TO_M = 6.5, 60.0
_QUEUE_M = 75.0
_BESIDE_M = 1.1  # between the camera and those who pass it
_CROSS_FROM_M, _CROSS_TO_M = 45.0, 12.0  # distance ahead at which somebody crosses the road


@dataclass(frozen=True)
class Mover:
    """Something that moves along the street, across it, or in front of the ego."""

    shapes: tuple[Rows, ...]  # one per phase of the stride
    start: float
    speed: float  # m/s along the street
    offset: float
    behaviour: str  # along, lead, cross, or queue: then `speed` is the heading in radians

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
        if self.behaviour == 'queue':
            return self.start + 0.8 * math.sin(0.3 * time), self.offset, self.speed
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
    rng: np.random.Generator,
    palette: Palette,
    street: Profile,
    night: bool,
    count: int,
    camera_offset: float = 0.0,
) -> list[Mover]:
    """Sample `count` movers, or a few where it is negative, out of the way of the camera."""
    movers = _sample_movers(rng, palette, street, night, count)
    if camera_offset == 0.0:
        return movers
    return [
        mover
        for mover in movers
        if mover.behaviour != 'cross' and abs(mover.offset - camera_offset) > _BESIDE_M
    ]


def _sample_movers(
    rng: Rng, palette: Palette, street: Profile, night: bool, count: int
) -> list[Mover]:
    movers = _sample_queues(rng, palette, street, night, count) if street.jam else []
    number = int(rng.integers(1, 8)) if count < 0 else count - len(movers)
    met = 0
    speed = -float(rng.uniform(6, 14)) * (2 if street.way == 'highway' else 1)
    for _ in range(number):
        kind = rng.random()
        if kind < 0.4 and street.oncoming and not street.jam:
            # One speed and even spacing, so that oncoming vehicles never meet each other.
            lorry = rng.random() < 0.15
            make = vehicles.make_lorry if lorry else vehicles.make_car
            rows = mark_moving(make(rng, palette, night))
            start = 12.0 + 62.5 * met
            met = (met + 1) % 4
            movers.append(Mover((rows,), start, speed, street.oncoming, 'along'))
        elif kind < 0.55 and not _has_lead(street, movers):
            rows = mark_moving(vehicles.make_car(rng, palette, night))
            far = math.exp(rng.uniform(math.log(_LEAD_FROM_M), math.log(_LEAD_TO_M)))
            movers.append(Mover((rows,), far, 0.0, 0.0, 'lead'))
        elif street.way != 'highway':
            movers.append(_sample_person(rng, palette, street))
    return movers


def _has_lead(street: Profile, movers: list[Mover]) -> bool:
    walked = street.way in ('path', 'yard')
    return walked or any(mover.behaviour in ('lead', 'queue') for mover in movers)


def _sample_queues(
    rng: Rng, palette: Palette, street: Profile, night: bool, count: int
) -> list[Mover]:
    """Vehicles one behind the other in every lane: ahead of the ego, beside it and behind it."""
    left = street.median[0] - 0.3 if street.median[1] > 0 else street.lane / 2
    lanes = [(float(y), 0.0) for y in np.arange(0.0, left, street.lane)]
    if street.oncoming:
        lanes.append((street.oncoming, math.pi))
    movers: list[Mover] = []
    for offset, heading in lanes:
        at = rng.uniform(2.2, 8.0) if offset == 0 else rng.uniform(-22, -8)
        dense = rng.uniform(0.4, 1.0)
        while at < _QUEUE_M and not 0 <= count <= len(movers):
            make = vehicles.make_lorry if rng.random() < 0.15 else vehicles.make_car
            rows = mark_moving(make(rng, palette, night))
            half = float(np.abs(rows[:, 0]).max()) + 0.1
            if rng.random() < dense or (offset == 0 and not movers):
                side = offset + float(rng.normal(0, 0.1))
                movers.append(Mover((rows,), at + half, heading, side, 'queue'))
            at += 2 * half + rng.uniform(1.0, 5.0)
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
