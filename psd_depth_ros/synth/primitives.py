"""Rows of analytic primitives: the vocabulary every object of a synthetic world is built from.

One primitive is one float64 row (columns below): an affine copy of a unit solid. Rows are plain
NumPy so that objects are cheap to build, to place and to move; casting rays at them is left to
``raycast``, colouring them to ``render``.

World axes: x forward along the street, y left, z up (REP 103), metres.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float64]

CENTRE = slice(0, 3)
BASIS = slice(3, 12)  # the three local axes, one after the other, in world coordinates
HALF = slice(12, 15)
TAPER = slice(15, 18)  # how far +x, -x and both y faces lean inward at the top, 0..1 of half
PHASE = 15  # of foliage, which has no taper
SHAPE = 18
SIDE, TOP = 19, 20  # atlas layers
TINT = slice(21, 24)
TILE = slice(24, 26)  # metres of surface one texture tile covers
SHIFT = slice(26, 28)
GLOSS = 28
MOVING = 29
LAMP = 30
COLUMNS = 31

BOX, WEDGE, CYLINDER, ELLIPSOID, FOLIAGE = range(5)


@dataclass(frozen=True)
class Material:
    """Look of one primitive: atlas layers, linear RGB tint, metres per tile, shine and glow."""

    side: int = 0
    top: int = -1
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    tile: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)
    gloss: float = 0.0
    lamp: float = 0.0


def empty_rows() -> Rows:
    """No primitives: (0, COLUMNS)."""
    return np.zeros((0, COLUMNS))


def join_rows(parts: list[Rows]) -> Rows:
    """Stack the rows of several objects into one (N, COLUMNS) array."""
    return np.concatenate([empty_rows(), *parts], axis=0)


def make_row(
    shape: int,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    material: Material,
    taper: tuple[float, float, float] = (0.0, 0.0, 0.0),
    basis: npt.NDArray[np.float64] | None = None,
) -> Rows:
    """Build one primitive as a (1, COLUMNS) array; `basis` rows are its local axes."""
    row = np.zeros((1, COLUMNS))
    row[0, CENTRE] = centre
    row[0, BASIS] = np.eye(3).ravel() if basis is None else np.asarray(basis).ravel()
    row[0, HALF] = half
    row[0, TAPER] = taper
    row[0, SHAPE] = WEDGE if shape == BOX and any(taper) else shape
    row[0, SIDE] = material.side
    row[0, TOP] = material.side if material.top < 0 else material.top
    row[0, TINT] = material.tint
    row[0, TILE] = material.tile
    row[0, SHIFT] = material.shift
    row[0, GLOSS] = material.gloss
    row[0, LAMP] = material.lamp
    return row


def make_box(
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
    material: Material,
    taper: tuple[float, float, float] = (0.0, 0.0, 0.0),
    yaw: float = 0.0,
) -> Rows:
    """Build a box of full `size`; a `taper` leans its faces (1 on the sides makes a gable)."""
    half = (size[0] / 2, size[1] / 2, size[2] / 2)
    return make_row(BOX, centre, half, material, taper, yaw_basis(yaw))


def make_post(
    x: float, y: float, bottom: float, top: float, radius: float, material: Material
) -> Rows:
    """Build an upright cylinder between two heights."""
    half = (radius, radius, (top - bottom) / 2)
    return make_row(CYLINDER, (x, y, (top + bottom) / 2), half, material)


def make_rod(
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radius: float,
    material: Material,
) -> Rows:
    """Build a cylinder between two points."""
    # Plain floats: np.cross on three numbers takes ten times as long.
    dx, dy, dz = (b - a for a, b in zip(start, end, strict=True))
    length = max(math.sqrt(dx * dx + dy * dy + dz * dz), 1e-6)
    dx, dy, dz = dx / length, dy / length, dz / length
    flat = math.hypot(dx, dy)
    first = (-dy / flat, dx / flat, 0.0) if flat > 1e-6 else (1.0, 0.0, 0.0)
    second = (
        dy * first[2] - dz * first[1],
        dz * first[0] - dx * first[2],
        dx * first[1] - dy * first[0],
    )
    basis = np.array([first, second, (dx, dy, dz)])
    centre = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, (start[2] + end[2]) / 2)
    return make_row(CYLINDER, centre, (radius, radius, length / 2), material, basis=basis)


def make_ball(
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    material: Material,
    foliage: bool = False,
) -> Rows:
    """Build an ellipsoid; with `foliage` its surface is torn by cut-outs."""
    if not foliage:
        return make_row(ELLIPSOID, centre, half, material)
    row = make_row(FOLIAGE, centre, half, material)
    # Each crown wears its own part of the cut-out noise, wherever it stands among the rows.
    row[0, PHASE] = (31.7 * half[0] + 17.3 * centre[0] + 11.9 * centre[1]) % 1.0
    return row


def yaw_basis(yaw: float) -> npt.NDArray[np.float64]:
    """Local axes (rows) of a frame turned by `yaw` radians about the vertical."""
    c, s = math.cos(yaw), math.sin(yaw)
    return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def place(rows: Rows, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Rows:
    """Copy an object built about the origin to a pose in the world."""
    placed = rows.copy()
    axes = yaw_basis(yaw)
    placed[:, CENTRE] = rows[:, CENTRE] @ axes + (x, y, z)
    placed[:, BASIS] = (rows[:, BASIS].reshape(-1, 3, 3) @ axes).reshape(-1, 9)
    return placed


def mark_moving(rows: Rows) -> Rows:
    """Copy an object with every part marked as moving."""
    marked = rows.copy()
    marked[:, MOVING] = 1.0
    return marked
