"""The state of a run (weights, their average, optimiser, counters), in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import pack, read_metadata, unpack
from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.files import make_folder, remove_temporaries, write_file
from psd_depth_ros.parsing import ARRAY_BYTES, parse_json, ParseError, read_bytes, shorten
from psd_depth_ros.teachers import update_average
from psd_depth_ros.training.recipe import FINAL_FACTOR, Recipe
from psd_depth_ros.training.run_folder import STATE_PATTERN
from psd_depth_ros.training.task import Task

DROP_AT = 0.75  # progress at which the learning rates of the schedule `step` fall
WEIGHT_DECAY = 0.01  # of AdamW

KEPT = 2
KEY = 'psd_depth_ros.run'
_MOST_BYTES = 8 * ARRAY_BYTES


@dataclass(frozen=True)
class Snapshot:
    """A copy of a state: tensors on the CPU, and counters as JSON values (`facts`)."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class RunState:
    """Weights, averaged weights, optimiser and counters; `snapshot` and `restore` are exact."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.recipe = task.recipe
        self.module = task.module
        self.module.to(device)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(task.depth).eval().requires_grad_(False)
        if hasattr(task, 'teacher'):
            task.teacher = self.average
        self._depth = task.depth
        self._kept = task.kept
        self.optimiser = _make_optimiser(task)
        self.step = 0
        self.seconds = 0.0
        self.rollbacks = 0
        self.finished = False
        self.best: dict[str, float] = {}  # scores of the kept checkpoint
        self.recent: list[float] = []  # losses, to recognise an exploding one

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every trained parameter, in the order of the optimiser."""
        return [p for group in self.optimiser.param_groups for p in group['params']]

    def set_rates(self, progress: float) -> dict[str, float]:
        """Set the learning rates at `progress` (0 .. 1) and return them by group."""
        factor = rate_factor(self.recipe, progress) * 0.5**self.rollbacks
        for group in self.optimiser.param_groups:
            group['lr'] = group['base'] * factor
        return {group['name']: group['lr'] for group in self.optimiser.param_groups}

    def update_average(self) -> None:
        """Move the averaged weights towards the current ones."""
        decay = average_decay(self.recipe, self.step)
        update_average(self.average, self._depth, decay)

    def is_finite(self) -> bool:
        """Whether every trained parameter is finite."""
        sums = [parameter.detach().double().sum() for parameter in self.parameters]
        return bool(torch.stack(sums).isfinite().all())

    def snapshot(self) -> Snapshot:
        """Copy the state to the CPU."""
        parts = {
            'module': self.module.state_dict(),
            'average': self.average.state_dict(),
            'kept': self._kept.state_dict(),
            'optimiser': _flatten(self.optimiser),
        }
        tensors = {
            f'{part}.{name}': tensor.detach().to(
                'cpu', copy=True, memory_format=torch.contiguous_format
            )
            for part, values in parts.items()
            for name, tensor in values.items()
        }
        facts = {
            'step': self.step,
            'seconds': self.seconds,
            'rollbacks': self.rollbacks,
            'finished': self.finished,
            'best': dict(self.best),
            'recent': list(self.recent),
        }
        return Snapshot(tensors, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot. Raises CheckpointError for one of another network."""
        try:
            self.module.load_state_dict(_part(snapshot, 'module'))
            self.average.load_state_dict(_part(snapshot, 'average'))
            self._kept.load_state_dict(_part(snapshot, 'kept'))
            _unflatten(self.optimiser, _part(snapshot, 'optimiser'))
        except (RuntimeError, LookupError, ValueError) as error:
            said = shorten(' '.join(str(error).split()))
            raise CheckpointError(
                f'the state of step {snapshot.facts["step"]} is not of this network ({said}); '
                'resume it with the version of psd_depth_ros that run.json names, or start anew '
                'in another folder'
            ) from error
        facts = deepcopy(dict(snapshot.facts))
        self.step, self.seconds = facts['step'], facts['seconds']
        self.rollbacks, self.finished = facts['rollbacks'], facts['finished']
        self.best, self.recent = facts['best'], facts['recent']


def rate_factor(recipe: Recipe, progress: float) -> float:
    """Factor of the learning rates at `progress` (0 .. 1) of the run.

    Linear warm-up; then `step` falls to a tenth at `DROP_AT`, `cosine` falls to a hundredth, and
    `constant` stays.
    """
    if progress < recipe.warmup:
        return progress / recipe.warmup + 1e-3
    low = FINAL_FACTOR[recipe.schedule]
    if recipe.schedule == 'step':
        return 1.0 if progress < DROP_AT else low
    phase = (progress - recipe.warmup) / (1.0 - recipe.warmup)
    return low + (1.0 - low) * 0.5 * (1.0 + math.cos(math.pi * phase))


def average_decay(recipe: Recipe, step: int) -> float:
    """Decay of the averaged weights at `step` (from 1), smaller while the average is young.

    1 - (p + 1) / (p + 2 + k) weights step k like k^p (polynomial decay, Shamir & Zhang 2013,
    https://arxiv.org/abs/1212.1824).
    """
    weight = recipe.average_power + 1.0
    return min(recipe.average, (1.0 + step) / (1.0 + weight + step))


def _make_optimiser(task: Task) -> torch.optim.AdamW:
    groups = [
        {'name': group.name, 'params': list(group.parameters), 'base': group.rate}
        for group in task.groups()
    ]
    recipe = task.recipe
    return torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=WEIGHT_DECAY, fused=True)


def _part(snapshot: Snapshot, part: str) -> dict[str, Tensor]:
    prefix = f'{part}.'
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in snapshot.tensors.items()
        if name.startswith(prefix)
    }


def _flatten(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors as `INDEX.NAME`, INDEX counting the parameters of all groups."""
    state = optimiser.state_dict()['state']
    return {f'{i}.{name}': value for i, values in state.items() for name, value in values.items()}


def _unflatten(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimiser.param_groups for p in group['params']]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split('.', 1)
        like = parameters[int(index)]
        if key == 'step':
            value = tensor.clone()
        else:  # in the memory layout of the parameter, or every later step would be slower
            value = torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = value
    groups = optimiser.state_dict()['param_groups']
    optimiser.load_state_dict({'state': state, 'param_groups': groups})


def write_state(folder: Path, snapshot: Snapshot, identity: Mapping[str, Any]) -> Path:
    """Write a state, then remove all but the last two; returns its path.

    `identity` (JSON) must be equal where the run is resumed. Raises TrainingError where the disk
    is full; the earlier states stay.
    """
    make_folder(folder)
    path = folder / f'step_{snapshot.facts["step"]:08d}.safetensors'
    described = json.dumps({'facts': snapshot.facts, 'identity': identity})
    write_file(path, pack(snapshot.tensors, {KEY: described}))
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def read_state(folder: Path, identity: Mapping[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """The content of the newest undamaged state, and notes about damaged newer ones.

    `parse_state` turns the content into a snapshot. Raises CheckpointError where no state can be
    read, SettingsError where recipe, data or start differ from those of the run.
    """
    remove_temporaries(folder)
    wrong: list[str] = []
    for path in _newest_first(folder):
        try:
            content = read_bytes(path, _MOST_BYTES)
            parse_state(content)
            found = _described(content)['identity']
        except ParseError as error:
            wrong.append(f'{path.name}: {error}')
            continue
        _compare(folder.parent, found, identity)
        return content, tuple(f'{text}; went on from {path.name}' for text in wrong)
    said = f' ({"; ".join(wrong)})' if wrong else ''
    raise CheckpointError(
        f'{folder}: no state of the run can be read{said}; start the run anew in another folder'
    )


def parse_state(content: bytes) -> Snapshot:
    """Read a snapshot from the content of a file. Raises ParseError where it is damaged."""
    tensors, _ = unpack(content, sealed=True)
    return Snapshot(tensors, _checked(_described(content)['facts']))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(STATE_PATTERN), reverse=True)


def _described(content: bytes) -> dict[str, Any]:
    """Counters and identity, from the metadata of the file."""
    described = parse_json(read_metadata(content).get(KEY, 'null'))
    if not isinstance(described, dict) or not all(
        isinstance(described.get(name), dict) for name in ('facts', 'identity')
    ):
        raise ParseError('is a safetensors file, but no state of a run')
    return described


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
    """The counters of a state, no others, each of its type."""
    wrong = sorted(facts.keys() ^ _FACTS.keys())
    wrong += [
        name for name, is_right in _FACTS.items() if name in facts and not is_right(facts[name])
    ]
    if wrong:
        name = wrong[0]
        value = repr(facts[name]) if name in facts else 'missing'
        raise ParseError(f'has facts that no run has: {shorten(name)} is {shorten(value)}')
    return facts


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_FACTS: dict[str, Callable[[Any], bool]] = {
    'step': _is_count,
    'seconds': lambda value: _is_number(value) and value >= 0,
    'rollbacks': _is_count,
    'finished': lambda value: type(value) is bool,
    'best': lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
    'recent': lambda value: isinstance(value, list) and all(map(_is_number, value)),
}


def _compare(run: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, now = _flat(old), _flat(json.loads(json.dumps(new)))
    changed = [
        f'{name} was {_word(before, name)}, is {_word(now, name)}'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        shown = '; '.join(changed[:5]) + ('; ...' if len(changed) > 5 else '')
        raise SettingsError(
            f'{run}: cannot be resumed, since it would not be the same run: {shown}; give back '
            'what it was started with (and the version of psd_depth_ros that run.json names), or '
            'start a new run in another folder'
        )


def _word(values: Mapping[str, Any], name: str) -> str:
    return shorten(values.get(name, 'not there'))


def _flat(values: Any, prefix: str = '') -> dict[str, Any]:
    if not isinstance(values, (dict, list)):
        return {prefix: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    flat: dict[str, Any] = {}
    for name, value in items:
        flat.update(_flat(value, f'{prefix}.{name}' if prefix else str(name)))
    return flat
