"""Training on several sources at once: their recipes, their turns, their weights, their scores."""

from dataclasses import replace
import math

import pytest
import torch
from torch import nn

from psd_depth_ros.checkpoint import CheckpointInfo, load_checkpoint, OutputInfo
from psd_depth_ros.config import dump
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.networks import DepthModel, preset
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.mixed_task import MixedTask
from psd_depth_ros.training.recipe import (
    build_recipe,
    change_recipe,
    dump_recipe,
    flatten_recipe,
    MixedRecipe,
    read_recipe,
)
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.task import describe_input, ParameterGroup, Task

DRIVE = 'synth:street:2000005?frames=8&size=192x64&focal_px=110'
MIXED = {
    'kind': 'mixed',
    'name': 'tiny',
    'steps': 4,
    'pixel_budget': 6144,
    'validate_every': 4,
    'save_every': 2,
    'preview_every': 0,
    'sources': {
        'worlds': {
            'kind': 'worlds',
            'batch': 2,
            'worlds': {'frames': 3, 'frames_per_world': 1, 'validation_frames': 3},
            'objective': [{'term': 'log_depth'}, {'term': 'bins', 'weight': 0.2}],
        },
        'drive': {
            'weight': 0.5,
            'turns': 0.5,
            'batch': 2,
            'poses': 'recorded',
            'data': {
                'paths': [DRIVE],
                'depth': True,
                'licence': 'CC0',
                'triplets': {'held_out': 0.3},
            },
            'objective': [{'term': 'photometric'}, {'term': 'log_depth'}],
        },
    },
}


def recipe_of(*changes):
    return change_recipe(build_recipe(MixedRecipe, MIXED), changes, 'test')


def test_a_source_has_the_settings_of_the_run_and_its_own():
    recipe = recipe_of()
    worlds, drive = recipe.sources
    assert recipe.batch == 4
    assert (worlds.weight, worlds.turns, drive.weight, drive.turns) == (1.0, 1.0, 0.5, 0.5)
    assert (worlds.recipe.kind, drive.recipe.kind) == ('worlds', 'video')
    for source in recipe.sources:
        assert (source.recipe.steps, source.recipe.pixel_budget) == (4, 6144)
        assert source.recipe.seed == recipe.seed
    assert build_recipe(MixedRecipe, dump_recipe(recipe)) == recipe
    assert recipe_of('sources.drive.pixel_budget=3072').sources[1].recipe.pixel_budget == 3072


def test_changes_reach_a_source():
    recipe = recipe_of(
        'steps=9', 'sources.drive.objective.photometric=0.25', 'sources.drive.turns=0.75',
        'sources.worlds.batch=3',
    )  # fmt: skip
    flat = flatten_recipe(recipe)
    assert flat['sources.drive.objective.photometric.weight'] == 0.25
    assert flat['sources.drive.turns'] == 0.75
    assert recipe.batch == 5
    assert {source.recipe.steps for source in recipe.sources} == {9}
    assert [one.name for one in recipe_of('sources.drive=off').sources] == ['worlds']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('sources.drives.batch=3', "has no source 'drives', only worlds, drive"),
        ('sources.drive.steps=3', 'sources.drive.steps is a setting of the whole run'),
        ('sources.drive=3', r'expected sources.NAME.SETTING=VALUE, or sources.NAME=off'),
        ('sources.drive.bach=3', "sources.drive: unknown setting 'bach'; did you mean 'batch'"),
        ('sources.drive.turns=2', 'turns is 2.0, expected 0.001 .. 1'),
    ],
)
def test_a_wrong_change_is_refused(change, message):
    with pytest.raises(SettingsError, match=message):
        recipe_of(change)


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'sources': {}}, r'm.yaml: sources is \{\}, expected recipes by name'),
        ({'objective': []}, 'a recipe of kind mixed has no objective'),
        ({'sources': {'a': {'kind': 'mixed'}}}, "sources.a.kind is 'mixed', expected video or"),
        ({'sources': {'a': {'seed': 3}}}, 'sources.a.seed is a setting of the whole run'),
        ({'sources': {'a': {'batch': 3}}}, r'm.yaml: sources.a: objective is None, expected a'),
    ],
)
def test_a_wrong_recipe_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        build_recipe(MixedRecipe, {'kind': 'mixed', **values}, 'm.yaml')


