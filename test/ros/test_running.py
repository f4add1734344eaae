import signal

import pytest

from psd_depth_ros.ros import running


def test_the_same_interrupt_twice_at_once_is_one(monkeypatch):
    now = 100.0
    monkeypatch.setattr(running.time, 'monotonic', lambda: now)
    handle = running._interrupt_late()
    handle(signal.SIGINT, None)
    now = 101.0
    handle(signal.SIGINT, None)
    now = 105.0
    with pytest.raises(KeyboardInterrupt):
        handle(signal.SIGINT, None)
