"""Small charts as SVG that take the colours of the page they stand in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_WIDTH, _HEIGHT = 460, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 26
_BINS = 24
_MOST_BARS = 200


def histogram(values: Sequence[float], title: str) -> str:
    """How often values occur; a line marks the median."""
    numbers = np.asarray(values, dtype=np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    margin = max(0.02 * abs(high), 0.05 * (high - low), 1e-6)
    counts, edges = np.histogram(numbers, _BINS, (low - margin, high + margin))
    bars = [
        (float(edges[i]), float(edges[i + 1]), float(counts[i]))
        for i in range(len(counts)) if counts[i]
    ]  # fmt: skip
    mark = float(np.median(numbers))
    return _chart(title, bars, (float(edges[0]), float(edges[-1])), mark)


def bars(values: Sequence[float], title: str) -> str:
    """Values one after the other; of very many, neighbours are averaged."""
    numbers = np.asarray(values, dtype=np.float64)
    groups = np.array_split(numbers, min(len(numbers), _MOST_BARS))
    starts = np.cumsum([0, *(len(group) for group in groups)])
    steps = [
        (float(starts[i]), float(starts[i + 1]), float(group.mean()))
        for i, group in enumerate(groups)
    ]
    return _chart(title, steps, (0.0, float(len(numbers))), None)


def _chart(
    title: str,
    steps: Sequence[tuple[float, float, float]],
    span: tuple[float, float],
    mark: float | None,
) -> str:
    """Bars from `start` to `end` with a height, over a span; `mark` is a place on it."""
    top = max((height for _, _, height in steps), default=1.0) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def x(value: float) -> float:
        return _LEFT + wide * (value - span[0]) / (span[1] - span[0])

    def y(value: float) -> float:
        return _TOP + high * (1.0 - value / top)

    parts = [
        f'<rect x="{x(start):.1f}" y="{y(height):.1f}" '
        f'width="{max(0.8, x(end) - x(start) - 0.6):.1f}" height="{y(0) - y(height):.1f}"/>'
        for start, end, height in steps
    ]
    if mark is not None:
        parts.append(
            f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{_TOP}" y2="{y(0)}"/>'
        )
    base = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(0)}" y2="{y(0)}"/>'
    labels: list[tuple[float, float, str, str]] = [
        (_LEFT, _HEIGHT - 8, 'start', f'{span[0]:.4g}'),
        (_WIDTH - _RIGHT, _HEIGHT - 8, 'end', f'{span[1]:.4g}'),
        (_LEFT - 6, _TOP + 8, 'end', f'{top:.3g}'),
        (_LEFT - 6, y(0), 'end', '0'),
    ]
    if mark is not None:
        labels.append((x(mark), _HEIGHT - 8, 'middle', f'{mark:.4g}'))
    texts = ''.join(
        f'<text x="{left:.1f}" y="{down:.1f}" text-anchor="{anchor}">{text}</text>'
        for left, down, anchor, text in labels
    )
    return (
        f'<figure class="chart"><figcaption>{title}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}{base}{texts}</svg>'
        '</figure>'
    )
