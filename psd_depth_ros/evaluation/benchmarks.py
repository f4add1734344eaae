"""Cityscapes, Make3D and NYUv2 as they are downloaded; KITTI is in `kitti_raw`.

Make3D and NYUv2 come as MATLAB files, which need packages that nothing else here does: scipy, and
for NYUv2 h5py.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from psd_depth_ros.data.frames import LensChoice
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.folders import find_camera
from psd_depth_ros.evaluation.samples import check_truth, Map, read_rgb, Sample, SampleList
from psd_depth_ros.geometry import Camera
from psd_depth_ros.parsing import ParseError, read_json

# Watson et al. 2021: the bottom quarter, with the car's bonnet, is cut off before anything else.
_CITYSCAPES_KEPT = 0.75
# Godard et al. 2017: the middle 2:1 of images of 1704x2272, and of laser grids of 55 rows.
_MAKE3D_SIZE, _MAKE3D_ROWS = (2272, 1704), slice(710, 1562)
_MAKE3D_GRID_ROWS, _MAKE3D_GRID_CROP = 55, slice(17, 38)
_NYU_FILE, _NYU_SPLITS = 'nyu_depth_v2_labeled.mat', 'splits.mat'
# From the toolbox of the data set: colour camera, at 640x480.
_NYU_CAMERA = Camera(640, 480, 518.8579, 519.4696, 325.5824, 253.7362)


def is_cityscapes(path: Path) -> bool:
    """Whether images and disparities lie there."""
    return (path / 'leftImg8bit').is_dir() and (path / 'disparity').is_dir()


def open_cityscapes(root: Path) -> SampleList[Path]:
    """The 1,525 test images with their stereo disparity; the val images where test is not there.

    Needs leftImg8bit/, disparity/ and camera/ with `<split>/<city>/` below.
    """
    for split in ('test', 'val'):
        images = sorted((root / 'leftImg8bit' / split).glob('*/*_leftImg8bit.png'))
        if images:
            return SampleList(images, _load_cityscapes)
    raise EvaluationError(
        f'{root} has no leftImg8bit/test/<city>/*_leftImg8bit.png, nor any of val; expected '
        'leftImg8bit_trainvaltest, disparity_trainvaltest and camera_trainvaltest in one folder'
    )


def is_make3d(path: Path) -> bool:
    """Whether the test images and the laser grids lie there."""
    return (path / 'Test134').is_dir() and (path / 'Gridlaserdata').is_dir()


def open_make3d(root: Path, lens: LensChoice) -> SampleList[Path]:
    """The 134 test images with their laser grids; the camera must be given, the data has none."""
    if not lens.is_given:
        raise EvaluationError(
            'Make3D comes without a calibration; give the horizontal field of view of its images '
            'with --fov DEGREES. Median-scaled figures hardly depend on it'
        )
    images = sorted((root / 'Test134').glob('img-*.jpg'))
    if not images:
        raise EvaluationError(f'{root / "Test134"} has no img-*.jpg')
    _library('scipy.io', 'scipy')

    def load(image: Path) -> Sample:
        return _load_make3d(image, lens)

    return SampleList(images, load)


def is_nyu(path: Path) -> bool:
    """Whether the labelled data set lies there, or is named itself."""
    return path.name == _NYU_FILE or (path / _NYU_FILE).is_file()


def open_nyu(path: Path) -> SampleList[int]:
    """The 654 test images of the labelled data set; needs splits.mat beside it."""
    file = path if path.name == _NYU_FILE else path / _NYU_FILE
    splits = file.with_name(_NYU_SPLITS)
    if not splits.is_file():
        raise EvaluationError(
            f'{splits} is not there; it lists the test images of NYUv2 and comes with the data set'
        )
    stored = _library('h5py', 'h5py').File(file, 'r')
    numbers = _library('scipy.io', 'scipy').loadmat(splits)['testNdxs'].ravel()

    def load(number: int) -> Sample:
        rgb = np.ascontiguousarray(stored['images'][number].transpose(2, 1, 0))
        truth = np.ascontiguousarray(stored['depths'][number].T).astype(np.float32)
        name = f'{number + 1:04d}'
        return Sample(name, rgb, _NYU_CAMERA, check_truth(f'of {name}', truth, rgb))

    return SampleList([int(number) - 1 for number in numbers], load)


def _load_cityscapes(image: Path) -> Sample:
    root = image.parents[3]
    beside = image.parent.relative_to(root / 'leftImg8bit')
    stem = image.name.removesuffix('_leftImg8bit.png')
    rgb = read_rgb(image)
    fx, fy, cx, cy, baseline_m = _read_cityscapes_camera(
        root / 'camera' / beside / f'{stem}_camera.json'
    )
    height, width = rgb.shape[:2]
    kept = round(height * _CITYSCAPES_KEPT)
    camera = Camera(width, height, fx, fy, cx, cy).crop(0, 0, width, kept)
    disparity = cv2.imread(
        str(root / 'disparity' / beside / f'{stem}_disparity.png'), cv2.IMREAD_UNCHANGED
    )
    truth = None
    if disparity is not None:
        # The disparity is (p - 1) / 256 pixels; p of 0 means there is none.
        pixels = (disparity.astype(np.float64) - 1.0) / 256.0
        depth = fx * baseline_m / np.where(pixels > 0, pixels, np.nan)
        truth = check_truth(f'of {stem}', depth.astype(np.float32), rgb)[:kept]
    return Sample(stem, np.ascontiguousarray(rgb[:kept]), camera, truth)


def _read_cityscapes_camera(path: Path) -> tuple[float, float, float, float, float]:
    try:
        values = read_json(path)
        inner = [float(values['intrinsic'][name]) for name in ('fx', 'fy', 'u0', 'v0')]
        return inner[0], inner[1], inner[2], inner[3], float(values['extrinsic']['baseline'])
    except (ParseError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f'camera {path} cannot be used ({error!r}); expected the camera_trainvaltest of '
            'Cityscapes beside leftImg8bit'
        ) from error


def _load_make3d(image: Path, lens: LensChoice) -> Sample:
    rgb = read_rgb(image)
    if rgb.shape[:2] != _MAKE3D_SIZE:
        raise EvaluationError(
            f'{image} is {rgb.shape[1]}x{rgb.shape[0]}, expected the original 1704x2272 of Make3D'
        )
    name = image.stem.removeprefix('img-')
    file = image.parents[1] / 'Gridlaserdata' / f'depth_sph_corr-{name}.mat'
    try:
        grid = _library('scipy.io', 'scipy').loadmat(file)['Position3DGrid'][:, :, 3]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f'laser grid {file} cannot be read: {error!r}') from error
    if grid.shape[0] != _MAKE3D_GRID_ROWS:
        raise EvaluationError(f'laser grid {file} has {grid.shape[0]} rows, expected 55')
    camera = find_camera(lens, (), rgb.shape[1], rgb.shape[0])
    kept = np.ascontiguousarray(rgb[_MAKE3D_ROWS])
    camera = camera.crop(0, _MAKE3D_ROWS.start, kept.shape[1], kept.shape[0])
    truth = grid[_MAKE3D_GRID_CROP].astype(np.float32)
    rows, columns = truth.shape

    def on_grid(values: Map) -> Map:
        return cv2.resize(values, (columns, rows), interpolation=cv2.INTER_NEAREST)

    return Sample(name, kept, camera, truth, predicted_on=on_grid)


def _library(module: str, package: str) -> Any:
    """A library that only one benchmark needs. Raises EvaluationError."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EvaluationError(
            f'this benchmark comes as MATLAB files, which need {package}: pip install {package}'
        ) from error
