import threading
from typing import Any

import pytest

from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.ros.engine_slot import EngineSlot


class Engine:
    device, backend, checkpoint = 'cpu', 'none', None

    def __init__(self, name: str) -> None:
        self.name = name
        self.warmed: list[Any] = []
        self.warm = threading.Event()
        self.closed = False

    def warm_up(self, sizes: Any) -> None:
        if self.name == 'cold':
            raise CheckpointError('cold: cannot run')
        self.warmed.append(list(sizes))
        self.warm.set()

    def infer_batch(self, requests: Any, **_: Any) -> list[Any]:
        return []

    def close(self) -> None:
        self.closed = True


class Factory:
    def __init__(self) -> None:
        self.made: list[Engine] = []

    def load(self, path: str, device: str, backend: str) -> Engine:
        self.made.append(Engine(path))
        return self.made[-1]

    def check(self, path: str) -> None:
        pass


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def slot(factory: Factory) -> EngineSlot:
    made = EngineSlot(factory, 'cpu', 'auto')
    made.load('first', [(64, 48)])
    return made


def replace(slot: EngineSlot, path: str, judge: Any = lambda _engine: None) -> str:
    outcomes: list[str] = []
    done = threading.Event()
    slot.replace(path, [(64, 48)], judge, lambda reason: (outcomes.append(reason), done.set()))
    assert done.wait(10.0)
    return outcomes[0]


def test_a_swap_waits_for_the_batch_at_work(slot: EngineSlot, factory: Factory) -> None:
    swapped = threading.Event()
    with slot.hold() as engine:
        slot.replace('second', [], lambda _engine: None, lambda _reason: swapped.set())
        assert not swapped.wait(0.1)
        assert slot.engine is engine
        assert not factory.made[0].closed
    assert swapped.wait(10.0)
    assert slot.engine is factory.made[1]
    assert factory.made[0].closed


def test_what_fails_leaves_the_old_engine(slot: EngineSlot, factory: Factory) -> None:
    def refuse(_engine: Any) -> None:
        raise CheckpointError('not metric')

    assert replace(slot, 'cold') == 'cold: cannot run'
    assert replace(slot, 'second', refuse) == 'not metric'
    assert slot.engine is factory.made[0]
    assert [one.closed for one in factory.made] == [False, True, True]


def test_it_gets_ready_for_a_new_size_once(slot: EngineSlot, factory: Factory) -> None:
    engine = factory.made[0]
    slot.expect([(64, 48)])
    assert engine.warmed == [[(64, 48)]]
    engine.warm.clear()
    slot.expect([(320, 240)])
    assert engine.warm.wait(10.0)
    slot.expect([(320, 240)])
    slot.close()
    assert engine.warmed == [[(64, 48)], [(320, 240)]]
    assert engine.closed
