import csv
import importlib.util
import json
import shutil

import pytest
import torch

import psd_depth_ros
from psd_depth_ros.checkpoint import load_checkpoint, pack, unpack
from psd_depth_ros.errors import CheckpointError, SettingsError, TrainingError
from psd_depth_ros.files import write_file
from psd_depth_ros.training.logging import TensorBoardLog
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.state import (
    KEY,
    parse_state,
    read_state,
    Snapshot,
    write_state,
)

FACTS = {'seconds': 1.5, 'rollbacks': 0, 'finished': False, 'best': {}, 'recent': [0.1]}


def snapshot(step):
    return Snapshot({'module.w': torch.full((3,), float(step))}, {**FACTS, 'step': step})


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / 'old').write_text('x')
    with pytest.raises(SettingsError, match='is not empty'):
        RunFolder(tmp_path).claim()
    with pytest.raises(SettingsError, match='is a file, expected a folder'):
        RunFolder(tmp_path / 'old').claim()


def test_a_resume_needs_something_to_go_on_from(tmp_path):
    with pytest.raises(SettingsError, match='has no run to resume'):
        RunFolder(tmp_path / 'nothing').claim(resume=True)
    assert not (tmp_path / 'nothing').exists()


def test_a_run_that_never_began_may_begin_again(toy, tmp_path):
    RunFolder(tmp_path).claim()
    (tmp_path / 'worlds').mkdir()
    folder = RunFolder(tmp_path)
    folder.claim()
    run_training(toy.ToyTask(), folder, device='cpu')
    with pytest.raises(SettingsError, match='is not empty'):
        RunFolder(tmp_path).claim()
    RunFolder(tmp_path).claim(resume=True)


def test_everything_that_repeats_and_tells_the_run_is_there(toy, tmp_path):
    task = toy.ToyTask()
    task.start_id = 'abc'
    run_training(task, RunFolder(tmp_path), device='cpu')
    values = json.loads((tmp_path / 'run.json').read_text())
    assert values['recipe']['steps'] == 12
    assert values['recipe']['seed'] == 1
    assert values['data'] == task.data_description()
    assert values['start'] == 'abc'
    assert values['psd_depth_ros'] == psd_depth_ros.__version__
    assert {'commit', 'torch', 'device', 'processes'} <= values.keys()
    previews = sorted(path.name for path in (tmp_path / 'previews').iterdir())
    assert previews == ['000006_grey.jpg', '000012_grey.jpg']
    states = sorted(path.name for path in (tmp_path / 'state').iterdir())
    assert states == ['step_00000009.safetensors', 'step_00000012.safetensors']


def test_a_resumed_run_notes_where_it_went_on(toy, tmp_path):
    run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu')
    run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu', resume=True)
    values = json.loads((tmp_path / 'run.json').read_text())
    assert [one['step'] for one in values['resumed']] == [12]


