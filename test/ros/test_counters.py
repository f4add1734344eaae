import math

import pytest
from rclpy.logging import get_logger

from psd_depth_ros.ros import counters
from psd_depth_ros.ros.counters import Durations, FrameCounters
from psd_depth_ros.ros.speaker import Speaker


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def monotonic_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(counters, 'time', made)
    return made


def test_percentiles_are_of_the_newest_durations() -> None:
    durations = Durations()
    assert all(math.isnan(one) for one in durations.percentiles_ms())
    for value_ms in [1000] * 50 + list(range(200)):
        durations.add_ns(value_ms * 1_000_000)
    assert durations.percentiles_ms() == pytest.approx((99.5, 189.05))


def test_rate_and_age_are_of_the_arrivals(clock: Clock) -> None:
    frames = FrameCounters()
    assert frames.rate_hz() == 0.0
    assert frames.age_s() == math.inf
    for _ in range(11):
        frames.receive()
        clock.now_ns += 100_000_000
    assert frames.rate_hz() == pytest.approx(10.0)
    assert frames.age_s() == pytest.approx(0.1)
    assert frames.waited_s() == pytest.approx(1.1)
    clock.now_ns += 10 * 10**9
    assert frames.rate_hz() == 0.0
    assert frames.age_s() == pytest.approx(10.1)


def test_every_frame_is_accounted_for(clock: Clock) -> None:
    frames = FrameCounters()
    received_ns = frames.receive()
    clock.now_ns += 20_000_000
    frames.process(received_ns)
    frames.receive()
    assert frames.drop('undecodable') == 1
    frames.receive()
    assert frames.drop('undecodable') == 2
    frames.receive()
    frames.ignore()
    assert frames.unwanted == 1
    assert (frames.received, frames.processed, frames.dropped) == (4, 1, {'undecodable': 2})
    assert frames.latency.percentiles_ms()[0] == pytest.approx(20.0)


def test_a_thing_is_said_once_or_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    from psd_depth_ros.ros import speaker as module

    clock = Clock()
    monkeypatch.setattr(module, 'time', clock)
    said: list[str] = []

    class Logger:
        error = warning = staticmethod(said.append)

    speaker = Speaker(Logger())
    for _ in range(3):
        speaker.error('jpeg', 'corrupt')
        speaker.warn('info', 'missing', every_s=5.0)
        clock.now_ns += 3 * 10**9
    assert said == ['corrupt', 'missing', 'missing']
    speaker.forget('jpeg')
    speaker.error('jpeg', 'corrupt')
    assert said[-1] == 'corrupt'


def test_a_flood_of_different_things_is_cut_short_and_takes_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from psd_depth_ros.ros import speaker as module

    clock = Clock()
    monkeypatch.setattr(module, 'time', clock)
    said: list[str] = []

    class Logger:
        error = warning = staticmethod(said.append)

    speaker = Speaker(Logger())
    for second in range(100):
        for number in range(100):
            speaker.error((second, number), f'{second}.{number} is wrong')
        clock.now_ns += 10**9
    assert len(said) == 100 / module.PERIOD_S * module.BURST
    assert 'nothing more is said' in said[module.BURST - 1]
    assert said[module.BURST] == '10.0 is wrong'
    assert len(speaker._said_s) == module.MOST_KEYS
    clock.now_ns += 60 * 10**9
    speaker.error('another', 'another day')
    assert said[-1] == 'another day'


def test_a_logger_of_ros_takes_all_severities() -> None:
    # It refuses a second severity from the line of code that had another.
    speaker = Speaker(get_logger('speaker'))
    speaker.error('a', 'first an error')
    speaker.warn('b', 'then a warning')
    speaker.info('c', 'then news')
