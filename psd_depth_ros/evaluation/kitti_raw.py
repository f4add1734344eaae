"""KITTI raw as ground truth: velodyne sweeps in the image, or the improved depth of Uhrig et al.

Expected: `<date>/calib_cam_to_cam.txt`, `<date>/calib_velo_to_cam.txt`,
`<date>/<drive>_sync/image_02/data/<frame>.png` (or .jpg) and
`<date>/<drive>_sync/velodyne_points/data/<frame>.bin`; for the improved ground truth
`<drive>_sync/proj_depth/groundtruth/image_02/<frame>.png`, among the raw data or in the folders
train/ and val/ of a download of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.readers.kitti import DriveCalibration
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.folders import KITTI_UNITS_PER_METRE as UNITS_PER_METRE
from psd_depth_ros.evaluation.samples import (
    check_truth,
    Map,
    read_rgb,
    read_truth,
    Sample,
    SampleList,
)
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import transform
from psd_depth_ros.messages import check_sizes
from psd_depth_ros.parsing import ParseError, read_text

_CALIBRATION = 'calib_cam_to_cam.txt'
_SIDES = {'l': '02', 'r': '03', '2': '02', '3': '03'}
_DIGITS = 10
_PERIOD_NS = 100_000_000
# Width over height of the images of all KITTI benchmarks: 1224x370 to 1242x376.
_LEAST_ASPECT, _MOST_ASPECT = 3.2, 3.4


@dataclass(frozen=True)
class DriveImage:
    """One image of a drive; `camera` is '02' or '03'."""

    root: Path
    date: str
    drive: str
    frame: str
    camera: str

    @property
    def name(self) -> str:
        """The drive and the frame."""
        return f'{self.drive}/{self.frame}'

    @property
    def folder(self) -> Path:
        """The drive."""
        return self.root / self.date / self.drive

    @property
    def sweep(self) -> Path:
        """The velodyne file."""
        return self.folder / f'velodyne_points/data/{self.frame}.bin'

    @property
    def calibration(self) -> DriveCalibration:
        """Where its camera and velodyne are."""
        return DriveCalibration(self.folder, self.camera)


def is_kitti_raw(path: Path) -> bool:
    """Whether there are dates with their calibration."""
    return path.is_dir() and any(path.glob(f'*/{_CALIBRATION}'))


def is_kitti_size(height: int, width: int) -> bool:
    """Whether an image has the shape that the Garg crop was made for."""
    return _LEAST_ASPECT < width / height < _MOST_ASPECT


def open_velodyne(root: Path, split_file: Path | None) -> SampleList[DriveImage]:
    """Images with a velodyne sweep as truth: those of a list, or all that have one."""
    if split_file is not None:
        return SampleList(read_split(root, split_file), _load_velodyne)
    found = [one for one in _all_images(root) if one.sweep.is_file()]
    if not found:
        raise EvaluationError(
            f'{root} is laid out like KITTI raw but has no velodyne_points/data/*.bin; download '
            'the drives with their laser data'
        )
    return SampleList(found, _load_velodyne)


def open_improved(
    root: Path, split_file: Path | None, truth_folder: Path | None
) -> SampleList[DriveImage]:
    """Images with the improved ground truth: those of a list, or all that have it."""
    place = truth_folder or root

    def load(image: DriveImage) -> Sample:
        path = _improved_path(image, place)
        return _make_sample(image, None if path is None else read_truth(path, UNITS_PER_METRE))

    if split_file is not None:
        return SampleList(read_split(root, split_file), load)
    found = [one for one in _all_images(root) if _improved_path(one, place) is not None]
    if not found:
        raise EvaluationError(
            f'no proj_depth/groundtruth/image_02/*.png of the drives in {root} was found in '
            f'{place}; name the folder of the annotated depth (with train/ and val/) with '
            '--truth'
        )
    return SampleList(found, load)


def read_split(root: Path, split_file: Path) -> list[DriveImage]:
    """Read a list of images, one a line; raises EvaluationError.

    Lines are `<date>/<drive>_sync <frame> l`, or paths such as
    `<date>/<drive>_sync/image_02/data/<frame>.png`, of which the first of a line counts.
    """
    try:
        lines = read_text(split_file).splitlines()
    except ParseError as error:
        raise EvaluationError(f'split file {split_file} {error}') from error
    images = [
        _parse_line(root, line, f'{split_file}, line {number}')
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not images:
        raise EvaluationError(f'split file {split_file} is empty; expected one image a line')
    return images


def velodyne_depth(
    points: NDArray[np.float32], camera: Camera, T_camera_velodyne: NDArray[np.float64]
) -> Map:
    """Depth (H, W) of a sweep (N, 4) in the image of a camera, NaN where there is none.

    As in the published protocol: points ahead of the car (x >= 0), pixels counted from 1, the
    nearest point of a pixel, and its distance ahead of the velodyne (x) as depth.
    """
    ahead = points[points[:, 0] >= 0, :3].astype(np.float64)
    pixels = camera.project(transform(T_camera_velodyne, ahead))
    seen = np.isfinite(pixels).all(axis=1)
    column, row = np.round(pixels[seen]).astype(np.int64).T - 1
    inside = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
    depth = np.full(camera.size, np.inf)
    np.minimum.at(depth, (row[inside], column[inside]), ahead[seen, 0][inside])
    return np.where(np.isinf(depth), np.nan, depth).astype(np.float32)


def _load_velodyne(image: DriveImage) -> Sample:
    if not image.sweep.is_file():
        return _make_sample(image, None)
    points = np.fromfile(image.sweep, dtype=np.float32)
    if points.size % 4 or not points.size:
        raise EvaluationError(f'velodyne sweep {image.sweep} is cut short or empty')
    T_camera_velodyne = image.calibration.T_camera_velodyne()
    if T_camera_velodyne is None:
        raise EvaluationError(
            f'{image.root / image.date} has no calib_velo_to_cam.txt; unpack the calibration of '
            'that day there'
        )
    camera = image.calibration.camera()
    return _make_sample(image, velodyne_depth(points.reshape(-1, 4), camera, T_camera_velodyne))


def _make_sample(image: DriveImage, truth: Map | None) -> Sample:
    folder = image.folder / f'image_{image.camera}' / 'data'
    files = [folder / f'{image.frame}{suffix}' for suffix in ('.png', '.jpg')]
    rgb = read_rgb(next((file for file in files if file.is_file()), files[0]))
    camera = image.calibration.camera()
    check_sizes(camera, rgb.shape[1], rgb.shape[0])
    if truth is not None:
        truth = check_truth(f'of {image.name}', truth, rgb)
    return Sample(image.name, rgb, camera, truth, image.drive, int(image.frame) * _PERIOD_NS)


def _improved_path(image: DriveImage, place: Path) -> Path | None:
    below = f'{image.drive}/proj_depth/groundtruth/image_{image.camera}/{image.frame}.png'
    places = (place / image.date, place, place / 'train', place / 'val')
    return next((folder / below for folder in places if (folder / below).is_file()), None)


def _all_images(root: Path) -> list[DriveImage]:
    found = []
    for file in sorted(root.glob('*/*_sync/image_02/data/*')):
        if file.suffix in ('.png', '.jpg'):
            drive = file.parents[2]
            found.append(DriveImage(root, drive.parent.name, drive.name, file.stem, '02'))
    return found


def _parse_line(root: Path, line: str, place: str) -> DriveImage:
    words = line.split()
    parts = words[0].split('/')
    if len(parts) == 2 and len(words) >= 2 and words[1].isdigit():
        side = words[2] if len(words) > 2 else 'l'
        if side in _SIDES:
            return DriveImage(root, parts[0], parts[1], words[1].zfill(_DIGITS), _SIDES[side])
    if len(parts) == 5 and parts[2] in ('image_02', 'image_03'):
        return DriveImage(root, parts[0], parts[1], Path(parts[4]).stem, parts[2][-2:])
    raise EvaluationError(
        f'{place}: {line.strip()!r} names no image; expected `<date>/<drive>_sync <frame> l`, or '
        '`<date>/<drive>_sync/image_02/data/<frame>.png`'
    )