@pytest.mark.skipif(not importlib.util.find_spec('tensorboard'), reason='no tensorboard extra')
def test_curves_and_pictures_are_in_the_event_files(toy, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stops = iter([False] * 5 + [True])
    run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu', stop=lambda: next(stops))
    run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu', resume=True)
    events = EventAccumulator(str(tmp_path / 'tensorboard')).Reload()
    assert [event.step for event in events.Scalars('loss/first')] == list(range(1, 13))
    assert [event.step for event in events.Scalars('score/score')] == [4, 8, 12]
    assert 'grey' in events.Tags()['images']


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    board = TensorBoardLog(tmp_path / 'tensorboard', enabled=True)
    board.truncate(0)
    board.add([])
    board.close()
    assert not (tmp_path / 'tensorboard').exists()


def test_the_last_two_states_are_kept_and_come_back_exactly(tmp_path):
    for step in (1, 2, 3):
        write_state(tmp_path, snapshot(step), {'recipe': {'rate': 0.1}})
    assert len(list(tmp_path.iterdir())) == 2
    content, notes = read_state(tmp_path, {'recipe': {'rate': 0.1}})
    read = parse_state(content)
    assert not notes
    assert torch.equal(read.tensors['module.w'], torch.full((3,), 3.0))
    assert read.facts == {**FACTS, 'step': 3}


@pytest.mark.parametrize('size', [0, 4, 60, -5])
def test_a_truncated_state_gives_way_to_the_one_before(tmp_path, size):
    write_state(tmp_path, snapshot(1), {})
    newest = write_state(tmp_path, snapshot(2), {})
    newest.write_bytes(newest.read_bytes()[:size])
    (tmp_path / '.step_00000003.safetensors.123.part').write_bytes(b'half')
    content, notes = read_state(tmp_path, {})
    assert parse_state(content).facts['step'] == 1
    assert 'step_00000002.safetensors: is not a whole' in notes[0]
    assert 'went on from step_00000001.safetensors' in notes[0]
    assert not list(tmp_path.glob('.*'))


def test_a_run_whose_states_are_all_damaged_says_so(tmp_path):
    write_state(tmp_path / 'state', snapshot(1), {}).write_bytes(b'x')
    with pytest.raises(CheckpointError, match=r'no state of the run can be read \(step_00000001'):
        read_state(tmp_path / 'state', {})


@pytest.mark.parametrize(
    'facts',
    [
        {'step': -1}, {'step': 1.5}, {'step': True}, {'best': {'score': 'x'}}, {'best': 3},
        {'recent': [float('nan')]}, {'seconds': float('inf')}, {'finished': 0},
        {'recipe': 1}, {'__class__': 'x'},
    ],
)  # fmt: skip
def test_facts_that_no_run_has_are_not_set(tmp_path, facts):
    wrong = Snapshot(snapshot(1).tensors, {**FACTS, 'step': 1, **facts})
    path = write_state(tmp_path, snapshot(1), {})
    path.write_bytes(
        pack(wrong.tensors, {KEY: json.dumps({'facts': wrong.facts, 'identity': {}})})
    )
    with pytest.raises(CheckpointError, match=f'facts that no run has: {next(iter(facts))} is'):
        read_state(tmp_path, {})


def test_a_state_of_another_network_is_refused(toy, tmp_path):
    run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu')
    newest = max((tmp_path / 'state').iterdir())
    tensors, metadata = unpack(newest.read_bytes())
    for changed in (
        {name: value for name, value in tensors.items() if 'later' not in name},
        {**tensors, 'optimiser.99.step': torch.zeros(())},
        {**tensors, 'optimiser.x': torch.zeros(())},
    ):
        newest.write_bytes(pack(changed, {KEY: metadata[KEY]}))
        with pytest.raises(CheckpointError, match='is not of this network'):
            run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu', resume=True)


@pytest.fixture(scope='module')
def trained(toy, tmp_path_factory):
    path = tmp_path_factory.mktemp('trained') / 'whole'
    run_training(toy.ToyTask(), RunFolder(path), device='cpu')
    return path


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of a finished run, to be damaged."""
    return shutil.copytree(trained, tmp_path / 'whole')


def resume(toy, path):
    return run_training(toy.ToyTask(), RunFolder(path), device='cpu', resume=True)


@pytest.mark.parametrize('content', [None, b'', b'cut', 'flipped'])
def test_weights_that_are_gone_are_made_anew_from_the_state(toy, finished, content):
    best = finished / 'best.safetensors'
    if content is None:
        best.unlink()
    else:
        flipped = best.read_bytes()[:-1] + bytes([best.read_bytes()[-1] ^ 1])
        best.write_bytes(flipped if content == 'flipped' else content)
    outcome = resume(toy, finished)
    after = load_checkpoint(outcome.path)
    assert after.info.training['steps'] == 12
    average = parse_state(max((finished / 'state').iterdir()).read_bytes()).tensors
    assert torch.equal(after.tensors['0.weight'], average['average.0.weight'].half().float())
    assert 'the averaged network of step 12 took its place' in outcome.notes[0]
    assert not resume(toy, finished).notes


def test_weights_that_vanish_at_the_end_are_missed(toy, tmp_path):
    def report(progress):
        if progress.step == 12:
            (tmp_path / 'best.safetensors').unlink()

    with pytest.raises(TrainingError, match=r'its weights are not there: .* Resume the run'):
        run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu', report=report)
    assert resume(toy, tmp_path).path.is_file()


@pytest.mark.parametrize('content', [b'', b'[1]', b'{"resumed": 3}', b'\xff', b'[' * 5000])
def test_a_damaged_run_json_is_written_anew_and_kept(toy, finished, content):
    (finished / 'run.json').write_bytes(content)
    (note,) = resume(toy, finished).notes
    assert 'run.json' in note
    assert 'the old one is run.json.damaged' in note
    assert (finished / 'run.json.damaged').read_bytes() == content
    values = json.loads((finished / 'run.json').read_text())
    assert values['recipe']['steps'] == 12
    assert [one['step'] for one in values['resumed']] == [12]


@pytest.mark.parametrize(
    ('old', 'new', 'left'),
    [
        (b'\r\n5,', b'\r\nX,', [*range(1, 5), *range(6, 13)]),
        (b'\r\n5,', b'\r\n3,', [*range(1, 5), *range(6, 13)]),
        (b'step', b'\xff\xff\xff\xff', []),
        (b'\r\n5,', b'\r\n\0,', None),
    ],
)
def test_a_damaged_log_goes_on_with_what_can_be_read(toy, finished, old, new, left):
    log = finished / 'log.csv'
    damaged = log.read_bytes().replace(old, new, 1)
    log.write_bytes(damaged)
    (note,) = resume(toy, finished).notes
    assert 'log.csv was damaged' in note
    assert (finished / 'log.csv.damaged').read_bytes() == damaged
    if left is not None:
        with open(log, newline='') as file:
            assert [int(row['step']) for row in csv.DictReader(file)] == left
    assert not resume(toy, finished).notes


def test_a_folder_is_trained_into_by_one_process(toy, tmp_path):
    def again(progress):
        for resume in (False, True):
            with pytest.raises(SettingsError, match='another process is at work in this folder'):
                run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu', resume=resume)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_training(toy.ToyTask(), RunFolder(tmp_path), device='cpu', report=again)
    assert resume(toy, tmp_path).path.is_file()


def test_what_a_kill_left_half_written_blocks_no_start(toy, tmp_path):
    (tmp_path / '.run.json.0123.part').write_bytes(b'{')
    RunFolder(tmp_path).claim()
    assert [path.name for path in tmp_path.iterdir()] == ['run.json']


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_file(path, b'old')
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'full')))
    with pytest.raises(Exception, match=r'file cannot be written \(full\): 3 bytes are needed'):
        write_file(path, b'new')
    assert [one.name for one in tmp_path.iterdir()] == ['file']
    assert path.read_bytes() == b'old'
