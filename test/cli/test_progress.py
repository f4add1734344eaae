"""The progress bar, on what it takes for a terminal."""

import re

import pytest

from psd_depth_ros.cli.options import progress_bar


@pytest.mark.parametrize(('seconds_left', 'told'), [(5.4, '0:00:05'), (0.0, '0:00:00')])
def test_time_that_is_left_is_what_the_caller_knows(monkeypatch, capsys, seconds_left, told):
    monkeypatch.setenv('FORCE_COLOR', '1')
    monkeypatch.setenv('COLUMNS', '120')
    with progress_bar('training') as advance:
        advance(1, 3600, '2.0 images/s', seconds_left)
    shown = capsys.readouterr().err
    assert '1/3600' in shown
    assert '2.0 images/s' in shown
    assert set(re.findall(r'\d:\d\d:\d\d', shown)) == {told}
