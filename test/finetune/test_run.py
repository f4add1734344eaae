"""Fine-tuning on a rendered drive, a few steps at a size that teaches nothing: what is left."""

from dataclasses import replace
import json

import cv2
import numpy as np
import pytest

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint, save_checkpoint
from psd_depth_ros.errors import CheckpointError, PsdDepthError, SettingsError
from psd_depth_ros.finetune.acceptance import AcceptanceSettings
from psd_depth_ros.finetune.folder import folder_state
from psd_depth_ros.finetune.report import duration, report_from, report_lines
from psd_depth_ros.finetune.run import EarlyStopping, finetune, make_recipe
from psd_depth_ros.finetune.settings import FinetuneSettings
from psd_depth_ros.networks import build_encoder
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.sharing import package
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.teachers import open_depth_teacher
from psd_depth_ros.training.logging import StepReport
from psd_depth_ros.training.loop import Outcome

OPEN = AcceptanceSettings(-1000.0, maximum_drift=100.0, maximum_stretch=100.0)
SHUT = AcceptanceSettings(minimum_gain=1.0)
SMALL = (
    'pixel_budget=6144', 'batch=2', 'validate_every=2', 'save_every=1', 'preview_every=0',
    'objective.patch=off', 'objective.mix=off', 'data.triplets.held_out=0.3',
    'data.triplets.minimum_parallax=0.1',
)  # fmt: skip


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp('finetune') / 'drive.mcap'
    write_world(World(3, WorldSettings(width=96, height=64, frame_rate_hz=10.0)), path, 20)
    return FinetuneSettings(bags=(str(path),), steps=2, device='cpu', changes=SMALL)


def test_weights_that_pass_the_gate_take_the_place_of_the_old(settings, tmp_path):
    seen = []
    run = replace(settings, output=str(tmp_path / 'run'), acceptance=OPEN)
    report = finetune(run, report=seen.append)
    assert report.accepted
    best = load_checkpoint(tmp_path / 'run' / 'best.safetensors')
    assert best.id == report.checkpoint != load_checkpoint().id
    assert best.info.output.metric, 'it still gives metres'
    stages = list(dict.fromkeys(status.state for status in seen))
    assert stages == ['preparing', 'training', 'judging']
    training, judging = (
        [one for one in seen if one.state == state] for state in ('training', 'judging')
    )
    assert (training[-1].step, training[-1].of) == (2, 2)
    held_out = report.data[0]['held_out']
    assert [(one.step, one.of) for one in (judging[0], judging[-1])] == [
        (0, 2 * held_out), (2 * held_out, 2 * held_out),
    ]  # fmt: skip
    written = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert written['accepted'] is True
    assert written['before']['scale_drift'] == written['before']['stretch'] == 0.0
    assert {check['name'] for check in written['checks']} == {'gain', 'drift', 'stretch'}
    (recording,) = written['data']
    assert recording['name'] == 'drive'
    assert recording['to_ns'] - recording['from_ns'] == 1_900_000_000
    left_out = sum(written['rejected']['drive'].values())
    assert recording['triplets'] + recording['held_out'] + left_out == recording['frames'] == 20
    assert report_from(written) == report
    text = '\n'.join(report_lines(report))
    assert 'data:      drive, 1.0 s .. 2.9 s: 20 frames' in text
    assert '2 of 2 steps' in text
    assert 'accepted: the new weights are better; held-out photometric error' in text
    assert folder_state(tmp_path / 'run') == 'finished'
    with pytest.raises(SettingsError, match='the run in it is over'):
        finetune(run, resume=True)


def test_a_teacher_s_maps_are_learned_from_and_named_in_the_provenance(settings, tmp_path):
    changes = (*(one for one in SMALL if not one.startswith('objective.')), 'frozen_maps=5')
    teacher = f'{default_checkpoint()}?name=elder&licence=CC0'
    run = replace(
        settings, output=str(tmp_path / 'run'), acceptance=OPEN, recipe='distil', teacher=teacher,
        changes=changes,
    )  # fmt: skip
    recipe = make_recipe(run)
    (term,) = (one.settings for one in recipe.objective if one.name == 'pseudo_depth')
    assert (term.teacher, term.alignment) == (teacher, 'scale')
    seen = []
    assert finetune(run, report=seen.append).accepted
    assert any(one.losses.get('pseudo_depth', 0.0) > 0 for one in seen)
    info = load_checkpoint(tmp_path / 'run' / 'best.safetensors').info
    assert {'name': 'elder', 'licence': 'CC0'} in info.data
    assert info.output.metric, 'the scale is that of the start'


