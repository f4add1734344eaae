"""Recipes as lists of terms: strict, checked against each other, whole after a round trip."""

from dataclasses import replace

import pytest

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.objectives.base import TermSettings
from psd_depth_ros.objectives.registry import find_term, term_names
from psd_depth_ros.training.recipe import (
    build_recipe,
    change_recipe,
    dump_recipe,
    find_recipe,
    flatten_recipe,
    read_finetune_recipe,
    read_recipe,
    VideoRecipe,
    WorldsRecipe,
)

SHIPPED = (
    *('psd', 'ss_mde', 'structure_centric', 'full', 'baseline', 'kitti', 'cityscapes', 'finetune'),
    *('ablation', 'starter', 'lite', 'lite_research'),
)
PLAIN = {'objective': [{'term': 'photometric'}, {'term': 'smoothness', 'weight': 1e-3}]}


@pytest.mark.parametrize('name', SHIPPED)
def test_a_shipped_recipe_is_the_same_after_a_round_trip(name):
    recipe = read_recipe(find_recipe(name))
    assert build_recipe(type(recipe), dump_recipe(recipe)) == recipe
    assert change_recipe(recipe, [], 'test') == recipe


@pytest.mark.parametrize('name', ['psd', 'ss_mde', 'structure_centric', 'full'])
def test_recipes_of_the_papers_fine_tune_with_small_steps(name):
    base, found = read_recipe(find_recipe('finetune')), read_finetune_recipe(find_recipe(name))
    assert found.name == name
    assert (found.rate, found.encoder_rate) == (base.rate, base.encoder_rate)
    terms = {one.name for one in found.objective}
    assert {'anchor', 'anchor_scale'} <= terms
    trained = {one.name for one in read_recipe(find_recipe(name)).objective}
    assert trained - terms <= {'smoothness', 'multi_scale', 'distant'}, 'what teaches, teaches on'


def test_a_recipe_says_how_it_fine_tunes(tmp_path):
    base = read_recipe(find_recipe('finetune'))
    path = tmp_path / 'mine.yaml'
    text = 'steps: 7\nobjective: [{term: photometric}]\n'
    path.write_text(text)
    assert read_finetune_recipe(path) == read_recipe(path), 'a file without the section is itself'
    path.write_text(f'{text}finetune: {{objective.geometry.weight: 0.05, batch: 2}}\n')
    assert read_recipe(path).steps == 7
    found = read_finetune_recipe(path)
    assert found == change_recipe(
        base, {'name': 'mine', 'objective.geometry.weight': 0.05, 'batch': 2}, 'test'
    )
    path.write_text(f'{text}finetune: 3\n')
    with pytest.raises(SettingsError, match='finetune is 3, expected changes of the recipe'):
        read_finetune_recipe(path)
    path.write_text(f'{text}finetune: {{stepps: 3}}\n')
    with pytest.raises(SettingsError, match=r"mine.yaml: finetune: .*did you mean 'steps'"):
        read_finetune_recipe(path)


def test_a_weight_begins_rises_and_ends():
    settings = TermSettings(weight=2.0, start=0.4, full=0.6, end=0.8, before=1.0)
    progress = (0.0, 0.39, 0.4, 0.5, 0.6, 0.8, 0.81)
    found = [settings.weight_at(at) for at in progress]
    assert found == pytest.approx([1.0, 1.0, 1.0, 1.5, 2.0, 2.0, 0.0])
    assert TermSettings(weight=2.0, start=0.4).weight_at(0.4) == 2.0


def test_changes_reach_terms_add_them_and_take_them_out():
    recipe = build_recipe(VideoRecipe, PLAIN)
    changed = change_recipe(
        recipe, ['objective.smoothness.start=0.5', 'objective.velocity=0.1', 'steps=7'], 'test'
    )
    flat = flatten_recipe(changed)
    assert (flat['objective.smoothness.weight'], flat['objective.smoothness.start']) == (1e-3, 0.5)
    assert flat['objective.velocity.weight'] == 0.1
    assert changed.steps == 7
    assert change_recipe(changed, ['objective.velocity=off'], 'test').objective[-1].name == (
        'smoothness'
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('objective.velocitee=off', "--set: unknown term 'velocitee'; did you mean 'velocity'"),
        ('objective.auto_mask=false', 'any more; it is objective.photometric.auto_mask'),
        ('objective.uniformity=0', 'any more; it is objective.bin_uniformity'),
        ('patch.weight=0.3', 'w / (1 + w) in objective.patch.weight and 1 / (1 + w)'),
    ],
)
def test_a_change_of_no_term_is_refused(change, message):
    with pytest.raises(SettingsError) as caught:
        change_recipe(build_recipe(VideoRecipe, PLAIN), [change], '--set')
    assert message in str(caught.value)


