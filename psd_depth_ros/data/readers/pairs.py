"""Images with their depth beside them: `<id>.png`, `<id>_depth.png` and `<id>_camera.yaml`.

Depth is that of a lidar in the image, 16 bits in 1/256 m as KITTI's unless told otherwise. One
camera.yaml does for all images without one of their own.
"""

from __future__ import annotations

from pathlib import Path

from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.frames import FrameSource, LensChoice, Reader, SourceOptions
from psd_depth_ros.data.readers.files import Entry, images_in, ListedFrames, stamps_in_names
from psd_depth_ros.data.readers.rgbd import check_any_depth, find_depth
from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera

KITTI_UNITS_PER_METRE = 256.0
# Width over height of the images of all KITTI benchmarks: 1224x370 to 1242x376.
_LEAST_ASPECT, _MOST_ASPECT = 3.2, 3.4
_MARK = '_depth'


class PairFrames(ListedFrames):
    """Images with the depth of a lidar; those of KITTI's shape are measured by its protocol."""

    def __init__(self, path: Path, options: SourceOptions) -> None:
        files = [file for file in images_in(path) if not file.stem.endswith(_MARK)]
        entries = [
            Entry(
                file,
                stamp_ns,
                camera=None if options.lens.is_given else _camera_beside(file, options.lens),
                depth=find_depth(path, f'{file.stem}{_MARK}'),
                name=file.stem,
            )
            for file, stamp_ns in zip(files, stamps_in_names(files), strict=True)
        ]
        units = None
        if options.with_depth:
            check_any_depth(path, entries)
            units = options.units_per_metre or KITTI_UNITS_PER_METRE
        super().__init__(path, options.lens, entries, units)
        if options.with_depth:
            height, width = self._read(0, entries[0]).rgb.shape[:2]
            is_kitti = _LEAST_ASPECT < width / height < _MOST_ASPECT
            self.protocol = 'kitti' if is_kitti else 'outdoor'


def _camera_beside(image: Path, lens: LensChoice) -> Camera:
    own = image.with_name(f'{image.stem}_camera.yaml'), image.with_name('camera.yaml')
    found = next((path for path in own if path.is_file()), None)
    if found is None:
        raise CalibrationError(
            f'the images come without a calibration (looked for {own[0]} and {own[1]}); give it '
            'with --camera camera.yaml, or with --fov DEGREES'
        )
    return load_camera(found, lens.image_is_rectified, lens.rectify_alpha)


def _matches(path: Path) -> bool:
    return path.is_dir() and any(path.glob(f'*{_MARK}.*'))


def _open(path: Path, options: SourceOptions) -> FrameSource:
    return PairFrames(path, options)


READER = Reader(
    'pairs', _matches, _open, has_depth=True, depth_options=frozenset({'units_per_metre'})
)
