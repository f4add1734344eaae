"""Procedural textures of one world: an atlas of seamless tiles, drawn anew for every seed.

A tile is (4, SIZE, SIZE): linear RGB and, in the fourth channel, how glassy the texel is. Which
surface wears which tile is decided by the layouts; sampling is left to ``shading``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 256
Tile = npt.NDArray[np.floating[Any]]
Generator = np.random.Generator
_V, _U = np.meshgrid(*[(np.arange(SIZE, dtype=np.float32) + 0.5) / SIZE] * 2, indexing='ij')

STREET_TILES = {
    'plain': 1, 'asphalt': 2, 'paving': 2, 'grass': 1, 'leaves': 3, 'bark': 1, 'plaster': 1,
    'masonry': 2, 'roof': 2, 'facade': 5, 'poster': 3, 'wood': 1, 'mottle': 1, 'weave': 1,
}  # fmt: skip
ROOM_TILES = {
    'plain': 1, 'plaster': 2, 'wood': 4, 'weave': 2, 'carpet': 1, 'tiles': 2, 'poster': 6,
    'mottle': 2, 'leaves': 1, 'masonry': 1,
}  # fmt: skip


def make_noise(rng: Generator, slope: float) -> Tile:
    """Seamless noise (SIZE, SIZE) of spectrum 1/f^slope, zero mean, unit deviation."""
    f = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]) * SIZE
    gain = np.where(f > 0, 1.0 / np.maximum(f, 1.0) ** slope, 0.0)
    phase = rng.standard_normal((2, *gain.shape))
    field = np.fft.irfft2((phase[0] + 1j * phase[1]) * gain, s=(SIZE, SIZE))
    return (field / field.std()).astype(np.float32)


class Brush:
    """Draws tiles from a small bank of noise fields, shared and shifted to save time."""

    def __init__(self, rng: Generator) -> None:
        self.rng = rng
        self._bank = {
            name: [make_noise(rng, slope) for _ in range(2)]
            for name, slope in (('fine', 0.3), ('rough', 0.9), ('soft', 1.5), ('smooth', 2.2))
        }

    def noise(self, kind: str) -> Tile:
        """A noise field of the bank, shifted, mirrored or transposed by chance."""
        field = self._bank[kind][self.rng.integers(2)]
        field = np.roll(field, self.rng.integers(0, SIZE, 2), (0, 1))
        return field.T if self.rng.random() < 0.5 else field

    def uniform(self, low: float, high: float) -> float:
        """One number between two bounds."""
        return float(self.rng.uniform(low, high))

    def colour(self, value: float, spread: float = 0.07) -> Tile:
        """A muted colour of about the given brightness."""
        grey = value * np.exp(self.rng.normal(0, 0.15))
        tone = grey * (1 + self.rng.normal(0, spread, 3))
        return np.clip(tone, 0.01, 1).astype(np.float32).reshape(3, 1, 1)


def _paint(colour: Tile, shade: Tile, glass: Tile | float = 0.0) -> Tile:
    tile = np.empty((4, SIZE, SIZE), np.float32)
    np.multiply(colour, np.clip(shade, 0.03, 4.0), out=tile[:3])
    np.clip(tile[:3], 0.0, 1.0, out=tile[:3])
    tile[3] = glass
    return tile


def _rgb(red: float, green: float, blue: float) -> Tile:
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


def _mix(base: Tile, other: Tile, mask: Tile) -> Tile:
    mixed: Tile = np.float32(base) + np.float32(other - base) * np.float32(mask)
    return mixed


def _inside(u0: float, u1: float, v0: float, v1: float) -> Tile:
    mask = (_U >= u0) & (_U < u1) & (_V >= v0) & (_V < v1)
    return mask.astype(np.float32)


def _stretch(noise: Tile, axis: int) -> Tile:
    """Smear noise along an axis, wrapping round, and restore its deviation."""
    smooth = noise
    for step in (1, 2, 4, 8, 16):
        smooth = (smooth + np.roll(smooth, step, axis)) / 2
    return (smooth / smooth.std()).astype(np.float32)


def draw_plain(brush: Brush) -> Tile:
    """White with a trace of dirt: paint and metal, tinted by the object."""
    return _paint(_rgb(1, 1, 1), 0.93 + 0.03 * brush.noise('soft'))


def draw_plaster(brush: Brush) -> Tile:
    """Render or concrete: low contrast, stains."""
    shade = 1 + brush.uniform(0.03, 0.12) * brush.noise('rough')
    shade += brush.uniform(0.03, 0.15) * brush.noise('smooth')
    return _paint(brush.colour(0.5), shade)


def draw_asphalt(brush: Brush) -> Tile:
    """Grains, stains and now and then a crack or a patch."""
    shade = 1 + 0.22 * brush.noise('fine') + 0.12 * brush.noise('rough')
    shade += brush.uniform(0.05, 0.15) * brush.noise('soft')
    crack = np.abs(brush.noise('soft')) < brush.uniform(0.0, 0.04)
    shade = shade * (1 - 0.45 * crack)
    return _paint(brush.colour(0.17, 0.04), shade)


def draw_grass(brush: Brush) -> Tile:
    """Blades, clumps and dry spots."""
    shade = np.exp(0.45 * brush.noise('fine') + 0.35 * brush.noise('rough'))
    green = _rgb(0.16, 0.22, 0.06) * brush.uniform(0.6, 1.3)
    dry = _rgb(0.3, 0.25, 0.12)
    mask = np.clip(0.25 + 0.3 * brush.noise('soft'), 0, 1)
    return _paint(_mix(green, dry, mask), shade)


def draw_leaves(brush: Brush) -> Tile:
    """Foliage: dark gaps, bright leaves; autumn colours now and then."""
    clumps = 0.7 * brush.noise('rough') + 0.6 * brush.noise('fine')
    shade = np.exp(0.9 * clumps)
    hues = [(0.10, 0.15, 0.03), (0.07, 0.11, 0.035), (0.28, 0.15, 0.03), (0.16, 0.17, 0.03)]
    hue = _rgb(*hues[brush.rng.choice(4, p=[0.4, 0.3, 0.12, 0.18])])
    return _paint(hue * brush.uniform(0.6, 1.3), shade)


def draw_bark(brush: Brush) -> Tile:
    """Vertical grooves."""
    grooves = _stretch(brush.noise('rough'), 0)
    shade = 1 + 0.35 * grooves + 0.2 * brush.noise('fine')
    return _paint(brush.colour(0.16, 0.08), shade)


def draw_masonry(brush: Brush) -> Tile:
    """Bricks, blocks or paving stones: rows of cells with mortar, each cell of its own shade."""
    rng = brush.rng
    rows = int(rng.choice([6, 8, 12, 16, 24]))
    columns = int(rng.choice([4, 6, 8, 12]))
    row = (_V * rows).astype(int)
    across = _U * columns + rng.uniform(0, 1, rows)[row] * (rng.random() < 0.8)
    column = across.astype(int) % columns
    tone = 1 + brush.uniform(0.05, 0.35) * rng.standard_normal((rows, columns))
    shade = np.clip(tone, 0.3, 2)[row, column] * (1 + 0.12 * brush.noise('rough'))
    gap = brush.uniform(0.03, 0.09)
    mortar = ((across % 1 < gap * columns / rows) | ((_V * rows) % 1 < gap)).astype(np.float32)
    reds = _rgb(0.36, 0.16, 0.10) * brush.uniform(0.5, 1.3)
    colour = reds if rng.random() < 0.4 else brush.colour(0.32)
    return _paint(_mix(colour, brush.colour(0.4, 0.05), mortar), shade)


def draw_paving(brush: Brush) -> Tile:
    """Grey slabs or cobbles."""
    rng = brush.rng
    rows, columns = int(rng.choice([2, 4, 8, 16])), int(rng.choice([2, 4, 8, 12]))
    row, column = (_V * rows).astype(int), (_U * columns).astype(int)
    tone = 1 + brush.uniform(0.02, 0.15) * rng.standard_normal((rows, columns))
    joint = ((_U * columns) % 1 < 0.008 * columns) | ((_V * rows) % 1 < 0.008 * rows)
    shade = tone[row, column] * (1 + 0.08 * brush.noise('fine') + 0.1 * brush.noise('soft'))
    return _paint(brush.colour(0.34, 0.05), shade * (1 - 0.4 * joint))


def draw_wood(brush: Brush) -> Tile:
    """Boards with grain, running along the rows of the tile."""
    rng = brush.rng
    boards = int(rng.choice([1, 3, 4, 6, 10]))
    row = (_V * boards).astype(int)
    grain = _stretch(brush.noise('rough'), 1)
    shade = (1 + brush.uniform(0, 0.2) * rng.standard_normal(boards))[row] * (1 + 0.1 * grain)
    shade = shade * (1 - 0.5 * ((_V * boards) % 1 < 0.012 * boards))
    browns = _rgb(0.45, 0.27, 0.13) * brush.uniform(0.3, 1.5)
    return _paint(browns if rng.random() < 0.75 else brush.colour(0.4), shade)


def draw_roof(brush: Brush) -> Tile:
    """Roof tiles: wavy rows."""
    rows, waves = 12, 10
    shade = 0.75 + 0.25 * ((_V * rows) % 1) + 0.12 * np.sin(_U * waves * 2 * np.pi)
    reds = _rgb(0.35, 0.13, 0.08)
    colour = reds if brush.rng.random() < 0.5 else brush.colour(0.15, 0.05)
    return _paint(colour, shade + 0.15 * brush.noise('rough'))


def draw_facade(brush: Brush) -> Tile:
    """One bay of one storey: wall, window with frame, panes, sill, shutters or blind."""
    rng = brush.rng
    base = draw_masonry(brush) if rng.random() < 0.3 else draw_plaster(brush)
    wall = base[:3]
    if rng.random() < 0.7:
        wall = np.clip(wall / wall.mean() * brush.colour(brush.uniform(0.2, 0.75), 0.1), 0, 1)
    wide, tall = brush.uniform(0.12, 0.42), brush.uniform(0.2, 0.36)
    middle = brush.uniform(0.42, 0.55)
    u0, u1, v0, v1 = 0.5 - wide, 0.5 + wide, middle - tall, middle + tall
    rim = brush.uniform(0.015, 0.06)
    if rng.random() < 0.6:
        around = _inside(u0 - rim, u1 + rim, v0 - rim, v1 + rim)
        wall = _mix(wall, brush.colour(brush.uniform(0.15, 0.8)), around)
    if rng.random() < 0.25:
        shutter = _inside(u0 - wide * 0.7, u1 + wide * 0.7, v0, v1)
        stripes = 0.8 + 0.2 * np.sign(np.sin(_V * 160))
        wall = _mix(wall, brush.colour(0.25, 0.4) * stripes, shutter)
    frame = _inside(u0, u1, v0, v1)
    wall = _mix(wall, brush.colour(rng.choice([0.1, 0.75]), 0.08), frame)
    pane = _inside(u0 + 0.02, u1 - 0.02, v0 + 0.02, v1 - 0.02)
    panes = int(rng.integers(1, 4))
    bars = np.abs(((_U - u0) / (u1 - u0) * panes) % 1 - 0.5) > 0.5 - 0.03 * panes
    pane = pane * (1 - bars) * (1 - (np.abs(_V - v0 - 0.3 * tall) < 0.008))
    wall = _mix(wall, _rgb(0.035, 0.04, 0.05), pane)
    sill = _inside(u0 - 0.04, u1 + 0.04, v1, v1 + 0.035)
    wall = _mix(wall, brush.colour(0.5, 0.05), sill)
    shadow = _inside(u0 + 0.02, u1 - 0.02, v0 + 0.02, v0 + 0.06)
    blind = _inside(u0 + 0.02, u1 - 0.02, v0 + 0.02, v0 + tall * brush.uniform(0, 1.2))
    blind = blind * (rng.random() < 0.4)
    wall = _mix(wall, brush.colour(0.5, 0.05), blind)
    return _paint(wall * (1 - 0.5 * shadow), np.ones_like(_U), pane * (1 - blind))


def draw_poster(brush: Brush) -> Tile:
    """Coloured blocks and rows of text: signs, books, packages, pictures."""
    rng = brush.rng
    ground = brush.colour(brush.uniform(0.2, 0.8), rng.choice([0.04, 0.5]))
    tile = np.broadcast_to(ground, (3, SIZE, SIZE)).copy()
    for _ in range(int(rng.integers(2, 9))):
        u, v = rng.uniform(0, 0.9, 2)
        block = _inside(u, u + rng.uniform(0.05, 0.6), v, v + rng.uniform(0.03, 0.4))
        tile = _mix(tile, brush.colour(brush.uniform(0.05, 0.8), 0.6), block)
    lines = ((_V * int(rng.integers(8, 40))) % 1 < 0.45) & (brush.noise('rough') > 0.2)
    page = _inside(*sorted(rng.uniform(0, 1, 2)), *sorted(rng.uniform(0, 1, 2)))
    tile = _mix(tile, brush.colour(0.05 if tile.mean() > 0.3 else 0.7), lines * page)
    return _paint(tile, np.ones_like(_U))


def draw_weave(brush: Brush) -> Tile:
    """Carpet or cloth: stripes, checks or mottle."""
    rng = brush.rng
    shade = 1 + 0.15 * brush.noise('fine') + 0.1 * brush.noise('soft')
    stripes = np.sign(np.sin(2 * np.pi * (_U * int(rng.integers(2, 30)))))
    checks = stripes * np.sign(np.sin(2 * np.pi * (_V * int(rng.integers(2, 12)))))
    pattern = [np.zeros_like(_U), stripes, checks][rng.choice(3, p=[0.5, 0.3, 0.2])]
    mask = np.clip(0.5 + 0.5 * pattern, 0, 1)
    value = brush.uniform(0.08, 0.5)
    return _paint(_mix(brush.colour(value, 0.3), brush.colour(value, 0.3), mask), shade)


def draw_carpet(brush: Brush) -> Tile:
    """Carpet of an office: streaks along the rows, or tiles of them, turned against each other."""
    rng = brush.rng
    streaks = _stretch(brush.noise('fine'), 1)
    if rng.random() < 0.4:
        count = int(rng.choice([2, 4]))
        turned = ((_U * count).astype(int) + (_V * count).astype(int)) % 2 == 0
        streaks = np.where(turned, streaks, streaks.T)
    depth = brush.uniform(0.05, 0.6)
    shade = 1 + depth * streaks + 0.12 * brush.noise('fine')
    colour = brush.colour(rng.choice([0.05, 0.12, 0.3]), rng.choice([0.05, 0.4]))
    return _paint(colour, shade)


def draw_tiles(brush: Brush) -> Tile:
    """Glazed wall or floor tiles with light joints."""
    count = int(brush.rng.choice([2, 4, 8, 12]))
    joint = ((_U * count) % 1 < 0.012 * count) | ((_V * count) % 1 < 0.012 * count)
    cell = (_V * count).astype(int) * count + (_U * count).astype(int)
    tone = 1 + brush.uniform(0, 0.12) * brush.rng.standard_normal(count * count)
    colour = brush.colour(brush.uniform(0.15, 0.7), 0.25)
    mask = joint.astype(np.float32)
    return _paint(_mix(colour, brush.colour(0.5, 0.05), mask), tone[cell] * (1 - 0.2 * joint))


def draw_mottle(brush: Brush) -> Tile:
    """Photograph-like 1/f noise in colour: whatever has no name."""
    channels = np.stack([brush.noise('rough') + brush.noise('soft') for _ in range(3)])
    mixed = 0.9 * channels.mean(0, keepdims=True) + 0.12 * channels
    return _paint(brush.colour(0.3, 0.4) * np.exp(0.4 * mixed), np.ones_like(_U))


DRAW: dict[str, Callable[[Brush], Tile]] = {
    'plain': draw_plain,
    'plaster': draw_plaster,
    'asphalt': draw_asphalt,
    'grass': draw_grass,
    'leaves': draw_leaves,
    'bark': draw_bark,
    'masonry': draw_masonry,
    'paving': draw_paving,
    'wood': draw_wood,
    'roof': draw_roof,
    'facade': draw_facade,
    'poster': draw_poster,
    'weave': draw_weave,
    'carpet': draw_carpet,
    'tiles': draw_tiles,
    'mottle': draw_mottle,
}


def _store(tile: Tile) -> npt.NDArray[np.uint8]:
    """Bytes of a tile: RGB as its square root, which spends the eight bits as the eye does."""
    np.sqrt(tile[:3], out=tile[:3])
    tile *= 255
    tile += 0.5
    return tile.astype(np.uint8)


class Palette:
    """The tiles of one world: `atlas` (layers, 4, SIZE, SIZE) uint8 and the layers by kind."""

    def __init__(self, rng: Generator, counts: dict[str, int]) -> None:
        brush = Brush(rng)
        tiles: list[npt.NDArray[np.uint8]] = []
        self.layers: dict[str, list[int]] = {}
        for kind, count in counts.items():
            self.layers[kind] = list(range(len(tiles), len(tiles) + count))
            tiles += [_store(DRAW[kind](brush)) for _ in range(count)]
        self.atlas = np.stack(tiles)
        self.cutout = np.ascontiguousarray(make_noise(rng, 0.7)[::4, ::4])
        self.clouds = make_noise(rng, 1.6)

    def pick(self, rng: Generator, kind: str) -> int:
        """Draw one layer of a kind."""
        return int(rng.choice(self.layers[kind]))
