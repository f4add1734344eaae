import queue
import threading
import time
from typing import Any

import pytest

from psd_depth_ros.data.calibration_file import camera_from_fov
from psd_depth_ros.errors import CheckpointError, DeviceError
from psd_depth_ros.ros.depth_node.worker import EngineHandle

SMALL, LARGE, ODD = (camera_from_fov(width, 48, 60) for width in (64, 640, 333))


class Engine:
    device, backend, checkpoint = 'cpu', 'none', None

    def __init__(self, name: str) -> None:
        self.name = name
        self.compiled: set[Any] = set()
        self.asked: queue.Queue[Any] = queue.Queue()
        self.verdicts: queue.Queue[Exception | None] = queue.Queue()
        self.closed = False

    def warm_up(self, cameras: Any) -> None:
        if self.name == 'cold':
            raise CheckpointError('cold: cannot run')
        self.compiled |= set(cameras)

    def is_ready(self, cameras: Any) -> bool:
        return self.compiled >= set(cameras)

    def prepare(self, cameras: Any) -> None:
        if set(cameras) <= self.compiled:
            return
        self.asked.put(tuple(cameras))
        verdict = self.verdicts.get(timeout=10.0)
        if verdict is not None:
            raise verdict
        self.compiled |= set(cameras)

    def infer_batch(self, requests: Any, **_: Any) -> list[Any]:
        return []

    def close(self) -> None:
        self.closed = True
        self.verdicts.put(DeviceError('cancelled'))


class Factory:
    def __init__(self) -> None:
        self.made: list[Engine] = []

    def load(self, path: str, device: str, backend: str, pixel_budget: int) -> Engine:
        self.made.append(Engine(path))
        return self.made[-1]

    def check(self, path: str) -> None:
        pass


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
def handle(factory: Factory) -> EngineHandle:
    made = EngineHandle(factory, 'cpu', 'auto')
    made.load('first', [SMALL])
    return made


def replace(handle: EngineHandle, path: str, judge: Any = lambda _engine: None) -> str:
    outcomes: list[str] = []
    done = threading.Event()
    handle.replace(
        path, lambda: [SMALL], judge, lambda reason: (outcomes.append(reason), done.set())
    )
    assert done.wait(10.0)
    return outcomes[0]


def test_a_swap_waits_for_the_batch_at_work(handle: EngineHandle, factory: Factory) -> None:
    swapped = threading.Event()
    with handle.borrow() as engine:
        handle.replace('second', list, lambda _engine: None, lambda _reason: swapped.set())
        assert not swapped.wait(0.1)
        assert handle.engine is engine
        assert not factory.made[0].closed
    assert swapped.wait(10.0)
    assert handle.engine is factory.made[1]
    assert factory.made[0].closed


def test_what_fails_leaves_the_old_engine(handle: EngineHandle, factory: Factory) -> None:
    def refuse(_engine: Any) -> None:
        raise CheckpointError('not metric')

    assert replace(handle, 'cold') == 'cold: cannot run'
    assert replace(handle, 'second', refuse) == 'not metric'
    assert handle.engine is factory.made[0]
    assert [one.closed for one in factory.made] == [False, True, True]


def test_another_size_is_compiled_beside_frames_the_newest_request_next(
    handle: EngineHandle, factory: Factory
) -> None:
    engine = factory.made[0]
    assert handle.request_compilation([SMALL]) == ''
    assert handle.compiling == ''
    assert handle.request_compilation([LARGE]) == ''
    assert engine.asked.get(timeout=10.0) == (LARGE,)
    assert handle.compiling == '640x48'
    for cameras in ([LARGE], [LARGE, SMALL], [LARGE]):
        assert handle.request_compilation(cameras) == ''
    with handle.borrow() as held:  # a frame of another size does not wait for it
        assert held.is_ready([SMALL])
        assert not held.is_ready([LARGE])
    assert handle.request_compilation([ODD]) == ''
    engine.verdicts.put(None)
    assert engine.asked.get(timeout=10.0) == (ODD,)
    assert engine.is_ready([LARGE, SMALL])
    handle.close()
    assert handle.compiling == ''
    assert engine.asked.empty()
    assert engine.closed


def test_what_cannot_be_compiled_says_why_and_is_not_tried_at_every_frame(
    handle: EngineHandle, factory: Factory
) -> None:
    engine = factory.made[0]
    handle.request_compilation([ODD])
    assert engine.asked.get(timeout=10.0) == (ODD,)
    engine.verdicts.put(DeviceError('no memory'))
    deadline = time.monotonic() + 10.0
    while not handle.request_compilation([ODD]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert handle.request_compilation([ODD]) == 'no memory'
    assert engine.asked.empty()
    assert handle.request_compilation([LARGE]) == ''  # another size is
    assert engine.asked.get(timeout=10.0) == (LARGE,)
    engine.verdicts.put(None)


def test_a_size_that_comes_while_a_replacement_is_loaded_is_compiled_before_the_swap(
    handle: EngineHandle, factory: Factory
) -> None:
    cameras, done = [SMALL], threading.Event()
    handle.replace(
        'second', lambda: list(cameras), lambda _: cameras.append(ODD), lambda _: done.set()
    )
    while len(factory.made) < 2:
        time.sleep(0.01)
    assert factory.made[1].asked.get(timeout=10.0) == (SMALL, ODD)
    assert handle.engine is factory.made[0]
    factory.made[1].verdicts.put(None)
    assert done.wait(10.0)
    assert handle.engine is factory.made[1]
    assert handle.engine.is_ready([SMALL, ODD])


def test_closing_ends_what_is_compiled_and_loaded(handle: EngineHandle, factory: Factory) -> None:
    outcomes: list[str] = []
    handle.request_compilation([ODD])
    factory.made[0].asked.get(timeout=10.0)
    handle.replace('second', lambda: [SMALL], lambda _: None, outcomes.append)
    handle.close()
    assert all(one.closed for one in factory.made)
    assert len(outcomes) == 1
    assert handle.request_compilation([LARGE]) == ''
    assert factory.made[0].asked.empty()
