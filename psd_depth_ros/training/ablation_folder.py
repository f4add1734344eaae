"""The folder of an ablation: what repeats it, its runs, and what came out of them.

plan.json says what is compared; runs/VARIANT_seedN are run folders with a result.json each;
worlds/ keeps rendered frames; ablation.md, .html, .json and .png are the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import io
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import SettingsError, TrainingError
from psd_depth_ros.files import FolderLock, is_part
from psd_depth_ros.parsing import is_file, ParseError, read_arrays, read_json_object
from psd_depth_ros.training.ablation_table import RunResult
from psd_depth_ros.training.run_folder import explained_disk, lock_folder, make_folder, write_whole

Map = NDArray[np.float32]
Shown = list[tuple[NDArray[np.uint8], Map]]  # image and truth

_DEPTH = 'shown.npz'
_RESULT = 'result.json'


class AblationFolder:
    """Names everything in the folder of an ablation; TrainingError where the disk is full."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.worlds = path / 'worlds'
        self._plan = path / 'plan.json'
        self._frames = path / _DEPTH
        self._lock: FolderLock | None = None

    def claim(self, plan: Mapping[str, Any], resume: bool) -> None:
        """Take the folder for a plan (JSON).

        Raises SettingsError where a new ablation would find something else, a resumed one is
        another, or another process is at work in it.
        """
        self.release()
        if not resume:
            if is_file(self.path):
                raise SettingsError(f'{self.path}: is a file, expected a folder')
            make_folder(self.path)
            self._lock = lock_folder(self.path)
            with explained_disk(self._plan, 0):
                is_used = not all(map(is_part, self.path.iterdir()))
            if is_used:
                raise SettingsError(
                    f'{self.path}: the output folder is not empty; name a new one, remove this '
                    'one, or resume the ablation that is in it'
                )
            write_whole(self._plan, (json.dumps(plan, indent=2) + '\n').encode())
            return
        if not is_file(self._plan):
            raise SettingsError(f'{self.path}: has no ablation to resume (no {self._plan.name})')
        self._lock = lock_folder(self.path)
        try:
            old = read_json_object(self._plan)
        except ParseError as error:
            raise SettingsError(
                f'{self._plan} {error}; nobody can tell whether the ablation is the same, so name '
                'a new folder'
            ) from error
        new = json.loads(json.dumps(plan))
        changed = sorted(name for name in old if old[name] != new.get(name))
        if changed:
            raise SettingsError(
                f'{self.path}: holds another ablation: {", ".join(changed)} differ; give the same '
                'again, or name a new folder'
            )

    def release(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def run(self, name: str, seed: int) -> Path:
        """Where a run is."""
        return self.path / 'runs' / f'{name}_seed{seed}'

    def clear(self, name: str, seed: int) -> None:
        """Remove what a run that was broken off left behind."""
        if self.run(name, seed).exists():
            shutil.rmtree(self.run(name, seed))

    def result(self, name: str, seed: int) -> RunResult | None:
        """What came out of a run; None where it has not ended."""
        return RunResult.read(self.run(name, seed) / _RESULT)

    def results(self) -> list[RunResult]:
        """All that came out so far."""
        paths = sorted((self.path / 'runs').glob(f'*/{_RESULT}'))
        return [result for result in map(RunResult.read, paths) if result is not None]

    def keep(self, result: RunResult, depths: Sequence[Map]) -> None:
        """Write what came out of a run, and the depth of the frames that are drawn."""
        folder = self.run(result.variant, result.seed)
        _save(folder / _DEPTH, {str(i): depth for i, depth in enumerate(depths)})
        result.write(folder / _RESULT)

    def keep_frames(self, frames: Shown) -> None:
        """Write the frames that are drawn."""
        arrays = {f'image{i}': image for i, (image, _) in enumerate(frames)}
        _save(
            self._frames, {**arrays, **{f'truth{i}': truth for i, (_, truth) in enumerate(frames)}}
        )

    def frames(self) -> Shown:
        """The frames that are drawn."""
        arrays = _load(self._frames)
        return [(arrays[f'image{i}'], arrays[f'truth{i}']) for i in range(len(arrays) // 2)]

    def depths(self, name: str, seed: int) -> list[Map]:
        """The depth of these frames on a run's own scale; none where it has not ended."""
        arrays = _load(self.run(name, seed) / _DEPTH)
        return [arrays[str(i)] for i in range(len(arrays))]


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_whole(path, buffer.getvalue())


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.exists():
        return {}
    try:
        return read_arrays(path)
    except ParseError as error:
        raise TrainingError(
            f'{path} {error}; remove the folder it is in, and resume: it is made anew'
        ) from error
