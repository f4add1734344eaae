"""Maps of teachers for the frames of sequences: computed once, kept beside the decoded frames.

Depth is kept at the size of the network's input, semantics at an eighth of it, both in 16 bits.
A file appears under its name when it is complete; its name holds a key of the teacher, the frames
and the size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import suppress
from dataclasses import dataclass, replace
import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.frames import SEMANTIC_STRIDE, Sequence
from psd_depth_ros.data.triplets.cache import ArrayFile
from psd_depth_ros.errors import BagError, SettingsError
from psd_depth_ros.files import atomic_path
from psd_depth_ros.geometry.resample import resize, resize_area
from psd_depth_ros.teachers import (
    DepthTeacher,
    MapFolder,
    open_depth_teacher,
    open_semantic_expert,
    SemanticExpert,
)

Map = NDArray[np.float32]
Report = Callable[[int, int], None]
Teacher = DepthTeacher | SemanticExpert | MapFolder

PSEUDO_DEPTH, SEMANTICS = 'pseudo_depth', 'semantics'
_VERSION = 1  # raise it when maps would be kept differently
_OPENERS: dict[str, Callable[[str], Teacher]] = {
    PSEUDO_DEPTH: open_depth_teacher,
    SEMANTICS: open_semantic_expert,
}
_HALF_RANGE = (1e-3, 1e4)  # for the largest disparity of a map kept in 16 bits
_SAMPLED_FRAMES = 32


@dataclass(frozen=True)
class TeacherMaps:
    """Sequences with maps of one teacher, remarks for people, and who the teacher was.

    `id` differs where the maps may; `provenance` has entries of `CheckpointInfo.data`.
    """

    sequences: tuple[Sequence, ...]
    notes: tuple[str, ...]
    name: str
    id: str
    provenance: tuple[Mapping[str, Any], ...]


def open_teacher(field: str, spec: str) -> Teacher:
    """Open the teacher of a batch field, `pseudo_depth` or `semantics`. Raises SettingsError."""
    if field not in _OPENERS:
        raise SettingsError(
            f'teachers make no batch field {field}, only {", ".join(sorted(_OPENERS))}'
        )
    return _OPENERS[field](spec)


def open_teachers(terms: Iterable[Any]) -> dict[str, Teacher]:
    """The teachers of terms by batch field, from what each says in `maps` (field: specification).

    Raises SettingsError where two terms want different teachers for one field.
    """
    specs: dict[str, str] = {}
    for term in terms:
        for field, spec in term.maps.items():
            if specs.setdefault(field, spec) != spec:
                raise SettingsError(
                    f'term {term.name} wants {spec} to make {field}, another term '
                    f'{specs[field]}; a run has one teacher for each field'
                )
    return {field: open_teacher(field, spec) for field, spec in specs.items()}


def compute_maps(
    sequences: Items[Sequence],
    teacher: Teacher,
    field: str,
    cache: Path | None,
    report: Report = lambda done, total: None,
) -> TeacherMaps:
    """Sequences with the maps of a teacher in `pseudo_depth` or `semantics`.

    Args:
        sequences: With frames.
        teacher: What makes the maps.
        field: Which of the two.
        cache: Folder to keep them in and to look for them; None keeps them in memory.
        report: Gets the frames done and how many there are.

    Raises:
        SettingsError: a map cannot be read, or no sequence has any.
        BagError: they cannot be kept, as on a full disk.
    """
    total = sum(len(sequence.rgb) for sequence in sequences)
    is_only = len({sequence.origin and sequence.origin.path for sequence in sequences}) == 1
    sources = [_source(sequence, teacher, is_only) for sequence in sequences]
    without = [one.name for one, found in zip(sequences, sources, strict=True) if found is None]
    if isinstance(teacher, MapFolder) and len(without) == len(sequences):
        raise SettingsError(_nothing_fits(sequences, teacher))
    kept: list[NDArray[np.float16] | None] = []
    done = 0
    for sequence, maps in zip(sequences, sources, strict=True):
        if maps is None:
            kept.append(None)
        else:
            size = _size(sequence, field)
            path = _path(cache, sequence, teacher, field, size)
            fitted = (_fit(one, teacher, field, size) for one in maps)
            kept.append(_keep(path, len(sequence.rgb), fitted, _after(done, total, report)))
        done += len(sequence.rgb)
        report(done, total)
    channels = next((one.shape[1:-2] for one in kept if one is not None), ())
    found = []
    for sequence, array in zip(sequences, kept, strict=True):
        if array is None:  # of the same number of channels, so that batches can mix them
            shape = (len(sequence.rgb), *channels, *_size(sequence, field))
            array = np.broadcast_to(np.float16(np.nan), shape)
        found.append(replace(sequence, **{field: array}))  # type: ignore[arg-type]
    notes = (f'{name} has no maps of {teacher.name}' for name in without)
    return TeacherMaps(tuple(found), tuple(notes), teacher.name, teacher.id, teacher.provenance)


def _after(before: int, total: int, report: Report) -> Callable[[int], None]:
    return lambda count: report(before + count, total)


def _source(sequence: Sequence, teacher: Teacher, is_only: bool) -> Iterator[Map | None] | None:
    """The maps of the frames in order, each made when it is asked for; None without any."""
    if not isinstance(teacher, MapFolder):
        return (teacher(np.asarray(rgb), sequence.camera) for rgb in sequence.rgb)
    files = teacher.find(sequence.names, _frame_names(sequence), is_only=is_only)
    if all(file is None for file in files):
        return None
    return (None if file is None else _rectified(teacher.read(file), sequence) for file in files)


def _frame_names(sequence: Sequence) -> list[tuple[str, ...]]:
    """Names that the map of each frame may have: its file's, its number, its stamp."""
    origin, stamps = sequence.origin, sequence.stamps_ns.tolist()
    if origin is None:
        return [(str(place), str(stamp)) for place, stamp in enumerate(stamps)]
    return [
        (name,) if name else (str(number), str(stamp))
        for name, number, stamp in zip(origin.names, origin.numbers.tolist(), stamps, strict=True)
    ]


