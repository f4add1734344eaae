"""Variants of a recipe compared: a toy experiment from worlds to tables, fairness, statistics."""

from dataclasses import replace
import json
from pathlib import Path

import numpy as np
import pytest

from psd_depth_ros.errors import EvaluationError, SettingsError
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from tools import ablate
from tools.ablate import compare, DISTANT, Experiment, Result, summarise, Variant
from tools.statistics import Spread

SHIPPED = Path(__file__).parents[2] / 'experiments' / 'psd.yaml'
WORLD = 'size=96x64&focal_px=60&camera_height_m=1.5&speed_mps=10'
RECIPE = change_recipe(
    read_recipe(find_recipe('ablation')),
    {
        'name': 'toy',
        'steps': 2,
        'batch': 2,
        'pixel_budget': 6144,
        'poses': 'learned',
        'warmup': 0.0,
        'data.paths': [f'synth:street:3-4?frames=8&{WORLD}'],
        'data.triplets.held_out': 0.5,
        'objective.patch.start': 0.0,
        'objective.distillation.start': 0.0,
        'objective.distillation.full': 0.0,
    },
    'test',
)
TOY = replace(
    ablate.read_experiment(SHIPPED, ['A0', 'A3']),
    recipe=RECIPE,
    test=(f'synth:street:2000000?frames=2&{WORLD}',),
)


def result(variant, seed, distant, near=0.1, compute_s=60.0):
    figures = {'abs_rel': 2 * near, 'abs_rel_0_10': near, DISTANT: distant, 'boundary_f1': None}
    return Result(variant, seed, 100, 800, 90.0, compute_s, figures)


def test_a_toy_experiment_ends_with_tables_and_resumes_what_is_missing(tmp_path):
    output = tmp_path / 'run'
    options = {'seeds': 1, 'worlds': tmp_path / 'worlds', 'device': 'cpu', 'quiet': True}
    results = ablate.run_experiment(TOY, output, **options)
    assert [one.variant for one in results] == ['A0', 'A3']
    assert all(0 < one.figures['abs_rel'] < 10 for one in results)
    written = json.loads((output / 'results.json').read_text())
    assert written['command'].startswith('python -m tools.ablate')
    assert [one['variant'] for one in written['runs']] == ['A0', 'A3']
    assert written['comparisons'][0]['significant'] is None
    assert '| A3 | A2 + distillation (full PSD) |' in (output / 'results.md').read_text()

    with pytest.raises(SettingsError, match='not empty'):
        ablate.run_experiment(TOY, output, **options)
    written['runs'] = written['runs'][1:]
    (output / 'results.json').write_text(json.dumps(written))
    again = ablate.run_experiment(TOY, output, resume=True, **options)
    assert [one.variant for one in again] == ['A3', 'A0']
    assert again[1].figures == results[0].figures, 'the same seed gives the same network'

    with pytest.raises(SettingsError, match='another experiment: start differ'):
        ablate.run_experiment(TOY, output, start_id='imagenet 1234', resume=True, **options)
    other = replace(TOY, recipe=replace(RECIPE, steps=3))
    with pytest.raises(SettingsError, match='another experiment: recipe differ'):
        ablate.run_experiment(other, output, resume=True, **options)


def test_the_baseline_gets_the_computing_time_of_psd():
    experiment = ablate.read_experiment(SHIPPED)
    results = [result(name, 1, 0.4, compute_s=s) for name, s in (('A0', 60.0), ('A3', 90.0))]
    recipe = experiment.recipe_for('A0+', 1, results)
    assert recipe.steps == 150  # A0 took 100
    assert replace(recipe, steps=700, name='A0') == experiment.recipe_for('A0', 1, [])


def test_a_network_that_collapsed_has_a_row_without_figures(tmp_path, monkeypatch):
    class Engine:
        @classmethod
        def from_checkpoint(cls, *_arguments):
            return cls()

        def close(self):
            pass

    def collapsed(engine, frames, protocol):
        raise EvaluationError('of 48 images none has a true depth')

    monkeypatch.setattr(ablate, 'DepthEngine', Engine)
    monkeypatch.setattr(ablate, 'evaluate', collapsed)
    figures, _ = ablate.measure(tmp_path / 'best.safetensors', ablate.TestFrames(None), 'cpu')
    assert set(figures.values()) == {None}
    run = replace(result('A0', 1, 0.0), figures=figures)
    assert '| - | - | - |' in ablate.render(TOY, [run])


