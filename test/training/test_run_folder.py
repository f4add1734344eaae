import importlib.util
import json

import pytest
import torch

import psd_depth_ros
from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.training.checkpoints import parse_state, read_state, write_state
from psd_depth_ros.training.files import write_whole
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.run_log import Board
from psd_depth_ros.training.state import Snapshot
from psd_depth_ros.training.trainer import run_training


def snapshot(step):
    return Snapshot({'module.w': torch.full((3,), float(step))}, {'step': step, 'recent': [0.1]})


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / 'old').write_text('x')
    with pytest.raises(SettingsError, match='is not empty'):
        RunFolder(tmp_path).claim()
    with pytest.raises(SettingsError, match='is not empty'):
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
    board = Board(tmp_path / 'tensorboard', enabled=True)
    board.cut(0)
    board.add([])
    board.close()
    assert not (tmp_path / 'tensorboard').exists()


def test_the_last_two_states_are_kept_and_come_back_exactly(tmp_path):
    for step in (1, 2, 3):
        write_state(tmp_path, snapshot(step), {'recipe': {'rate': 0.1}})
    assert len(list(tmp_path.iterdir())) == 2
    read = parse_state(read_state(tmp_path, {'recipe': {'rate': 0.1}}))
    assert torch.equal(read.tensors['module.w'], torch.full((3,), 3.0))
    assert read.facts == {'step': 3, 'recent': [0.1]}


@pytest.mark.parametrize('size', [0, 4, 60, -5])
def test_a_truncated_state_gives_way_to_the_one_before(tmp_path, size):
    write_state(tmp_path, snapshot(1), {})
    newest = write_state(tmp_path, snapshot(2), {})
    newest.write_bytes(newest.read_bytes()[:size])
    (tmp_path / '.step_00000003.safetensors.123.part').write_bytes(b'half')
    assert parse_state(read_state(tmp_path, {})).facts['step'] == 1
    assert not list(tmp_path.glob('.*'))


def test_a_run_whose_states_are_all_damaged_says_so(tmp_path):
    write_state(tmp_path / 'state', snapshot(1), {}).write_bytes(b'x')
    with pytest.raises(CheckpointError, match=r'no state of the run can be read \(step_00000001'):
        read_state(tmp_path / 'state', {})


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    write_whole(path, b'old')
    monkeypatch.setattr('os.replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'full')))
    with pytest.raises(Exception, match=r'file cannot be written \(full\): 3 bytes are needed'):
        write_whole(path, b'new')
    assert [one.name for one in tmp_path.iterdir()] == ['file']
    assert path.read_bytes() == b'old'
