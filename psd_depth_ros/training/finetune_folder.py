"""The folder of a fine-tuning run: `best.safetensors` is there from the start, and never worse.

    RUN/best.safetensors   the weights to use: the old ones until the new ones are accepted
    RUN/report.json        what came of it
    RUN/settings.json      what was asked for
    RUN/frames/            the recordings, decoded
    RUN/training/          the run itself: its state, log, pictures and candidate weights

Files appear in one atomic step each, so that a reader, or a resumed run, never meets half a one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import json
from pathlib import Path
import shutil
from typing import Any

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.training.files import explained_disk, write_whole
from psd_depth_ros.training.finetune_report import FinetuneReport, STOPPED

NEW, UNFINISHED, FINISHED, FOREIGN = 'new', 'unfinished', 'finished', 'foreign'


def folder_state(path: Path) -> str:
    """Tell what is in a folder: new, unfinished, finished, or foreign where it is no run."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return NEW
    if not (path / 'settings.json').is_file():
        return FOREIGN
    try:
        state = json.loads((path / 'report.json').read_text(encoding='utf-8'))['state']
    except (OSError, ValueError, KeyError, TypeError):
        return UNFINISHED
    return UNFINISHED if state == STOPPED else FINISHED


class FinetuneFolder:
    """Opens `path` for a run. Raises SettingsError where `resume` and what is in it disagree."""

    def __init__(self, path: Path, *, resume: bool) -> None:
        state = folder_state(path)
        if resume and state != UNFINISHED:
            raise SettingsError(f'{path}: there is nothing to resume here; {next_step(state)}')
        if not resume and state != NEW:
            raise SettingsError(f'{path}: the output folder is not empty; {next_step(state)}')
        self.path = path
        self._is_new = state == NEW
        self._existed = path.is_dir()

    @property
    def best(self) -> Path:
        """The weights to use."""
        return self.path / 'best.safetensors'

    @property
    def frames(self) -> Path:
        """Where recordings are kept decoded."""
        return self.path / 'frames'

    @property
    def training(self) -> Path:
        """The folder of the training itself."""
        return self.path / 'training'

    def begin(self, start: Path, settings: Mapping[str, Any]) -> None:
        """Keep what was asked for and put the start in the place of the best."""
        with explained_disk(self.best, start.stat().st_size):
            self.path.mkdir(parents=True, exist_ok=True)
        if self._is_new:
            self._write('settings.json', json.dumps(settings, indent=2) + '\n')
        if not self.best.is_file():
            self.promote(start)

    def promote(self, weights: Path) -> None:
        """Make a checkpoint the one to use."""
        write_whole(self.best, weights.read_bytes())

    def finish(self, report: FinetuneReport) -> None:
        """Write report.json."""
        self._write('report.json', report.as_json())

    def undo(self) -> None:
        """Take a run that could not begin away again: the next try finds the place as it was."""
        if not self._is_new:
            return
        for name in ('best.safetensors', 'settings.json', 'report.json'):
            (self.path / name).unlink(missing_ok=True)
        for folder in (self.training, self.frames):
            shutil.rmtree(folder, ignore_errors=True)
        if not self._existed:
            with suppress(OSError):
                self.path.rmdir()

    def _write(self, name: str, text: str) -> None:
        write_whole(self.path / name, text.encode())


def next_step(state: str) -> str:
    """What a person can do about a folder in such a state."""
    return {
        NEW: 'start a new run there without resuming',
        UNFINISHED: 'resume the run in it (--resume), or name another folder',
        FINISHED: 'the run in it is over (report.json tells what came of it); name another folder',
        FOREIGN: 'it holds something else; name another folder',
    }[state]
