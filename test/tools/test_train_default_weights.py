"""The stages that make the default weights: folders before paths, confidence of sources."""

from dataclasses import replace
from pathlib import Path
import re

import pytest
import torch

from psd_depth_ros.checkpoint import load_checkpoint, save_checkpoint
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.state import Snapshot, write_state
from tools.train_default_weights import (
    calibrate,
    CALIBRATION,
    main,
    train_arguments,
    write_last,
)

ROOM = 'synth:room:900000-900001?frames=1&size=96x64&focal_px=60'
STREET = 'synth:street:900000-900002?frames=1&size=96x64&focal_px=60'


def test_folders_are_put_before_recordings_and_teachers():
    arguments = train_arguments('lite_research', Path('/d'), Path('/t'))
    recipe = change_recipe(read_recipe(find_recipe('lite_research')), arguments[1::2], '--set')
    sources = {source.name: source.recipe for source in recipe.sources}
    assert set(sources['kitchen'].data.paths) == {'/d/rgbd_kitchen#0:240'}
    teachers = [
        term.settings.teacher for term in sources['rooms'].objective if term.name == 'pseudo_depth'
    ]
    parts = teachers[0].split(' + ')
    *others, own = (part.partition('?')[0] for part in parts)
    assert len(others) == 2
    assert all(part.startswith('/t/') for part in others)
    assert own == 'weights/lite.safetensors', 'a file of the repository stays one'
    assert train_arguments('starter', None, None) == []


def test_a_folder_that_is_needed_is_asked_for(capsys):
    with pytest.raises(SettingsError, match=r'learns from meter_kitti.* say with --teachers'):
        train_arguments('lite_research', Path('/d'), None)
    assert main(['train', 'lite_research', '--output', 'run']) == 1
    assert 'say with --data where it is' in capsys.readouterr().err


def write_run(folder, losses, weight):
    (folder / 'state').mkdir(parents=True)
    rows = [f'{step},{3.5 * step},{loss}' for step, loss in losses.items()]
    (folder / 'log.csv').write_text('\n'.join(['step,seconds,loss', *rows]) + '\n')
    facts = {'seconds': 1.5, 'rollbacks': 0, 'finished': False, 'best': {}, 'recent': [0.1]}
    facts['step'] = len(losses)
    write_state(folder / 'state', Snapshot({'w': torch.tensor([weight])}, facts), {})
    return folder


@pytest.mark.parametrize(
    ('losses', 'weight', 'code', 'told'),
    [
        (
            {1: '0.5', 2: '0.25'},
            1.0,
            0,
            '2 steps with losses, 1 tensors .*equal bit for bit',
        ),
        ({1: '0.5', 2: '0.2500001'}, 1.0, 1, '1 losses differ, first at step 2; 0 tensors'),
        ({1: '0.5', 2: '0.25'}, 1.0 + 2**-23, 1, '0 losses differ; 1 tensors, such as w'),
        ({1: '0.5'}, 1.0, 1, 'the runs are of 2 and 1 steps'),
    ],
)
def test_two_runs_are_compared_bit_for_bit(tmp_path, capsys, losses, weight, code, told):
    first = write_run(tmp_path / 'first', {1: '0.5', 2: '0.25'}, 1.0)
    second = write_run(tmp_path / 'second', losses, weight)
    assert main(['compare', str(first), str(second)]) == code
    assert re.search(told, capsys.readouterr().out)


