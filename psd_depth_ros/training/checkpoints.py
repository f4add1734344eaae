"""States of a run on disk: two whole ones at any time, in safetensors with JSON, never pickled."""

from __future__ import annotations

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.training.files import remove_parts, write_whole
from psd_depth_ros.training.state import Snapshot

KEPT = 2
KEY = 'psd_depth_ros.run'
PATTERN = 'step_*.safetensors'


def write_state(folder: Path, snapshot: Snapshot, identity: Mapping[str, Any]) -> Path:
    """Write a state beside the earlier ones, then remove all but the last two.

    `identity` is what a resumed run must have in common with this one. Raises TrainingError where
    the disk is full; the earlier states stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'step_{snapshot.facts["step"]:08d}.safetensors'
    described = json.dumps({'facts': snapshot.facts, 'identity': identity})
    write_whole(path, save(dict(snapshot.tensors), metadata={KEY: described}))
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def has_state(folder: Path) -> bool:
    """Whether there is anything to resume from."""
    return bool(_newest_first(folder))


def read_state(folder: Path, identity: Mapping[str, Any]) -> bytes:
    """The content of the newest whole state; `parse_state` makes a snapshot of it.

    Raises CheckpointError where no state can be read, SettingsError where recipe, data or start
    are no longer those of the run, naming what changed.
    """
    remove_parts(folder)
    wrong = ''
    for path in _newest_first(folder):
        try:
            content = path.read_bytes()
            load(content)
            found = _described(content)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            wrong = f' ({path.name}: {error})'
            continue
        _compare(folder.parent, found['identity'], identity)
        return content
    raise CheckpointError(
        f'{folder}: no state of the run can be read{wrong}; start the run anew in another folder'
    )


def parse_state(content: bytes) -> Snapshot:
    """Make a snapshot of a whole file."""
    return Snapshot(load(content), _described(content)['facts'])


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(PATTERN), reverse=True)


def _described(content: bytes) -> dict[str, Any]:
    """The JSON in a safetensors header: 8 bytes of length, then the header."""
    length = int.from_bytes(content[:8], 'little')
    header = json.loads(content[8 : 8 + length])
    described: dict[str, Any] = json.loads(header['__metadata__'][KEY])
    return described


def _compare(run: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, now = _flat(old), _flat(json.loads(json.dumps(new)))
    changed = [
        f'{name} was {before.get(name, "not there")}, is {now.get(name, "not there")}'
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        shown = '; '.join(changed[:5]) + ('; ...' if len(changed) > 5 else '')
        raise SettingsError(
            f'{run}: cannot be resumed, since it would not be the same run: {shown}; give back '
            'what it was started with, or start a new run in another folder'
        )


def _flat(values: Any, prefix: str = '') -> dict[str, Any]:
    if not isinstance(values, (dict, list)):
        return {prefix: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    flat: dict[str, Any] = {}
    for name, value in items:
        flat.update(_flat(value, f'{prefix}.{name}' if prefix else str(name)))
    return flat
