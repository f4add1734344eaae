"""Measures this machine and writes bench_out/bench.json: see PARTS for what.

    python benchmarks/run.py [--quick] [--only network pipeline ...] [--output bench_out]
    python benchmarks/run.py --against COMMIT [--only network start ...]

`--against` compares with another commit or checkout instead, interleaved: see compare.py.

Nothing is asserted: figures are compared with the targets of the project, which are for two cores
without a GPU. Measure on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
import sys
from typing import Any

from beside import measure_beside
import compare
from end_to_end import measure_end_to_end
from network import measure_networks
from pipeline import measure_pipeline
from rendering import measure_rendering
from timing import describe_machine, print_table
from training import measure_reading, measure_training

PARTS = ('network', 'pipeline', 'end_to_end', 'rendering', 'training', 'beside')
PSD_SHARE = 0.6  # of the rate of the baseline
PAPER_SHARE = 0.6  # of the rate of PSD
WAITING_SHARE = 0.05  # of a step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--quick', action='store_true', help='some minutes, rough figures')
    parser.add_argument('--only', nargs='+', choices=sorted({*PARTS, *compare.PARTS}))
    parser.add_argument('--against', metavar='COMMIT', help='compare with it, by compare.py')
    parser.add_argument('--output', type=Path, default=Path('bench_out'))
    parser.add_argument(
        '--pixel-budget', metavar='N', type=int, default=0, help='most pixels of the input'
    )
    chosen = parser.parse_args()
    if chosen.against:
        only = ['--only', *chosen.only] if chosen.only else []
        sys.exit(compare.main([chosen.against, *only]))
    chosen.only = chosen.only or PARTS
    if others := sorted({*chosen.only} - {*PARTS}):
        parser.error(f'{", ".join(others)} can only be compared, with --against')
    budget = chosen.pixel_budget
    chosen.output.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {'machine': describe_machine(), 'quick': chosen.quick}
    print_table('machine', [{'what': k, 'found': v} for k, v in results['machine'].items()])
    if 'network' in chosen.only:
        results['network'] = measure_networks(chosen.quick, budget)
        print_table('network, ms', results['network'])
    if 'pipeline' in chosen.only:
        results['pipeline'] = measure_pipeline(chosen.quick, budget)
        print_table('one 640x480 frame without the network, ms', results['pipeline'])
    if 'end_to_end' in chosen.only:
        results['end_to_end'] = measure_end_to_end(chosen.quick, chosen.output, budget)
        print_table('camera process -> depth_node -> subscriber process', results['end_to_end'])
    if 'rendering' in chosen.only:
        results['rendering'] = measure_rendering(chosen.quick)
        print_table('rendered worlds, 416x128', results['rendering'])
    if 'training' in chosen.only:
        results['reading'] = measure_reading(chosen.quick)
        print_table('bag to tensors', results['reading'])
        results['training'] = measure_training(chosen.quick)
        print_table('training, preset lite', results['training'])
    if 'beside' in chosen.only:
        results['beside'] = measure_beside('psd', 8 if chosen.quick else 24)
        print_table('training beside other work', results['beside'])
    results['targets'] = [*_targets(results), *_training_targets(results)]
    print_table('targets, for two cores', results['targets'])
    path = chosen.output / 'bench.json'
    path.write_text(json.dumps(results, indent=2) + '\n')
    print(f'\nwritten to {path}')


def _targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare what was measured with what is wanted."""
    rows = []
    lite = [row for row in results.get('network', ()) if row['preset'] == 'lite']
    times = [row['median_ms'] for row in lite if row['median_ms'] is not None]
    if times:
        rows.append(_target('lite network, best backend', min(times), 'at most', 30.0, 'ms'))
    if 'pipeline' in results:
        total = results['pipeline'][-1]['median_ms']
        rows.append(_target('everything but the network', total, 'at most', 12.0, 'ms'))
    runs = results.get('end_to_end', ())
    if runs:
        best = max(row['depth_hz'] for row in runs)
        rows.append(_target('depth and cloud, end to end', best, 'at least', 22.0, 'Hz'))
        flood = runs[-1]
        limit = 3 * flood['inference_ms_p50']
        rows.append(
            _target('flooded, p95 of depth', flood['depth_ms_p95'], 'at most', limit, 'ms')
        )
        growth = runs[0]['growth_mb_per_1000']
        if growth is not None:  # a quick run is too short to tell
            rows.append(_target('memory growth in 1000 frames', growth, 'at most', 2.0, 'MB'))
    if 'rendering' in results:
        found = results['rendering'][-1]['frames_per_s']
        rows.append(
            _target('rendered worlds, streets and rooms', found, 'at least', 20.0, 'frames/s')
        )
    return rows


def _training_targets(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Of training: the baseline's rate, that of PSD beside it, waiting for data."""
    runs = [row for row in results.get('training', ()) if row['device'] == 'cpu']
    if not runs:
        return []
    baseline, psd, *papers = [row for row in runs if row['input'] == runs[0]['input']]
    share = psd['of_baseline']
    waiting = max(row['waiting'] for row in runs)
    return [
        _target(
            f'baseline at {baseline["input"]}, batch {baseline["batch"]}',
            baseline['images_per_s'], 'at least', 8.0, 'images/s',
        ),
        _target('rate of PSD', 100 * share, 'at least', 100 * PSD_SHARE, '% of it'),
        *(
            _target(
                f'rate of {row["recipe"]}', 100 * row['images_per_s'] / psd['images_per_s'],
                'at least', 100 * PAPER_SHARE, '% of PSD',
            )
            for row in papers
        ),
        _target('waiting for data', 100 * waiting, 'at most', 100 * WAITING_SHARE, '% of a step'),
    ]  # fmt: skip


def _target(what: str, found: float, sense: str, wanted: float, unit: str) -> dict[str, Any]:
    met = found <= wanted if sense == 'at most' else found >= wanted
    return {
        'target': what,
        'found': round(found, 2),
        'wanted': f'{sense} {wanted:g} {unit}',
        'met': 'yes' if met else 'NO',
    }


if __name__ == '__main__':
    main()
