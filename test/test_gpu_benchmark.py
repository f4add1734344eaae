"""The script of benchmarks/gpu.py: what is kept of parts that fail, and of those that do not."""

import argparse
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import gpu

    return gpu


@pytest.fixture
def options(tmp_path, gpu):
    return argparse.Namespace(
        output=tmp_path, minutes=9.0, lite_minutes=1.5, only=gpu.PARTS, dry=False
    )


def written(options):
    return json.loads((options.output / 'gpu.json').read_text())


def test_every_row_is_on_disk_before_the_next_part_begins(gpu, options, monkeypatch, tmp_path):
    seen = []

    def spawn(options, folder, part, variant, limit_s):
        if seen:
            assert [(one['part'], one['variant']) for one in written(options)['rows']] == seen
        seen.append((part, variant))
        if part == 'step' and variant != gpu.EAGER:
            return {'part': part, 'variant': variant, 'error': 'took longer than 50 s'}
        speed = 30.0 if variant == gpu.EAGER else 60.0
        return {'part': part, 'variant': variant, 'images_per_s': speed, 'losses': [1.0, 0.5]}

    monkeypatch.setattr(gpu, '_spawn', spawn)
    rows = gpu._run_all(options, tmp_path)
    assert seen == [one[:2] for one in gpu.ORDER]
    assert len(rows) == sum(one[0] != 'step' or one[1] == gpu.EAGER for one in gpu.ORDER)
    compared = {one['variant']: one for one in rows if one['part'] == 'worlds'}[gpu.NETWORKS]
    assert (compared['times_today'], compared['losses_off']) == (2.0, 0.0)
    found = {one['target']: one for one in written(options)['targets']}
    assert (found['worlds: images_per_s']['found'], found['worlds: images_per_s']['met']) == (
        60.0, 'NO',
    )  # fmt: skip


def test_the_training_gets_its_time_whatever_was_before(gpu, options, monkeypatch, tmp_path):
    limits, now = {}, [0.0]

    def spawn(options, folder, part, variant, limit_s):
        limits[part, variant] = limit_s
        now[0] += max(0.0, limit_s)  # every part takes all that it may
        return {'part': part, 'variant': variant, 'error': 'took too long'}

    monkeypatch.setattr(gpu, '_spawn', spawn)
    monkeypatch.setattr(gpu.time, 'monotonic', lambda: now[0])
    assert gpu._run_all(options, tmp_path) == []
    assert limits[gpu.LITE, ''] == pytest.approx(60.0 * 1.5 + gpu.LITE_OVERHEAD_S)
    assert now[0] == pytest.approx(540.0)


def test_a_part_that_hangs_or_fails_is_an_error_in_its_row(gpu, options, monkeypatch, tmp_path):
    script = tmp_path / 'part.py'
    script.write_text(
        'import sys, time\n'
        'if "hang" in sys.argv: time.sleep(60)\n'
        'raise SystemExit("the GPU is on fire")\n'
    )
    monkeypatch.setattr(gpu, '__file__', str(script))
    failed = gpu._spawn(options, tmp_path, 'network', 'fails', 20.0)
    assert 'the GPU is on fire' in failed['error']
    hung = gpu._spawn(options, tmp_path, 'network', 'hang', 5.0)
    assert hung['error'] == 'took longer than 5 s'
