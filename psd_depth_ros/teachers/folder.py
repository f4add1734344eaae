"""Maps of other networks that were computed before and lie in a folder.

`FOLDER/RECORDING/FRAME.png`, or `FOLDER/FRAME.png` for one recording. FRAME is the name of the
frame's file without suffix, else its number in the recording, or its stamp in nanoseconds. Maps
cover the whole recorded image, at any size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.external.options import DISPARITY, guess_output, hash_files, NetworkOptions
from psd_depth_ros.parsing import ParseError, read_array, read_arrays

Map = NDArray[np.float32]

DEPTH, CLASSES = 'depth', 'classes'
UNKNOWN = 255  # in maps of 8 bits
UNKNOWN_LICENCE = 'not stated'
_SUFFIXES = ('.png', '.npy', '.npz', '.tif', '.tiff')
_SHOWN = 5  # names in a message


class MapFolder:
    """A folder of depth maps (kind `depth`) or of class maps (kind `classes`).

    Depth is 16 bits in a PNG, 0 unknown, or floats in .npy, .npz or TIFF; classes are 8 bits in a
    PNG, 255 unknown, or probabilities (C, h, w) in .npy or .npz.
    """

    def __init__(self, folder: Path, kind: str, options: NetworkOptions) -> None:
        """List the folder. Raises SettingsError where it has no maps or their kind is unclear."""
        self._folder = folder
        self._kind = kind
        files = sorted(
            file
            for pattern in ('*', '*/*')
            for file in folder.glob(pattern)
            if file.suffix.lower() in _SUFFIXES and file.is_file()
        )
        if not files:
            raise SettingsError(
                f'folder {folder} has no maps; expected FOLDER/RECORDING/FRAME or FOLDER/FRAME '
                f'with one of the suffixes {" ".join(_SUFFIXES)}'
            )
        self._files: dict[str, dict[str, Path]] = {}
        for file in files:
            below = '' if file.parent == folder else file.parent.name
            self._files.setdefault(below, {})[file.stem] = file
        if kind == DEPTH:
            options = guess_output(options, folder.name, f'folder {folder}')
        elif not options.classes:
            options = replace(options, classes=self._count_classes(files))
        self.options = options
        self.name = options.name or folder.name
        self.id = options.identify(hash_files(files, folder))
        self.provenance: tuple[Mapping[str, Any], ...] = (
            {'name': self.name, 'licence': options.licence or UNKNOWN_LICENCE},
        )

    @property
    def gives_depth(self) -> bool:
        """Whether its maps are depth, which lacks a scale only, no shift."""
        return self._kind == DEPTH and self.options.output != DISPARITY

    def find(
        self, recordings: Iterable[str], frames: Sequence[Iterable[str]], *, is_only: bool
    ) -> list[Path | None]:
        """The map of every frame of a recording, None where it has none.

        Args:
            recordings: Names that the folder of the recording may have, the likeliest first.
            frames: Of every frame the names that its map may have, the likeliest first; numbers
                are found with any number of zeros before them.
            is_only: Whether the run has no other recording, so that maps may lie in the folder
                itself.
        """
        below = next((name for name in recordings if name and name in self._files), None)
        if below is None:
            if not is_only or '' not in self._files:
                return [None] * len(frames)
            below = ''
        files = self._files[below]
        numbers = {str(int(stem)): file for stem, file in files.items() if stem.isdecimal()}
        return [
            next(
                (
                    found
                    for name in names
                    if name and (found := files.get(name) or numbers.get(name)) is not None
                ),
                None,
            )
            for names in frames
        ]

    def describe(self) -> str:
        """Some of the names in the folder, for a message."""
        parts = []
        for below, files in list(self._files.items())[:_SHOWN]:
            stems = list(files)
            parts.append(f'{below or "."}: {stems[0]} ... {stems[-1]} ({len(stems)})')
        more = len(self._files) - _SHOWN
        return '; '.join(parts) + (f'; and {more} folders more' if more > 0 else '')

    def read(self, file: Path) -> Map:
        """The disparity (h, w), or class probabilities (C, h, w), of a file; NaN where unknown.

        Raises SettingsError where the file is damaged or of another kind.
        """
        stored = _read(file)
        if self._kind == DEPTH:
            return self._disparity(file, stored)
        if stored.ndim == 2 and np.issubdtype(stored.dtype, np.integer):
            return one_hot(stored, self.options.classes, str(file))
        if stored.ndim == 3 and np.issubdtype(stored.dtype, np.floating):
            return stored.astype(np.float32)
        raise SettingsError(
            f'map {file} is {stored.dtype} of shape {stored.shape}; expected class numbers of 8 '
            'bits (h, w), or probabilities (C, h, w)'
        )

    def _disparity(self, file: Path, stored: NDArray) -> Map:
        if stored.ndim != 2 or stored.dtype == np.uint8:
            raise SettingsError(
                f'map {file} is {stored.dtype} of shape {stored.shape}; expected one channel of '
                '16 bits or floats: 8 bits are a picture of depth, not depth'
            )
        is_float = np.issubdtype(stored.dtype, np.floating)
        values = stored.astype(np.float32)
        is_depth = self.options.output == 'depth'
        known = np.isfinite(values) if is_float and not is_depth else values > 0
        values = np.where(known, values, np.float32(np.nan))
        with np.errstate(divide='ignore'):
            return np.reciprocal(values) if is_depth else values

    def _count_classes(self, files: list[Path]) -> int:
        """One more than the largest class number in the folder; features have their own count."""
        most = -1
        for file in files:
            stored = _read(file)
            if stored.ndim == 3:
                return stored.shape[0]
            known = stored[stored != UNKNOWN]
            most = max(most, int(known.max())) if known.size else most
        return most + 1


def one_hot(labels: NDArray, classes: int, name: str) -> Map:
    """Class probabilities (C, h, w) of class numbers (h, w); NaN for 255, which means unknown.

    Raises SettingsError for a number beyond the classes.
    """
    unknown = labels == UNKNOWN
    known = labels[~unknown]
    if known.size and not 0 <= known.min() <= known.max() < classes:
        raise SettingsError(
            f'{name} has class {known.max()}, but classes is {classes}; expected at least '
            f'{int(known.max()) + 1}'
        )
    found = (labels == np.arange(classes)[:, None, None]).astype(np.float32)
    found[:, unknown] = np.nan
    return found


def _read(file: Path) -> NDArray:
    try:
        if file.suffix == '.npy':
            return read_array(file)
        if file.suffix == '.npz':
            arrays = list(read_arrays(file).values())
            if len(arrays) != 1:
                raise SettingsError(f'map {file} holds {len(arrays)} arrays, expected one')
            return arrays[0]
    except ParseError as error:
        raise SettingsError(f'map {file} {error}') from error
    stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise SettingsError(f'map {file} is damaged or of an unknown format')
    return stored
