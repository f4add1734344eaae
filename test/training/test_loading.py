import threading

import pytest
import torch

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.training.loading import BatchLoader


class NumberedBatch(int):
    def to(self, device):
        return self


def make_loader(toy, make, steps=9):
    task = toy.ToyTask(toy.replace_recipe(steps=steps))
    task.batch = lambda step, rank, processes: make(step)
    return BatchLoader(task, 0, 1, torch.device('cpu'))


def test_steps_come_in_order_and_errors_when_it_is_their_turn(toy):
    def make(step):
        if step == 6:
            raise SettingsError('six')
        return NumberedBatch(step)

    with make_loader(toy, make) as loader:
        assert [loader.take(step)[0] for step in (3, 4, 5)] == [3, 4, 5]
        with pytest.raises(SettingsError, match='six'):
            loader.take(6)
        assert [loader.take(step)[0] for step in (7, 8, 9)] == [7, 8, 9]  # a step out of order
        assert loader.take(2)[0] == 2


def test_batches_are_made_ahead_but_none_beyond_the_last_step(toy):
    made, is_last = [], threading.Event()

    def make(step):
        made.append(step)
        if step == 4:
            is_last.set()
        return NumberedBatch(step)

    with make_loader(toy, make, steps=4) as loader:
        loader.take(1)
        assert is_last.wait(10.0)
    assert sorted(made) == [1, 2, 3, 4]
