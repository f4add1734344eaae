import csv
from dataclasses import replace
import errno
import math
import os
import re

import pytest
import torch

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.errors import DeviceError, SettingsError, TrainingError
from psd_depth_ros.training.logging import RunClock
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import find_recipe, read_recipe, WorldsRecipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.state import average_decay, rate_factor, update_average


def train(task, path, **options):
    seen = []
    options = {'device': 'cpu', 'report': seen.append, **options}
    return run_training(task, RunFolder(path), **options), seen


def stop_after(steps):
    """Says stop once it has been asked for so many steps."""
    asked = iter(range(steps))
    return lambda: next(asked, None) is None


def rows(path):
    with open(path / 'log.csv', newline='') as file:
        return list(csv.DictReader(file))


def numbers(path):
    """What must not differ between runs: everything in the log but times."""
    timed = ('seconds', 'images_per_second', 'data_wait_fraction')
    return [{k: v for k, v in row.items() if k not in timed} for row in rows(path)]


def same_weights(one, two):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    )


def test_a_run_keeps_the_best_average_and_tells_every_step(toy, tmp_path):
    task = toy.ToyTask()
    outcome, seen = train(task, tmp_path)
    assert [progress.step for progress in seen] == list(range(1, 13))
    assert seen[-1].loss < seen[0].loss
    assert [progress.step for progress in seen if progress.scores] == [4, 8, 12]
    best = min((p.scores['score'], p.step) for p in seen if p.scores)
    assert outcome.scores['score'] == best[0]
    kept = load_checkpoint(outcome.path)
    assert kept.info.training['steps'] == best[1]
    assert kept.info.training['minutes'] >= 0.0
    assert kept.info.training['device'] == 'cpu'
    assert not outcome.stopped
    assert outcome.step == 12
    assert seen[-1].seconds_left == 0.0
    assert 0.0 <= seen[-1].data_wait_fraction <= 1.0
    assert not task.teacher.training
    assert not same_weights(task.teacher, task.depth)


def test_where_nothing_is_held_out_the_newest_is_kept(toy, tmp_path):
    task = toy.ToyTask()
    task.validate = lambda depth: {'score': math.nan, 'other': 1.0}
    outcome, _ = train(task, tmp_path)
    assert load_checkpoint(outcome.path).info.training['steps'] == 12
    assert outcome.scores == {'other': 1.0}


def test_terms_that_begin_later_get_a_column_of_their_own(toy, tmp_path):
    _, seen = train(toy.ToyTask(), tmp_path)
    table = rows(tmp_path)
    assert table[0]['loss.second'] == ''
    assert float(table[-1]['loss.second']) == seen[-1].losses['second']
    assert float(table[3]['score.score']) == pytest.approx(seen[3].scores['score'], rel=1e-5)


def test_a_resumed_run_gives_the_numbers_of_one_that_never_stopped(toy, tmp_path):
    whole, halves = tmp_path / 'whole', tmp_path / 'halves'
    reference = toy.ToyTask(noise=0.1)
    train(reference, whole)
    first, seen = train(toy.ToyTask(noise=0.1), halves, stop=stop_after(5))
    assert first.stopped
    assert (first.step, len(seen)) == (5, 5)
    resumed = toy.ToyTask(noise=0.1)
    torch.rand(7)  # whatever was drawn elsewhere does not matter
    _, seen = train(resumed, halves, resume=True)
    assert [progress.step for progress in seen] == list(range(6, 13))
    assert numbers(halves) == numbers(whole)
    assert same_weights(resumed.module, reference.module)
    assert same_weights(resumed.teacher, reference.teacher)
    best = [(path / 'best.safetensors').read_bytes() for path in (whole, halves)]
    assert best[0] == best[1]


def test_rows_beyond_the_last_state_are_not_written_twice(toy, tmp_path):
    train(toy.ToyTask(), tmp_path, stop=stop_after(6))
    log = tmp_path / 'log.csv'
    log.write_text(log.read_text() + '7,0.5\r\n8,0.6\r\n9,0.')
    train(toy.ToyTask(), tmp_path, resume=True)
    assert [row['step'] for row in rows(tmp_path)] == [str(step) for step in range(1, 13)]


