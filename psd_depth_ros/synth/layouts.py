"""Kinds of rooms: their sizes, what stands along their walls and on their floors, how densely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psd_depth_ros.synth import furniture as f
from psd_depth_ros.synth.primitives import Rows
from psd_depth_ros.synth.textures import Palette

Make = Callable[[np.random.Generator, Palette], Rows]
Size = tuple[float, float, float]


@dataclass(frozen=True)
class Layout:
    """One kind of room."""

    probability: float
    low: Size  # smallest length, width and height, m
    high: Size
    along_walls: tuple[Make, ...]
    on_floor: tuple[Make, ...]
    dense_walls: float  # fraction of the walls that furniture lines
    floor_per_m2: float
    clutter_per_m2: float
    counters: float = 0.0  # probability of a kitchen front
    hung_per_m: float = 0.35  # things on walls
    doors: float = 0.35  # probability per wall and 4 m
    windows: float = 0.3
    floors: tuple[str, ...] = ('wood', 'wood', 'tiles', 'weave', 'carpet')
    walls: tuple[str, ...] = ('plain', 'plain', 'plaster', 'tiles')


LAYOUTS: dict[str, Layout] = {
    'kitchen': Layout(
        0.2, (2.6, 2.4, 2.3), (6.0, 5.0, 3.0),
        (f.make_cabinet, f.make_cabinet, f.make_shelf, f.make_plant),
        (f.make_table, f.make_table, f.make_chair), 0.5, 0.12, 0.12, counters=1.0,
        floors=('wood', 'tiles', 'tiles', 'carpet', 'weave'), hung_per_m=0.5,
    ),
    'lounge': Layout(
        0.2, (3.2, 3.0, 2.3), (9.0, 7.0, 3.4),
        (f.make_sofa, f.make_sofa, f.make_shelf, f.make_plant, f.make_cabinet, f.make_floor_lamp),
        (f.make_table, f.make_sofa, f.make_plant, f.make_chair), 0.65, 0.1, 0.12, counters=0.25,
        windows=0.45, hung_per_m=0.45,
    ),
    'office': Layout(
        0.2, (3.0, 3.0, 2.4), (10.0, 8.0, 3.2),
        (f.make_desk, f.make_desk, f.make_shelf, f.make_cabinet, f.make_plant),
        (f.make_desk, f.make_table, f.make_office_chair, f.make_office_chair, f.make_stand),
        0.7, 0.14, 0.08, counters=0.08, windows=0.5, floors=('carpet', 'carpet', 'weave', 'wood'),
        hung_per_m=0.35,
    ),
    'corridor': Layout(
        0.13, (7.0, 1.4, 2.3), (26.0, 3.0, 3.2),
        (f.make_cabinet, f.make_plant, f.make_chair), (f.make_plant, f.make_stand),
        0.08, 0.015, 0.02, doors=0.9, windows=0.12, hung_per_m=0.25,
        floors=('carpet', 'carpet', 'tiles', 'wood', 'plaster'),
    ),
    'workshop': Layout(
        0.12, (3.2, 3.0, 2.4), (10.0, 8.0, 4.0),
        (f.make_rack, f.make_rack, f.make_bench, f.make_cabinet, f.make_bicycle),
        (f.make_motorcycle, f.make_bicycle, f.make_table, f.make_stand, f.make_chair),
        0.85, 0.12, 0.3, windows=0.15, floors=('plaster', 'plaster', 'mottle', 'wood'),
        walls=('plain', 'plaster', 'masonry', 'wood'),
    ),
    'lab': Layout(
        0.09, (4.0, 4.0, 2.6), (12.0, 9.0, 3.6),
        (f.make_desk, f.make_bench, f.make_rack, f.make_cabinet, f.make_stand),
        (f.make_table, f.make_office_chair, f.make_stand, f.make_stand, f.make_desk),
        0.7, 0.12, 0.18, windows=0.25, floors=('plaster', 'plaster', 'tiles', 'carpet'),
    ),
    'hall': Layout(
        0.06, (9.0, 7.0, 3.2), (24.0, 16.0, 6.5),
        (f.make_sofa, f.make_plant, f.make_rack, f.make_table, f.make_bicycle),
        (f.make_table, f.make_chair, f.make_plant, f.make_stand, f.make_rack),
        0.35, 0.06, 0.04, doors=0.5, windows=0.6,
        floors=('tiles', 'plaster', 'wood', 'carpet'),
        walls=('plain', 'plaster', 'masonry'),
    ),
}  # fmt: skip
ROOMS = tuple(LAYOUTS)


def sample_room_layout(rng: np.random.Generator) -> str:
    """Draw a kind of room."""
    weights = np.array([layout.probability for layout in LAYOUTS.values()])
    return str(rng.choice(ROOMS, p=weights / weights.sum()))
