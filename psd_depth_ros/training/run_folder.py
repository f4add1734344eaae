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
from psd_depth_ros.training.checkpoints import has_state
from psd_depth_ros.training.files import explained_disk, write_whole
from psd_depth_ros.training.task import Task

PREPARING = {'run': 'its data is being prepared'}


class RunFolder:
    """Names everything in the folder of a run, and writes what is written once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / 'best.safetensors'
        self.states = path / 'state'
        self._settings = path / 'run.json'
        self._is_claimed = False

    def claim(self, resume: bool = False) -> None:
        """Take the folder for a run, before anything is put into it; once is enough.

        A run that ended while its data was prepared may be started again. Raises SettingsError
        where a new run would find something else, or a resumed one nothing to go on from.
        """
        if self._is_claimed:
            return
        if resume and not has_state(self.states):
            raise SettingsError(
                f'{self.path}: has no run to resume (no {self.states.name}/*.safetensors); start '
                'it without resume'
            )
        if not resume and self._is_used():
            raise SettingsError(
                f'{self.path}: the output folder is not empty; name a new one, remove this one, '
                'or resume the run that is in it'
            )
        if not resume:
            with explained_disk(self._settings, 0):
                self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self._settings, _as_json(PREPARING))
        self._is_claimed = True

    def _is_used(self) -> bool:
        if not self.path.exists():
            return False
        if not self.path.is_dir():
            return True
        if self._settings.is_file() and self._settings.read_bytes() == _as_json(PREPARING):
            return False
        return any(self.path.iterdir())

    def write_settings(self, task: Task, place: Mapping[str, Any], step: int) -> None:
        """Write run.json: all that repeats the run. A resume at `step` adds where it goes on."""
        here = {'psd_depth_ros': psd_depth_ros.__version__, 'commit': _commit(), **place}
        if step:
            values = json.loads(self._settings.read_text(encoding='utf-8'))
            values.setdefault('resumed', []).append({'step': step, **here})
        else:
            values = {
                'recipe': dump(task.recipe),
                'data': task.data_description(),
                'start': task.start_id,
                **here,
            }
        write_whole(self._settings, _as_json(values))

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
