"""Finishes of things indoors: which tile they wear, in which tint and shine."""

from __future__ import annotations

import numpy as np

from psd_depth_ros.synth.primitives import Material
from psd_depth_ros.synth.textures import Palette

Rng = np.random.Generator
Colour = tuple[float, float, float]

_ACCENTS: list[Colour] = [
    (0.45, 0.02, 0.03), (0.02, 0.06, 0.3), (0.03, 0.2, 0.35), (0.55, 0.35, 0.03),
    (0.04, 0.2, 0.06), (0.5, 0.14, 0.02), (0.2, 0.05, 0.25), (0.02, 0.25, 0.25),
]  # fmt: skip
_NATURAL: list[Colour] = [
    (0.5, 0.42, 0.3), (0.36, 0.24, 0.13), (0.16, 0.09, 0.05), (0.62, 0.56, 0.46),
    (0.3, 0.28, 0.2), (0.22, 0.26, 0.3),
]  # fmt: skip
BLACK: Colour = (0.025, 0.025, 0.027)
STEEL: Colour = (0.45, 0.45, 0.46)


def sample_tint(rng: Rng, accent: float = 0.2) -> Colour:
    """Sample the colour of paint, plastic or cloth: grey and white, natural, seldom strong."""
    kind = rng.random()
    if kind < accent:
        base = np.asarray(_ACCENTS[rng.integers(len(_ACCENTS))]) * rng.uniform(0.5, 1.8)
    elif kind < accent + 0.2:
        base = np.asarray(_NATURAL[rng.integers(len(_NATURAL))]) * rng.uniform(0.6, 1.4)
    else:
        grey = (0.03, 0.12, 0.3, 0.55, 0.75)[rng.integers(5)] * rng.uniform(0.7, 1.25)
        base = np.full(3, grey)
    base = np.clip(base * np.exp(rng.normal(0, 0.06, 3)), 0.01, 0.9)
    return (float(base[0]), float(base[1]), float(base[2]))


def plain(palette: Palette, tint: Colour, gloss: float = 0.0, lamp: float = 0.0) -> Material:
    """Paint, metal or plastic of one colour; with `lamp` it shines by itself."""
    return Material(palette.layers['plain'][0], tint=tint, gloss=gloss, lamp=lamp)


def sample_material(
    rng: Rng, palette: Palette, *kinds: str, tile: float = 1.0, accent: float = 0.2
) -> Material:
    """Sample a finish of one of the kinds of tiles, freely tinted where the tile is plain."""
    kind = str(kinds[rng.integers(len(kinds))])
    if kind == 'plain':
        tint = sample_tint(rng, accent)
    else:
        shade = np.exp(rng.normal(0, 0.1, 3) + rng.normal(0, 0.25))
        tint = (float(shade[0]), float(shade[1]), float(shade[2]))
    size = tile * rng.uniform(0.7, 1.6)
    shiny = (0.0, 0.15, 0.6)[rng.integers(3)] if kind in ('plain', 'tiles', 'wood') else 0.0
    return Material(
        palette.pick(rng, kind), tint=tint, tile=(size, size),
        shift=(rng.random(), rng.random()), gloss=shiny if kind != 'wood' else 0.3 * shiny,
    )  # fmt: skip


def sample_print(rng: Rng, palette: Palette, wide: float, tall: float) -> Material:
    """Sample a printed sheet that fills a face of the given size: a picture, a cover, a label."""
    kind = 'poster' if rng.random() < 0.75 else 'mottle'
    return Material(
        palette.pick(rng, kind), tile=(max(wide, 0.01), max(tall, 0.01)), shift=(0.5, 0.5)
    )
