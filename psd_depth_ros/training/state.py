"""All that a run changes while it goes on: weights, their average, the optimiser, where it is."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn, Tensor

from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.parsing import shorten
from psd_depth_ros.training.recipe import Recipe
from psd_depth_ros.training.schedule import rate_factor
from psd_depth_ros.training.task import Task


@dataclass(frozen=True)
class Snapshot:
    """A state at rest: tensors on the CPU that nobody changes, and facts that JSON can hold."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class TrainingState:
    """The changing part of a run; `snapshot` and `restore` are exact."""

    def __init__(self, task: Task, device: torch.device) -> None:
        self.recipe = task.recipe
        self.module = task.module
        self.module.to(device)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = deepcopy(task.depth).eval().requires_grad_(False)
        if hasattr(task, 'teacher'):
            task.teacher = self.average
        self._depth = task.depth
        self.optimiser = _make_optimiser(task)
        self.step = 0
        self.seconds = 0.0
        self.rollbacks = 0
        self.finished = False
        self.best: dict[str, float] = {}  # scores of the kept checkpoint
        self.recent: list[float] = []  # losses, for telling an exploding one

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Every trained parameter, in the order of the optimiser."""
        return [p for group in self.optimiser.param_groups for p in group['params']]

    def set_rates(self, share: float) -> dict[str, float]:
        """Set the learning rates for `share` of the run; gives them by group."""
        factor = rate_factor(self.recipe, share) * 0.5**self.rollbacks
        for group in self.optimiser.param_groups:
            group['lr'] = group['base'] * factor
        return {group['name']: group['lr'] for group in self.optimiser.param_groups}

    def update_average(self) -> None:
        """Move the averaged weights towards the current ones."""
        decay = average_decay(self.recipe, self.step)
        update_average(self.average, self._depth, decay)

    def is_finite(self) -> bool:
        """Whether every trained parameter is a number."""
        sums = [parameter.detach().double().sum() for parameter in self.parameters]
        return bool(torch.stack(sums).isfinite().all())

    def snapshot(self) -> Snapshot:
        """Copy everything."""
        parts = {
            'module': self.module.state_dict(),
            'average': self.average.state_dict(),
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
        """Take everything back. Raises CheckpointError where it is of another network."""
        try:
            self.module.load_state_dict(_part(snapshot, 'module'))
            self.average.load_state_dict(_part(snapshot, 'average'))
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


def average_decay(recipe: Recipe, step: int) -> float:
    """What is kept of the averaged weights at `step` (from 1); young averages move faster.

    With 1 - (p + 1) / (p + 2 + k) step k weighs like k^p (polynomial decay, Shamir & Zhang 2013).
    """
    weight = recipe.average_power + 1.0
    return min(recipe.average, (1.0 + step) / (1.0 + weight + step))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights towards the current ones."""
    kept, latest = [], []
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            kept.append(old)
            latest.append(new)
        else:
            old.copy_(new)
    torch._foreach_lerp_(kept, latest, 1.0 - decay)  # on a GPU a few kernels for all of them


def _make_optimiser(task: Task) -> torch.optim.AdamW:
    groups = [
        {'name': group.name, 'params': list(group.parameters), 'base': group.rate}
        for group in task.groups()
    ]
    recipe = task.recipe
    return torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=recipe.weight_decay, fused=True)


def _part(snapshot: Snapshot, part: str) -> dict[str, Tensor]:
    prefix = f'{part}.'
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in snapshot.tensors.items()
        if name.startswith(prefix)
    }


def _flatten(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors as `INDEX.NAME`, counted like the parameters of all groups."""
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
