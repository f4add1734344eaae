"""The folder of a fine-tuning: weights, settings, report and the training."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import json
from pathlib import Path
import shutil
from typing import Any

from psd_depth_ros.errors import ParseError, SettingsError
from psd_depth_ros.files import (
    explained_disk,
    FolderLock,
    is_temporary,
    lock_folder,
    make_folder,
    remove_temporaries,
    write_file,
)
from psd_depth_ros.finetune.report import ACCEPTED, FinetuneReport, KEPT
from psd_depth_ros.parsing import read_json_object

NEW, UNFINISHED, FINISHED, FOREIGN = 'new', 'unfinished', 'finished', 'foreign'


def folder_state(path: Path) -> str:
    """State of a folder: new, unfinished, finished, or foreign (no run).

    Temporary files do not count. Raises TrainingError where the folder may not be read.
    """
    with explained_disk(path, 0):
        if not path.exists() or (path.is_dir() and all(map(is_temporary, path.iterdir()))):
            return NEW
        if not (path / 'settings.json').is_file():
            return FOREIGN
    try:
        state = read_json_object(path / 'report.json').get('state')
    except ParseError:
        return UNFINISHED
    return FINISHED if state in (ACCEPTED, KEPT) else UNFINISHED


class FinetuneFolder:
    """The folder of a run, locked until `close`.

    Raises SettingsError where `resume` contradicts its state, or another process holds the lock.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        self._existed = path.is_dir()
        self._lock: FolderLock | None = lock_folder(path) if self._existed else None
        try:
            self._is_new = self._check(resume)
        except BaseException:
            self.close()
            raise

    def _check(self, resume: bool) -> bool:
        """Whether the folder is new; raises SettingsError where it may not be used."""
        path = self.path
        state = folder_state(path)
        if resume and state != UNFINISHED:
            raise SettingsError(f'{path}: there is nothing to resume here; {next_step(state)}')
        if not resume and state != NEW:
            raise SettingsError(f'{path}: the output folder is not empty; {next_step(state)}')
        return state == NEW

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def best(self) -> Path:
        """The weights to use."""
        return self.path / 'best.safetensors'

    @property
    def training(self) -> Path:
        """The run folder of the training."""
        return self.path / 'training'

    def begin(self, start: Path, settings: Mapping[str, Any], *, trained: bool) -> None:
        """Write settings.json, and the start weights as the best so far.

        Settings of an earlier run are replaced, unless it has `trained`.
        """
        make_folder(self.path)
        if self._lock is None:
            self._lock = lock_folder(self.path)
            if folder_state(self.path) != NEW:  # another process was faster, and has ended
                self.close()
                raise SettingsError(
                    f'{self.path}: the output folder is not empty; {next_step(UNFINISHED)}'
                )
        remove_temporaries(self.path)
        if not trained:
            self._write('settings.json', json.dumps(settings, indent=2) + '\n')
        if not self.best.is_file():
            self.promote(start)

    @property
    def start_id(self) -> str | None:
        """Content id of the weights that the training started from; None where unknown."""
        try:
            start = read_json_object(self.training / 'run.json').get('start')
        except ParseError:
            return None
        return start if isinstance(start, str) else None

    def promote(self, weights: Path) -> None:
        """Copy a checkpoint to best.safetensors."""
        with explained_disk(self.best, 0):
            content = weights.read_bytes()
        write_file(self.best, content)

    def finish(self, report: FinetuneReport) -> None:
        """Write report.json."""
        self._write('report.json', report.as_json())

    def undo(self) -> None:
        """Remove a run that could not begin, so that the next try finds the folder as it was."""
        if not self._is_new or self._lock is None:
            return
        for name in ('best.safetensors', 'settings.json', 'report.json'):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.training, ignore_errors=True)
        if not self._existed:
            with suppress(OSError):
                self.path.rmdir()

    def _write(self, name: str, text: str) -> None:
        write_file(self.path / name, text.encode())


def next_step(state: str) -> str:
    """What a user can do about a folder in a state, as words of a message."""
    return {
        NEW: 'start a new run there without resuming',
        UNFINISHED: 'resume the run in it (--resume), or name another folder',
        FINISHED: 'the run in it is over (report.json tells what came of it); name another folder',
        FOREIGN: 'it holds something else; name another folder',
    }[state]
