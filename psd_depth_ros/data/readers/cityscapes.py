"""Video snippets of Cityscapes: leftImg8bit_sequence/SPLIT/CITY with camera/SPLIT/CITY beside it.

File names and formats: Cordts et al., The Cityscapes Dataset (CVPR 2016) and its scripts' readme.
"""

from __future__ import annotations

from pathlib import Path
import re

import cv2

from psd_depth_ros.data.frames import LensChoice
from psd_depth_ros.data.readers.files import Entry, images_in, ListedFrames
from psd_depth_ros.errors import BagError, CalibrationError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.parsing import ParseError, read_json_object

IMAGES = 'leftImg8bit_sequence'
_RATE_HZ = 17.0
# Snippets have no common clock: put far apart, they are taken for what they are.
_SNIPPET_S = 100_000
_NAME = re.compile(r'(.+)_(\d{6})_(\d{6})_\w+')


def is_city(path: Path) -> bool:
    """Whether a folder holds the snippets of one city."""
    return path.is_dir() and path.parent.parent.name == IMAGES


class CityFrames(ListedFrames):
    """All snippets of a city, one after another; cameras may differ between them."""

    def __init__(self, path: Path, lens: LensChoice) -> None:
        files = images_in(path)
        cameras = {} if lens.is_given else _find_cameras(path)
        entries = []
        for file in files:
            found = _NAME.fullmatch(file.stem)
            if found is None:
                raise BagError(f'{file} is not named CITY_SEQUENCE_FRAME_leftImg8bit')
            sequence, frame = int(found[2]), int(found[3])
            camera = None
            if not lens.is_given:
                camera = _nearest(cameras.get(sequence, {}), frame, file)
            stamp_ns = round((sequence * _SNIPPET_S + frame / _RATE_HZ) * 1e9)
            entries.append(Entry(file, stamp_ns, camera=camera))
        if not entries:
            raise BagError(f'{path} has no images; unpack {IMAGES}_trainvaltest.zip there')
        super().__init__(path, lens, entries)


def _find_cameras(city: Path) -> dict[int, dict[int, Camera]]:
    """The cameras of a city by sequence and frame."""
    folder = city.parent.parent.parent / 'camera' / city.parent.name / city.name
    found: dict[int, dict[int, Camera]] = {}
    for file in sorted(folder.glob('*_camera.json')):
        name = _NAME.fullmatch(file.stem)
        if name is not None:
            found.setdefault(int(name[2]), {})[int(name[3])] = _read_camera(file, city)
    return found


def _nearest(cameras: dict[int, Camera], frame: int, file: Path) -> Camera:
    if not cameras:
        raise CalibrationError(
            f'{file} has no calibration; unpack camera_trainvaltest.zip beside {IMAGES}, or give '
            '--camera camera.yaml'
        )
    return cameras[min(cameras, key=lambda number: abs(number - frame))]


def _read_camera(file: Path, city: Path) -> Camera:
    try:
        values = read_json_object(file)['intrinsic']
        fx, fy, cx, cy = (float(values[name]) for name in ('fx', 'fy', 'u0', 'v0'))
    except (ParseError, ValueError, KeyError, TypeError) as error:
        raise CalibrationError(f'{file}: no intrinsic with fx fy u0 v0 ({error})') from error
    height, width = _size_of(city)
    return Camera(width, height, fx, fy, cx, cy)


def _size_of(city: Path) -> tuple[int, int]:
    image = cv2.imread(str(images_in(city)[0]))
    return (1024, 2048) if image is None else image.shape[:2]
