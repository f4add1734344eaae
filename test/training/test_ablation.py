"""The ablation: a toy one from worlds to report, what is fair, and tables by hand."""

from dataclasses import replace
import json
import math
from unittest.mock import MagicMock

import pytest

from psd_depth_ros.config import build
from psd_depth_ros.errors import EvaluationError, SettingsError
from psd_depth_ros.training.ablation import Ablation, Plan, VARIANTS
from psd_depth_ros.training.ablation_folder import AblationFolder
from psd_depth_ros.training.ablation_report import render_json, render_markdown, write_report
from psd_depth_ros.training.ablation_runs import make_chains, run_ablation
from psd_depth_ros.training.ablation_table import FAR, find_gains, RunResult, Spread, summarise
from psd_depth_ros.training.loop import Outcome
from psd_depth_ros.training.recipe import find_recipe, read_recipe, VideoRecipe

WORLD = 'size=96x64&focal_px=60&camera_height_m=1.5&speed_mps=10'
RECIPE = build(
    VideoRecipe,
    {
        'name': 'toy',
        'steps': 2,
        'batch': 2,
        'pixel_budget': 6144,
        'use_known_poses': False,
        'warmup': 0.0,
        'data.paths': [f'synth:street:3-4?frames=8&{WORLD}'],
        'data.clips.held_out': 0.5,
        'patch.start': 0.0,
        'distillation.start': 0.0,
        'distillation.full': 0.0,
    },
)
PLAN = Plan(RECIPE, ('A0', 'A3'), seeds=1, test=(f'synth:street:2000000?frames=2&{WORLD}',))


def result(variant, seed, far, near=0.1, compute_s=60.0):
    figures = {'abs_rel': 2 * near, 'abs_rel_0_10': near, FAR: far, 'boundary_f1': None}
    return RunResult(variant, seed, 100, 800, 90.0, compute_s, figures)


@pytest.fixture(scope='module')
def worlds(tmp_path_factory):
    """Keep what was rendered once."""
    return tmp_path_factory.mktemp('worlds')


def test_a_toy_ablation_ends_with_a_report_and_resumes_what_is_missing(tmp_path, worlds):
    output, ended = tmp_path / 'run', []
    options = {'worlds': worlds, 'ended': lambda one: ended.append(one)}
    results = run_ablation(PLAN, output, None, **options)
    assert [one.variant for one in ended] == ['A0', 'A3']
    assert all(0 < one.figures['abs_rel'] < 10 for one in results)
    for name in ('ablation.md', 'ablation.html', 'ablation.json', 'ablation.png'):
        assert (output / name).stat().st_size > 100

    with pytest.raises(SettingsError, match='not empty'):
        run_ablation(PLAN, output, None)
    (output / 'runs' / 'A0_seed1' / 'result.json').unlink()
    run_ablation(PLAN, output, None, resume=True, **options)
    assert [one.variant for one in ended] == ['A0', 'A3', 'A0']
    # the same seed gives the same network
    assert ended[0].figures == ended[2].figures

    with pytest.raises(SettingsError, match='another ablation: start differ'):
        run_ablation(PLAN, output, None, start_id='imagenet 1234', resume=True)
    other = Plan(build(VideoRecipe, {'data.paths': RECIPE.data.paths}), test=PLAN.test)
    with pytest.raises(SettingsError, match='another ablation: recipe differ'):
        run_ablation(other, output, None, resume=True)


def test_the_baseline_gets_the_computing_time_of_psd(tmp_path, worlds):
    folder = AblationFolder(tmp_path)
    plan = replace(PLAN, runs=('A0', 'A3', 'A0+'))
    ablation = Ablation(plan, folder, None, worlds=worlds)
    with pytest.raises(SettingsError, match='A0 of seed 1 has to come first'):
        ablation.recipe_for('A0+', 1)
    for name, compute_s in (('A0', 60.0), ('A3', 90.0)):
        folder.run(name, 1).mkdir(parents=True)
        folder.keep(result(name, 1, 0.4, compute_s=compute_s), [])
    recipe = ablation.recipe_for('A0+', 1)
    assert recipe.steps == 150  # A0 took 100
    assert (recipe.head, recipe.seed, recipe.patch.enabled) == ('disparity', 1, False)


def test_a_network_that_collapsed_has_a_row_without_figures(tmp_path, worlds, monkeypatch):
    def collapsed(engine, samples, protocol):
        raise EvaluationError('of 48 images none has a true depth')

    def trained(task, folder, **options):
        folder.claim()
        return Outcome(folder.best, 2, 60.0, {'score': 0.1})

    names = {'evaluate': collapsed, 'run_training': trained, 'DepthEngine': MagicMock()}
    for name, stand_in in names.items():
        monkeypatch.setattr(f'psd_depth_ros.training.ablation.{name}', stand_in)
    plan = replace(PLAN, runs=('A0',))
    (found,) = run_ablation(plan, tmp_path / 'run', None, worlds=worlds)
    assert set(found.figures.values()) == {None}
    assert '| - ' in (tmp_path / 'run' / 'ablation.md').read_text()


