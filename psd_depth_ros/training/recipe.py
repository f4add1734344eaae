"""The settings of a training run from rendered worlds; recipes are YAML files of these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from psd_depth_ros.config import build, section, setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.installed import find_installed


@dataclass(frozen=True)
class WorldsSettings:
    """Which rendered worlds are learned from."""

    frames: int = setting(12000, 'Frames rendered for training', minimum=1, maximum=10_000_000)
    frames_per_world: int = setting(4, 'Frames taken of each world', minimum=1, maximum=1000)
    first_seed: int = setting(
        0, 'Seed of the first world; training uses seeds below 1 000 000', minimum=0,
        maximum=999_999,
    )  # fmt: skip
    validation_frames: int = setting(
        240, 'Frames held out, of worlds from seed 1 000 000 on', minimum=1, maximum=100_000
    )
    clear_share: float = setting(
        0.7, 'Share of worlds in clear weather; the rest is fog, rain, night or blur',
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    oversize: float = setting(
        1.25, 'Side of the rendered picture over that of the input, leaves room for crops',
        minimum=1.0, maximum=4.0,
    )  # fmt: skip


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms."""

    log_depth: float = setting(1.0, 'Weight of |u - u*|', minimum=0.0, maximum=100.0)
    edges: float = setting(1.0, 'Weight of the multi-scale gradient error', minimum=0.0,
                           maximum=100.0)  # fmt: skip
    bins: float = setting(0.2, 'Weight of the bin cross-entropy', minimum=0.0, maximum=100.0)
    uniformity: float = setting(1e-3, 'Weight of the bin widths\' KL divergence', minimum=0.0,
                                maximum=10.0)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One training run on rendered worlds."""

    name: str = setting('starter', 'Name of the run and of its checkpoint')
    preset: str = setting('lite', 'Network preset', choices=('lite', 'base'))
    seed: int = setting(1, 'Seed of everything drawn while training', minimum=0)
    steps: int = setting(6000, 'Optimiser steps', minimum=1, maximum=10_000_000)
    max_minutes: float = setting(
        1e9, 'The schedule ends here even if steps are left', 'min', minimum=0.01
    )
    batch: int = setting(12, 'Images in a step', minimum=1, maximum=4096)
    rate: float = setting(4e-4, 'Learning rate of what starts at random', minimum=1e-8,
                          maximum=1.0)  # fmt: skip
    encoder_rate: float = setting(2e-4, 'Learning rate of the encoder', minimum=0.0, maximum=1.0)
    weight_decay: float = setting(0.01, 'AdamW weight decay', minimum=0.0, maximum=1.0)
    warmup: float = setting(0.02, 'Share of the run in which the rate rises', minimum=0.0,
                            maximum=0.5)  # fmt: skip
    clip: float = setting(1.0, 'Largest gradient norm', minimum=1e-3, maximum=1e6)
    average: float = setting(0.998, 'Decay of the averaged weights that are kept', minimum=0.0,
                             maximum=0.99999)  # fmt: skip
    pixel_budget: int = setting(53248, 'Pixels of a training input', 'px', minimum=1024,
                                maximum=4_000_000)  # fmt: skip
    canonical_focal_px: float = setting(240.0, 'f_c of canonical depth', 'px', minimum=1.0,
                                        maximum=10000.0)  # fmt: skip
    max_depth_m: float = setting(120.0, 'Depth beyond this counts as far, like sky', 'm',
                                 minimum=1.0, maximum=1000.0)  # fmt: skip
    smallest_window: float = setting(0.6, 'Smallest crop, as a share of the side', minimum=0.1,
                                     maximum=1.0)  # fmt: skip
    validate_every: int = setting(500, 'Steps between validations', minimum=1)
    worlds: WorldsSettings = section(WorldsSettings)
    losses: LossSettings = section(LossSettings)


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the package."""
    path = Path(name).expanduser()
    if path.suffix in ('.yaml', '.yml'):
        return path
    found = find_installed(f'config/recipes/{name}.yaml')
    if found is None:
        raise SettingsError(
            f'no recipe {name!r} comes with the package; give a name such as starter, or a '
            '.yaml file'
        )
    return found


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; SettingsError where it is missing, not YAML, or has a wrong setting."""
    try:
        values: Any = yaml.safe_load(path.read_text())
    except OSError as error:
        raise SettingsError(f'{path}: recipe cannot be read ({error.strerror})') from error
    except yaml.YAMLError as error:
        raise SettingsError(f'{path}: recipe is not YAML: {error}') from error
    if not isinstance(values, dict):
        raise SettingsError(f'{path}: recipe is empty, expected settings such as "steps: 6000"')
    return build(Recipe, values, str(path))