def _nothing_fits(sequences: Items[Sequence], teacher: MapFolder) -> str:
    expected = []
    for sequence in sequences[:3]:
        names = sequence.names
        frames = [one[0] for one in _frame_names(sequence)]
        expected.append(f'{" or ".join(names)}: {frames[0]} ... {frames[-1]}')
    return (
        f'the maps of {teacher.name} fit no recording; expected a folder for each, such as '
        f'{"; ".join(expected)}; found {teacher.describe()}'
    )


def _rectified(maps: Map, sequence: Sequence) -> Map:
    """Maps (..., h, w) of the recorded image in the rectified view: the nearest pixel, or NaN."""
    if sequence.origin is None or sequence.origin.positions is None:
        return maps
    height, width = maps.shape[-2:]
    pixels = sequence.origin.positions * np.array([width, height], np.float32) - 0.5
    layers = [
        cv2.remap(
            layer,
            np.nan_to_num(pixels, nan=-1e6),
            None,
            cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=float('nan'),
        )
        for layer in maps.reshape(-1, height, width)
    ]
    return np.stack(layers).reshape(*maps.shape[:-2], *layers[0].shape)


def _size(sequence: Sequence, field: str) -> tuple[int, int]:
    height, width = sequence.network_size
    if field == PSEUDO_DEPTH:
        return height, width
    return -(-height // SEMANTIC_STRIDE), -(-width // SEMANTIC_STRIDE)


def _fit(maps: Map | None, teacher: Teacher, field: str, size: tuple[int, int]) -> NDArray:
    """Maps in 16 bits and the size in which they are kept."""
    if maps is None:
        classes = (teacher.options.classes,) if field == SEMANTICS else ()  # type: ignore[union-attr]
        return np.full((*classes, *size), np.nan, np.float16)
    if field == SEMANTICS:
        return resize_area(maps, size).astype(np.float16)
    disparity = resize(maps, size)
    largest = float(np.nanmax(np.abs(disparity), initial=0.0))
    low, high = _HALF_RANGE
    if largest and not low <= largest <= high:  # the scale means nothing
        disparity = disparity / np.float32(largest)
    return disparity.astype(np.float16)


def _path(
    cache: Path | None, sequence: Sequence, teacher: Teacher, field: str, size: tuple[int, int]
) -> Path | None:
    if cache is None:
        return None
    digest = hashlib.sha256(repr((_VERSION, teacher.id, field, size)).encode())
    digest.update(_frames_key(sequence))
    name = sequence.name.replace('/', '-')
    return cache / f'{name}-{field}-{digest.hexdigest()[:16]}.npy'


def _frames_key(sequence: Sequence) -> bytes:
    """Differs where the frames do; triplets do not count."""
    digest = hashlib.sha256(repr((sequence.camera, sequence.rgb.shape)).encode())
    places = np.linspace(0, len(sequence.rgb) - 1, min(len(sequence.rgb), _SAMPLED_FRAMES))
    for array in (sequence.stamps_ns, *(sequence.rgb[int(place)] for place in places)):
        digest.update(np.ascontiguousarray(array).tobytes())
    if sequence.origin is not None:
        digest.update(repr(sequence.origin.names).encode())
    return digest.digest()


def _keep(
    path: Path | None, count: int, maps: Iterator[NDArray], report: Callable[[int], None]
) -> NDArray[np.float16]:
    """The maps kept in a file, or made and kept there."""
    if path is None:
        return np.stack(list(_counted(maps, report)))
    kept = _load(path, count)
    if kept is not None:
        with suppress(OSError):
            os.utime(path)  # used, for a cache that forgets the oldest
        return kept
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            file = ArrayFile(temporary)
            try:
                for one in _counted(maps, report):
                    file.append(one)
            finally:
                file.close()
    except OSError as error:
        raise BagError(
            f'maps of a teacher cannot be kept in {path.parent}: {error.strerror or error}; make '
            'room, or choose another folder for the run'
        ) from error
    kept = _load(path, count)
    if kept is None:
        raise BagError(f'{path} is damaged as soon as it is written; choose another disk')
    return kept


def _counted(maps: Iterator[NDArray], report: Callable[[int], None]) -> Iterator[NDArray]:
    for done, one in enumerate(maps, 1):
        yield one
        report(done)


def _load(path: Path, count: int) -> NDArray[np.float16] | None:
    """A file of `count` maps; None where it is missing, cut off or damaged."""
    try:
        found: Any = np.load(path, mmap_mode='r')
    except (OSError, ValueError, EOFError):
        return None
    return found if found.dtype == np.float16 and len(found) == count else None
