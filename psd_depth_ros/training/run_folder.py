"""The folder of a run: what repeats it, how it went, what came out.

run.json repeats the run; log.csv and tensorboard/ tell how it went; previews/ shows it;
best.safetensors is what came out; state/ is what a resume needs.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import subprocess
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import psd_depth_ros
from psd_depth_ros.checkpoint import CheckpointInfo, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError, SettingsError, TrainingError
from psd_depth_ros.files import FolderLock, is_part, remove_parts, set_aside
from psd_depth_ros.parsing import is_file, ParseError, read_json_object
from psd_depth_ros.training.state import (
    explained_disk,
    has_state,
    lock_folder,
    make_folder,
    write_whole,
)
from psd_depth_ros.training.task import Task

PREPARING = {'run': 'its data is being prepared'}


class RunFolder:
    """Names everything in the folder of a run, and writes what is written once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / 'best.safetensors'
        self.states = path / 'state'
        self._settings = path / 'run.json'
        self._lock: FolderLock | None = None

    def claim(self, resume: bool = False) -> None:
        """Take the folder for a run, before anything is put into it; once is enough.

        The folder is this process's until `release`. A run that ended while its data was prepared
        may be started again. Raises SettingsError where a new run would find something else, a
        resumed one nothing to go on from, or where another process is at work in it.
        """
        if self._lock is not None:
            return
        if resume and not has_state(self.states):
            raise SettingsError(
                f'{self.path}: has no run to resume (no {self.states.name}/*.safetensors); start '
                'it without resume'
            )
        if not resume and is_file(self.path):
            raise SettingsError(f'{self.path}: is a file, expected a folder; name another one')
        if not resume:
            make_folder(self.path)
        lock = lock_folder(self.path)
        try:
            remove_parts(self.path)
            if not resume:
                self._begin()
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _begin(self) -> None:
        with explained_disk(self._settings, 0):
            is_used = self._is_used()
        if is_used:
            raise SettingsError(
                f'{self.path}: the output folder is not empty; name a new one, remove this one, '
                'or resume the run that is in it'
            )
        write_whole(self._settings, _as_json(PREPARING))

    def _is_used(self) -> bool:
        if self._settings.is_file() and self._settings.read_bytes() == _as_json(PREPARING):
            return False
        return not all(is_part(path) for path in self.path.iterdir())

    def write_settings(self, task: Task, place: Mapping[str, Any], step: int) -> str:
        """Write run.json: all that repeats the run. A resume at `step` adds where it goes on.

        One that is damaged is kept beside and written anew; this is then returned in words.
        """
        here = {'psd_depth_ros': psd_depth_ros.__version__, 'commit': _commit(), **place}
        whole = {
            'recipe': dump(task.recipe),
            'data': task.data_description(),
            'start': task.start_id,
        }
        if not step:
            write_whole(self._settings, _as_json({**whole, **here}))
            return ''
        said = ''
        try:
            values = read_json_object(self._settings)
            if not isinstance(values.setdefault('resumed', []), list):
                raise ParseError('has no list of resumes')
        except ParseError as error:
            said = f'{self._settings.name} {error}; it was written anew'
            if self._settings.exists():
                with explained_disk(self._settings, 0):
                    said = f'{said}, the old one is {set_aside(self._settings).name}'
            values = {**whole, 'resumed': []}
        values['resumed'].append({'step': step, **here})
        write_whole(self._settings, _as_json(values))
        return said

    def write_best(self, info: CheckpointInfo, tensors: Mapping[str, Any]) -> None:
        """Write the kept checkpoint; TrainingError where the disk is full."""
        try:
            save_checkpoint(self.best, info, tensors, half=True)
        except CheckpointError as error:
            size = sum(tensor.numel() * 2 for tensor in tensors.values())
            raise TrainingError(
                f'{error}; about {size} bytes are needed; what was written before is whole: then '
                'resume the run'
            ) from error

    def write_previews(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write pictures (H, W, 3) RGB as previews/STEP_NAME.jpg."""
        folder = self.path / 'previews'
        with explained_disk(folder, 0):
            folder.mkdir(exist_ok=True)
        for name, picture in pictures.items():
            _, content = cv2.imencode('.jpg', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            write_whole(folder / f'{step:06d}_{name}.jpg', content.tobytes())


def _as_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + '\n').encode()


def _commit() -> str:
    """The commit of the package where it lies in a git checkout, else empty."""
    here = Path(psd_depth_ros.__file__).parent
    tracked = _git(here, 'ls-files', '--error-unmatch', '__init__.py')
    if not tracked:
        return ''
    is_changed = _git(here, 'status', '--porcelain', '--untracked-files=no', '.')
    return _git(here, 'rev-parse', 'HEAD') + ('+changes' if is_changed else '')


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ['git', '-C', str(folder), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''
