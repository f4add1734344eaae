"""From a specification (see `options`) to a network of depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from psd_depth_ros.checkpoint import refuse_pickle
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.external.files import FileNetwork
from psd_depth_ros.external.hub import (
    find_folder,
    HubNetwork,
    is_hub_network,
    read_defaults,
    read_kind,
)
from psd_depth_ros.external.network import Network
from psd_depth_ros.external.options import (
    FILES,
    guess_output,
    HUB,
    NetworkOptions,
    parse_spec,
)


@dataclass(frozen=True)
class ExternalNetwork:
    """A network of depth with what is known of it; `where` is what the user named."""

    network: Network
    options: NetworkOptions
    name: str
    where: str


def is_external(spec: str) -> bool:
    """Whether a specification names a network of other people: a file, a folder or `hf:`."""
    where = spec.partition('?')[0]
    return Path(where).suffix in FILES or is_hub_network(where)


def check_external(spec: str) -> None:
    """Raise SettingsError where the options of a specification, or its file, cannot be read.

    The network is not loaded, and nothing is downloaded.
    """
    where, _ = parse_spec(spec)
    if not where.startswith(HUB) and not Path(where).exists():
        raise SettingsError(f'network {where}: no such file or folder')


def open_depth_network(
    spec: str, device: str = 'auto', folder: Path | None = None, **changes: Any
) -> ExternalNetwork:
    """Open a network of depth by its specification.

    Args:
        spec: See `options`.
        device: That runs a network of `transformers`: `auto`, or as torch names it.
        folder: Of a network of `transformers`, where it was looked up already.
        **changes: Options that go before those of the specification.

    Raises SettingsError where it cannot be read or what its output means is unclear.
    """
    where, options = parse_spec(spec)
    refuse_pickle(where)
    if is_hub_network(where):
        return _open_hub_network(spec, device, folder or find_folder(where), changes)
    path, options = Path(where), replace(options, **changes)
    if path.suffix not in FILES:
        raise SettingsError(
            f'network {where}: expected {", ".join(FILES)}, hf:OWNER/NAME, or a folder with '
            'config.json and weights in safetensors'
        )
    network = FileNetwork(path, options)
    options = guess_output(options, network.output, f'output {network.output!r} of {path}')
    return ExternalNetwork(network, options, options.name or path.stem, where)


def _open_hub_network(
    spec: str, device: str, folder: Path, changes: dict[str, Any]
) -> ExternalNetwork:
    where, given = parse_spec(spec)
    own = read_kind(folder, where, given)
    if 'height' in own and (given.pixel_budget or changes.get('pixel_budget')):
        raise SettingsError(
            f'network {where} takes images of {own["width"]}x{own["height"]} only; leave out '
            'pixel_budget'
        )
    defaults = read_defaults(folder, where) | own
    options = replace(parse_spec(spec, **defaults)[1], **changes)
    if not options.output:
        raise SettingsError(
            f'network {where}: its kind does not tell whether it gives depth or disparity; '
            'say it, with ?output=depth or ?output=disparity behind the name'
        )
    name = where.removeprefix(HUB) if where.startswith(HUB) else Path(where).name
    hub = HubNetwork(folder, where, options, True, device)
    return ExternalNetwork(hub, options, options.name or name, where)
