"""Model cards of the weights that come with the package, from what the files say of themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from psd_depth_ros.checkpoint import CheckpointInfo, load_checkpoint
from psd_depth_ros.networks.depth_model import load_model, measure_complexity


def card_table(path: Path) -> str:
    """A Markdown table of facts of a checkpoint: network, input, output, data, stages, licence."""
    checkpoint = load_checkpoint(path)
    info, given = checkpoint.info, checkpoint.info.input
    cost = measure_complexity(load_model(checkpoint), given.height, given.width)
    megabytes = path.stat().st_size / 1e6
    unit = 'metric depth' if info.output.metric else 'relative depth'
    rows = {
        'Licence': info.licence or 'Apache-2.0, like the package',
        'Careful': info.restriction,
        'Network': f'{info.architecture["encoder"]}, {cost.parameters / 1e6:.2f} M parameters',
        'Input': f'{given.width}x{given.height} or any shape of as many pixels, '
        f'{cost.macs / 1e9:.2f} GMAC; {given.describe_range()}',
        'Output': f'{unit}, {info.output.min_depth_m:g} to {info.output.max_depth_m:g} m, through '
        f'the focal length (canonical {info.output.canonical_focal_px:g} px); sky; confidence',
        'Learned from': '<br>'.join(_sources(info)),
        'Training': '<br>'.join(_stages(info.name, info.training)),
        'File': f'`{path.name}`, {megabytes:.1f} MB, id `{checkpoint.id}`',
    }
    lines = [f'| {name} | {text} |' for name, text in rows.items() if text]
    return '\n'.join(['| | |', '|---|---|', *lines]) + '\n'


def _sources(info: CheckpointInfo) -> Iterator[str]:
    """One line for each licence, with the names of the data under it."""
    by_licence: dict[str, list[str]] = {}
    for entry in info.data:
        names = by_licence.setdefault(str(entry.get('licence')), [])
        name = str(entry.get('name'))
        name = name if ' ' in name else name.partition('/')[0]  # the folder of videos
        if name not in names:
            names.append(name)
    for licence, names in by_licence.items():
        yield f'{", ".join(names)} ({licence})'


def _stages(name: str, training: Mapping[str, Any]) -> Iterator[str]:
    """The runs that made the weights, first one first."""
    if 'start' in training:
        yield from _stages(str(training['start'].get('name', '?')), training['start'])
    facts = [f'{training["steps"]} steps'] if 'steps' in training else []
    if 'images' in training:
        facts.append(f'{training["images"]} images')
    if 'minutes' in training:
        facts.append(f'{training["minutes"]:g} min')
    if 'device' in training:
        facts.append(f'on {training["device"]}')
    yield f'{name}: {", ".join(facts) or "not stated"}'
