"""What moves in a street: cars and lorries, cyclists, people along and across the road.

Movers repeat for ever: whatever falls behind the ego comes back far ahead of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math

import numpy as np

from psd_depth_ros.synth import objects
from psd_depth_ros.synth.primitives import mark_moving, place, Rows
from psd_depth_ros.synth.street_profile import Profile
from psd_depth_ros.synth.textures import Palette

_LOOP_M = 250.0
_STEPS = 8  # phases of a stride
_CROSS_FROM_M, _CROSS_TO_M = 45.0, 12.0  # distance ahead at which somebody crosses the road


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
        stride = self.shapes[int(time * _STEPS) % len(self.shapes)]
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


def draw_movers(
    rng: np.random.Generator, palette: Palette, street: Profile, night: bool, count: int
) -> list[Mover]:
    """Draw `count` movers, or a few where it is negative."""
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
            movers.append(_draw_person(rng, palette, street))
    return movers


def _draw_person(rng: np.random.Generator, palette: Palette, street: Profile) -> Mover:
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
    phases = np.arange(_STEPS) * 2 * math.pi / _STEPS
    return tuple(mark_moving(make(np.random.default_rng(seed), palette, p)) for p in phases)
