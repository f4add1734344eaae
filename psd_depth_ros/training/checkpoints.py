"""States of a run on disk: two whole ones at any time, in safetensors with JSON, never pickled.

A checksum covers all of a state, and what it says is checked again before anything is set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
import math
from pathlib import Path
from typing import Any

from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.files import remove_parts
from psd_depth_ros.parsing import ARRAY_BYTES, parse_json, ParseError, read_bytes, shorten
from psd_depth_ros.tensor_files import pack, read_metadata, unpack
from psd_depth_ros.training.files import make_folder, write_whole
from psd_depth_ros.training.state import Snapshot

KEPT = 2
KEY = 'psd_depth_ros.run'
PATTERN = 'step_*.safetensors'
_MOST_BYTES = 8 * ARRAY_BYTES


def write_state(folder: Path, snapshot: Snapshot, identity: Mapping[str, Any]) -> Path:
    """Write a state beside the earlier ones, then remove all but the last two.

    `identity` is what a resumed run must have in common with this one. Raises TrainingError where
    the disk is full; the earlier states stay.
    """
    make_folder(folder)
    path = folder / f'step_{snapshot.facts["step"]:08d}.safetensors'
    described = json.dumps({'facts': snapshot.facts, 'identity': identity})
    write_whole(path, pack(snapshot.tensors, {KEY: described}))
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def has_state(folder: Path) -> bool:
    """Whether there is anything to resume from."""
    return bool(_newest_first(folder))


def read_state(folder: Path, identity: Mapping[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """The content of the newest whole state, and what was wrong with newer ones.

    `parse_state` makes a snapshot of it. Raises CheckpointError where no state can be read,
    SettingsError where recipe, data or start are no longer those of the run, naming what changed.
    """
    remove_parts(folder)
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
    """Make a snapshot of a whole file. Raises ParseError where it is damaged or says nonsense."""
    tensors, _ = unpack(content, sealed=True)
    return Snapshot(tensors, _checked(_described(content)['facts']))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(PATTERN), reverse=True)


def _described(content: bytes) -> dict[str, Any]:
    """Facts and identity, from the metadata of the file."""
    described = parse_json(read_metadata(content).get(KEY, 'null'))
    if not isinstance(described, dict) or not all(
        isinstance(described.get(name), dict) for name in ('facts', 'identity')
    ):
        raise ParseError('is a safetensors file, but no state of a run')
    return described


def _checked(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that a state has, no others, each of its type."""
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