def test_a_finished_run_resumed_is_finished(toy, tmp_path):
    former, _ = train(toy.ToyTask(), tmp_path)
    outcome, seen = train(toy.ToyTask(), tmp_path, resume=True)
    assert not seen
    assert (outcome.path, outcome.scores) == (former.path, former.scores)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'recipe': {'rate': 0.5}}, r'recipe\.rate was 0\.01, is 0\.5'),
        ({'data': 'toy 2'}, r'data\.recordings\.0\.name was toy 1, is toy 2'),
    ],
)
def test_a_resume_of_another_run_is_refused(toy, tmp_path, changes, message):
    train(toy.ToyTask(), tmp_path, stop=stop_after(4))
    recipe = replace(toy.RECIPE, **changes.pop('recipe', {}))
    with pytest.raises(SettingsError, match=message):
        train(toy.ToyTask(recipe, **changes), tmp_path, resume=True)
    train(toy.ToyTask(replace(toy.RECIPE, save_every=5)), tmp_path, resume=True)


@pytest.mark.parametrize('factor', [math.nan, 1e3])
def test_a_diverging_run_goes_back_with_the_rates_halved(toy, tmp_path, factor):
    recipe = replace(toy.RECIPE, steps=40, warmup=0.0, save_every=10)
    _, seen = train(toy.ToyTask(recipe, explode={25: factor}, times=1), tmp_path)
    assert [progress.step for progress in seen] == [*range(1, 25), *range(21, 41)]
    assert (seen[23].rate, seen[24].rate) == (pytest.approx(0.01), pytest.approx(0.005))
    assert seen[-1].rollbacks == 1
    assert [row['step'] for row in rows(tmp_path)] == [str(step) for step in range(1, 41)]


def test_a_run_that_diverges_again_and_again_ends_and_says_what_to_lower(toy, tmp_path):
    task = toy.ToyTask(explode={5: math.inf})
    with pytest.raises(TrainingError, match=r'first is no finite .* step 5.*lower rate \(is 0'):
        train(task, tmp_path)
    assert task.times == 99 - 4
    outcome, _ = train(toy.ToyTask(), tmp_path, resume=True)
    assert outcome.step == 12


def test_a_gradient_that_is_no_number_is_noticed(toy, tmp_path):
    task = toy.ToyTask()
    calls = []

    def losses(module, batch, progress):
        calls.append(progress)
        terms = module(batch, progress)
        if len(calls) == 7:
            terms['first'] = terms['first'] + (terms['first'] * 0.0).sqrt()  # 0, slope infinite
        return terms

    task.losses = losses
    _, seen = train(task, tmp_path)
    assert seen[-1].rollbacks == 1
    assert len(calls) == 12 + 1


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory'),
        torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'),
        MemoryError(),
    ],
)
@pytest.mark.parametrize('place', ['losses', 'batch'])
def test_full_memory_says_which_setting_to_lower(toy, tmp_path, error, place):
    task = toy.ToyTask()

    def fail(*_):
        raise error

    setattr(task, place, fail)
    with pytest.raises(TrainingError, match=r'of cpu is full: lower batch \(is 4\), pixel_budget'):
        train(task, tmp_path)


@pytest.mark.parametrize(('recipe', 'named'), [('psd', True), ('starter', False)])
def test_full_memory_names_the_patches_where_there_are_any(toy, tmp_path, recipe, named):
    task = toy.ToyTask(replace(read_recipe(find_recipe(recipe)), batch=4, precision='fp32'))
    task.losses = lambda *_: (_ for _ in ()).throw(MemoryError())
    with pytest.raises(TrainingError) as caught:
        train(task, tmp_path)
    assert ('objective.patch.width (is 0.6)' in str(caught.value)) == named


def test_other_mistakes_are_not_taken_for_full_memory(toy, tmp_path):
    task = toy.ToyTask()
    task.losses = lambda *_: (_ for _ in ()).throw(RuntimeError('shapes differ'))
    with pytest.raises(RuntimeError, match='shapes differ'):
        train(task, tmp_path)


