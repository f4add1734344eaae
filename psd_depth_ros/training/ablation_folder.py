"""The folder of an ablation: what repeats it, its runs, and what came out of them.

plan.json says what is compared; runs/VARIANT_seedN are run folders with a result.json each;
worlds/ keeps rendered frames; ablation.md, .html, .json and .png are the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import shutil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.training.ablation_table import RunResult
from psd_depth_ros.training.files import explained_disk, write_whole

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

    def claim(self, plan: Mapping[str, Any], resume: bool) -> None:
        """Take the folder for a plan (JSON).

        Raises SettingsError where a new ablation would find something else, or a resumed one is
        another.
        """
        if not resume:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise SettingsError(
                    f'{self.path}: the output folder is not empty; name a new one, remove this '
                    'one, or resume the ablation that is in it'
                )
            with explained_disk(self._plan, 0):
                self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self._plan, (json.dumps(plan, indent=2) + '\n').encode())
            return
        if not self._plan.is_file():
            raise SettingsError(f'{self.path}: has no ablation to resume (no {self._plan.name})')
        old, new = json.loads(self._plan.read_text(encoding='utf-8')), json.loads(json.dumps(plan))
        changed = sorted(name for name in old if old[name] != new.get(name))
        if changed:
            raise SettingsError(
                f'{self.path}: holds another ablation: {", ".join(changed)} differ; give the same '
                'again, or name a new folder'
            )

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
    with explained_disk(path, sum(array.nbytes for array in arrays.values())):
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> dict[str, NDArray[Any]]:
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)
