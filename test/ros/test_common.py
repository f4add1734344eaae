import inspect
from pathlib import Path
import re
import signal
from types import SimpleNamespace

import pytest
from rclpy.logging import get_logger
import rclpy.node

from psd_depth_ros.ros import (
    common,
    finetune_node,
    recorder,
    replay_node,
    rerun_viewer,
    wait_until_active,
)
from psd_depth_ros.ros.common import ThrottledLogger
from psd_depth_ros.ros.depth_node.node import DepthNode


def test_the_same_interrupt_twice_at_once_is_one(monkeypatch):
    now = 100.0
    monkeypatch.setattr(common.time, 'monotonic', lambda: now)
    handle = common._deferred_interrupt()
    handle(signal.SIGINT, None)
    now = 101.0
    handle(signal.SIGINT, None)
    now = 105.0
    with pytest.raises(KeyboardInterrupt):
        handle(signal.SIGINT, None)


def test_shared_memory_is_chosen_where_nobody_else_did(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common, 'SHARED_MEMORY', tmp_path)
    monkeypatch.setattr(common, 'NEEDED_BYTES', 1)
    choose = common.shared_memory_environment
    chosen = {}
    for library in ('libfastdds.so.3.2', 'libfastrtps.so.2.14'):
        loaded = tmp_path / library
        loaded.write_text(f'7f00-7f01 r-xp 00000000 08:01 12 /opt/ros/lib/{library}')
        monkeypatch.setattr(common, 'LOADED_FILES', loaded)
        chosen |= choose({}, 'rmw_fastrtps_cpp')
    assert {name: Path(file).name for name, file in chosen.items()} == {
        'FASTRTPS_DEFAULT_PROFILES_FILE': 'fastdds_shm.xml',
        'FASTDDS_DEFAULT_PROFILES_FILE': 'fastdds3_shm.xml',
    }
    three, two = (Path(file).read_text() for file in chosen.values())
    assert 'heartbeatPeriod' in two
    assert three == two.replace('heartbeatPeriod', 'heartbeat_period')
    assert choose({}, 'rmw_cyclonedds_cpp') == {}
    for name in (*chosen, 'FASTDDS_BUILTIN_TRANSPORTS'):
        assert choose({name: 'mine'}, 'rmw_fastrtps_cpp') == {}
    monkeypatch.setattr(common, 'NEEDED_BYTES', 2**60)
    assert choose({}, 'rmw_fastrtps_cpp') == {}
    monkeypatch.setattr(common, 'NEEDED_BYTES', 1)
    (tmp_path / 'DEFAULT_FASTRTPS_PROFILES.xml').write_text('<profiles/>')
    assert choose({}, 'rmw_fastrtps_cpp') == {}


Throttled = tuple[ThrottledLogger, SimpleNamespace, list[str]]


@pytest.fixture
def throttled(monkeypatch: pytest.MonkeyPatch) -> Throttled:
    """A logger, the clock that it sees (`now_s`), and what it has logged."""
    clock = SimpleNamespace(now_s=1.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr(common, 'time', clock)
    said: list[str] = []

    class Logger:
        error = warning = staticmethod(said.append)

    return ThrottledLogger(Logger()), clock, said


def test_equal_events_are_logged_once_or_once_in_a_while(throttled: Throttled) -> None:
    logger, clock, said = throttled
    for _ in range(3):
        logger.error('jpeg', 'corrupt')
        logger.warn('info', 'missing', every_s=5.0)
        clock.now_s += 3.0
    assert said == ['corrupt', 'missing', 'missing']


def test_a_flood_of_different_messages_is_cut_short_and_takes_no_memory(
    throttled: Throttled,
) -> None:
    logger, clock, said = throttled
    for second in range(100):
        for number in range(100):
            logger.error((second, number), f'{second}.{number} is wrong')
        clock.now_s += 1.0
    assert len(said) == 100 / common.PERIOD_S * common.BURST
    assert 'no more are logged' in said[common.BURST - 1]
    assert said[common.BURST] == '10.0 is wrong'
    assert len(logger._logged_s) == common.MAX_KEYS
    clock.now_s += 60.0
    logger.error('another', 'another day')
    assert said[-1] == 'another day'


def test_a_logger_of_ros_takes_all_severities() -> None:
    # It refuses a second severity from the line of code that had another.
    logger = ThrottledLogger(get_logger('logger'))
    logger.error('a', 'first an error')
    logger.warn('b', 'then a warning')
    logger.info('c', 'then news')


NODES = (
    DepthNode,
    finetune_node.FinetuneNode,
    recorder.Recorder,
    replay_node.ReplayNode,
    rerun_viewer.RerunViewer,
    wait_until_active.WaitUntilActive,
)


def test_no_node_replaces_an_attribute_of_rclpy() -> None:
    # Python would not say so: the node would only stop to work.
    taken = set(re.findall(r'self\.(_\w+)', inspect.getsource(rclpy.node.Node)))
    for cls in NODES:
        own = set(re.findall(r'self\.(_\w+)(?:: .*)? = ', inspect.getsource(cls)))
        assert not own & taken, cls.__name__
