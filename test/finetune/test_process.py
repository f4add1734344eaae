"""The process that trains: what it says, what it may take, and how it ends."""

import json
import os
from pathlib import Path
import signal
import subprocess
import sys

import pytest

from psd_depth_ros.config import dump
from psd_depth_ros.finetune.settings import FinetuneSettings
from psd_depth_ros.runtime import LimitSettings

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).with_name('fake_finetune_process.py')
UNLIMITED = LimitSettings(nice=0)


class Child:
    def __init__(self, output, *orders, limits=UNLIMITED, resume=False):
        self._process = subprocess.Popen(
            [sys.executable, str(FAKE)],
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        settings = FinetuneSettings(bags=orders, output=str(output))
        order = {'settings': dump(settings), 'limits': dump(limits), 'resume': resume}
        self.stdin = self._process.stdin
        self.stdin.write(json.dumps(order) + '\n')
        self.stdin.flush()

    def hear(self, wanted):
        """The next event of a kind."""
        for line in self._process.stdout:
            event = json.loads(line)
            if event['event'] == wanted:
                return event
        raise AssertionError(f'no {wanted}: {self._process.stderr.read()}')

    def signal(self, number):
        self._process.send_signal(number)

    def end(self):
        code = self._process.wait(30)
        return code, self._process.stderr.read()


def test_it_tells_where_it_stands_and_what_came_of_it(tmp_path):
    child = Child(tmp_path / 'run', 'steps=3')
    assert child.hear('status')['state'] == 'preparing'
    status = child.hear('status')
    assert (status['state'], status['step'], status['of']) == ('training', 1, 3)
    report = child.hear('report')
    assert (report['state'], report['accepted'], report['steps']) == ('accepted', True, 3)
    code, printed = child.end()
    assert code == 0
    assert printed.strip() == 'this goes to stderr'


def test_it_stands_back(tmp_path):
    limits = LimitSettings(threads=1, nice=3, memory_gb=3.0)
    child = Child(tmp_path / 'run', 'steps=1', limits=limits)
    while (status := child.hear('status'))['state'] != 'training':
        pass
    facts = status['scores']
    assert facts['nice'] == os.nice(0) + 3
    assert facts['batch']
    assert facts['threads'] == 1
    assert facts['memory_gb'] == pytest.approx(3.0)
    child.end()


def test_more_memory_than_allowed_is_an_error_that_says_so(tmp_path):
    limits = LimitSettings(nice=0, memory_gb=2.0)
    child = Child(tmp_path / 'run', 'allocate=3', limits=limits)
    text = child.hear('error')['text']
    assert 'limits.memory_gb allows this process 2.0 GB' in text
    assert 'lower batch or pixel_budget' in text
    assert child.end()[0] == 2


@pytest.mark.parametrize('how', ['SIGTERM', 'SIGINT', 'the parent is gone'])
def test_it_stops_so_that_it_can_be_resumed(tmp_path, how):
    child = Child(tmp_path / 'run', 'steps=1000')
    while child.hear('status')['state'] != 'training':
        pass
    if how.startswith('SIG'):
        child.signal(getattr(signal, how))
    else:
        child.stdin.close()
    report = child.hear('report')
    assert report['state'] == 'stopped'
    assert 0 < report['steps'] < 1000
    assert child.end()[0] == 0
    again = Child(tmp_path / 'run', f'steps={report["steps"] + 1}', resume=True)
    while (status := again.hear('status'))['state'] != 'training':
        pass
    assert status['step'] == report['steps'] + 1
    assert again.end()[0] == 0


def test_errors_of_the_user_are_told_in_one_line(tmp_path):
    child = Child(tmp_path / 'run', 'error=no such weights')
    assert child.hear('error')['text'] == 'no such weights'
    assert child.end()[0] == 2
    (tmp_path / 'used').mkdir()
    (tmp_path / 'used' / 'file').touch()
    child = Child(tmp_path / 'used')
    assert 'the output folder is not empty' in child.hear('error')['text']
