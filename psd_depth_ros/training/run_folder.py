"""The folder of a run: what repeats it, how it went, what came out."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

from psd_depth_ros import __version__
from psd_depth_ros.config import dump
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.training.recipe import Recipe
from psd_depth_ros.training.trainer import Progress


class RunFolder:
    """Opens `path` for one run; SettingsError where something is in it already."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise SettingsError(
                f'{path}: the output folder is not empty; name a new one, or remove this one'
            )
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._log = path / 'log.csv'
        values = {
            'recipe': dump(recipe),
            'psd_depth_ros': __version__,
            'torch': str(torch.__version__),
        }
        (path / 'run.json').write_text(json.dumps(values, indent=2) + '\n')

    def write(self, progress: Progress) -> None:
        """Add a row to log.csv: step, time, every loss, and the scores where there are any."""
        row: dict[str, object] = {
            'step': progress.step,
            'seconds': round(progress.seconds, 1),
            'images_per_second': round(progress.images_per_second, 2),
            **{name: round(value, 5) for name, value in progress.losses.items()},
        }
        scores = progress.scores.as_dict() if progress.scores else {}
        names = ('abs_rel', 'abs_rel_metric', 'delta1_metric', 'far_recall', 'far_false')
        row.update({name: scores.get(name, '') for name in names})
        is_new = not self._log.exists()
        with open(self._log, 'a', newline='') as file:
            writer = csv.DictWriter(file, list(row))
            if is_new:
                writer.writeheader()
            writer.writerow(row)