class Toy(Task):
    """A task whose loss and score are given numbers."""

    def __init__(self, model, score, metric=False, pixels=6144):
        self._pixels = pixels
        self.module = nn.ModuleDict({'depth': model, 'own': nn.Linear(1, 1)})
        self.module.forward = lambda batch, progress: {'term': torch.tensor(2.0)}
        self.recipe = recipe_of()
        self._model, self._score, self._metric = model, score, metric

    @property
    def depth(self):
        return self._model

    def groups(self):
        depth = ParameterGroup('rest', tuple(self._model.parameters()), 1.0)
        return [depth, ParameterGroup('own', tuple(self.module['own'].parameters()), 0.125)]

    def prepare(self, progress):
        pass

    def batch(self, step, rank, processes):
        return torch.zeros(1)

    def losses(self, module, batch, progress):
        return module(batch, progress)

    def validate(self, depth):
        return {'score': self._score}

    def previews(self, depth):
        return {}

    def describe(self, depth, step, scores):
        data = ({'name': 'shared', 'licence': 'CC0'}, {'name': str(self._score), 'licence': 'MIT'})
        output = OutputInfo(metric=self._metric)
        seen = describe_input(depth, self._pixels, 2.0)
        return CheckpointInfo(
            'toy', dump(depth.architecture), input=seen, output=output, data=data
        )


@pytest.fixture(scope='module')
def toys():
    model = DepthModel(preset('lite'))
    tasks = {'worlds': Toy(model, 0.1, True), 'drive': Toy(model, 0.4, pixels=12288)}
    return MixedTask(recipe_of(), tasks)


def test_sources_have_turns_and_weights(toys):
    batches = [toys.batch(step, 0, 1) for step in (1, 2, 3, 4)]
    assert [sorted(batch.parts) for batch in batches] == [['worlds'], ['drive', 'worlds']] * 2
    found = toys.losses(toys.module, batches[1], 0.0)
    assert {name: loss.item() for name, loss in found.items()} == {
        'worlds.term': 2.0, 'drive.term': 1.0,
    }  # fmt: skip
    rare = recipe_of('sources.worlds.turns=0.01', 'sources.drive.turns=0.01')
    task = MixedTask(rare, toys._tasks)
    assert all(task.batch(step, 0, 1).parts for step in (1, 2, 3)), 'no step is empty'


def test_the_score_is_the_geometric_mean_and_unknown_ones_do_not_count(toys):
    scores = toys.validate(toys.depth)
    assert scores == {'score': pytest.approx(0.2), 'worlds.score': 0.1, 'drive.score': 0.4}
    tasks = {'worlds': Toy(toys.depth, 0.1), 'drive': Toy(toys.depth, math.nan)}
    nothing = MixedTask(recipe_of(), tasks)
    assert nothing.validate(toys.depth)['score'] == pytest.approx(0.1)


def test_the_network_is_trained_once_and_what_sources_own_at_their_rates(toys):
    groups = toys.groups()
    everything = [id(one) for group in groups for one in group.parameters]
    assert len(everything) == len(set(everything))
    assert {group.name: group.rate for group in groups if '.' in group.name} == {
        'worlds.own': 0.125, 'drive.own': 0.125,
    }  # fmt: skip
    names = {name for name, _ in toys.module.named_parameters()}
    assert len(everything) == len(names)


def test_the_checkpoint_tells_of_all_data(toys):
    info = toys.describe(toys.depth, 3, {'score': 0.2})
    assert [entry['name'] for entry in info.data] == ['shared', '0.1', '0.4']
    assert info.output.metric, 'one source ties the scale'
    assert info.name == 'tiny'
    assert (info.input.height, info.input.width) == (32, 192), 'of the run'
    assert info.input.trained_pixels == (3072, 24576), 'of all sources'
    assert set(info.training['recipe']['sources']) == {'worlds', 'drive'}


def test_a_run_learns_from_all_sources_and_goes_on_where_it_stopped(tmp_path):
    recipe = recipe_of()

    def run(folder, steps, **options):
        task = MixedTask.from_recipe(
            recipe, None, lambda done, total: None, worlds=tmp_path / 'worlds',
            processes=1,
        )  # fmt: skip
        seen = []
        outcome = run_training(
            task, RunFolder(tmp_path / folder), device='cpu', report=seen.append,
            stop=lambda: len(seen) >= steps, **options,
        )  # fmt: skip
        return outcome, seen, task

    whole, seen, task = run('whole', 4)
    assert {'worlds.log_depth', 'drive.photometric', 'drive.log_depth'} <= set(seen[1].losses)
    assert not any(name.startswith('drive') for name in seen[0].losses)
    assert math.isfinite(whole.scores['worlds.score'])
    assert whole.scores['drive.score'] == whole.scores['drive.depth_abs_rel'] > 0
    stopped, _, _ = run('parts', 2)
    assert stopped.stopped
    resumed, _, again = run('parts', 4, resume=True)
    for one, other in zip(task.depth.parameters(), again.depth.parameters(), strict=True):
        assert torch.equal(one, other)
    info = load_checkpoint(resumed.path).info
    licences = {entry['licence'] for entry in info.data}
    assert licences == {'Apache-2.0', 'CC0'}


def test_a_recipe_of_a_file_is_mixed(tmp_path):
    path = tmp_path / 'm.yaml'
    path.write_text('kind: mixed\nsources:\n  a: {kind: worlds, objective: [{term: log_depth}]}\n')
    recipe = read_recipe(path)
    assert isinstance(recipe, MixedRecipe)
    assert replace(recipe, name='run') == recipe