def test_a_student_of_another_shape_is_made_anew_and_told(settings, tmp_path):
    """Its training is tested beside that of the others, in training/test_video_task.py."""
    arrays = {k: v.numpy() for k, v in build_encoder('resnet18').state_dict().items()}
    np.savez(tmp_path / 'net.npz', **arrays, name='ResNet on ImageNet', licence='BSD')
    changes = (*(one for one in SMALL if not one.startswith('objective.')), 'frozen_maps=5')
    for imagenet, told in (
        ('', 'random weights'),
        (str(tmp_path / 'net.npz'), 'the encoder of ResNet on ImageNet, the rest random'),
    ):
        seen = []
        run = replace(
            settings, output=str(tmp_path / f'run{bool(imagenet)}'), recipe='distil',
            student='base', imagenet=imagenet, teacher=str(default_checkpoint()), changes=changes,
        )  # fmt: skip
        report = finetune(run, report=seen.append, stop=lambda seen=seen: bool(seen[-1].of))
        note = f'the student base is made anew ({told}); it learns the scale of '
        assert note in '\n'.join(report_lines(report))
        assert note in seen[0].detail, 'before anything is computed'
        assert load_checkpoint(report.best).id == load_checkpoint().id


def test_what_a_student_cannot_have_is_told(settings, tmp_path):
    run = replace(settings, output=str(tmp_path / 'run'), imagenet='net.npz')
    with pytest.raises(SettingsError, match='imagenet starts a student that is made anew'):
        finetune(run)
    with pytest.raises(SettingsError, match=r'student is base, and changes say preset=lite'):
        finetune(replace(run, student='base', changes=('preset=lite',)))
    with pytest.raises(SettingsError, match=r"student.*'huge'.*lite"):
        finetune(replace(run, student='huge'))
    with pytest.raises(PsdDepthError, match=r'net\.npz'):
        finetune(replace(run, student='base'))
    assert not list(tmp_path.iterdir())


def test_weights_of_a_hub_are_a_start_and_networks_of_others_are_not(settings, tmp_path):
    package(default_checkpoint(), tmp_path / 'shared')
    run = replace(settings, output=str(tmp_path / 'run'), checkpoint=str(tmp_path / 'shared'))
    report = finetune(run, stop=lambda: True)
    assert report.start.endswith(load_checkpoint().id)
    teacher = open_depth_teacher(str(tmp_path / 'shared'))
    assert teacher.name == load_checkpoint().info.name, 'they can teach, too'
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'config.json').write_text('{"model_type": "dpt"}')
    for name in (str(other), 'net.onnx?metric=true'):
        message = r'a network of others.*let it teach: psd-depth distil .*teacher:='
        with pytest.raises(SettingsError, match=message):
            make_recipe(replace(run, checkpoint=name))
    with pytest.raises(CheckpointError, match='pickled'):
        finetune(replace(run, output=str(tmp_path / 'new'), checkpoint='net.pth'))
    assert not (tmp_path / 'new').exists()


def test_disparity_lacks_a_shift_and_a_recipe_without_teacher_says_so(tmp_path):
    (tmp_path / 'disparity').mkdir()
    cv2.imwrite(str(tmp_path / 'disparity' / '000000.png'), np.ones((4, 6), np.uint16))
    given = FinetuneSettings(
        bags=('a.mcap',), output='run', recipe='distil', teacher=str(tmp_path / 'disparity')
    )
    (term,) = (one.settings for one in make_recipe(given).objective if one.name == 'pseudo_depth')
    assert term.alignment == 'affine'
    with pytest.raises(SettingsError, match='there is no such folder'):
        make_recipe(replace(given, teacher=str(tmp_path / 'other')))


def test_weights_that_fail_the_gate_leave_the_old(settings, tmp_path):
    (tmp_path / 'run').mkdir()
    run = replace(settings, output=str(tmp_path / 'run'), acceptance=SHUT)
    report = finetune(run)
    assert report.state == 'kept'
    assert report.reason.startswith('held-out photometric error')
    written = (tmp_path / 'run' / 'best.safetensors').read_bytes()
    assert written == default_checkpoint().read_bytes()
    assert report.checkpoint == load_checkpoint().id


