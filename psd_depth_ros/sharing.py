"""Weights for other people: model cards, and folders as hubs of models take them.

A card is made from what a file says of itself. A packaged folder has the weights in safetensors,
config.json, which tells `checkpoint` what they are, README.md, the card, and a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import json
from pathlib import Path
import shutil
from typing import Any

from psd_depth_ros.checkpoint import CheckpointInfo, load_checkpoint
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.external.hub import MODEL_TYPE, WEIGHTS
from psd_depth_ros.files import make_folder, write_file
from psd_depth_ros.networks.depth_model import load_model, measure_complexity

BEST, PREVIEW = 'best.safetensors', 'preview.jpg'
_PREVIEWS = ('previews', 'training/previews')
# Licences as the hub of Hugging Face names them.
_HUB_LICENCES = (
    'apache-2.0', 'mit', 'bsd-3-clause', 'cc0-1.0', 'cc-by-4.0', 'cc-by-sa-4.0', 'cc-by-nc-4.0',
    'cc-by-nc-sa-4.0',
)  # fmt: skip


def package(run: Path, folder: Path) -> list[Path]:
    """Make a folder that a hub of models can take, of a run or of a file of weights.

    Args:
        run: A folder with best.safetensors, or a checkpoint by file or name.
        folder: Gets the files; must be new or empty.

    Returns:
        The files written.

    Raises SettingsError where the folder has files, CheckpointError for unusable weights.
    """
    source = run / BEST if run.is_dir() else run
    checkpoint = load_checkpoint(source)
    if folder.is_dir() and any(folder.iterdir()):
        raise SettingsError(f'{folder} is not empty; name a new folder')
    make_folder(folder)
    picture = _newest_preview(run)
    shutil.copyfile(checkpoint.path, folder / WEIGHTS)
    if picture is not None:
        shutil.copyfile(picture, folder / PREVIEW)
    config = {'model_type': MODEL_TYPE, 'weights': WEIGHTS, 'id': checkpoint.id}
    write_file(folder / 'config.json', (json.dumps(config, indent=2) + '\n').encode())
    text = _readme(checkpoint.info, folder / WEIGHTS, picture is not None)
    write_file(folder / 'README.md', text.encode())
    return sorted(folder.iterdir())


def _newest_preview(run: Path) -> Path | None:
    for name in _PREVIEWS:
        found = sorted((run / name).glob('*.jpg')) if run.is_dir() else []
        if found:
            return found[-1]
    return None


def _readme(info: CheckpointInfo, weights: Path, has_picture: bool) -> str:
    licence = info.licence.lower()
    known = licence in _HUB_LICENCES
    lines = ['---', f'license: {licence if known else "other"}']
    if not known:
        lines.append(f'license_name: {json.dumps(info.licence or "not stated")}')
    lines += [
        'library_name: psd_depth_ros',
        'pipeline_tag: depth-estimation',
        'tags: [ros2, robotics, monocular-depth]',
        '---',
        f'# {info.name}',
        '',
        'Weights of psd_depth_ros: depth from one camera on ROS 2.',
        '',
        '```',
        'ros2 launch psd_depth_ros depth.launch.py checkpoint:=hf:OWNER/NAME',
        '```',
        '',
        'or with the path of this folder.',
        '',
        card_table(weights),
    ]
    scores = info.training.get('validation', {})
    if scores:
        lines += ['## Held out', '', '| score | value |', '|---|---|']
        lines += [f'| `{name}` | {value:.4g} |' for name, value in sorted(scores.items())]
        lines.append('')
    if has_picture:
        lines += [f'![Held-out frames]({PREVIEW})', '']
    return '\n'.join(lines)


def card_table(path: Path, unstated: str = 'not stated') -> str:
    """A Markdown table of facts of a checkpoint: network, input, output, data, stages, licence.

    `unstated` is what it says of a licence that the file does not state.
    """
    checkpoint = load_checkpoint(path)
    info, given = checkpoint.info, checkpoint.info.input
    cost = measure_complexity(load_model(checkpoint), given.height, given.width)
    megabytes = path.stat().st_size / 1e6
    unit = 'metric depth' if info.output.metric else 'relative depth'
    rows = {
        'Licence': info.licence or unstated,
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
