"""Networks that teach, and are not trained: in eval mode, without gradient, beside the objective.

`EMA` is the exponential moving average of the weights that the training loop keeps (Tarvainen and
Valpola 2017, "Mean teachers are better role models"), `INITIAL` the network that the run began
with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.networks import DepthModel

EMA = 'ema'
INITIAL = 'initial'
TEACHER = 'teacher'  # a slow average of the student, with a decay of its own
_REMEDIES = {
    EMA: 'the training loop provides it',
    INITIAL: 'start the run from a checkpoint (--checkpoint)',
}


class Teachers:
    """Teachers by name.

    `EMA` may be announced before it exists: the loop makes it when training begins.
    """

    def __init__(self) -> None:
        self._networks: dict[str, DepthModel] = {}
        self._decays: dict[str, float] = {}

    def __getitem__(self, name: str) -> DepthModel:
        """Give a teacher. Raises SettingsError for a name that is unknown."""
        if name not in self._networks:
            raise SettingsError(f'there is no teacher {name!r} in this run')
        return self._networks[name]

    def get(self, name: str) -> DepthModel | None:
        """The teacher of that name, None where the name is unknown."""
        return self._networks.get(name)

    def __contains__(self, name: object) -> bool:
        """Whether there is a teacher of that name."""
        return name in self._networks

    def add(self, name: str, network: DepthModel) -> None:
        """Take a network as it is: its owner keeps it up to date, such as the average."""
        self._networks[name] = network

    def add_copy(self, name: str, network: DepthModel) -> None:
        """Take a frozen copy of a network as it is now."""
        copy = deepcopy(network).eval()
        for parameter in copy.parameters():
            parameter.requires_grad_(False)
        self._networks[name] = copy

    def add_average(self, name: str, network: DepthModel, decay: float) -> None:
        """Take a copy of a network that `update` draws towards it.

        Raises SettingsError where it is there already with another decay.
        """
        if self._decays.get(name, decay) != decay:
            raise SettingsError(
                f'the teacher {name!r} is asked for with decays {self._decays[name]:g} and '
                f'{decay:g}; give both terms the same decay'
            )
        if name not in self._networks:
            self.add_copy(name, network)
            self._decays[name] = decay

    @property
    def averages(self) -> nn.ModuleDict:
        """The teachers of `add_average` by name, to be saved with the state of a run."""
        return nn.ModuleDict({name: self._networks[name] for name in self._decays})

    def update(self, network: DepthModel, step: int) -> None:
        """Draw the averages towards the student after a step (from 1) of the run.

        While they are young they follow it faster: the decay is at most (1 + step) / (10 + step).
        """
        for name, decay in self._decays.items():
            update_average(self._networks[name], network, min(decay, (1 + step) / (10 + step)))

    def check(self, term: str, names: Iterable[str]) -> None:
        """Raise SettingsError where a term asks for a teacher that this run cannot have."""
        for name in sorted(names):
            if name != EMA and name not in self._networks:
                remedy = _REMEDIES.get(name, f'known teachers: {", ".join(_REMEDIES)}')
                raise SettingsError(
                    f'term {term} needs the teacher {name!r}, which this run does not have: '
                    f'{remedy}, or leave {term} out of the objective'
                )

    def apply(self, function: Callable[..., Any]) -> None:
        """Move the networks, as `nn.Module._apply` does."""
        for network in self._networks.values():
            network._apply(function)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move averaged weights towards those of a model: average = decay average + (1 - decay) model.

    Buffers that are no floating-point numbers are copied.
    """
    kept, latest = [], []
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            kept.append(old)
            latest.append(new)
        else:
            old.copy_(new)
    torch._foreach_lerp_(kept, latest, 1.0 - decay)  # on a GPU a few kernels for all of them
