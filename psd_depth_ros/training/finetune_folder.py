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
from psd_depth_ros.files import FolderLock, is_part, remove_parts
from psd_depth_ros.parsing import ParseError, read_json_object
from psd_depth_ros.training.checkpoints import has_state
from psd_depth_ros.training.files import explained_disk, lock_folder, make_folder, write_whole
from psd_depth_ros.training.finetune_report import ACCEPTED, FinetuneReport, KEPT

NEW, UNFINISHED, FINISHED, FOREIGN = 'new', 'unfinished', 'finished', 'foreign'


def folder_state(path: Path) -> str:
    """Tell what is in a folder: new, unfinished, finished, or foreign where it is no run.

    What is only half-written does not count. Raises TrainingError where nobody may look.
    """
    with explained_disk(path, 0):
        if not path.exists() or (path.is_dir() and all(map(is_part, path.iterdir()))):
            return NEW
        if not (path / 'settings.json').is_file():
            return FOREIGN
    try:
        state = read_json_object(path / 'report.json').get('state')
    except ParseError:
        return UNFINISHED
    return FINISHED if state in (ACCEPTED, KEPT) else UNFINISHED


class FinetuneFolder:
    """Opens `path` for a run, which has it alone until `close`.

    Raises SettingsError where `resume` and what is in it disagree, or another process has it.
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
        """Whether the folder is new, where it is one that may be used."""
        path = self.path
        state = folder_state(path)
        if resume and state != UNFINISHED:
            raise SettingsError(f'{path}: there is nothing to resume here; {next_step(state)}')
        if not resume and state != NEW:
            raise SettingsError(f'{path}: the output folder is not empty; {next_step(state)}')
        return state == NEW

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

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
        """Keep what was asked for and put the start in the place of the best.

        Whatever a run that never came to train had been asked for is forgotten.
        """
        make_folder(self.path)
        if self._lock is None:
            self._lock = lock_folder(self.path)
            if folder_state(self.path) != NEW:  # another process was faster, and has ended
                self.close()
                raise SettingsError(
                    f'{self.path}: the output folder is not empty; {next_step(UNFINISHED)}'
                )
        remove_parts(self.path)
        if self._is_new or not has_state(self.training / 'state'):
            self._write('settings.json', json.dumps(settings, indent=2) + '\n')
        if not self.best.is_file():
            self.promote(start)

    @property
    def start_id(self) -> str | None:
        """Content id of the weights that the training began with; None where nobody knows."""
        try:
            start = read_json_object(self.training / 'run.json').get('start')
        except ParseError:
            return None
        return start if isinstance(start, str) else None

    def promote(self, weights: Path) -> None:
        """Make a checkpoint the one to use."""
        with explained_disk(self.best, 0):
            content = weights.read_bytes()
        write_whole(self.best, content)

    def finish(self, report: FinetuneReport) -> None:
        """Write report.json."""
        self._write('report.json', report.as_json())

    def undo(self) -> None:
        """Take a run that could not begin away again: the next try finds the place as it was."""
        if not self._is_new or self._lock is None:
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
