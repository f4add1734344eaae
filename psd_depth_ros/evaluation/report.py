"""Figures of an evaluation as rows and sentences, and its HTML report.

The report is one file, images inside, for light and dark screens.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.evaluate import Evaluation, Example
from psd_depth_ros.evaluation.protocols import Protocol
from psd_depth_ros.evaluation.robustness import Measured, Robustness
from psd_depth_ros.files import write_atomically
from psd_depth_ros.visualisation import (
    colour_depth,
    colour_log_error,
    draw_histogram,
    draw_known,
    draw_ramp,
    draw_series,
    encode_picture,
    resize,
    RIGHT,
    TOO_FAR,
    TOO_NEAR,
)

Picture = NDArray[np.uint8]
Map = NDArray[np.float32]

WIDTH_PX = 560
UNKNOWN = (52, 54, 58)
# The error that has the full colour: a factor of 1.5, nearer or farther.
ERROR_LIMIT = math.log(1.5)
SPARSE_FRACTION = 0.3

COLUMNS = ('abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'a1', 'a2', 'a3', 'silog')
DISTANCE_COLUMNS = ('abs_rel', 'of all pixels', 'a1', 'median ln p/gt', 'share')

_FEWEST_FOR_CHARTS = 5


def figure_rows(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Each way of measuring with its figures under `COLUMNS`."""
    ways = [('median-scaled', report['median_scaled']), ('unscaled', report['unscaled'])]
    if report['flip'] is not None:
        ways.append(('scaled + flip', report['flip']['median_scaled']))
        ways.append(('unscaled + flip', report['flip']['unscaled']))
    return [(label, [f'{figures[name]:.3f}' for name in COLUMNS]) for label, figures in ways]


