"""Cross sections of streets, motorways, paths, yards and car parks, and the look of their ground.

The way of a camera follows the line y = bend(x). Everything is placed by position x along it and
by lateral offset from it, left positive.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt

from psd_depth_ros.synth.render import Ground
from psd_depth_ros.synth.textures import Palette

Rng = np.random.Generator

_LAYOUTS = {
    'dense': 0.2, 'suburb': 0.15, 'avenue': 0.13, 'country': 0.05, 'highway': 0.09,
    'mixed': 0.11, 'jam': 0.12, 'parking': 0.05, 'path': 0.05, 'yard': 0.05,
}  # fmt: skip
STREETS = tuple(_LAYOUTS)
WALKED = ('path', 'yard', 'parking')  # at the speed of somebody who walks
_JAMMED = ('dense', 'avenue', 'highway')
_VERGES = {
    'dense': (0, 1.5), 'suburb': (1, 7), 'avenue': (3, 14), 'country': (4, 30),
    'highway': (4, 20), 'mixed': (0, 8), 'parking': (8, 30), 'path': (1, 10), 'yard': (0, 2),
}  # fmt: skip
_TREES = {
    'dense': 0.25,
    'suburb': 0.5,
    'avenue': 1.1,
    'country': 0.6,
    'highway': 0.8,
    'mixed': 0.5,
    'parking': 0.4,
    'path': 1.3,
    'yard': 0.4,
}
_GAPS = {
    'dense': 0.05,
    'suburb': 0.25,
    'avenue': 0.6,
    'country': 0.85,
    'highway': 0.95,
    'mixed': 0.3,
    'parking': 0.6,
    'path': 0.5,
    'yard': 0.15,
}


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
    jam: bool = False  # traffic stands in all lanes
    wires: int = 0  # side of a line of poles with wires; 0: none

    def lines(
        self, x: npt.NDArray[np.float64], offset: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Points x, y (N,) beside the ego line at x (N,)."""
        y = sum((a * np.sin(k * x + p) for a, k, p in self.bends), np.zeros_like(x))
        slope = sum((a * k * np.cos(k * x + p) for a, k, p in self.bends), np.zeros_like(x))
        heading = np.arctan(slope)
        return x - np.sin(heading) * offset, y + np.cos(heading) * offset

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


def sample_street_layout(rng: Rng) -> str:
    """Draw a kind of street."""
    weights = np.array(list(_LAYOUTS.values()))
    return str(rng.choice(STREETS, p=weights / weights.sum()))


def sample_profile(rng: np.random.Generator, layout: str) -> Profile:
    """Sample a street of a kind."""
    if layout in WALKED:
        return _sample_walked_profile(rng, layout)
    jam = layout == 'jam'
    way = str(rng.choice(_JAMMED)) if jam else layout
    highway, wide = way == 'highway', way in ('avenue', 'country', 'highway')
    built = way in ('dense', 'suburb', 'mixed')
    lane = rng.uniform(3.5, 3.8) if highway else rng.uniform(2.7, 3.7)
    parking = rng.uniform(0.3, 1.0, 2) * (rng.random(2) < (0.75 if built else 0.35))
    parking = parking * (not highway)
    own = lane / 2 + lane * int(rng.integers(0, 3) if wide else jam)
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
        bends=_sample_bends(rng), jam=jam, wires=_sample_wires(rng, 0.25),
    )  # fmt: skip


def _sample_walked_profile(rng: Rng, layout: str) -> Profile:
    """A path, yard or car park: no lanes, no traffic."""
    wide = {'path': (2.2, 5.0), 'yard': (8.0, 24.0), 'parking': (5.0, 8.0)}[layout]
    left, right = (rng.uniform(*wide) / 2 for _ in range(2))
    return Profile(
        layout, left, -right, lane=left + right, oncoming=0.0, median=(0.0, 0.0),
        parking=(0.0, 0.0), strip=(0.0, 0.0),
        pavement=(0.2, 0.2) if layout == 'parking' else _pair(rng.uniform(0.2, 1.5, 2)),
        verge=_pair(rng.uniform(*_VERGES[layout], 2)),
        kerb=rng.uniform(0.01, 0.1), trees=_TREES[layout] * rng.uniform(0.2, 1.3),
        posts=rng.uniform(0.1, 0.9), gaps=_GAPS[layout], junctions=(0.0, 0.0, 0.0), zebra=False,
        bends=_sample_bends(rng), wires=_sample_wires(rng, 0.15),
    )  # fmt: skip


def _sample_wires(rng: Rng, probability: float) -> int:
    return int(rng.choice([-1, 1])) if rng.random() < probability else 0


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
    marked = street.way not in WALKED
    if marked and rng.random() < 0.75:
        lines += [(y, 0.07, dash / 3, dash) for y in np.arange(lane / 2, own - 0.5, lane)]
        lines.append((own, 0.07, dash / 3, float(rng.choice([0.0, dash]))))
    if marked and rng.random() < 0.5:
        lines.append((street.left_edge - 0.3, 0.07, 3.0, 0.0))
        lines.append((street.right_edge + 0.3, 0.07, 3.0, 0.0))
    if street.oncoming and street.left_edge > street.oncoming + lane:
        lines.append((street.oncoming + lane / 2, 0.07, dash / 3, dash))
    built = street.way in ('dense', 'yard')
    beside = 'paving' if built or rng.random() < 0.1 else 'grass'
    paved = {'path': 0.5, 'yard': 0.75}.get(street.way, 0.12)
    surface = 'paving' if rng.random() < paved else 'asphalt'
    if street.way == 'parking':
        beside = surface
    return Ground(
        palette.pick(rng, surface), palette.pick(rng, beside),
        tile_m=float(rng.uniform(2.5, 6)), tint=float(rng.uniform(0.6, 1.9)),
        left_edge=street.left_edge, right_edge=street.right_edge, lines=tuple(lines),
        line_value=float(rng.uniform(0.5, 1.0)), bends=street.bends,
        junctions=street.junctions, zebra=street.zebra,
        wet=float(rng.uniform(0.05, 0.5)) if condition == 'rain' else 0.0,
    )  # fmt: skip
