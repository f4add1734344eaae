"""Networks that teach, and are not trained: in eval mode, without gradient, beside the objective.

`EMA` is the exponential moving average of the weights that the training loop keeps (Tarvainen and
Valpola 2017, "Mean teachers are better role models"), `INITIAL` the network that the run began
with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.networks import DepthModel

EMA = 'ema'
INITIAL = 'initial'
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
