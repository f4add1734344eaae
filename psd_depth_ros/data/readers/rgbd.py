"""Folders of an RGB-D camera: a frames.csv with a column of depth, or colour and depth folders.

The table has the columns `file` and `depth` and, if known, `t_nominal_s` and the poses T00..T23.
The folders (color/ and depth/) hold files of the same names. The calibration is in camera.yaml;
where depth is as its own camera saw it, not registered, that camera's is in depth_camera.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psd_depth_ros.data.depth import load_depth_camera
from psd_depth_ros.data.frames import FrameSource, Reader, SourceOptions
from psd_depth_ros.data.readers.files import (
    Entry,
    FolderFrames,
    images_in,
    read_entries,
    stamps_in_names,
)
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.parsing import ParseError, read_table

COLOUR_FOLDERS = ('color', 'colour', 'rgb', 'image', 'images')
DEPTH_FOLDERS = ('depth', 'depths')
DEPTH_SUFFIXES = ('.png', '.npy', '.tif', '.tiff')
TABLE = 'frames.csv'
DEPTH_CAMERA = 'depth_camera.yaml'
MILLIMETRES = 1000.0


class RgbdFrames(FolderFrames):
    """Colour images with depth; 16-bit depth is in mm unless told otherwise."""

    protocol = 'indoor'

    def __init__(self, path: Path, options: SourceOptions) -> None:
        table = path / TABLE
        entries = read_entries(table) if table.is_file() else _match_folders(path)
        units = None
        if options.with_depth:
            check_any_depth(path, entries)
            units = options.units_per_metre or MILLIMETRES
        own, colour = path / 'camera.yaml', _one_of(path, COLOUR_FOLDERS)
        if not own.is_file() and colour is not None:
            own = colour / 'camera.yaml'
        super().__init__(path, options.lens, entries, units, own)
        calibration = options.depth_camera or path / DEPTH_CAMERA
        if options.with_depth and (options.depth_camera is not None or calibration.is_file()):
            self.depth_camera = load_depth_camera(calibration)


def check_any_depth(folder: Path, entries: Sequence[Entry]) -> None:
    """Raise EvaluationError where no image has a depth."""
    if not any(entry.depth is not None for entry in entries):
        raise EvaluationError(
            f'{folder} has {len(entries)} images and no true depth; expected <id>_depth.png '
            'beside each image, a column `depth` in frames.csv, or a folder depth/ beside color/'
        )


def find_depth(folder: Path, stem: str) -> Path | None:
    """The file of depth of a name, without its suffix; None where it is missing."""
    found = (folder / f'{stem}{suffix}' for suffix in DEPTH_SUFFIXES)
    return next((path for path in found if path.is_file()), None)


def _matches(path: Path) -> bool:
    if (path / TABLE).is_file():
        try:
            return 'depth' in next(iter(read_table(path / TABLE)), {})
        except ParseError:  # what reads the folder says what is wrong with it
            return False
    return path.is_dir() and None not in (
        _one_of(path, COLOUR_FOLDERS),
        _one_of(path, DEPTH_FOLDERS),
    )


def _match_folders(folder: Path) -> list[Entry]:
    colour, depth = _one_of(folder, COLOUR_FOLDERS), _one_of(folder, DEPTH_FOLDERS)
    assert colour is not None, 'the layout has both'
    assert depth is not None, 'the layout has both'
    files = images_in(colour)
    stamps = stamps_in_names(files)
    return [
        Entry(file, stamp_ns, depth=find_depth(depth, file.stem), name=file.stem)
        for file, stamp_ns in zip(files, stamps, strict=True)
    ]


def _one_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _open(path: Path, options: SourceOptions) -> FrameSource:
    return RgbdFrames(path, options)


READER = Reader(
    'rgbd',
    _matches,
    _open,
    has_depth=True,
    depth_options=frozenset({'units_per_metre', 'depth_camera'}),
)