def test_what_builds_on_a_term_goes_with_it():
    recipe = change_recipe(read_recipe(find_recipe('psd')), ['objective.patch=off'], 'test')
    names = {term.name for term in recipe.objective}
    assert not names & {'patch', 'patch_smoothness', 'patch_level', 'distant', 'distillation'}
    assert {'photometric', 'mix', 'bin_usage'} <= names


@pytest.mark.parametrize(
    ('entry', 'message'),
    [
        ({'term': 'photometrik'}, "unknown term 'photometrik'; did you mean 'photometric'"),
        ({'term': 'velocity', 'wheight': 1}, "objective.velocity: unknown setting 'wheight'; did"),
        ({'term': 'patch', 'minimum_zoom': 3.0}, 'minimum_zoom 3 is above maximum_zoom 2.5'),
        ({'term': 'pose_alignment', 'start': 0.9, 'end': 0.2}, 'start 0.9 is after end 0.2'),
        ({'term': 'velocity', 'full': 0.9, 'end': 0.2}, 'full 0.9 is after end 0.2'),
        ({'term': 'distant'}, 'term distant builds on patch, which the objective of the recipe'),
        ({'term': 'distillation'}, 'term distillation builds on patch'),
        ({'term': 'mix_consistency'}, 'term mix_consistency builds on mix'),
        ({'term': 'adverse_consistency'}, 'term adverse_consistency builds on adverse'),
        ({'term': 'adverse', 'kinds': ['fogg']}, "'fogg', expected one of all, fog"),
        ({'term': 'adverse', 'kinds': ['all', 'fog']}, 'expected [all] or some of fog, rain'),
        ({'term': 'adverse', 'minimum_severity': 0.9, 'maximum_severity': 0.1}, 'is above max'),
        ({'term': 'smoothness'}, 'objective has smoothness more than once'),
        ('velocity', "objective has 'velocity', expected a term such as"),
        ({'weight': 1.0}, 'expected a term such as'),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused(entry, message):
    values = {'objective': [*PLAIN['objective'], entry]}
    with pytest.raises(SettingsError) as caught:
        build_recipe(VideoRecipe, values, 'my.yaml')
    assert str(caught.value).startswith('my.yaml: ')
    assert message in str(caught.value)
    if 'zoom' in message or 'after end' in message:
        assert f'objective.{entry["term"]}' in str(caught.value)


@pytest.mark.parametrize(
    ('values', 'told'),
    [
        ({'far': {'fine_weight': 0.5}}, 'it is objective.distant.weight'),
        ({'patch': {'enabled': False}}, 'take the term out of the list `objective`'),
        ({'patch_mix': {'start': 0.1}}, 'it is objective.mix.start and objective.mix_consistency'),
        ({'refine_from': 0.0}, 'it is objective.pose_alignment.start'),
        ({'use_known_poses': False}, 'it is poses: recorded, or poses: learned for false'),
        ({'drop_at': 0.5}, 'drops after three quarters'),
    ],
)
def test_a_setting_of_former_recipes_says_where_it_went(values, told):
    with pytest.raises(SettingsError, match='is no setting any more') as caught:
        build_recipe(VideoRecipe, {**PLAIN, **values})
    assert told in str(caught.value)
    with pytest.raises(SettingsError, match='it is the weight of the term gradients'):
        build_recipe(WorldsRecipe, {**PLAIN, 'losses': {'edges': 1.0}})
    with pytest.raises(SettingsError, match="recipe 'monodepth2' is called 'baseline' now"):
        find_recipe('monodepth2')


def test_the_objective_of_former_recipes_says_that_it_is_a_list():
    with pytest.raises(SettingsError, match='expected a list of terms such as'):
        build_recipe(VideoRecipe, {'objective': {'smoothness': 0.1}})


def test_every_term_has_settings_with_words():
    assert len(term_names()) >= 20
    for name in term_names():
        term = find_term(name)(find_term(name).Settings())
        assert replace(term.settings, weight=0.0).weight_at(0.5) == 0.0
        assert term.__doc__
