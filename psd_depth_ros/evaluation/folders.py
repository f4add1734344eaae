"""Folders of images with their true depth beside them: lidar in the image, or an RGB-D camera.

Image + lidar: `<id>.png`, `<id>_depth.png` and `<id>_camera.yaml` (or one camera.yaml). RGB-D: a
frames.csv with the columns `file` and `depth`, or a folder of colour and one of depth with the
same names, and camera.yaml. Poses are taken from T00..T23 of the table where it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.frames import LensChoice
from psd_depth_ros.data.readers.files import images_in
from psd_depth_ros.errors import CalibrationError, EvaluationError
from psd_depth_ros.evaluation.samples import (
    check_truth,
    read_rgb,
    read_truth,
    rectify_truth,
    Sample,
    SampleList,
)
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import check_sizes, ImageDecoder
from psd_depth_ros.parsing import ParseError, read_table

KITTI_UNITS_PER_METRE = 256.0
MILLIMETRES = 1000.0
COLOUR_FOLDERS = ('color', 'colour', 'rgb', 'image', 'images')
DEPTH_FOLDERS = ('depth', 'depths')
DEPTH_SUFFIXES = ('.png', '.npy', '.tif', '.tiff')
TABLE = 'frames.csv'
_MARK = '_depth'
_POSE = [f'T{row}{column}' for row in range(3) for column in range(4)]


@dataclass(frozen=True)
class Pair:
    """The files of one sample; `truth` is None where the image has none."""

    name: str
    image: Path
    truth: Path | None
    calibrations: tuple[Path, ...]
    sequence: str = ''
    stamp_ns: int = 0
    pose: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class PairReader:
    """Reads pairs of files; `lens` goes before the calibration beside them."""

    lens: LensChoice
    units_per_metre: float
    decoder: ImageDecoder = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """One decoder for all of the images."""
        object.__setattr__(self, 'decoder', ImageDecoder(self.lens.sixteen_bit_range))

    @property
    def notes(self) -> list[str]:
        """What to tell of the images read so far."""
        return [self.decoder.note] if self.decoder.note else []

    def __call__(self, pair: Pair) -> Sample:
        """Read one. Raises EvaluationError and CalibrationError."""
        rgb = read_rgb(pair.image, self.decoder)
        camera = find_camera(self.lens, pair.calibrations, rgb.shape[1], rgb.shape[0])
        truth = None
        if pair.truth is not None:
            truth = check_truth(str(pair.truth), read_truth(pair.truth, self.units_per_metre), rgb)
            truth = rectify_truth(truth, camera)
        return Sample(pair.name, rgb, camera, truth, pair.sequence, pair.stamp_ns, pair.pose)


def is_lidar_folder(folder: Path) -> bool:
    """Whether images have a `<id>_depth` file beside them."""
    return any(folder.glob(f'*{_MARK}.*'))


def is_rgbd_folder(folder: Path) -> bool:
    """Whether there is a table with a column of depth, or folders of colour and of depth."""
    if (folder / TABLE).is_file():
        return 'depth' in next(iter(_rows(folder / TABLE)), {})
    return _one_of(folder, COLOUR_FOLDERS) is not None and (
        _one_of(folder, DEPTH_FOLDERS) is not None
    )


def open_lidar_folder(
    folder: Path, lens: LensChoice, units_per_metre: float | None
) -> SampleList[Pair]:
    """Images with `<id>_depth` beside them; 16-bit depth is in 1/256 m unless told otherwise."""
    files = images_in(folder)
    pairs = []
    for image in files:
        if image.stem.endswith(_MARK):
            continue
        truth = _beside(folder, f'{image.stem}{_MARK}')
        calibrations = (folder / f'{image.stem}_camera.yaml', folder / 'camera.yaml')
        pairs.append(Pair(image.stem, image, truth, calibrations))
    return _pairs(folder, pairs, PairReader(lens, units_per_metre or KITTI_UNITS_PER_METRE))


def open_rgbd_folder(
    folder: Path, lens: LensChoice, units_per_metre: float | None
) -> SampleList[Pair]:
    """Colour and depth images; 16-bit depth is in millimetres unless told otherwise."""
    table = folder / TABLE
    pairs = _read_table(table) if table.is_file() else _match_folders(folder)
    return _pairs(folder, pairs, PairReader(lens, units_per_metre or MILLIMETRES))


def find_camera(lens: LensChoice, calibrations: Sequence[Path], width: int, height: int) -> Camera:
    """The camera that was given, or that of the first calibration there is."""
    camera = lens.camera_for(width, height)
    if camera is None:
        found = next((path for path in calibrations if path.is_file()), None)
        if found is None:
            looked = ' and '.join(str(path) for path in calibrations)
            raise CalibrationError(
                f'the images come without a calibration (looked for {looked}); give it with '
                '--camera camera.yaml, or with --fov DEGREES'
            )
        camera = load_camera(found, lens.image_is_rectified, lens.rectify_alpha)
    check_sizes(camera, width, height)
    return camera


def _pairs(folder: Path, pairs: list[Pair], reader: PairReader) -> SampleList[Pair]:
    if not any(pair.truth is not None for pair in pairs):
        raise EvaluationError(
            f'{folder} has {len(pairs)} images and no true depth; expected <id>_depth.png beside '
            'each image, a column `depth` in frames.csv, or a folder depth/ beside color/'
        )
    return SampleList(pairs, reader)


def _read_table(table: Path) -> list[Pair]:
    folder = table.parent
    pairs = []
    for index, row in enumerate(_rows(table)):
        try:
            stamp_ns = round(float(row.get('t_nominal_s') or 0.1 * index) * 1e9)
            truth = folder / row['depth'] if row.get('depth') else None
            pose = _read_pose(row)
            pair = Pair(
                row['file'], folder / row['file'], truth, (folder / 'camera.yaml',),
                str(folder), stamp_ns, pose,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f'table {table} has a wrong value in line {index + 2}: {error}; expected columns '
                'file, depth and, if known, t_nominal_s and T00..T23'
            ) from error
        pairs.append(pair)
    return pairs


def _read_pose(row: dict[str, str]) -> NDArray[np.float64] | None:
    if any(not row.get(name) for name in _POSE):
        return None
    pose = np.eye(4)
    pose[:3] = np.array([float(row[name]) for name in _POSE]).reshape(3, 4)
    return pose


def _match_folders(folder: Path) -> list[Pair]:
    colour, depth = _one_of(folder, COLOUR_FOLDERS), _one_of(folder, DEPTH_FOLDERS)
    if colour is None or depth is None:
        raise EvaluationError(
            f'{folder} has no frames.csv, and no folder of colour ({" ".join(COLOUR_FOLDERS)}) '
            f'with one of depth ({" ".join(DEPTH_FOLDERS)}) beside it'
        )
    files = images_in(colour)
    calibrations = (folder / 'camera.yaml', colour / 'camera.yaml')
    return [Pair(file.stem, file, _beside(depth, file.stem), calibrations) for file in files]


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        return read_table(table)
    except ParseError as error:
        raise EvaluationError(f'table {table} {error}') from error


def _one_of(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _beside(folder: Path, stem: str) -> Path | None:
    found = (folder / f'{stem}{suffix}' for suffix in DEPTH_SUFFIXES)
    return next((path for path in found if path.is_file()), None)
