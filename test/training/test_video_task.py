"""What a checkpoint says of itself follows from the data and the weights that made it."""

from dataclasses import replace
import shutil

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import CheckpointInfo, load_checkpoint, OutputInfo, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.networks import DepthModel, load_model, Normalisation, preset
from psd_depth_ros.networks.encoders import EncoderWeights, IMAGENET_NORMALISATION
from psd_depth_ros.training import video_task
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.task import NewStudent
from psd_depth_ros.training.video_task import FINE_FACTOR, VideoTask

WORLDS = 'synth:street:2000005-2000006?frames=8&size=192x64&focal_px=110'
LICENCE = 'BSD-3-Clause'


def recipe_of(name, *changes):
    base = (f'data.paths=["{WORLDS}"]', 'batch=2', 'pixel_budget=6144',
            'data.triplets.mask_fixed_regions=false')  # fmt: skip
    return change_recipe(read_recipe(find_recipe(name)), (*base, *changes), 'test')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two drives, whose poses are known."""
    recipe = recipe_of('baseline')
    cache = tmp_path_factory.mktemp('frames')
    return prepare_sequences(
        recipe.data, pixel_budget=recipe.pixel_budget, cache=cache, fine_factor=FINE_FACTOR
    )


@pytest.fixture
def checkpoint(tmp_path):
    """Make the checkpoint of a run to go on from."""

    def make(metric):
        model = DepthModel(preset('lite'))
        info = CheckpointInfo(
            'old',
            dump(model.architecture),
            output=OutputInfo(metric=metric, canonical_focal_px=300.0),
            data=({'name': 'old data', 'licence': 'CC0'},),
        )
        path = tmp_path / f'{metric}.safetensors'
        save_checkpoint(path, info, model.state_dict())
        return load_checkpoint(path)

    return make


def info_of(recipe, data, start=None):
    task = VideoTask(recipe, data, start)
    return task.describe(task.depth, 1, {})


def without_poses(data, *numbers):
    sequences = [
        replace(one, poses=None) if index in numbers else one
        for index, one in enumerate(data.sequences)
    ]
    return replace(data, sequences=tuple(sequences))


def test_frames_are_decoded_once_and_a_resumed_run_says_where_they_were_not(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    recipe = recipe_of('psd', 'data.paths=["synth:street:2000005?frames=8&size=192x64"]')
    begun = []

    def prepare():
        begun.clear()
        return VideoTask.from_recipe(recipe, None, lambda done, total: None, announce=begun.append)

    first = prepare()
    assert set(begun) == {'preparing synth-street-2000005'}
    again = prepare()
    assert begun == []
    (said,) = again.describe_cache(resumed=True)
    assert f'kept in {tmp_path}/psd_depth_ros/frames: 0.00 GB of at most 20 GB' in said
    shutil.rmtree(tmp_path / 'psd_depth_ros')
    resumed = prepare()
    told, _ = resumed.describe_cache(resumed=True)
    assert told == 'synth-street-2000005: decoded again, no longer in the cache'
    assert resumed.data_description() == first.data_description()


def test_depth_is_metric_where_data_ties_its_scale(data, monkeypatch):
    recipe = recipe_of('baseline', 'objective.velocity=0.1')
    info = info_of(recipe, data)
    assert info.output.metric
    found = info.training['scale']['distance_m']
    assert found['known'] == found['triplets'] > 0
    half = without_poses(data, 0)
    found = info_of(recipe, half).training['scale']['distance_m']
    assert 0 < found['known'] < found['triplets']
    monkeypatch.setattr(video_task, 'MIN_METRIC_FRACTION', 0.9)
    assert not info_of(recipe, half).output.metric


def test_a_weight_alone_makes_nothing_metric(data):
    """The drives know their odometry, but no term reads it; or it is asked for and not there."""
    assert not info_of(recipe_of('baseline'), data).output.metric
    assert not info_of(recipe_of('baseline', 'objective.velocity=0.0'), data).output.metric
    with pytest.raises(SettingsError, match='no recording has distance_m'):
        VideoTask(recipe_of('baseline', 'objective.velocity=0.1'), without_poses(data, 0, 1))


def test_a_scale_that_was_metric_stays_so_where_it_is_held(data, checkpoint):
    held = recipe_of('finetune', 'poses=recorded')
    free = recipe_of('finetune', 'objective.anchor=off', 'objective.anchor_scale=off',
                     'poses=recorded')  # fmt: skip
    assert info_of(held, data, checkpoint(True)).output.metric
    assert not info_of(free, data, checkpoint(True)).output.metric
    assert not info_of(held, data, checkpoint(False)).output.metric
    assert info_of(held, data, checkpoint(True)).output.canonical_focal_px == 300.0


def test_a_student_made_anew_keeps_the_scale_of_the_start_and_is_compared_with_it(
    data, checkpoint
):
    recipe = recipe_of('finetune', 'poses=recorded', 'preset=base', 'objective.patch=off',
                       'objective.mix=off', 'frozen_maps=5')  # fmt: skip
    start = checkpoint(True)
    first = data.sequences[0]
    small = replace(data, sequences=(replace(first, held_out=first.triplets[:1]),))
    task = VideoTask(recipe, small, start, student=NewStudent())
    assert all(one.requires_grad for one in task.depth.parameters()), 'nothing random is frozen'
    info = task.describe(task.depth, 1, {})
    assert info.architecture['encoder'] == 'resnet18'
    assert info.input.mean == IMAGENET_NORMALISATION.mean
    assert (info.output.metric, info.output.canonical_focal_px) == (True, 300.0)
    assert info.training['made_anew'] == 'random weights'
    assert 'start' not in info.training
    assert {'name': 'old data', 'licence': 'CC0'} in info.data
    old = task.validate(load_model(start))
    assert (old['scale_drift'], old['stretch'], old['change']) == (0.0, 0.0, 0.0)
    assert task.validate(task.depth)['change'] > 0.0


def test_the_sizes_that_a_start_was_trained_at_are_kept(data, checkpoint):
    start = checkpoint(True)
    assert info_of(recipe_of('finetune'), data, start).input.largest_pixels == 0
    sizes = replace(start.info.input, smallest_pixels=8192, largest_pixels=24576)
    start = replace(start, info=replace(start.info, input=sizes))
    found = info_of(recipe_of('finetune'), data, start).input
    assert (found.smallest_pixels, found.largest_pixels) == (found.pixel_budget, 24576)
    assert found.pixel_budget <= 6144


def test_provenance_names_what_was_loaded(data, checkpoint):
    recipe = recipe_of('psd', 'poses=recorded')
    tensors = dict(DepthModel(preset('lite')).encoder.state_dict())
    weights = EncoderWeights(tensors, 'toy encoder weights', LICENCE, 'abc', Normalisation())
    drives = [one.name for one in data.sequences]

    def names(start):
        return [one['name'] for one in info_of(recipe, data, start).data]

    assert names(None) == drives
    assert names(weights) == ['toy encoder weights', *drives]
    assert {'name': 'toy encoder weights', 'licence': LICENCE, 'id': 'abc'} in (
        info_of(recipe, data, weights).data
    )
    assert names(checkpoint(True)) == ['old data', *drives]


def test_a_teacher_of_maps_is_told_in_run_and_checkpoint(data, tmp_path):
    """One of the two drives has maps: disparity is the number of the frame."""
    drive = data.sequences[0]
    for number in drive.origin.numbers.tolist():
        file = tmp_path / 'disparity' / drive.name / f'{number:04d}.npy'
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.full((4, 8), 1.0 + number, np.float32))
    (tmp_path / 'disparity' / 'maps.yaml').write_text(f'licence: {LICENCE}\n')
    recipe = recipe_of('baseline', f'objective.pseudo_depth.teacher={tmp_path}/disparity')
    task = VideoTask(recipe, data, cache=tmp_path / 'frames')
    assert len(list((tmp_path / 'frames').iterdir())) == 1
    assert {'name': 'disparity', 'licence': LICENCE} in task.describe(task.depth, 1, {}).data
    description = task.data_description()
    assert description['notes'][-1] == f'{data.sequences[1].name} has no maps of disparity'
    batch = task.batch(1, 0, 1)
    assert batch.pseudo_depth.shape[1:] == (1, *batch.image.shape[-2:])
    # A run goes on with the same teacher only: what tells of it is in the description.
    again = VideoTask(recipe, data, cache=tmp_path / 'frames')
    assert again.data_description() == description
    np.save(file, np.zeros((4, 8), np.float32))
    assert VideoTask(recipe, data).data_description() != description
    assert 'teachers' not in VideoTask(recipe_of('baseline'), data).data_description()


def test_a_resumed_run_goes_on_with_its_teachers_and_what_terms_own(data, tmp_path):
    """Slow teacher, projections of graphs, state of forgetting: as if it had never stopped."""
    maps = tmp_path / 'disparity'
    for number in data.sequences[0].origin.numbers.tolist():
        file = maps / data.sequences[0].name / f'{number:04d}.npy'
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.linspace(1.0, 2.0 + number, 32).reshape(4, 8).astype(np.float32))
    recipe = recipe_of(
        'baseline', 'steps=4', 'precision=fp32', 'warmup=0', 'preview_every=0',
        f'objective.pseudo_depth.teacher={maps}', 'objective.pseudo_depth.forgetting=adaptive',
        'objective.ema_teacher=0.1', 'objective.adverse=0.5', 'objective.graph=0.05',
    )  # fmt: skip

    def train(folder, steps, resume=False):
        task = VideoTask(recipe, data, cache=tmp_path)
        taken = []
        run_training(
            task, RunFolder(tmp_path / folder), device='cpu', resume=resume,
            report=taken.append, stop=lambda: len(taken) >= steps,
        )  # fmt: skip
        return task

    whole = train('whole', 4)
    train('parts', 2)
    parts = train('parts', 4, resume=True)
    for one, other in ((whole.module, parts.module), (whole.kept, parts.kept)):
        assert one.state_dict().keys() == other.state_dict().keys()
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert 'teacher' in whole.kept
    assert {'graph', 'pseudo_depth'} == set(whole.module.owned)
    student, teacher = whole.depth.state_dict(), whole.kept['teacher'].state_dict()
    assert any(not torch.equal(student[name], teacher[name]) for name in student)
    saved = load_checkpoint(tmp_path / 'whole' / 'best.safetensors').tensors
    assert saved.keys() == student.keys(), 'teachers and projections stay out of the checkpoint'


def test_masks_of_teachers_do_not_change_the_score(data):
    """A teacher that says that all is noise would make every network look good."""
    held_out = tuple(replace(one, held_out=one.triplets[:2]) for one in data.sequences)
    data = replace(data, sequences=held_out)
    plain = VideoTask(recipe_of('baseline'), data)
    masked = VideoTask(recipe_of('baseline', 'objective.ema_teacher=0.1'), data)
    scores = [task.validate(plain.depth)['score'] for task in (plain, masked)]
    assert 0.0 < scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_the_score_without_a_photometric_term_is_what_is_learned(data):
    sequences = tuple(replace(one, held_out=one.triplets) for one in data.sequences)
    data = replace(data, sequences=sequences)
    changes = ('objective.photometric=off', 'objective.smoothness=off', 'objective.velocity=1.0')
    task = VideoTask(recipe_of('baseline', *changes), data)
    scores = task.validate(task.depth)
    assert scores['score'] == scores['loss'] > 0
    assert scores['loss'] != scores['photometric']
    source = VideoTask(recipe_of('baseline', *changes), data, model=task.depth)
    found = source.validate(task.depth)
    assert found['score'] == found['loss'] > 0
    assert 'photometric' not in found
    with_photometry = VideoTask(recipe_of('baseline', 'objective.velocity=1.0'), data)
    found = with_photometry.validate(with_photometry.depth)
    assert 'loss' not in found
    assert found['score'] == found['photometric']


def test_a_video_is_named_with_its_folder(data, tmp_path):
    origin = replace(data.sequences[0].origin, path=tmp_path / 'yard' / 'clip_00.mp4')
    video = replace(data.sequences[0], name='clip_00', origin=origin)
    named = replace(data, sequences=(video, data.sequences[1]))
    info = info_of(recipe_of('baseline', 'data.licence=CC0'), named)
    assert {'name': 'yard/clip_00', 'licence': 'CC0'} in info.data
    assert {'name': data.sequences[1].name, 'licence': 'CC0'} in info.data