def distance_rows(bands: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Each band of metres that has pixels, with `DISTANCE_COLUMNS`.

    abs_rel as the mean of the images and over all their pixels; the share of the pixels.
    """
    return [
        (
            f'{name} m',
            [
                f'{band["abs_rel"]:.3f}',
                f'{band["pooled_abs_rel"]:.3f}',
                f'{band["a1"]:.3f}',
                f'{band["bias"]:+.3f}',
                f'{band["share"]:.1%}',
            ],
        )
        for name, band in bands.items()
        if band['abs_rel'] is not None
    ]


def describe(report: dict[str, Any]) -> list[str]:
    """The other figures in words; those that were not measured are left out."""
    scale = report['scale']
    aligned = (
        'each image was fitted to its truth by scale and shift of 1/Z: metres were not tested'
    )
    lines = [
        *([aligned] if report.get('aligned') else []),
        f'scale: truth is {scale["median"]:.3f} times the depth (median over images), '
        f'spread {scale["std_over_median"]:.1%}',
        f'{report["coverage"]:.1%} of the true depths have a prediction; '
        f'{1000 * report["seconds_per_frame"]:.0f} ms a frame',
    ]
    moving = report['moving']
    if moving is not None:
        lines.append(
            f'moving things: abs_rel {moving["abs_rel"]:.3f}, median ln p/gt '
            f'{moving["bias"]:+.3f} ({moving["share"]:.1%} of {moving["frames"]} images)'
        )
    if report['boundary_f1'] is not None:
        lines.append(f'edges: boundary F1 {report["boundary_f1"]:.3f} (1 is best)')
    if report['ause'] is not None:
        lines.append(
            f'confidence: AUSE {report["ause"]["abs_rel"]:.3f} (0 is best), '
            f'AURG {report["aurg"]["abs_rel"]:+.3f} (0 is worthless) of abs_rel'
        )
    temporal = report['temporal']
    if temporal is not None:
        lines.append(
            f'stability: {temporal["median_change"]:.1%} of change from frame to frame, by '
            f'{temporal["method"]}, {temporal["pairs"]} pairs'
        )
    return lines + _not_counted(report)


def _not_counted(report: dict[str, Any]) -> list[str]:
    counts = {
        'without a true depth that can be compared': report['frames_without_truth'],
        'could not be read': sum(report['frames_unreadable'].values()),
    }
    return [f'{count} images {what}: not counted' for what, count in counts.items() if count]


def robustness_columns(robustness: dict[str, Any], *, means: bool = True) -> list[str]:
    """Names of the columns of `robustness_rows`.

    DEE by severity and their mean, with `means` also those of abs_rel and a1, then resilience and
    where there is a baseline corruption error, in percent.
    """
    severities = [f'DEE {severity}' for severity in robustness['severities']]
    other = ['abs_rel', 'a1'] if means else []
    return [*severities, 'DEE', *other, 'RR %', *(['CE %'] if robustness['baseline'] else [])]


def robustness_rows(
    robustness: dict[str, Any], *, means: bool = True
) -> list[tuple[str, list[str]]]:
    """Each corruption with its figures, the images as they are before, the mean after them."""
    severities = [str(severity) for severity in robustness['severities']]
    rates = ('rr', 'ce') if robustness['baseline'] else ('rr',)

    def cells(figures: dict[str, Any]) -> list[str]:
        single = figures.get('by_severity', {})
        shown = [single[one]['dee'] if one in single else None for one in severities]
        shown += [figures[name] for name in (('dee', 'abs_rel', 'a1') if means else ('dee',))]
        percents = [figures.get(name) for name in rates]
        return [
            *('' if one is None else f'{one:.3f}' for one in shown),
            *('' if one is None else f'{one:.1f}' for one in percents),
        ]

    mean = {**robustness['mean'], 'rr': robustness['mrr'], 'ce': robustness['mce']}
    rows = {'clean': robustness['clean'], **robustness['by_corruption'], 'mean': mean}
    return [(name, cells(figures)) for name, figures in rows.items()]


def describe_robustness(robustness: dict[str, Any]) -> list[str]:
    """The means in words: AbsRel and delta1, mRR, mCE."""
    clean, mean, mrr = robustness['clean'], robustness['mean'], robustness['mrr']
    count = len(robustness['corruptions'])
    lines = [
        f'mean of {count} corruption{"s" if count != 1 else ""}: abs_rel {mean["abs_rel"]:.3f} '
        f'(clean {clean["abs_rel"]:.3f}), a1 {mean["a1"]:.3f} (clean {clean["a1"]:.3f})',
        f'mRR {mrr:.1f} % (100 %: corruptions cost nothing)'
        if mrr is not None
        else f'mRR: not defined where the clean DEE is 1 or more ({clean["dee"]:.3f})',
    ]
    if robustness['mce'] is not None:
        lines.append(
            f'mCE {robustness["mce"]:.1f} % of baseline {robustness["baseline"]} '
            '(below 100 %: more robust than it)'
        )
    return lines


def depth_range(truths: Sequence[Map], protocol: Protocol) -> tuple[float, float]:
    """Depths of the first and the last colour, from the truth of all that is shown."""
    known = [truth[np.isfinite(truth) & (truth > 0)] for truth in truths]
    depths = np.concatenate([depth[depth < protocol.maximum_m] for depth in known])
    if not depths.size:
        return 1.0, protocol.maximum_m
    near, far = np.percentile(depths, [1, 99.5])
    return float(near), float(max(far, 1.5 * near))


def draw_example(
    example: Example, protocol: Protocol, limits_m: tuple[float, float]
) -> dict[str, Picture]:
    """RGB pictures by caption; prediction and error after scaling by the median."""
    scale = np.float32(example.errors.median_scaled.scale)
    prediction = example.depth * scale
    height = round(WIDTH_PX * example.rgb.shape[0] / example.rgb.shape[1])
    size = WIDTH_PX, height
    error = signed_error(prediction, protocol.restrict(example.truth), protocol)
    truth = np.where(example.truth > 0, example.truth, np.nan)
    return {
        'image': resize(example.rgb, size),
        'prediction, median-scaled': colour_depth(resize(prediction, size), *limits_m),
        'truth': _paint(colour_depth(truth, *limits_m), ~np.isnan(truth), size),
        'error': _paint(colour_log_error(error, ERROR_LIMIT), ~np.isnan(error), size),
    }


def _paint(colours: Picture, known: NDArray[np.bool_], size: tuple[int, int]) -> Picture:
    """Known pixels on grey; those of a sparse truth as dots."""
    as_dots = bool(np.count_nonzero(known) <= SPARSE_FRACTION * known.size)
    return draw_known(colours, known, size, UNKNOWN, as_dots=as_dots)


def is_sparse(example: Example) -> bool:
    """Whether the truth is drawn as dots, which JPEG would smear."""
    return bool(np.mean(example.truth > 0) <= SPARSE_FRACTION)


def signed_error(depth: Map, truth: Map, protocol: Protocol) -> Map:
    """Give ln p/gt where the protocol measures it, NaN elsewhere."""
    known = np.isfinite(truth) & (truth > protocol.minimum_m) & (truth < protocol.truth_limit_m)
    clamped = np.clip(depth, protocol.minimum_m, protocol.maximum_m)
    with np.errstate(invalid='ignore', divide='ignore'):
        error: Map = np.log(clamped / np.where(known, truth, np.nan))
    return error


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --faint: #69717b; --line: #d5dae0;
  --page: #fbfbfa; --bar: #4a7fb5; --mark: #c8452f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --faint: #98a1ab;
  --line: #3a4048; --page: #191c20; --bar: #6ea3d8; --mark: #ec7a63; } }
body { margin: 0 auto; max-width: 1200px; padding: 1.5rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p, ul { margin: .3rem 0; } ul { padding-left: 1.2rem; } .faint { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { font-weight: 600; } thead th { color: var(--faint); font-weight: 500; }
.pair { display: flex; flex-wrap: wrap; gap: 1rem 3rem; align-items: start; }
.chart { margin: 0; flex: 1 1 380px; max-width: 560px; } .chart svg { width: 100%; }
.chart rect { fill: var(--bar); } .chart line { stroke: var(--line); }
.chart .mark { stroke: var(--mark); stroke-width: 1.5; }
.chart text { fill: var(--faint); font-size: 11px; } figcaption { color: var(--faint); }
.frame { margin: 0 0 1.6rem; } .frame h3 { font-size: 1rem; margin: 0 0 .3rem; }
.frame h3 span { color: var(--faint); font-weight: 400; }
.views { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, var(--least)), 1fr)); }
.views figure { margin: 0; } .views img { width: 100%; display: block; border-radius: 3px; }
.legend { display: flex; flex-wrap: wrap; gap: .4rem 2.5rem; margin: .4rem 0 1rem; }
.ramp { width: 260px; } .ramp i { display: block; height: 10px; border-radius: 3px; }
.ramp div { display: flex; justify-content: space-between; font-size: 12px; color: var(--faint); }
"""


def write_html(
    path: Path,
    report: dict[str, Any],
    evaluation: Evaluation,
    robustness: Robustness | None = None,
) -> None:
    """Write the figures of a JSON report and the examples that evaluation and robustness kept.

    Raises EvaluationError where the file cannot be written.
    """
    try:
        write_atomically(path, render_html(report, evaluation, robustness).encode())
    except OSError as error:
        raise EvaluationError(f'report {path} cannot be written: {error}') from error


def render_html(
    report: dict[str, Any], evaluation: Evaluation, robustness: Robustness | None = None
) -> str:
    """The whole page."""
    heading = f'Depth of {Path(str(report["data"])).name or report["data"]}'
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<title>{escape(heading)}</title><style>{_STYLE}</style>',
        f'<h1>{escape(heading)}</h1>',
        *_facts(report),
        '<h2>Errors</h2>',
        _table(('', *COLUMNS), figure_rows(report)),
        '<p class="faint">a1 a2 a3: share within a factor of 1.25, 1.56, 1.95 (1 is best); all '
        'others: 0 is best. Means over images.</p>',
        '<ul>',
        *(f'<li>{escape(line)}</li>' for line in describe(report)),
        '</ul>',
        *_distances(report),
        *_charts(evaluation),
        *_robustness(report.get('robustness'), robustness),
        *_examples(evaluation),
        '</html>\n',
    ]
    return '\n'.join(parts)


