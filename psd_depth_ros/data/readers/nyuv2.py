"""NYUv2 as it is downloaded: the labelled data set, a MATLAB file (Silberman et al., ECCV 2012).

Reading it needs h5py and scipy.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from psd_depth_ros.data.depth import check_depth
from psd_depth_ros.data.frames import FrameSource, LoadedFrames, Reader, SourceOptions, TimedFrame
from psd_depth_ros.data.readers.files import FRAME_ID, nominal_stamp
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.geometry import Camera

_FILE, _SPLITS = 'nyu_depth_v2_labeled.mat', 'splits.mat'
# From the toolbox of the data set: colour camera, at 640x480.
_CAMERA = Camera(640, 480, 518.8579, 519.4696, 325.5824, 253.7362)


def import_library(module: str, package: str) -> Any:
    """Import a library that only one data set needs. Raises EvaluationError."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EvaluationError(
            f'this benchmark comes as MATLAB files, which need {package}: pip install {package}'
        ) from error


def _matches(path: Path) -> bool:
    return path.name == _FILE or (path / _FILE).is_file()


def _open(path: Path, options: SourceOptions) -> FrameSource:
    """The 654 test images; needs splits.mat beside the file. Raises EvaluationError."""
    file = path if path.name == _FILE else path / _FILE
    splits = file.with_name(_SPLITS)
    if not splits.is_file():
        raise EvaluationError(
            f'{splits} is not there; it lists the test images of NYUv2 and comes with the data set'
        )
    stored = import_library('h5py', 'h5py').File(file, 'r')
    numbers = import_library('scipy.io', 'scipy').loadmat(splits)['testNdxs'].ravel()

    def load(place: int, number: int) -> TimedFrame:
        rgb = np.ascontiguousarray(stored['images'][number - 1].transpose(2, 1, 0))
        depth = np.ascontiguousarray(stored['depths'][number - 1].T).astype(np.float32)
        name, stamp_ns = f'{number:04d}', nominal_stamp(place)
        depth = check_depth(f'of {name}', depth, rgb)
        return TimedFrame(place, stamp_ns, FRAME_ID, rgb, _CAMERA, depth_m=depth, name=name)

    return LoadedFrames(path, [int(number) for number in numbers], load, 'nyuv2', stored.close)


READER = Reader(
    'nyuv2',
    _matches,
    _open,
    has_depth=True,
    takes_lens=False,
    is_recording=lambda path: False,
)
