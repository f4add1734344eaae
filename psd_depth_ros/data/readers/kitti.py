"""KITTI as it is downloaded: drives of the raw data, the odometry benchmark, images with depth.

File formats and frames: Geiger et al., Vision meets Robotics: The KITTI Dataset (IJRR 2013) and
the readme files of its development kits. Images are the rectified ones.

Depth is that of the velodyne sweep in the image, or the improved one of Uhrig et al. (3DV 2017):
`<drive>_sync/proj_depth/groundtruth/image_02/<frame>.png`, among the raw data or in the folders
train/ and val/ of a download of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
import re

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.depth import check_depth, Map, nearest_depth, read_depth
from psd_depth_ros.data.frames import (
    FrameSource,
    LensChoice,
    LoadedFrames,
    Reader,
    Recording,
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
from psd_depth_ros.data.readers.pairs import KITTI_UNITS_PER_METRE
from psd_depth_ros.errors import BagError, CalibrationError, EvaluationError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import invert, make_pose, transform
from psd_depth_ros.messages import check_sizes, ImageDecoder
from psd_depth_ros.parsing import ParseError, read_text, shorten, user_path

Array = NDArray[np.float64]

_DRIVE = re.compile(r'\d{4}_\d{2}_\d{2}_drive_\d{4}_(sync|extract)')
_RAW_CAMERA = re.compile(r'image_0[0-3]')
_ODOMETRY_CAMERA = re.compile(r'image_[0-3]')
_EARTH_RADIUS_M = 6378137.0
_SIDES = {'l': '02', 'r': '03', '2': '02', '3': '03'}
_DIGITS = 10
_PERIOD_NS = 100_000_000


def is_drive(path: Path) -> bool:
    """Whether a folder is a drive of the raw data, or one camera of it."""
    drive = path.parent if _RAW_CAMERA.fullmatch(path.name) else path
    return _DRIVE.fullmatch(drive.name) is not None or (drive / 'oxts' / 'data').is_dir()


def is_odometry_sequence(path: Path) -> bool:
    """Whether a folder is a sequence of the odometry benchmark, or one camera of it."""
    sequence = path.parent if _ODOMETRY_CAMERA.fullmatch(path.name) else path
    return (sequence / 'calib.txt').is_file() and bool(_odometry_cameras(sequence))


class DriveFrames(ListedFrames):
    """A drive of the raw data: the camera named by the path, else the left colour camera.

    Poses come from GPS and IMU where the drive has oxts and all three calibration files are there.
    """

    def __init__(self, path: Path, lens: LensChoice, with_lidar: bool = False) -> None:
        named = _RAW_CAMERA.fullmatch(path.name) is not None
        drive, folder = (path.parent, path) if named else (path, path / 'image_02')
        files = images_in(folder / 'data')
        if not files:
            raise BagError(f'drive {drive} has no images in {folder / "data"}; unpack it there')
        calibration = DriveCalibration(drive, folder.name[-2:])
        if not lens.is_given:
            lens = LensChoice(calibration.camera())
        T_camera_imu = calibration.T_camera_imu()
        stamps = _drive_stamps(folder / 'timestamps.txt', len(files))
        poses = _drive_poses(drive / 'oxts' / 'data', files, T_camera_imu)
        points = _points_beside(drive / 'velodyne_points' / 'data', files, with_lidar)
        entries = [
            Entry(file, stamp, pose, sweep, number=_number_of(file))
            for file, stamp, pose, sweep in zip(files, stamps, poses, points, strict=True)
        ]
        super().__init__(path, lens, entries)
        self.T_camera_lidar = calibration.T_camera_velodyne()
        self.camera_height_m = 1.65


class OdometryFrames(ListedFrames):
    """A sequence of the odometry benchmark; poses where poses/NN.txt is there."""

    def __init__(self, path: Path, lens: LensChoice, with_lidar: bool = False) -> None:
        named = _ODOMETRY_CAMERA.fullmatch(path.name) is not None
        sequence = path.parent if named else path
        folder = path if named else _odometry_cameras(sequence)[0]
        files = images_in(folder)
        if not files:
            raise BagError(f'sequence {sequence} has no images in {folder}')
        values = _read_numbers(sequence / 'calib.txt')
        projection = _take(values, f'P{folder.name[-1]}', 12, sequence / 'calib.txt').reshape(3, 4)
        if not lens.is_given:
            height, width = ImageDecoder().decode_file(files[0]).shape[:2]
            lens = LensChoice(Camera.from_K(projection[:, :3], width, height))
        stamps = _odometry_stamps(sequence / 'times.txt', len(files))
        poses = _odometry_poses(sequence, len(files), _shift(projection))
        points = _points_beside(sequence / 'velodyne', files, with_lidar)
        entries = [
            Entry(file, stamp, pose, sweep, number=_number_of(file))
            for file, stamp, pose, sweep in zip(files, stamps, poses, points, strict=True)
        ]
        super().__init__(path, lens, entries)
        if 'Tr' in values:
            velodyne = _take(values, 'Tr', 12, sequence / 'calib.txt').reshape(3, 4)
            self.T_camera_lidar = _shift(projection) @ make_pose(velodyne[:, :3], velodyne[:, 3])
        self.camera_height_m = 1.65


class DriveCalibration:
    """The calibration files of a day; `camera` is '00' to '03'."""

    def __init__(self, drive: Path, camera: str) -> None:
        self._folder = next(
            (f for f in (drive.parent, drive) if (f / 'calib_cam_to_cam.txt').is_file()), drive
        )
        self._camera = camera

    def camera(self) -> Camera:
        """The rectified camera. Raises CalibrationError."""
        path = self._folder / 'calib_cam_to_cam.txt'
        if not path.is_file():
            raise CalibrationError(
                f'{self._folder} has no calib_cam_to_cam.txt (nor its parent); unpack the '
                'calibration of that day beside the drives, or give --camera camera.yaml'
            )
        values = _read_numbers(path)
        width, height = _take(values, f'S_rect_{self._camera}', 2, path)
        projection = _take(values, f'P_rect_{self._camera}', 12, path).reshape(3, 4)
        return Camera.from_K(projection[:, :3], int(width), int(height))

    def T_camera_velodyne(self) -> Array | None:
        """From the lidar to the rectified camera, None without the files."""
        path = self._folder / 'calib_cam_to_cam.txt'
        velodyne = self._pose('calib_velo_to_cam.txt')
        if velodyne is None or not path.is_file():
            return None
        values = _read_numbers(path)
        rotation = _take(values, 'R_rect_00', 9, path).reshape(3, 3)
        projection = _take(values, f'P_rect_{self._camera}', 12, path).reshape(3, 4)
        return _shift(projection) @ make_pose(rotation, np.zeros(3)) @ velodyne

    def T_camera_imu(self) -> Array | None:
        """From the IMU to the rectified camera, None without the files."""
        velodyne, imu = self.T_camera_velodyne(), self._pose('calib_imu_to_velo.txt')
        return None if velodyne is None or imu is None else velodyne @ imu

    def _pose(self, name: str) -> Array | None:
        path = self._folder / name
        if not path.is_file():
            return None
        values = _read_numbers(path)
        return make_pose(_take(values, 'R', 9, path).reshape(3, 3), _take(values, 'T', 3, path))


def _shift(projection: Array) -> Array:
    """From the rectified camera 0 to the one of a projection: P = K [I | t]."""
    return make_pose(np.eye(3), np.linalg.solve(projection[:, :3], projection[:, 3]))


def _drive_poses(
    folder: Path, files: list[Path], T_camera_imu: Array | None
) -> list[Array | None]:
    """T_world_camera of every image; the world is the first IMU frame, axes east, north, up."""
    records = [folder / f'{file.stem}.txt' for file in files]
    if T_camera_imu is None or not all(record.is_file() for record in records):
        return [None] * len(files)
    values = [_read_rows(record, 6)[0] for record in records]
    scale = np.cos(np.radians(values[0][0]))
    poses = [_imu_pose(row, scale) for row in values]
    origin = make_pose(np.eye(3), -poses[0][:3, 3])
    return [origin @ pose @ invert(T_camera_imu) for pose in poses]


def _imu_pose(row: Array, scale: float) -> Array:
    """T_world_imu of latitude, longitude (degrees), altitude, roll, pitch, yaw (radians).

    Positions by the Mercator projection, scaled for the latitude of the first.
    """
    latitude, longitude, altitude, roll, pitch, yaw = row[:6]
    east = scale * _EARTH_RADIUS_M * np.radians(longitude)
    north = scale * _EARTH_RADIUS_M * np.log(np.tan(np.radians(90 + latitude) / 2))
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return make_pose(about_z @ about_y @ about_x, (east, north, altitude))


def _odometry_poses(sequence: Path, count: int, T_camera_zero: Array) -> list[Array | None]:
    path = sequence.parent.parent / 'poses' / f'{sequence.name}.txt'
    if not path.is_file():
        return [None] * count
    rows = _read_rows(path, 12)
    if len(rows) != count:
        raise BagError(f'{path} has {len(rows)} poses, expected one for each of {count} images')
    matrices = [row[:12].reshape(3, 4) for row in rows]
    return [make_pose(m[:, :3], m[:, 3]) @ invert(T_camera_zero) for m in matrices]


def _drive_stamps(path: Path, count: int) -> list[int]:
    """Nanoseconds; from lines such as 2011-09-26 13:02:25.951199337."""
    lines = [line.strip() for line in _lines(path)] if path.is_file() else []
    if len(lines) != count:
        return [nominal_stamp(index) for index in range(count)]
    return [_parse_stamp(line, path) for line in lines]


def _parse_stamp(line: str, path: Path) -> int:
    whole, _, fraction = line.partition('.')
    try:
        seconds = (datetime.fromisoformat(whole) - datetime(2000, 1, 1)).total_seconds()
        return round(seconds) * 1_000_000_000 + int(fraction.ljust(9, '0')[:9] or 0)
    except ValueError as error:
        raise BagError(f'{path} has the time {line!r}, expected 2011-09-26 13:02:25.95') from error


def _odometry_stamps(path: Path, count: int) -> list[int]:
    rows = _read_rows(path, 1) if path.is_file() else []
    if len(rows) != count:
        return [nominal_stamp(index) for index in range(count)]
    return [round(float(row[0]) * 1e9) for row in rows]


def _points_beside(folder: Path, files: list[Path], wanted: bool) -> list[Path | None]:
    return [folder / f'{file.stem}.bin' if wanted else None for file in files]


def _odometry_cameras(sequence: Path) -> list[Path]:
    """Cameras of a sequence, colour before grey, left before right."""
    names = ('image_2', 'image_3', 'image_0', 'image_1')
    return [sequence / name for name in names if (sequence / name).is_dir()]


def _number_of(file: Path) -> int | None:
    return int(file.stem) if file.stem.isdigit() else None


def _read_numbers(path: Path) -> dict[str, Array]:
    """Lines of `name: numbers`; those with other values are left out."""
    found = {}
    for line in _lines(path):
        name, _, text = line.partition(':')
        try:
            found[name.strip()] = np.array([float(word) for word in text.split()])
        except ValueError:
            continue
    return found


def _read_rows(path: Path, least: int) -> list[Array]:
    try:
        rows = [np.array([float(word) for word in line.split()]) for line in _lines(path)]
    except ValueError as error:
        raise BagError(f'{path} holds something that is no number: {error}') from error
    if any(len(row) < least for row in rows) or not rows:
        raise BagError(f'{path} has a line too short, expected {least} numbers')
    return rows


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in read_text(path).splitlines() if line.strip()]
    except ParseError as error:
        raise BagError(f'{path} {error}') from error


def _take(values: dict[str, Array], name: str, count: int, path: Path) -> Array:
    if len(values.get(name, ())) != count:
        raise CalibrationError(f'{path} has no {name} with {count} numbers; unpack it again')
    return values[name]


def find_drives(folder: Path) -> list[Path]:
    """The drives and the sequences of the odometry benchmark below a folder."""
    return [
        drive
        for pattern in ('*', '*/*', 'sequences/*')
        for drive in folder.glob(pattern)
        if drive.is_dir() and _is_sequence(drive) and not drive.name.startswith('image_')
    ]


def _is_sequence(path: Path) -> bool:
    return is_drive(path) or is_odometry_sequence(path)


def _open_sequence(path: Path, options: SourceOptions) -> FrameSource:
    source = DriveFrames if is_drive(path) else OdometryFrames
    return source(path, options.lens, options.with_lidar)


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


def read_split(split_file: Path, root: Path = Path()) -> list[DriveImage]:
    """Read a list of images, one a line. Raises SettingsError.

    Lines are `<date>/<drive>_sync <frame> l`, or paths such as
    `<date>/<drive>_sync/image_02/data/<frame>.png`, of which the first of a line counts.
    """
    try:
        lines = read_text(split_file).splitlines()
    except ParseError as error:
        raise SettingsError(f'split file {shorten(split_file)} {error}') from error
    images = [
        _parse_line(root, line, f'{split_file}, line {number}')
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not images:
        raise SettingsError(f'split file {split_file} is empty; expected one image a line')
    return images


def _parse_line(root: Path, line: str, place: str) -> DriveImage:
    words = line.split()
    parts = words[0].split('/')
    if len(parts) == 2 and len(words) >= 2 and words[1].isdigit():
        side = words[2] if len(words) > 2 else 'l'
        if side in _SIDES:
            return DriveImage(root, parts[0], parts[1], words[1].zfill(_DIGITS), _SIDES[side])
    if len(parts) == 5 and parts[2] in ('image_02', 'image_03'):
        return DriveImage(root, parts[0], parts[1], Path(parts[4]).stem, parts[2][-2:])
    raise SettingsError(
        f'{place} is {shorten(line.strip())!r}, expected a line such as '
        '2011_09_26/2011_09_26_drive_0022_sync 473 r, or '
        '<date>/<drive>_sync/image_02/data/<frame>.png'
    )


def find_listed(roots: list[Path], train_file: str, held_out_file: str) -> list[Recording]:
    """The drives that the lists of the Eigen-Zhou split name, with their frames.

    Raises SettingsError where a list is missing or wrong.
    """
    if not (train_file and held_out_file):
        raise SettingsError(
            'data.split eigen_zhou needs the lists of the Eigen-Zhou split: data.split_file '
            '(train_files.txt) and data.held_out_file (val_files.txt), with lines such as '
            '2011_09_26/2011_09_26_drive_0022_sync 473 r; they come with the public code of '
            'monodepth2 and its successors'
        )
    cameras: dict[str, tuple[set[int], set[int]]] = {}
    for part, name in enumerate((train_file, held_out_file)):
        for image in read_split(user_path(name)):
            camera = f'{image.date}/{image.drive}/image_{image.camera}'
            cameras.setdefault(camera, (set(), set()))[part].add(int(image.frame))
    found = []
    for camera, (train, held_out) in sorted(cameras.items()):
        candidates = [root / camera for root in roots]
        path = next((one for one in candidates if one.is_dir()), (candidates or [Path(camera)])[0])
        found.append(Recording(path, listed=(frozenset(train), frozenset(held_out))))
    return found


def velodyne_depth(points: NDArray[np.float32], camera: Camera, T_camera_velodyne: Array) -> Map:
    """Depth (H, W) of a sweep (N, 4) in the image of a camera, NaN at pixels without a point.

    As in the published protocol: points ahead of the car (x >= 0), pixels counted from 1, the
    nearest point of a pixel, and its distance ahead of the velodyne (x) as depth.
    """
    ahead = points[points[:, 0] >= 0, :3].astype(np.float64)
    pixels = camera.project(transform(T_camera_velodyne, ahead))
    seen = np.isfinite(pixels).all(axis=1)
    column, row = np.round(pixels[seen]).astype(np.int64).T - 1
    return nearest_depth(column, row, ahead[seen, 0], camera)


def _has_dates(path: Path) -> bool:
    return path.is_dir() and any(path.glob('*/calib_cam_to_cam.txt'))


def _open_raw(root: Path, options: SourceOptions) -> FrameSource:
    """Images with depth: those of a list, or all that have one. Raises EvaluationError."""
    if not options.with_depth:
        raise BagError(f'{root} holds the drives of KITTI raw; name one of them')
    protocol, split_file = options.protocol, options.split_file
    if protocol == 'kitti_eigen_improved':
        return _open_improved(root, split_file, options.truth_folder or root)
    if protocol == 'kitti_eigen' and split_file is None:
        raise EvaluationError(
            'protocol kitti_eigen needs the list of its images: give it with --split-file, lines '
            'such as `2011_09_26/2011_09_26_drive_0002_sync 0000000069 l` (the test_files.txt of '
            'the Eigen split); without --protocol every image with a velodyne sweep is measured'
        )
    if split_file is not None:
        return LoadedFrames(root, read_split(split_file, root), _load_velodyne, 'kitti_eigen')
    found = [one for one in _all_images(root) if one.sweep.is_file()]
    if not found:
        raise EvaluationError(
            f'{root} is laid out like KITTI raw but has no velodyne_points/data/*.bin; download '
            'the drives with their laser data'
        )
    return LoadedFrames(root, found, _load_velodyne, 'kitti')


def _open_improved(root: Path, split_file: Path | None, folder: Path) -> FrameSource:
    """Images with the improved depth."""

    def load(place: int, image: DriveImage) -> TimedFrame:
        path = _improved_path(image, folder)
        depth = None if path is None else read_depth(path, KITTI_UNITS_PER_METRE)
        return _make_frame(place, image, depth)

    if split_file is not None:
        images = read_split(split_file, root)
    else:
        images = [one for one in _all_images(root) if _improved_path(one, folder) is not None]
    if not images:
        raise EvaluationError(
            f'no proj_depth/groundtruth/image_02/*.png of the drives in {root} was found in '
            f'{folder}; name the folder of the annotated depth (with train/ and val/) with '
            '--truth'
        )
    return LoadedFrames(root, images, load, 'kitti_eigen_improved')


def _load_velodyne(place: int, image: DriveImage) -> TimedFrame:
    if not image.sweep.is_file():
        return _make_frame(place, image, None)
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
    depth = velodyne_depth(points.reshape(-1, 4), camera, T_camera_velodyne)
    return _make_frame(place, image, depth)


def _make_frame(place: int, image: DriveImage, depth: Map | None) -> TimedFrame:
    folder = image.folder / f'image_{image.camera}' / 'data'
    files = [folder / f'{image.frame}{suffix}' for suffix in ('.png', '.jpg')]
    rgb = ImageDecoder().decode_file(next((file for file in files if file.is_file()), files[0]))
    camera = image.calibration.camera()
    check_sizes(camera, rgb.shape[1], rgb.shape[0])
    if depth is not None:
        depth = check_depth(f'of {image.name}', depth, rgb)
    return TimedFrame(
        place,
        int(image.frame) * _PERIOD_NS,
        FRAME_ID,
        rgb,
        camera,
        depth_m=depth,
        name=image.name,
        sequence=image.drive,
    )


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


SEQUENCES = Reader('kitti', _is_sequence, _open_sequence, has_lidar=True, recordings=find_drives)
RAW = Reader(
    'kitti_raw',
    _has_dates,
    _open_raw,
    has_depth=True,
    takes_lens=False,
    depth_options=frozenset({'split_file', 'truth_folder'}),
    is_recording=lambda path: False,
)