def test_a_plan_that_is_not_fair_is_refused():
    with pytest.raises(SettingsError, match='A9'):
        Plan(RECIPE, ('A9',))
    with pytest.raises(SettingsError, match=r'A0\+ takes as long as A3'):
        Plan(RECIPE, ('A0', 'A0+'))
    with pytest.raises(SettingsError, match='run it too'):
        Plan(RECIPE, ('A3',), minutes=1.0)
    with pytest.raises(SettingsError, match='share a seed'):
        Plan(RECIPE, test=('synth:street:4-9?frames=1',))


def test_controls_come_last_and_seeds_can_be_trained_beside_each_other():
    plan = Plan(RECIPE, ('A3m', 'A0', 'A4'), seeds=2)
    assert plan.jobs == [('A0', 1), ('A4', 1), ('A0', 2), ('A4', 2), ('A3m', 1), ('A3m', 2)]
    chains = make_chains(plan.jobs)
    assert chains == [
        [('A0', 1), ('A4', 1)],
        [('A0', 2), ('A4', 2)],
        [('A3m', 1)],
        [('A3m', 2)],
    ]


def test_every_variant_is_a_recipe_and_the_one_that_ships_fits():
    shipped = read_recipe(find_recipe('ablation'))
    assert isinstance(shipped, VideoRecipe)
    plan = Plan(shipped)
    assert {name for name, _ in plan.jobs} == set(VARIANTS)
    for variant in VARIANTS.values():
        recipe = build(VideoRecipe, dict(variant.changes))
        assert recipe.patch.enabled or not recipe.distillation.enabled


def test_mean_and_spread_by_hand():
    # 0.3 0.4 0.5: mean 0.4, sd of a sample 0.1
    rows = summarise([result('A0', seed, far) for seed, far in enumerate((0.3, 0.4, 0.5))], ['A0'])
    assert rows[0].figures[FAR] == Spread(pytest.approx(0.4), pytest.approx(0.1))
    assert rows[0].figures[FAR].text(3) == '0.400 ± 0.100'
    assert rows[0].figures['boundary_f1'].text(3) == '-'
    assert rows[0].seeds == 3
    assert rows[0].minutes == pytest.approx(1.5)
    assert Spread.of([0.25]).text(2) == '0.25'


@pytest.mark.parametrize(
    ('pairs', 'share', 'is_sure'),
    [
        # differences 0.10 0.12 0.14: mean 0.12, sd 0.02
        ([(0.40, 0.30), (0.42, 0.30), (0.44, 0.30)], 0.12 / 0.42, True),
        # differences 0.0 0.1: mean 0.05, sd 0.071
        ([(0.4, 0.4), (0.4, 0.3)], 0.125, False),
        ([(0.4, 0.3)], 0.25, None),
    ],
)
def test_a_gain_counts_beyond_two_deviations_of_the_difference(pairs, share, is_sure):
    results = []
    for seed, (baseline, psd) in enumerate(pairs):
        results += [result('A0+', seed, baseline), result('A3', seed, psd)]
    (gain,) = find_gains(results, FAR)
    assert (gain.better, gain.worse) == ('A3', 'A0+')
    assert gain.share == pytest.approx(share)
    assert gain.is_sure is is_sure


def test_the_tables_are_what_markdown_and_json_want(tmp_path):
    results = [result('A0+', 1, 0.4), result('A3', 1, 0.3)]
    text = render_markdown(results, PLAN)
    cells = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()]
    row = ['A3', 'A2 + distillation (full PSD)', '0.200', '0.100', '-', '-', '0.300', '-']
    assert [*row, '1', '800', '1.5', '1.0'] in cells
    assert ['A3', 'A0+', '+25.0%', '0.100', 'one seed: cannot be told from chance'] in cells
    read = json.loads(render_json(results, PLAN))
    assert read['gains'][0]['share'] == pytest.approx(0.25)
    assert read['gains'][0]['difference']['sd'] is None
    assert read['variants']['A3']['figures'][FAR]['mean'] == 0.3
    assert math.isclose(read['runs'][0]['compute_s'], 60.0)

    folder = AblationFolder(tmp_path / 'new')
    folder.claim({'plan': 1}, resume=False)
    assert write_report(folder, PLAN) == []  # nothing yet is a report, too
    with pytest.raises(SettingsError, match='plan differ'):
        folder.claim({'plan': 2}, resume=True)