def test_a_full_disk_loses_nothing(toy, tmp_path, monkeypatch):
    whole, broken = tmp_path / 'whole', tmp_path / 'broken'
    train(toy.ToyTask(), whole)

    def full_at_six(file):
        if 'step_00000006' in os.readlink(f'/proc/self/fd/{file}'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full_at_six)
        with pytest.raises(TrainingError, match='No space left on device') as caught:
            train(toy.ToyTask(), broken)
    assert str(caught.value).startswith(f'{broken / "state"}: step_00000006.safetensors cannot')
    size = (whole / 'state' / 'step_00000012.safetensors').stat().st_size
    needed = int(re.search(r'(\d+) bytes are needed', str(caught.value)).group(1))
    assert abs(needed - size) < 1000
    kept = sorted(path.name for path in (broken / 'state').iterdir())
    assert kept == ['step_00000000.safetensors', 'step_00000003.safetensors']
    train(toy.ToyTask(), broken, resume=True)
    assert numbers(broken) == numbers(whole)


def test_minutes_end_a_run(toy, tmp_path):
    recipe = replace(toy.RECIPE, steps=1_000_000, max_minutes=0.01, validate_every=10**6)
    outcome, seen = train(toy.ToyTask(recipe), tmp_path)
    assert 1 < outcome.step < 1_000_000
    assert seen[-1].progress == 1.0
    assert outcome.path is not None


def test_a_batch_that_cannot_be_shared_and_a_device_that_is_not_there(toy, tmp_path):
    from psd_depth_ros.training.distributed import Distributed

    distributed = Distributed('cpu')
    distributed.world_size = 3
    with pytest.raises(SettingsError, match='choose a multiple of 3'):
        distributed.check_batch(8)
    with pytest.raises(DeviceError, match='cuda:99'):
        train(toy.ToyTask(), tmp_path, device='cuda:99')


def test_the_rate_rises_then_falls():
    recipe = WorldsRecipe(warmup=0.1, schedule='cosine')
    factors = [rate_factor(recipe, progress / 100) for progress in range(101)]
    assert factors.index(max(factors)) == 10
    assert factors[0] < 0.01
    assert factors[55] == pytest.approx(0.5 * (1.0 + 0.01))
    assert factors[-1] == pytest.approx(0.01)
    stepped = replace(recipe, schedule='step')
    assert [rate_factor(stepped, progress) for progress in (0.05, 0.5, 0.75, 1.0)] == [
        pytest.approx(0.501), 1.0, 0.1, 0.1,
    ]  # fmt: skip
    constant = replace(recipe, schedule='constant')
    assert [rate_factor(constant, progress) for progress in (0.05, 0.1, 0.5, 1.0)] == [
        pytest.approx(0.501), 1.0, 1.0, 1.0,
    ]  # fmt: skip


def test_the_clock_takes_what_is_farther():
    recipe = WorldsRecipe(steps=100, max_minutes=1.0)
    assert RunClock(recipe).progress(50) == 0.5
    assert RunClock(recipe, before_s=45.0).progress(50) == pytest.approx(0.75, abs=0.01)
    assert RunClock(recipe, before_s=45.0).seconds_left(50, 1.0) == pytest.approx(15.0, abs=0.5)
    assert RunClock(recipe).seconds_left(90, 1.0) == 10.0


def test_a_young_average_moves_fast():
    average, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(average.weight)
    torch.nn.init.ones_(model.weight)
    recipe = WorldsRecipe(average=0.99)
    update_average(average, model, average_decay(recipe, 1))
    assert average.weight.item() == pytest.approx(1.0 - 2.0 / 11.0)
    assert average_decay(recipe, 100_000) == 0.99
    update_average(average, model, average_decay(WorldsRecipe(average=0.5), 1000))
    assert average.weight.item() == pytest.approx(1.0 - 1.0 / 11.0)


def test_an_average_that_forgets_nothing_is_the_mean_of_all_steps():
    average, model = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(average.weight)  # how it starts counts twice
    recipe = WorldsRecipe(average=1.0, average_power=0.0)
    for step, value in enumerate([5.0, 1.0, 7.0, 2.0], start=1):
        torch.nn.init.constant_(model.weight, value)
        update_average(average, model, average_decay(recipe, step))
    assert average.weight.item() == pytest.approx((0.0 + 0.0 + 5.0 + 1.0 + 7.0 + 2.0) / 6.0)