def test_an_experiment_that_is_not_fair_is_refused(tmp_path):
    with pytest.raises(SettingsError, match='no variant A9; expected A0'):
        ablate.read_experiment(SHIPPED, ['A9'])
    with pytest.raises(SettingsError, match=r'A0\+ takes the computing time of A3: run A0 and A3'):
        ablate.read_experiment(SHIPPED, ['A0', 'A0+'])
    with pytest.raises(SettingsError, match='share a seed'):
        Experiment(RECIPE, {'A0': Variant('', {})}, ('synth:street:4-9?frames=1',))
    wrong = tmp_path / 'wrong.yaml'
    wrong.write_text('recipe: ablation\nvariants: {A0: {colour: red}}\ntest: []\n')
    with pytest.raises(SettingsError, match='is no experiment'):
        ablate.read_experiment(wrong)


def test_controls_come_last_and_computing_times_before_their_use():
    experiment = ablate.read_experiment(SHIPPED, ['A0', 'A0+', 'A3', 'A3m'])
    assert experiment.jobs(2) == [
        ('A0', 1), ('A3', 1), ('A0+', 1), ('A0', 2), ('A3', 2), ('A0+', 2), ('A3m', 1), ('A3m', 2),
    ]  # fmt: skip


@pytest.mark.parametrize(('name', 'count'), [('psd', 10), ('prior', 4), ('papers', 13)])
def test_every_shipped_variant_is_a_recipe_of_its_own(name, count):
    experiment = ablate.read_experiment(SHIPPED.with_name(f'{name}.yaml'))
    results = [result('A0', 1, 0.4), result('A3', 1, 0.3, compute_s=90.0)]
    recipes = [
        replace(experiment.recipe_for(name, 1, results), name='') for name in experiment.variants
    ]
    assert len(recipes) == count
    for better, worse, figure in experiment.comparisons:
        assert {better, worse} <= experiment.variants.keys()
        assert figure in ablate.COLUMNS
    assert all(a != b for i, a in enumerate(recipes) for b in recipes[:i])


def test_mean_and_spread_by_hand():
    # 0.3 0.4 0.5: mean 0.4, sd of a sample 0.1
    figures = summarise([result('A0', seed, d) for seed, d in enumerate((0.3, 0.4, 0.5))], 'A0')
    assert figures[DISTANT] == Spread(pytest.approx(0.4), pytest.approx(0.1))
    assert str(figures[DISTANT]) == '0.400 ± 0.100'
    assert str(figures['boundary_f1']) == '-'
    assert str(Spread.of([0.25])) == '0.250'


@pytest.mark.parametrize(
    ('pairs', 'gain', 'significant'),
    [
        # differences 0.10 0.12 0.14: mean 0.12, sd 0.02
        ([(0.40, 0.30), (0.42, 0.30), (0.44, 0.30)], 0.12 / 0.42, True),
        # differences 0.0 0.1: mean 0.05, sd 0.071
        ([(0.4, 0.4), (0.4, 0.3)], 0.125, False),
        ([(0.4, 0.3)], 0.25, None),
    ],
)
def test_a_gain_counts_beyond_two_deviations_of_the_difference(pairs, gain, significant):
    results = []
    for seed, (baseline, psd) in enumerate(pairs):
        results += [result('A0+', seed, baseline), result('A3', seed, psd)]
    (found,) = compare(results, [('A3', 'A0+', DISTANT), ('A3', 'A0', DISTANT)])
    assert (found.better, found.worse) == ('A3', 'A0+')
    assert found.gain == pytest.approx(gain)
    assert found.significant is significant


def test_the_gain_of_corrupted_images_is_that_of_mce():
    # DEE of two corruptions: 0.2 / 0.4 and 0.3 / 0.3, whose mean is 0.75
    low, high = np.array([[0.2, 0.2], [0.3, 0.3]]), np.array([[0.4, 0.4], [0.3, 0.3]])
    runs = [replace(result(name, 1, 0.0), figures={'dee': dee.mean()})
            for name, dee in (('C1', low), ('A0', high))]  # fmt: skip
    frames = {('C1', 1): {'dee': low}, ('A0', 1): {'dee': high}}
    (found,) = compare(runs, [('C1', 'A0', 'dee')], frames)
    assert found.gain == pytest.approx(0.25)
    assert found.interval == pytest.approx((0.25, 0.25))


def test_it_explains_itself(capsys):
    with pytest.raises(SystemExit) as ended:
        ablate.main(['--help'])
    assert ended.value.code == 0
    assert 'experiments/psd.yaml' in capsys.readouterr().out