def _facts(report: dict[str, Any]) -> list[str]:
    machine = f'{report["device"]}, {report["backend"]}'
    return [
        f'<p>{report["frames"]} images, protocol {escape(report["protocol"])}: '
        f'{escape(report["protocol_rules"])}.</p>',
        f'<p class="faint">checkpoint {escape(report["checkpoint"])} '
        f'({escape(report["checkpoint_path"])}); data {escape(report["data"])}; '
        f'{escape(machine)}</p>',
    ]


def _distances(report: dict[str, Any]) -> list[str]:
    parts = ['<h2>By distance</h2>', '<div class="pair">']
    for title, bands in (
        ('median-scaled', report['by_distance']),
        ('unscaled', report['unscaled']['by_distance']),
    ):
        parts.append(_table((title, *DISTANCE_COLUMNS), distance_rows(bands)))
    parts.append('</div><p class="faint">median ln p/gt above 0: seen too far.</p>')
    return parts


def _charts(evaluation: Evaluation) -> list[str]:
    if len(evaluation.frames) < _FEWEST_FOR_CHARTS:
        return []
    errors = [frame.errors.median_scaled.abs_rel for frame in evaluation.frames]
    return [
        '<h2>From image to image</h2><div class="pair">',
        draw_histogram(evaluation.ratios, 'scale: median of truth / median of depth'),
        draw_series(errors, 'abs_rel of each image, median-scaled'),
        '</div>',
    ]


