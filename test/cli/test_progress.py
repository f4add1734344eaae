"""The progress bar, on what it takes for a terminal."""

import re

import pytest

from psd_depth_ros.cli.options import LogLines, progress_bar


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


def log_lines(reports):
    """Lines that are written for reports of (time in s, done, total, subject)."""
    written, now_s = [], [0.0]
    lines = LogLines('preparing', 'frames', written.append, lambda: now_s[0])
    for now_s[0], done, total, subject in reports:
        lines.advance(done, total, subject=subject)
    return written


def test_a_log_has_a_line_every_ten_seconds():
    reports = [(0.1 * step, 3 * step, 900, 'preparing kitchen') for step in range(1, 301)]
    assert log_lines(reports) == [
        'preparing kitchen: 300 of 900 frames, 30.0 frames/s',
        'preparing kitchen: 600 of 900 frames, 30.0 frames/s',
        'preparing kitchen: 900 of 900 frames, 30.0 frames/s',
    ]


def test_a_recording_that_took_a_while_is_told_when_it_is_done():
    short = [(0.2 * number, 5, 5, f'preparing {number}') for number in range(5)]
    long = [(1.0 + step, step, 4, 'preparing long') for step in range(5)]
    assert log_lines(short) == []
    assert log_lines([*short, *long]) == ['preparing long: 4 of 4 frames, 1.0 frames/s']


def test_lines_take_the_place_of_the_bar_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(LogLines, 'LEAST_WAIT_S', 0.0)
    for quiet, unit in ((True, 'frames'), (False, '')):
        with progress_bar('preparing recordings', quiet, unit) as advance:
            advance(5, 5)
    assert not capsys.readouterr().err
    with progress_bar('preparing recordings', unit='frames') as advance:
        advance(5, 5, subject='preparing drive')
    assert capsys.readouterr().err == 'preparing drive: 5 of 5 frames\n'
