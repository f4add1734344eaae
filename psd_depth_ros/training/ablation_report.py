"""The report of an ablation: Markdown, HTML and JSON of the same table."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
import json
import math
from typing import Any

from psd_depth_ros.config import dump
from psd_depth_ros.training.ablation import Plan, VARIANTS
from psd_depth_ros.training.ablation_folder import AblationFolder
from psd_depth_ros.training.ablation_sheet import draw_sheet
from psd_depth_ros.training.ablation_table import (
    COLUMNS,
    FAR,
    find_gains,
    Gain,
    Row,
    RunResult,
    summarise,
)
from psd_depth_ros.training.run_folder import write_whole

ORDER = ('A0', 'A0+', 'A1', 'A1f', 'A2', 'A3', 'A4', 'A3r', 'A3u', 'A3m')
HEADING = 'What each part of PSD earns'
LEGEND = (
    'Mean ± standard deviation over seeds of the run, on rendered worlds that were not trained '
    'on. AbsRel after scaling each image by its median, over all pixels up to 80 m and by true '
    'distance (one scale per image); 0 is best. Boundary F1: 1 is best. Compute: CPU time on a '
    'CPU, else wall-clock.'
)
SHEET = 'ablation.png'
_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 1300px; padding: 1.5rem; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8886;
  white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
.faint { opacity: .7; } .wide { overflow-x: auto; } img { max-width: 100%; }
"""


def write_report(folder: AblationFolder, plan: Plan) -> list[RunResult]:
    """Write ablation.md, .html, .json and .png anew from the runs that have ended.

    Raises TrainingError where the disk is full.
    """
    results, path = folder.results(), folder.path
    sheet = draw_sheet(folder, ORDER)
    if sheet is not None:
        write_whole(path / SHEET, sheet)
    write_whole(path / 'ablation.json', (render_json(results, plan) + '\n').encode())
    write_whole(path / 'ablation.md', render_markdown(results, plan).encode())
    write_whole(path / 'ablation.html', render_html(results, plan, sheet).encode())
    return results


def render_json(results: Sequence[RunResult], plan: Plan) -> str:
    """All figures, those of every run as well; what is not known is null."""
    report = {
        'recipe': dump(plan.recipe),
        'test': list(plan.test),
        'minutes': plan.minutes,
        'variants': {
            row.variant: {'title': VARIANTS[row.variant].title, **asdict(row)}
            for row in summarise(results, ORDER)
        },
        'gains': [
            {**asdict(gain), 'figure': FAR, 'is_sure': gain.is_sure}
            for gain in find_gains(results, FAR)
        ],
        'runs': [asdict(result) for result in results],
    }
    return json.dumps(_without_nan(report), indent=2)


def render_markdown(results: Sequence[RunResult], plan: Plan) -> str:
    """Tables for a terminal or a README."""
    lines = [f'# {HEADING}', '', LEGEND, '', *_setting(plan), '']
    lines += [*_markdown_table(_heads(), _cells(results)), '']
    gains = [_gain_cells(gain) for gain in find_gains(results, FAR)]
    if gains:
        lines += [
            'Error at 40-80 m, paired by seed:',
            '',
            *_markdown_table(_GAIN_HEADS, gains),
            '',
        ]
    return '\n'.join(lines)


def render_html(results: Sequence[RunResult], plan: Plan, sheet: bytes | None) -> str:
    """The same as one page, with the pictures."""
    gains = [_gain_cells(gain) for gain in find_gains(results, FAR)]
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{HEADING}</title><style>{_STYLE}</style><h1>{HEADING}</h1>',
        f'<p>{escape(LEGEND)}</p>',
        *(f'<p class="faint">{escape(line)}</p>' for line in _setting(plan)),
        _html_table(_heads(), _cells(results)),
    ]
    if gains:
        parts += ['<h2>Error at 40-80 m, paired by seed</h2>', _html_table(_GAIN_HEADS, gains)]
    if sheet is not None:
        data = base64.b64encode(sheet).decode()
        parts.append('<h2>Test frames</h2><p>Depth after scaling by the median: red is near.</p>')
        parts.append(f'<img alt="depth of every variant" src="data:image/png;base64,{data}">')
    return '\n'.join([*parts, '</html>', ''])


def _setting(plan: Plan) -> list[str]:
    recipe = plan.recipe
    steps = f'{plan.minutes:g} minutes of A0' if plan.minutes is not None else str(recipe.steps)
    return [
        f'{steps} steps of {recipe.batch} images of {recipe.pixel_budget} pixels, preset '
        f'{recipe.preset}; A0+ as many as fit into the compute of A3.',
        f'Trained on {", ".join(recipe.data.paths)}; measured on {", ".join(plan.test)}.',
    ]


def _heads() -> list[str]:
    titles = [figure.title for figure in COLUMNS]
    return ['run', 'what', *titles, 'seeds', 'images', 'min', 'compute min']


def _cells(results: Sequence[RunResult]) -> list[list[str]]:
    return [_row_cells(row) for row in summarise(results, ORDER)]


def _row_cells(row: Row) -> list[str]:
    figures = [row.figures[figure.name].text(figure.digits) for figure in COLUMNS]
    cost = [f'{row.images:.0f}', f'{row.minutes:.1f}', f'{row.compute_minutes:.1f}']
    return [row.variant, VARIANTS[row.variant].title, *figures, str(row.seeds), *cost]


_GAIN_HEADS = ('compared', 'with', 'lower by', 'difference', 'is it chance?')


def _gain_cells(gain: Gain) -> list[str]:
    difference = gain.difference.text(3)
    return [gain.better, gain.worse, f'{gain.share:+.1%}', difference, gain.verdict]


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return '| ' + ' | '.join(padded) + ' |'

    rule = ['-' * width if i < 2 else '-' * (width - 1) + ':' for i, width in enumerate(widths)]
    return [line(heads), line(rule), *map(line, rows)]


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = ''.join(f'<th>{escape(text)}</th>' for text in heads)
    body = ''.join(
        '<tr>' + ''.join(f'<td>{escape(text)}</td>' for text in row) + '</tr>' for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>{body}</table></div>'


def _without_nan(value: Any) -> Any:
    """NaN as None, all the way down: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
