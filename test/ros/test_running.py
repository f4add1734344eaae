from pathlib import Path
import signal

import pytest

from psd_depth_ros.ros import running, transport


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


def test_shared_memory_is_chosen_where_nobody_else_did(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transport, 'MEMORY', tmp_path)
    monkeypatch.setattr(transport, 'NEEDED_BYTES', 1)
    choose = transport.shared_memory_environment
    chosen = choose({}, 'rmw_fastrtps_cpp')
    assert set(chosen) == {'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'}
    assert all(Path(one).name == 'fastdds_shm.xml' for one in chosen.values())
    assert choose({}, 'rmw_cyclonedds_cpp') == {}
    for name in (*chosen, 'FASTDDS_BUILTIN_TRANSPORTS'):
        assert choose({name: 'mine'}, 'rmw_fastrtps_cpp') == {}
    monkeypatch.setattr(transport, 'NEEDED_BYTES', 2**60)
    assert choose({}, 'rmw_fastrtps_cpp') == {}
    monkeypatch.setattr(transport, 'NEEDED_BYTES', 1)
    (tmp_path / 'DEFAULT_FASTRTPS_PROFILES.xml').write_text('<profiles/>')
    assert choose({}, 'rmw_fastrtps_cpp') == {}