def test_a_run_that_was_stopped_goes_on(settings, tmp_path):
    run = replace(settings, output=str(tmp_path / 'run'), acceptance=OPEN)
    seen = []
    early = finetune(run, stop=lambda: True)
    assert (early.state, early.steps) == ('stopped', 0)
    (tmp_path / 'run' / '.settings.json.0123.part').touch()
    with pytest.raises(SettingsError, match='resume the run in it'):
        finetune(run)
    # The start is the one in the folder, whatever has become of the file it was.
    report = finetune(
        replace(run, checkpoint='gone.safetensors'),
        resume=True,
        report=seen.append,
        stop=lambda: seen[-1].state == 'training',
    )
    assert not (tmp_path / 'run' / '.settings.json.0123.part').exists()
    assert (report.state, report.steps) == ('stopped', 1)
    assert (tmp_path / 'run' / 'best.safetensors').read_bytes() == (
        default_checkpoint().read_bytes()
    )
    assert folder_state(tmp_path / 'run') == 'unfinished'
    seen.clear()
    best = tmp_path / 'run' / 'best.safetensors'
    best.write_bytes(best.read_bytes()[:-7])
    other = tmp_path / 'other.safetensors'
    save_checkpoint(other, load_checkpoint().info, load_checkpoint().tensors)
    with pytest.raises(CheckpointError, match=r'began with the weights .* as at the start'):
        finetune(replace(run, checkpoint=str(other)), resume=True)
    report = finetune(run, resume=True, report=seen.append)
    assert [status.step for status in seen if status.state == 'training'] == [2]
    assert (report.state, report.steps) == ('accepted', 2)
    assert 'the old one is best.safetensors.damaged' in report.notes[0]
    assert f'note:      {report.notes[0]}' in report_lines(report)


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'bags': ('gone.mcap',)}, r'gone\.mcap is not there'),
        ({'checkpoint': 'gone.safetensors'}, 'no such checkpoint file'),
        ({'changes': (*SMALL, 'preset=base')}, 'the recipe wants preset'),
        ({'device': 'cuda:77'}, 'cuda:77'),
        ({'changes': (*SMALL, 'data.triplets.held_out=0')}, 'nothing is held out'),
    ],
)
def test_a_run_that_cannot_begin_leaves_nothing(settings, tmp_path, changes, told):
    run = replace(settings, output=str(tmp_path / 'run'), **changes)
    with pytest.raises(PsdDepthError, match=told):
        finetune(run)
    assert not list(tmp_path.iterdir())


def test_what_else_is_in_a_folder_is_not_touched(settings, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    for resume in (False, True):
        with pytest.raises(SettingsError, match='it holds something else'):
            finetune(replace(settings, output=str(tmp_path)), resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


@pytest.mark.parametrize(
    ('changes', 'told'),
    [
        ({'bags': ()}, 'bags is empty; expected recordings to learn from'),
        ({'output': ''}, 'output is empty'),
        ({'steps': -1}, 'steps is -1'),
        ({'camera': 'a.yaml', 'horizontal_fov_deg': 60.0}, 'give one of them'),
        ({'recipe': 'starter'}, "is of kind 'worlds', expected video"),
        ({'recipe': 'fintune'}, "no recipe 'fintune'"),
        (
            {'changes': ('objective.geometri=1',)},
            "term 'geometri'; did you mean 'geometry'",
        ),
        ({'changes': ('batch=0',)}, 'batch is 0, expected 1 ..'),
    ],
)
def test_settings_are_looked_at_first(changes, told):
    given = {'bags': ('a.mcap',), 'output': 'run', **changes}
    with pytest.raises(SettingsError, match=told):
        make_recipe(FinetuneSettings(**given))


def test_settings_go_before_the_recipe():
    given = FinetuneSettings(
        bags=('a.mcap', 'b.mcap'), output='run', image_topic='/front', horizontal_fov_deg=60.0,
        minutes=2.5, strict=True, changes=('steps=7', 'data.triplets.held_out=0.2'),
    )  # fmt: skip
    recipe = make_recipe(given)
    assert recipe.data.paths == ('a.mcap', 'b.mcap')
    assert (recipe.data.image_topic, recipe.data.horizontal_fov_deg) == ('/front', 60.0)
    assert (recipe.steps, recipe.max_minutes, recipe.data.strict) == (7, 2.5, True)
    assert recipe.data.triplets.held_out == 0.2
    assert make_recipe(replace(given, steps=9)).steps == 9
    assert recipe.data.rectify_alpha == -1.0
    assert make_recipe(replace(given, rectify_alpha=0.0)).data.rectify_alpha == 0.0


def test_a_run_without_progress_ends_early(tmp_path):
    def progress(step, score=None):
        scores = None if score is None else {'score': score}
        return StepReport(step, 0.1, 1.0, 2.0, 0.0, 3.0, {}, {}, scores)

    early = EarlyStopping(FinetuneSettings(patience=2), 100, lambda: '', lambda status: None)
    for step, score in enumerate((0.5, None, 0.6, 0.4, 0.45, None, 0.4)):
        assert not early.is_over
        early.update(progress(step, score))
    assert early.is_over
    assert early.reason(Outcome(None, 6, 1.0, {}, True)) == 'nothing better in 2 validations'


def test_where_minutes_end_a_run_the_steps_that_fit_are_counted():
    seen = []
    early = EarlyStopping(FinetuneSettings(minutes=1.0), 3000, lambda: '', seen.append)
    early.update(StepReport(12, 0.5, 30.0, 2.0, 0.0, 30.0, {}, {}))
    assert (seen[0].step, seen[0].of, seen[0].seconds_left) == (12, 24, 30.0)
    early.update(StepReport(25, 1.0, 60.0, 2.0, 0.0, 0.0, {}, {}))
    assert (seen[1].step, seen[1].of, seen[1].seconds_left) == (25, 25, 0.0)


def test_durations_in_the_unit_a_person_would_choose():
    assert [duration(one) for one in (12.3, 150.0, 9000.0)] == ['12 s', '2.5 min', '2.5 h']
