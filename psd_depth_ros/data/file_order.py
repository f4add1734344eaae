"""The order that people mean by numbered names: 2 comes before 10."""

from __future__ import annotations

from pathlib import Path
import re

_DIGITS = re.compile(r'(\d+)')


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key of a path: runs of digits in its name count as numbers.

    Equal numbers with more zeros before them come later, so that the order is always the same.
    """
    key: list[tuple[int, int, str]] = []
    for part in path.parts:
        pieces = _DIGITS.split(part)
        for place, piece in enumerate(pieces):
            if place % 2:
                key.append((0, int(piece), piece))
            elif piece:
                key.append((1, 0, piece))
        key.append((-1, 0, ''))
    return tuple(key)
