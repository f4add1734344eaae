import sys

import pytest

from psd_depth_ros.config import build
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.ros import rerun_viewer
from psd_depth_ros.ros.rerun_viewer import RerunViewerSettings


def test_without_rerun_both_ways_out_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'rerun', None)
    with pytest.raises(SettingsError, match=r'pip install rerun-sdk.*rviz:=true'):
        rerun_viewer._find_rerun()


def test_the_viewer_is_bound_to_this_machine(monkeypatch, tmp_path):
    started = []
    program = tmp_path / 'rerun'
    program.touch()
    monkeypatch.setattr(rerun_viewer.sys, 'executable', str(tmp_path / 'python'))
    monkeypatch.setattr(
        rerun_viewer.subprocess, 'Popen', lambda command, **_: started.append(command)
    )
    rerun_viewer._start_viewer(build(RerunViewerSettings, {'web_port': 1234}))
    (command,) = started
    assert command[0] == str(program)
    assert command[command.index('--bind') + 1] == '127.0.0.1'
    assert command[command.index('--web-viewer-port') + 1] == '1234'


def test_a_viewer_without_its_program_says_how_to_mend_it(monkeypatch, tmp_path):
    monkeypatch.setattr(rerun_viewer.sys, 'executable', str(tmp_path / 'python'))
    monkeypatch.setattr(rerun_viewer.shutil, 'which', lambda _: None)
    with pytest.raises(SettingsError, match='force-reinstall rerun-sdk'):
        rerun_viewer._start_viewer(RerunViewerSettings())
