"""Make3D as it is downloaded: 134 test images with their laser grids (Saxena et al., TPAMI 2009).

The grids are MATLAB files, which need scipy.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from psd_depth_ros.data.depth import Map
from psd_depth_ros.data.frames import (
    FrameSource,
    LensChoice,
    LoadedFrames,
    Reader,
    SourceOptions,
    TimedFrame,
)
from psd_depth_ros.data.readers.files import FRAME_ID, nominal_stamp
from psd_depth_ros.data.readers.nyuv2 import import_library
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.messages import check_sizes, ImageDecoder

# Godard et al. 2017: the middle 2:1 of images of 1704x2272, and of laser grids of 55 rows.
_SIZE, _ROWS = (2272, 1704), slice(710, 1562)
_GRID_ROWS, _GRID_CROP = 55, slice(17, 38)


def _matches(path: Path) -> bool:
    return (path / 'Test134').is_dir() and (path / 'Gridlaserdata').is_dir()


def _open(path: Path, options: SourceOptions) -> FrameSource:
    """The test images; the camera must be given, for the data lack it. Raises EvaluationError."""
    lens = options.lens
    if not lens.is_given:
        raise EvaluationError(
            'Make3D comes without a calibration; give the horizontal field of view of its images '
            'with --fov DEGREES. Median-scaled figures hardly depend on it'
        )
    images = sorted((path / 'Test134').glob('img-*.jpg'))
    if not images:
        raise EvaluationError(f'{path / "Test134"} has no img-*.jpg')
    import_library('scipy.io', 'scipy')
    return LoadedFrames(path, images, lambda place, image: _load(place, image, lens), 'make3d')


def _load(place: int, image: Path, lens: LensChoice) -> TimedFrame:
    rgb = ImageDecoder().decode_file(image)
    if rgb.shape[:2] != _SIZE:
        raise EvaluationError(
            f'{image} is {rgb.shape[1]}x{rgb.shape[0]}, expected the original 1704x2272 of Make3D'
        )
    name = image.stem.removeprefix('img-')
    file = image.parents[1] / 'Gridlaserdata' / f'depth_sph_corr-{name}.mat'
    try:
        grid = import_library('scipy.io', 'scipy').loadmat(file)['Position3DGrid'][:, :, 3]
    except (OSError, ValueError, KeyError) as error:
        raise EvaluationError(f'laser grid {file} cannot be read: {error!r}') from error
    if grid.shape[0] != _GRID_ROWS:
        raise EvaluationError(f'laser grid {file} has {grid.shape[0]} rows, expected 55')
    camera = lens.camera_for(rgb.shape[1], rgb.shape[0])
    assert camera is not None, 'the lens is given'
    check_sizes(camera, rgb.shape[1], rgb.shape[0])
    kept = np.ascontiguousarray(rgb[_ROWS])
    camera = camera.crop(0, _ROWS.start, kept.shape[1], kept.shape[0])
    depth = grid[_GRID_CROP].astype(np.float32)

    def to_grid(values: Map) -> Map:
        return cv2.resize(values, depth.shape[::-1], interpolation=cv2.INTER_NEAREST)

    stamp_ns = nominal_stamp(place)
    return TimedFrame(
        place, stamp_ns, FRAME_ID, kept, camera, depth_m=depth, name=name, to_depth_grid=to_grid
    )


READER = Reader('make3d', _matches, _open, has_depth=True, is_recording=lambda path: False)
