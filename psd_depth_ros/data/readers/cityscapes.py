"""Cityscapes: its video snippets, and its test images with the depth of their stereo disparity.

Snippets lie in leftImg8bit_sequence/SPLIT/CITY with camera/SPLIT/CITY beside it, test images in
leftImg8bit/, disparity/ and camera/. File names and formats: Cordts et al., The Cityscapes Dataset
(CVPR 2016) and its scripts' readme.
"""

from __future__ import annotations

from pathlib import Path
import re

import cv2
import numpy as np

from psd_depth_ros.data.depth import check_depth
from psd_depth_ros.data.frames import (
    FrameSource,
    LensChoice,
    LoadedFrames,
    Reader,
    SourceOptions,
    TimedFrame,
)
from psd_depth_ros.data.readers.files import (
    Entry,
    FRAME_ID,
    images_in,
    ListedFrames,
    nominal_stamp,
)
from psd_depth_ros.errors import BagError, CalibrationError, EvaluationError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import ImageDecoder
from psd_depth_ros.parsing import ParseError, read_json, read_json_object

IMAGES = 'leftImg8bit_sequence'
ROLES = {'train': 'train', 'val': 'held_out'}  # of the folders below IMAGES
_RATE_HZ = 17.0
# Watson et al. 2021: the bottom quarter, with the car's bonnet, is cut off before anything else.
_KEPT = 0.75
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


def list_cities(root: Path) -> list[Path]:
    """The folders of snippets below the root of the data set."""
    return [city for city in root.glob(f'{IMAGES}/*/*') if city.is_dir()]


def _has_disparity(path: Path) -> bool:
    return (path / 'leftImg8bit').is_dir() and (path / 'disparity').is_dir()


def _open_stereo(root: Path, options: SourceOptions) -> FrameSource:
    """The 1,525 test images; the val images where test is not there. Raises EvaluationError."""
    for split in ('test', 'val'):
        images = sorted((root / 'leftImg8bit' / split).glob('*/*_leftImg8bit.png'))
        if images:
            return LoadedFrames(root, images, _load_stereo, 'cityscapes')
    raise EvaluationError(
        f'{root} has no leftImg8bit/test/<city>/*_leftImg8bit.png, nor any of val; expected '
        'leftImg8bit_trainvaltest, disparity_trainvaltest and camera_trainvaltest in one folder'
    )


def _load_stereo(place: int, image: Path) -> TimedFrame:
    root = image.parents[3]
    beside = image.parent.relative_to(root / 'leftImg8bit')
    stem = image.name.removesuffix('_leftImg8bit.png')
    rgb = ImageDecoder().decode_file(image)
    fx, fy, cx, cy, baseline_m = _read_stereo(root / 'camera' / beside / f'{stem}_camera.json')
    height, width = rgb.shape[:2]
    kept = round(height * _KEPT)
    camera = Camera(width, height, fx, fy, cx, cy).crop(0, 0, width, kept)
    disparity = cv2.imread(
        str(root / 'disparity' / beside / f'{stem}_disparity.png'), cv2.IMREAD_UNCHANGED
    )
    depth = None
    if disparity is not None:
        # The disparity is (p - 1) / 256 pixels; p of 0 means unknown.
        pixels = (disparity.astype(np.float64) - 1.0) / 256.0
        found = fx * baseline_m / np.where(pixels > 0, pixels, np.nan)
        depth = check_depth(f'of {stem}', found.astype(np.float32), rgb)[:kept]
    rgb = np.ascontiguousarray(rgb[:kept])
    stamp_ns = nominal_stamp(place)
    return TimedFrame(place, stamp_ns, FRAME_ID, rgb, camera, depth_m=depth, name=stem)


def _read_stereo(path: Path) -> tuple[float, float, float, float, float]:
    try:
        values = read_json(path)
        inner = [float(values['intrinsic'][name]) for name in ('fx', 'fy', 'u0', 'v0')]
        return inner[0], inner[1], inner[2], inner[3], float(values['extrinsic']['baseline'])
    except (ParseError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f'camera {path} cannot be used ({error!r}); expected the camera_trainvaltest of '
            'Cityscapes beside leftImg8bit'
        ) from error


SNIPPETS = Reader(
    'cityscapes',
    is_city,
    lambda path, options: CityFrames(path, options.lens),
    recordings=list_cities,
)
STEREO = Reader(
    'cityscapes_stereo',
    _has_disparity,
    _open_stereo,
    has_depth=True,
    takes_lens=False,
    is_recording=lambda path: False,
)
