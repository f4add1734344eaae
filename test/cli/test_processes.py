import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from psd_depth_ros.cli.processes import node_environment, NodeProcesses, ProcessError

SLEEPER = """
import signal, sys, time
print('ready', flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print('clean end', flush=True)
"""
DEAF = 'import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n' + SLEEPER
BROKEN = "print('cannot read the bag')\nraise SystemExit(3)"


@pytest.fixture
def modules(tmp_path, monkeypatch):
    for name, text in (('sleeper', SLEEPER), ('deaf', DEAF), ('broken', BROKEN)):
        (tmp_path / f'{name}.py').write_text(text)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    return tmp_path


def is_alive(number: int) -> bool:
    try:
        state = Path(f'/proc/{number}/stat').read_text().rpartition(')')[2].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


def wait_for(condition, timeout_s=20.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_leaving_the_context_ends_every_process_cleanly(modules):
    with NodeProcesses(dict(os.environ), modules / 'logs') as nodes:
        process = nodes.start('sleeper')
        nodes.wait('the start', lambda: 'ready' in process.output, 20)
        assert process.exit_code is None
    assert process.exit_code == 0
    assert 'clean end' in process.output


def test_a_process_that_ignores_ctrl_c_is_ended_all_the_same(modules):
    with NodeProcesses(dict(os.environ), modules / 'logs') as nodes:
        process = nodes.start('deaf')
        nodes.wait('the start', lambda: 'ready' in process.output, 20)
        assert process.stop(patience_s=0.3) == -signal.SIGTERM


def test_a_process_that_fails_is_named_with_the_end_of_its_log(modules):
    message = r'broken ended with code 3(?s:.*)cannot read the bag'
    with NodeProcesses(dict(os.environ), modules / 'logs') as nodes:
        nodes.start('broken')
        with pytest.raises(ProcessError, match=message):
            nodes.wait('something else', lambda: False, 20)


def test_a_wait_that_is_too_long_says_what_was_waited_for(modules):
    with NodeProcesses(dict(os.environ), modules / 'logs') as nodes:
        nodes.start('sleeper')
        with pytest.raises(ProcessError, match='the node to be active took longer than 0 s'):
            nodes.wait('the node to be active', lambda: False, 0.2)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_its_parent(modules, number):
    parent = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import os, pathlib, time\n'
            'from psd_depth_ros.cli.processes import NodeProcesses\n'
            f'with NodeProcesses(dict(os.environ), pathlib.Path({str(modules)!r})) as nodes:\n'
            '    print(nodes.start("sleeper")._process.pid, flush=True)\n'
            '    time.sleep(60)\n',
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, 'PYTHONPATH': f'{modules}:{Path(__file__).parents[2]}'},
    )
    child = int(parent.stdout.readline())
    wait_for(lambda: 'ready' in (modules / 'sleeper.log').read_text())
    parent.send_signal(number)
    parent.wait(20)
    parent.stdout.close()
    wait_for(lambda: not is_alive(child))


def test_nodes_talk_on_this_machine_only():
    ours = node_environment()
    assert ours['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'
    assert 0 < int(ours['ROS_DOMAIN_ID']) <= 101
