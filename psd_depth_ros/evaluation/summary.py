"""The figures of a JSON report as rows and sentences, for the terminal and the HTML report."""

from __future__ import annotations

from typing import Any

COLUMNS = ('abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'a1', 'a2', 'a3', 'silog')
DISTANCE_COLUMNS = ('abs_rel', 'of all pixels', 'a1', 'median ln p/gt', 'share')


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
    lines = [
        f'scale: truth is {scale["median"]:.3f} times the depth (median over images), '
        f'spread {scale["std_over_median"]:.1%}',
        f'{report["coverage"]:.1%} of the true depths have a prediction; '
        f'{1000 * report["seconds_per_frame"]:.0f} ms a frame',
    ]
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
