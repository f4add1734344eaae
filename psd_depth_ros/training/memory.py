"""What to lower when memory is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from psd_depth_ros.config import flatten
from psd_depth_ros.errors import TrainingError
from psd_depth_ros.training.recipe import Recipe

# What memory grows with, the most effective first.
HUNGRY = ('batch', 'pixel_budget', 'patch.width_share', 'patch.height_share', 'patch_mix.share')
_SIGNS = ('out of memory', "can't allocate memory", 'not enough memory', 'insufficient memory')


@contextmanager
def explained_memory(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Turn out-of-memory errors into a TrainingError that says which settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        if not isinstance(error, MemoryError) and not _is_about_memory(text):
            raise
        raise TrainingError(
            f'memory of {device} is full: lower {_present_values(recipe)}; '
            f'({text.splitlines()[0] if text else type(error).__name__})'
        ) from error


def _is_about_memory(text: str) -> bool:
    return any(sign in text.lower() for sign in _SIGNS)


def _present_values(recipe: Recipe) -> str:
    values: dict[str, Any] = flatten(recipe)
    if not values.get('patch.enabled', True):
        values = {name: value for name, value in values.items() if not name.startswith('patch.')}
    return ', '.join(f'{name} (is {values[name]:g})' for name in HUNGRY if name in values)
