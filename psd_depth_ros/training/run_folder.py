"""The folder of a run: settings, logs, previews, weights and the state that a resume needs.

run.json repeats the run; log.csv and tensorboard/ are its curves; previews/ holds images;
best.safetensors is the result; state/ is what a resume starts from.
"""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
import subprocess
from typing import Any

import numpy as np
from numpy.typing import NDArray

import psd_depth_ros
from psd_depth_ros.checkpoint import CheckpointInfo, save_checkpoint
from psd_depth_ros.errors import CheckpointError, SettingsError, TrainingError
from psd_depth_ros.files import (
    explained_disk,
    FolderLock,
    is_temporary,
    lock_folder,
    make_folder,
    remove_temporaries,
    set_aside,
    write_file,
)
from psd_depth_ros.parsing import is_file, ParseError, read_json_object
from psd_depth_ros.training.recipe import dump_recipe
from psd_depth_ros.training.task import Task
from psd_depth_ros.visualisation import encode_picture

PREPARING = {'run': 'its data is being prepared'}
STATE_PATTERN = 'step_*.safetensors'


def has_state(folder: Path) -> bool:
    """Whether a folder of states holds one to resume from."""
    return any(folder.glob(STATE_PATTERN))


class RunFolder:
    """The paths of a run's folder, and the files that are written once.

    Attributes:
        path: the folder.
        best: the averaged network with the lowest validation score.
        states: the folder of the last states.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / 'best.safetensors'
        self.states = path / 'state'
        self._settings = path / 'run.json'
        self._lock: FolderLock | None = None

    def claim(self, resume: bool = False) -> None:
        """Lock the folder until `release`, before anything is written; a second call does nothing.

        A run that ended while its data was prepared may be started again. Raises SettingsError
        where a new run finds other files, a resumed one no state, or another process the lock.
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
            remove_temporaries(self.path)
            if not resume:
                self._begin()
        except BaseException:
            lock.release()
            raise
        self._lock = lock

    def release(self) -> None:
        """Unlock the folder."""
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
        write_file(self._settings, _as_json(PREPARING))

    def _is_used(self) -> bool:
        if self._settings.is_file() and self._settings.read_bytes() == _as_json(PREPARING):
            return False
        return not all(is_temporary(path) for path in self.path.iterdir())

    def write_settings(self, task: Task, place: Mapping[str, Any], step: int) -> str:
        """Write run.json; a resume at `step` > 0 adds an entry to `resumed`.

        A damaged run.json is renamed and written anew. Returns a note about it, else ''.
        """
        here = {'psd_depth_ros': psd_depth_ros.__version__, 'commit': _commit(), **place}
        whole = {
            'recipe': dump_recipe(task.recipe),
            'data': task.data_description(),
            'start': task.start_id,
        }
        if not step:
            write_file(self._settings, _as_json({**whole, **here}))
            return ''
        note = ''
        try:
            values = read_json_object(self._settings)
            if not isinstance(values.setdefault('resumed', []), list):
                raise ParseError('has no list of resumes')
        except ParseError as error:
            note = f'{self._settings.name} {error}; it was written anew'
            if self._settings.exists():
                with explained_disk(self._settings, 0):
                    note = f'{note}, the old one is {set_aside(self._settings).name}'
            values = {**whole, 'resumed': []}
        values['resumed'].append({'step': step, **here})
        write_file(self._settings, _as_json(values))
        return note

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

    def write_previews(self, step: int, images: Mapping[str, NDArray[np.uint8]]) -> None:
        """Write images (H, W, 3) RGB as previews/STEP_NAME.jpg."""
        folder = self.path / 'previews'
        with explained_disk(folder, 0):
            folder.mkdir(exist_ok=True)
        for name, image in images.items():
            content, _ = encode_picture(image, lossless=False)
            write_file(folder / f'{step:06d}_{name}.jpg', content)


def _as_json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + '\n').encode()


def _commit() -> str:
    """The commit of a git checkout of the package, '' for an installed one."""
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
