import subprocess
import sys

import pytest

from psd_depth_ros.config import build
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.ros import rerun_viewer
from psd_depth_ros.ros.rerun_viewer import RerunViewerSettings

PYTHON = sys.executable


def test_without_rerun_both_ways_out_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(SettingsError, match=r'pip install rerun-sdk.*rviz:=true'):
        rerun_viewer._find_rerun()


def test_the_viewer_is_bound_to_this_machine(monkeypatch):
    started = []
    monkeypatch.setattr(
        rerun_viewer.subprocess, 'Popen', lambda command, **_: started.append(command)
    )
    rerun_viewer._start_viewer('rerun', build(RerunViewerSettings, {'web_port': 1234}))
    (command,) = started
    assert command[0] == 'rerun'
    assert command[command.index('--bind') + 1] == '127.0.0.1'
    assert command[command.index('--web-viewer-port') + 1] == '1234'


def test_a_viewer_without_its_program_says_how_to_mend_it(monkeypatch, tmp_path):
    monkeypatch.setattr(rerun_viewer.sys, 'executable', str(tmp_path / 'python'))
    monkeypatch.setattr(rerun_viewer.shutil, 'which', lambda _: None)
    with pytest.raises(SettingsError, match='force-reinstall rerun-sdk'):
        rerun_viewer._find_program()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A `rerun` that keeps its analytics where the real one does."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    for name in ('XDG_CONFIG_HOME', 'XDG_DATA_HOME'):
        monkeypatch.setenv(name, str(tmp_path / 'home' / name))
    monkeypatch.setattr(rerun_viewer.sys, 'executable', str(tmp_path / 'python'))
    path = tmp_path / 'rerun'
    path.write_text(
        '#!/bin/sh\n[ "$1 $2" = "analytics disable" ] || { echo "no $1" >&2; exit 2; }\n'
        'mkdir -p "$XDG_CONFIG_HOME" && echo off > "$XDG_CONFIG_HOME/analytics"\n'
    )
    path.chmod(0o755)
    return path


def test_usage_statistics_are_switched_off_without_touching_the_users_settings(program, tmp_path):
    folder = tmp_path / 'of the node'
    folder.mkdir()
    assert rerun_viewer._find_program() == str(program)
    rerun_viewer._switch_statistics_off(str(program), folder)
    assert (folder / 'config' / 'analytics').read_text() == 'off\n'
    child = [PYTHON, '-c', 'import os; print(os.environ["XDG_CONFIG_HOME"])']
    said = subprocess.run(child, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(folder / 'config'), 'the viewer reads them too'
    assert not (tmp_path / 'home').exists()
    program.write_text('#!/bin/sh\necho "no analytics here" >&2; exit 2\n')
    with pytest.raises(SettingsError, match=r'cannot be switched off.*no analytics here'):
        rerun_viewer._switch_statistics_off(str(program), folder)