def _robustness(figures: dict[str, Any] | None, robustness: Robustness | None) -> list[str]:
    """The table of corruptions, and one frame under each: the image above its depth."""
    if figures is None:
        return []
    parts = [
        '<h2>Corrupted images</h2><ul>',
        *(f'<li>{escape(line)}</li>' for line in describe_robustness(figures)),
        '</ul>',
        _table(('', *robustness_columns(figures)), robustness_rows(figures)),
        '<p class="faint">DEE: (abs_rel - a1 + 1) / 2, median-scaled, 0 is best; DEE 1 to DEE 5 '
        'by severity. RR: (1 - DEE) / (1 - DEE clean). CE: DEE / DEE of the baseline. The '
        'corruptions are those of this package; do not compare with published tables.</p>',
    ]
    if robustness is None or robustness.examples is None:
        return parts
    examples = robustness.examples
    limits = depth_range([examples.truth], robustness.protocol)
    parts += [
        f'<h2>Image {escape(examples.name)} under each corruption</h2>',
        _legend(limits, errors=False),
        '<div class="views" style="--least: 260px">',
        *(_corrupted(one, limits) for one in examples.shown),
        '</div>',
    ]
    return parts


def draw_corrupted(measured: Measured, limits_m: tuple[float, float], width: int) -> Picture:
    """An RGB picture of a width: the image above its median-scaled depth."""
    size = width, round(width * measured.rgb.shape[0] / measured.rgb.shape[1])
    depth = colour_depth(resize(measured.depth, size), *limits_m)
    return np.concatenate([resize(measured.rgb, size), depth])


def _corrupted(measured: Measured, limits: tuple[float, float]) -> str:
    what = f'{measured.corruption} {measured.severity}' if measured.corruption else 'clean'
    picture = _embed(draw_corrupted(measured, limits, 360))
    caption = f'{what}: DEE {measured.dee:.3f}, abs_rel {measured.abs_rel:.3f}'
    return (
        f'<figure><img src="{picture}" alt="{escape(what)}"><figcaption>{escape(caption)}'
        '</figcaption></figure>'
    )


def _embed(picture: Picture, *, lossless: bool = False) -> str:
    """The address of a picture that is in the page itself."""
    data, kind = encode_picture(picture, lossless=lossless)
    return f'data:{kind};base64,{base64.b64encode(data).decode("ascii")}'


def _examples(evaluation: Evaluation) -> list[str]:
    groups = (
        ('Worst images', evaluation.examples.worst),
        ('Best images', evaluation.examples.best),
    )
    shown = [one for _, group in groups for one in group]
    if not shown:
        return []
    limits = depth_range([one.truth for one in shown], evaluation.protocol)
    parts = []
    for title, group in groups:
        if group:
            parts += [f'<h2>{title}</h2>', _legend(limits)]
            parts += [_frame(example, evaluation, limits) for example in group]
    return parts


def _frame(example: Example, evaluation: Evaluation, limits: tuple[float, float]) -> str:
    scaled, unscaled = example.errors
    facts = (
        f'abs_rel {scaled.abs_rel:.3f}, a1 {scaled.a1:.3f}, scale {scaled.scale:.2f}; '
        f'unscaled {unscaled.abs_rel:.3f}'
    )
    views, dots = [], is_sparse(example)
    for caption, picture in draw_example(example, evaluation.protocol, limits).items():
        source = _embed(picture, lossless=dots and caption in ('truth', 'error'))
        views.append(
            f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption>'
            '</figure>'
        )
    name = escape(example.name)
    height, width = example.rgb.shape[:2]
    least = 420 if width > 2 * height else 260
    return (
        f'<section class="frame"><h3>{name} <span>{facts}</span></h3>'
        f'<div class="views" style="--least: {least}px">{"".join(views)}</div></section>'
    )


def _legend(limits: tuple[float, float], *, errors: bool = True) -> str:
    depths = np.geomspace(*limits, 9, dtype=np.float32)
    colours = colour_depth(depths[None], *limits)[0]
    factor = float(np.exp(ERROR_LIMIT))
    depth_labels = [f'{depths[i]:.2g} m' for i in (0, 4, 8)]
    error_labels = [f'{factor:g} times too near', 'right', f'{factor:g} times too far']
    return (
        '<div class="legend">'
        + draw_ramp(colours.tolist(), depth_labels)
        + (draw_ramp((TOO_NEAR, RIGHT, TOO_FAR), error_labels) if errors else '')
        + '<span class="faint">dark: sky, beyond the range, or no truth</span></div>'
    )


def _table(columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> str:
    head = ''.join(f'<th>{escape(column)}</th>' for column in columns)
    body = ''.join(
        f'<tr><th>{escape(label)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for label, cells in rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        '</div>'
    )
