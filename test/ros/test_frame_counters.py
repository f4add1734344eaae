import math

import pytest

from psd_depth_ros.ros.depth_node import camera
from psd_depth_ros.ros.depth_node.camera import Durations, FrameCounters


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
    monkeypatch.setattr(camera, 'time', made)
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
    frames.drop('undecodable')
    assert frames.dropped == {'undecodable': 1}
    frames.receive()
    frames.drop('undecodable')
    assert frames.dropped == {'undecodable': 2}
    frames.receive()
    frames.ignore()
    assert frames.unwanted == 1
    assert (frames.received, frames.processed, frames.dropped) == (4, 1, {'undecodable': 2})
    assert frames.latency.percentiles_ms()[0] == pytest.approx(20.0)