def test_the_last_network_of_a_run_is_its_average_then(tmp_path):
    start, run, output = (
        load_checkpoint('default'),
        tmp_path / 'run',
        tmp_path / 'last.safetensors',
    )
    training = {'steps': 200, 'images': 2400, 'minutes': 2.0, 'validation': {'score': 0.1}}
    average = {name: tensor + 1 for name, tensor in start.tensors.items()}
    write_run(run, {1: '0.5'}, 1.0)
    facts = {'seconds': 300.0, 'rollbacks': 0, 'finished': True, 'best': {}, 'recent': [0.1]}
    tensors = {f'average.{name}': one for name, one in average.items()}
    tensors |= {f'module.depth.{name}': one for name, one in start.tensors.items()}
    write_state(run / 'state', Snapshot(tensors, {**facts, 'step': 500}), {})
    save_checkpoint(
        run / 'best.safetensors', replace(start.info, training=training), start.tensors
    )
    assert 'step 500 (best.safetensors is of step 200)' in write_last(run, output)
    made = load_checkpoint(output)
    assert made.info.training == {'steps': 500, 'images': 6000, 'minutes': 5.0, 'validation': {}}
    assert made.tensors.keys() == start.tensors.keys()
    assert all(torch.equal(made.tensors[name], one) for name, one in average.items())
    assert made.info.output == start.info.output


def test_the_mean_of_networks_says_what_it_is_of(tmp_path, capsys):
    start, other, output = (
        load_checkpoint('default'),
        tmp_path / 'b',
        tmp_path / 'mean.safetensors',
    )
    source = {'name': 'another street', 'licence': 'MIT'}
    doubled = {name: 2 * tensor for name, tensor in start.tensors.items()}
    save_checkpoint(other, replace(start.info, data=(source,)), doubled)
    assert main(['average', 'default=0.75', f'{other}=0.25', '--output', str(output)]) == 0
    made = load_checkpoint(output)
    name = 'head.key.weight'
    torch.testing.assert_close(made.tensors[name], 1.25 * start.tensors[name])
    assert made.info.data == (*start.info.data, source)
    assert [one['weight'] for one in made.info.training['averaged']] == [0.75, 0.25]
    assert made.info.training['averaged'][0]['id'] == start.id
    for parts in (['default=0.75', f'{other}=0.5'], ['default=1'], ['default=x', f'{other}=0.5']):
        assert main(['average', *parts, '--output', str(output)]) == 1
    told = capsys.readouterr().err
    assert 'expected two or more above 0 that add up to 1' in told
    assert 'default=x is no FILE=WEIGHT' in told


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert main(['compare', str(tmp_path), str(tmp_path)]) == 1
    assert 'holds no log.csv with a state' in capsys.readouterr().err


def test_what_calibrates_was_not_learned_and_is_not_measured():
    for stage, paths in CALIBRATION.items():
        recipe = read_recipe(find_recipe(stage))
        worlds = next(source.recipe.worlds for source in recipe.sources if source.name == 'worlds')
        last = worlds.first_seed + worlds.frames // worlds.frames_per_world
        seeds = [path.split(':')[2].split('?')[0] for path in paths if path.startswith('synth')]
        assert all(last < int(seed.split('-')[0]) < 1_000_000 for seed in seeds)


def test_calibration_changes_the_confidence_alone(tmp_path):
    start = load_checkpoint('default')
    output = tmp_path / 'new.safetensors'
    lines = list(calibrate(Path(start.path), [ROOM, STREET], output, 'new'))
    assert '2 images, AURG' in lines[0]
    assert '3 images, AURG' in lines[1]
    made = load_checkpoint(output)
    assert made.info.name == 'new'
    gain, floor = made.info.output.sigma_gain, made.info.output.sigma_floor
    assert f'gain {gain:g}, floor {floor:g}' in lines[2]
    assert made.info.data == start.info.data
    assert set(made.tensors) == set(start.tensors)
    assert output.stat().st_size < 9_000_000


def test_the_nominal_input_is_one_that_training_covered(tmp_path):
    start = load_checkpoint('default')
    trained = replace(start.info.input, smallest_pixels=20_000, largest_pixels=110_000)
    path, output = tmp_path / 'start.safetensors', tmp_path / 'new.safetensors'
    save_checkpoint(path, replace(start.info, input=trained), start.tensors)
    list(calibrate(path, [ROOM], output, 'new', 26_624))
    made = load_checkpoint(output).info.input
    assert (made.height, made.width) == (96, 256)
    assert made.trained_pixels == (20_000, 110_000)
    with pytest.raises(SettingsError, match='is 300000, and the checkpoint learned'):
        list(calibrate(path, [ROOM], output, 'new', 300_000))
