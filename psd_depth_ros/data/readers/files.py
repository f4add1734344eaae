"""Frames of video files and of image folders, with the calibration from a camera.yaml.

A folder may say more in a frames.csv or poses.csv: which files in which order, nominal times and
camera poses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
import re

import cv2
import numpy as np
import numpy.typing as npt

from psd_depth_ros.data.bag_storage import is_bag_name
from psd_depth_ros.data.calibration_file import load_camera, load_camera_height
from psd_depth_ros.data.depth import (
    check_depth,
    check_depth_camera,
    DepthCamera,
    read_depth,
    rectify_depth,
    register_depth,
)
from psd_depth_ros.data.frames import (
    FrameSource,
    IMAGE_SUFFIXES,
    LensChoice,
    Reader,
    TimedFrame,
    VIDEO_SUFFIXES,
)
from psd_depth_ros.errors import (
    BagError,
    CalibrationError,
    EvaluationError,
    MessageError,
    PsdDepthError,
)
from psd_depth_ros.files import natural_key
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import check_sizes
from psd_depth_ros.parsing import ParseError, read_table

FRAME_ID = 'camera_optical'
TABLES = ('frames.csv', 'poses.csv')
_DEFAULT_RATE_HZ = 10.0
_UNKNOWN_RATE_HZ = 30.0
_HIGHEST_RATE_HZ = 1000.0
_EVEN = 0.1
_SHORT_NS = 500_000_000
# Containers that list their frames; others say how long they are.
_COUNTED = ('.mp4', '.mov', '.m4v')
# Seconds since 1970 have 10 digits from 2001 to 2286.
_EPOCH = re.compile(
    r'(?:^|[^\d.])([1-9]\d{9}\.\d{1,9}|[1-9]\d{12}|[1-9]\d{15}|[1-9]\d{18})$', re.ASCII
)
# Seconds as numbers are printed: 9.25 comes before 9.5. What ends in 0 behind its point is the
# tenth image of a clip that is called 1.10.
_SECONDS = re.compile(r'\d+(?:\.(?:0|\d*[1-9]))?', re.ASCII)
# What the int32 seconds of a ROS stamp hold.
_LAST_NS = (1 << 31) * 1_000_000_000
_POSE_COLUMNS = [f'T{row}{column}' for row in range(3) for column in range(4)]


@dataclass(frozen=True)
class Entry:
    """One image file.

    Attributes:
        pose: T_world_camera.
        points: a file of lidar points (KITTI).
        camera: its own, None where all of the recording have one.
        number: counts it, where the place in the list does not.
        depth: a file of its exact depth.
        name, sequence: as of `TimedFrame`.
    """

    path: Path
    stamp_ns: int
    pose: npt.NDArray[np.float64] | None = None
    points: Path | None = None
    camera: Camera | None = None
    number: int | None = None
    depth: Path | None = None
    name: str = ''
    sequence: str = ''


class VideoFrames(FrameSource):
    """The frames of a video file, stamped from 0 by the times in the container.

    Frames come the way up that the file says (phones); calibrations must be of such pictures.
    """

    def __init__(self, path: Path, lens: LensChoice) -> None:
        super().__init__(path, complete_lens(lens, path, path.with_suffix('.yaml')))
        self.camera_height_m = _known_height(path, path.with_suffix('.yaml'))
        self._capture = self._open()
        self._is_fresh = True
        self._count = max(0, int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        rate_hz = float(self._capture.get(cv2.CAP_PROP_FPS))
        self._rate_hz = rate_hz if 0 < rate_hz <= _HIGHEST_RATE_HZ else _UNKNOWN_RATE_HZ
        self._turned_deg = int(self._capture.get(cv2.CAP_PROP_ORIENTATION_META)) % 360
        self._notes: list[str] = []

    @property
    def count(self) -> int:
        """Number of frames the video says it has; where it does not, by its length and rate."""
        return self._count

    @property
    def span_ns(self) -> tuple[int, int]:
        """First stamp, and one that no stamp is later than by what the video says."""
        return 0, round(self._count * 1e9 / self._rate_hz)

    @property
    def rate_hz(self) -> float:
        """Mean rate by what the container says."""
        return self._rate_hz

    @property
    def notes(self) -> list[str]:
        """What was lost or unclear in the pass before."""
        return [*super().notes, *self._notes]

    def close(self) -> None:
        """Close the video."""
        self._capture.release()

    def frames(self) -> Iterator[TimedFrame]:
        """Decode the frames from the first on. Raises CalibrationError for another size."""
        self._begin()
        self._notes = []
        if not self._is_fresh:  # seeking to the start is exact in some containers only
            self._capture.release()
            self._capture = self._open()
        self._is_fresh = False
        clock = VideoClock(self._rate_hz)
        index = 0
        while self._capture.grab():
            stamp_ns = clock.stamp(float(self._capture.get(cv2.CAP_PROP_POS_MSEC)))
            if not self._is_selected(index):
                index += 1
                continue
            done, bgr = self._capture.retrieve()
            if done:
                rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
                camera = self._camera(rgb)
                yield self._use(TimedFrame(index, stamp_ns, FRAME_ID, rgb, camera))
            else:
                error = MessageError(f'frame {index} of video {self.path} cannot be decoded')
                self._skip(index, stamp_ns, 'image', error)
            index += 1
        if not self._used:
            raise BagError(f'video {self.path} holds no frames that can be decoded')
        self._note(index, clock)

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            capture.release()
            raise BagError(
                f'video {self.path} cannot be opened: it is empty, damaged or of a codec that '
                'OpenCV does not have; convert it with `ffmpeg -i IN -c:v libx264 OUT.mp4`'
            )
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        return capture

    def _camera(self, rgb: npt.NDArray[np.uint8]) -> Camera:
        try:
            return _camera_of(rgb, self._lens)
        except CalibrationError as error:
            if not self._turned_deg:
                raise
            raise CalibrationError(
                f'{error}. The video says that its pictures are turned by {self._turned_deg} '
                'degrees, and they are shown upright: calibrate with upright pictures, or take '
                'the mark out with `ffmpeg -display_rotation 0 -i IN -c copy OUT`'
            ) from error

    def _note(self, read: int, clock: VideoClock) -> None:
        """Count frames that are not there, and say what is not as it seems."""
        if self._turned_deg and self._lens.camera is not None:
            self._notes.append(
                f'the pictures of {self.path} are turned by {self._turned_deg} degrees, as the '
                'file says; the calibration must be of upright pictures'
            )
        if clock.guessed:
            self._notes.append(
                f'{self.path} has no time for {clock.guessed} of its {read} frames; they are '
                'spaced like those before them'
            )
        missing = self._count - read
        if missing <= 0:
            return
        suffix = self.path.suffix.lower()
        if suffix in _COUNTED or (suffix == '.avi' and clock.is_even):
            for index in range(read, self._count):
                error = MessageError(
                    f'video {self.path} lists {self._count} frames, and {missing} of them are '
                    'missing or damaged'
                )
                self._skip(index, clock.last_ns, 'image', error)
        elif clock.last_ns + 2 * clock.step_ns + _SHORT_NS < self.span_ns[1]:
            self._notes.append(
                f'{self.path} says it is {self.span_ns[1] / 1e9:.1f} s long and ends after '
                f'{clock.last_ns / 1e9:.1f} s: the rest is missing or damaged'
            )


class VideoClock:
    """Stamps from 0 by the times that a decoder tells of its frames.

    Containers have a time for every frame, which the mean rate does not give where it varies
    (phones, screen recordings). A time that does not go on, as old versions of OpenCV tell of the
    last frames of H.264, is taken as unknown: `guessed` counts them. `is_even` tells whether all
    steps are those of the rate.
    """

    def __init__(self, rate_hz: float) -> None:
        self._nominal_ns = 1e9 / rate_hz
        self._first_ns: int | None = None
        self._known = 0
        self.step_ns = self._nominal_ns
        self.last_ns = 0
        self.guessed = 0
        self.is_even = True

    def stamp(self, position_ms: float) -> int:
        """Stamp in ns of the next frame, of which the decoder says this."""
        time_ns = round(position_ms * 1e6) if np.isfinite(position_ms) else 0
        if self._first_ns is None:
            self._first_ns = time_ns
            return 0
        time_ns -= self._first_ns
        if time_ns > self.last_ns:
            self._known += 1
            self.step_ns = time_ns - self.last_ns
            self.is_even &= abs(self.step_ns / self._nominal_ns - 1) < _EVEN
        else:
            self.guessed += 1
            step_ns = min(self.step_ns, self._nominal_ns) if self._known else self._nominal_ns
            time_ns = round(self.last_ns + step_ns)
        self.last_ns = time_ns
        return time_ns


class ListedFrames(FrameSource):
    """Image files in an order that is known.

    With `units_per_metre` frames come with the exact depth of their entries; an image that cannot
    be read is an error then, because every image counts. `depth_camera` is that of a depth that is
    not registered to the images.
    """

    def __init__(
        self,
        path: Path,
        lens: LensChoice,
        entries: Sequence[Entry],
        units_per_metre: float | None = None,
    ) -> None:
        super().__init__(path, lens)
        self._entries = list(entries)
        self._units_per_metre = units_per_metre
        self.depth_camera: DepthCamera | None = None

    @property
    def count(self) -> int:
        """Number of images."""
        return len(self._entries)

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last stamp."""
        return self._entries[0].stamp_ns, self._entries[-1].stamp_ns

    def close(self) -> None:
        """Nothing stays open."""

    def frames(self) -> Iterator[TimedFrame]:
        """Decode the images."""
        self._begin()
        error: PsdDepthError | None = None
        for place in self.selected:
            entry = self._entries[place]
            index = place if entry.number is None else entry.number
            try:
                frame = self._read(index, entry)
            except (MessageError, CalibrationError) as problem:
                if self._units_per_metre is not None:
                    raise EvaluationError(str(problem)) from problem
                error = problem
                reason = 'image' if isinstance(problem, MessageError) else 'camera_info'
                self._skip(index, entry.stamp_ns, reason, problem)
                continue
            yield self._use(frame)
        self._finish(error)

    def _read(self, index: int, entry: Entry) -> TimedFrame:
        """Raises MessageError and CalibrationError, of depth EvaluationError."""
        rgb = self.decoder.decode_file(entry.path)
        camera = _camera_of(rgb, self._lens, entry.camera)
        points = None if entry.points is None else _read_points(entry.points)
        depth = None
        if entry.depth is not None and self._units_per_metre is not None:
            depth = self._read_depth(entry.depth, self._units_per_metre, rgb, camera)
        return TimedFrame(
            index,
            entry.stamp_ns,
            FRAME_ID,
            rgb,
            camera,
            entry.pose,
            points,
            depth,
            name=entry.name,
            sequence=entry.sequence,
            file=entry.path.stem,
        )

    def _read_depth(
        self, path: Path, units_per_metre: float, rgb: npt.NDArray[np.uint8], camera: Camera
    ) -> npt.NDArray[np.float32]:
        """Depth in the rectified view of an image."""
        depth, name = read_depth(path, units_per_metre), str(path)
        if self.depth_camera is None:
            return rectify_depth(check_depth(name, depth, rgb), camera)
        check_depth_camera(name, depth, self.depth_camera)
        return rectify_depth(register_depth(depth, self.depth_camera, camera), camera)


class FolderFrames(ListedFrames):
    """The images of a folder, in the order of its table or of the numbers in their names.

    A layout that knows better gives the `entries`, and the `calibration` to look for first.
    """

    def __init__(
        self,
        path: Path,
        lens: LensChoice,
        entries: Sequence[Entry] | None = None,
        units_per_metre: float | None = None,
        calibration: Path | None = None,
    ) -> None:
        entries = _list_images(path) if entries is None else entries
        own = calibration or path / 'camera.yaml'
        super().__init__(path, complete_lens(lens, path, own), entries, units_per_metre)
        self.camera_height_m = _known_height(path, own)


def complete_lens(lens: LensChoice, path: Path, own: Path) -> LensChoice:
    """Fill in the calibration that lies beside the frames, where the caller gave none.

    Args:
        lens: What the caller gave.
        path: The recording, a file or folder.
        own: The calibration file to look for first; then come camera.yaml beside the recording
            and, for a folder, the sensor.yaml of EuRoC.

    Returns:
        A lens that has a camera or a field of view.

    Raises CalibrationError, which names the files looked for, where all are missing.
    """
    if lens.is_given:
        return lens
    candidates = _calibrations(path, own)
    for candidate in candidates:
        if candidate.exists():
            camera = load_camera(candidate, lens.image_is_rectified, lens.rectify_alpha)
            return replace(lens, camera=camera)
    raise CalibrationError(
        f'{path} comes without a calibration (looked for '
        f'{" and ".join(str(candidate) for candidate in candidates)}); give it with --camera '
        'camera.yaml (fx fy cx cy width height), or with --fov DEGREES if only the horizontal '
        'field of view is known'
    )


def _calibrations(path: Path, own: Path) -> list[Path]:
    """Where a calibration may lie; EuRoC has a sensor.yaml beside the folder of images."""
    beside = [own, path.parent / 'camera.yaml']
    if path.is_dir():
        beside += [path / 'sensor.yaml', path.parent / 'sensor.yaml']
    return beside


def _known_height(path: Path, own: Path) -> float | None:
    """What the calibration beside the frames says of the camera's height above the ground."""
    found = next((file for file in _calibrations(path, own) if file.exists()), None)
    return None if found is None else load_camera_height(found)


def _camera_of(rgb: npt.NDArray[np.uint8], lens: LensChoice, own: Camera | None = None) -> Camera:
    height, width = rgb.shape[:2]
    camera = own or lens.camera_for(width, height)
    assert camera is not None, 'sources complete the lens when they open'
    check_sizes(camera, width, height)
    return camera


def _read_points(path: Path) -> npt.NDArray[np.float32] | None:
    """Points (N, 3) of a sweep of KITTI (x, y, z, reflectance); None without a file."""
    if not path.exists():
        return None
    points = np.fromfile(path, np.float32)
    if len(points) % 4:
        raise BagError(f'sweep {path} has {len(points)} numbers, which are not x y z reflectance')
    return points.reshape(-1, 4)[:, :3]


def _list_images(folder: Path) -> list[Entry]:
    """Read the folder's table where there is one, else take the images by name.

    Without a table images of the folder are taken, or those of its only sub-folder with images.
    """
    for name in TABLES:
        if (folder / name).exists():
            return read_entries(folder / name)
    files = images_in(folder)
    if not files:
        children = sorted(folder.iterdir())
        nested = [found for child in children if (found := images_in(child))]
        bags = [child.name for child in children if child.is_dir() and _is_bag(child)]
        if bags and not nested:
            raise BagError(
                f'folder {folder} holds {len(bags)} bags in folders of their own; name one: '
                f'{", ".join(bags[:20])}'
            )
        if len(nested) != 1:
            raise BagError(
                f'folder {folder} has no images, and {len(nested)} sub-folders that do; name the '
                f'folder with the images ({" ".join(IMAGE_SUFFIXES)}), or a bag or video file'
            )
        files = nested[0]
    stamps = stamps_in_names(files)
    return [Entry(path, stamp_ns) for path, stamp_ns in zip(files, stamps, strict=True)]


def _is_bag(folder: Path) -> bool:
    return any(is_bag_name(child.name) for child in folder.iterdir())


def stamps_in_names(files: Sequence[Path]) -> list[int]:
    """Stamps in ns by the names of images: epoch times where all have one, else 10 Hz from 0.

    Names end with the time in seconds with a point (TUM RGB-D), milliseconds, microseconds or
    nanoseconds (EuRoC); they must increase in the order of the files.
    """
    stamps = [stamp for path in files if (stamp := _epoch_ns(path)) is not None]
    if len(stamps) == len(files) > 1 and all(a < b for a, b in pairwise(stamps)):
        return stamps
    return [nominal_stamp(index) for index in range(len(files))]


def _epoch_ns(path: Path) -> int | None:
    """The epoch time that the name of an image ends with, None without one."""
    found = _EPOCH.search(path.stem)
    if found is None:
        return None
    whole, _, fraction = found[1].partition('.')
    stamp_ns = int(whole) * 10 ** (19 - len(whole))
    if fraction:
        stamp_ns += int(fraction.ljust(9, '0'))
    return stamp_ns if stamp_ns < _LAST_NS else None


def images_in(folder: Path) -> list[Path]:
    """Image files of a folder in the order of their numbers; empty where it is no folder."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if not path.name.startswith('.'))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    times = [_epoch_ns(path) for path in images]
    if None in times:
        if all(_SECONDS.fullmatch(path.stem) for path in images):
            return sorted(images, key=lambda path: (float(path.stem), path.name))
        return sorted(images, key=natural_key)
    # By their times: as seconds 9.5 comes after 9.25, as numbers of files before it.
    return [path for _, path in sorted(zip(times, images, strict=True))]  # type: ignore[type-var]


def read_entries(path: Path) -> list[Entry]:
    """Read `file`, and where they are there `depth`, `t_nominal_s`, T00..T23 (camera to world).

    Raises BagError.
    """
    try:
        rows = read_table(path)
    except ParseError as error:
        raise BagError(f'table {path} {error}') from error
    if not rows or 'file' not in rows[0]:
        raise BagError(f'table {path} has no rows with a column named file')
    entries = []
    for index, row in enumerate(rows):
        try:
            time_s = row.get('t_nominal_s') or ''
            stamp_ns = round(float(time_s) * 1e9) if time_s else nominal_stamp(index)
            if not 0 <= stamp_ns < _LAST_NS:
                raise ValueError(f'{time_s} s is no time of ROS')
            entries.append(
                Entry(
                    path.parent / row['file'],
                    stamp_ns,
                    _read_pose(row),
                    depth=path.parent / row['depth'] if row.get('depth') else None,
                    name=row['file'],
                    sequence=str(path.parent),
                )
            )
        except (TypeError, ValueError) as error:
            raise BagError(
                f'table {path} has a wrong value in line {index + 2}: {error}'
            ) from error
    return entries


def _read_pose(row: dict[str, str]) -> npt.NDArray[np.float64] | None:
    if any(not row.get(column) for column in _POSE_COLUMNS):
        return None
    pose = np.eye(4)
    pose[:3] = np.array([float(row[column]) for column in _POSE_COLUMNS]).reshape(3, 4)
    return pose


def nominal_stamp(index: int) -> int:
    """Stamp images without times at 10 Hz."""
    return round(index * 1e9 / _DEFAULT_RATE_HZ)


def is_video(path: Path) -> bool:
    """Whether a path has the name of a video file."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()


VIDEO = Reader('video', is_video, lambda path, options: VideoFrames(path, options.lens))
FOLDER = Reader(
    'folder',
    Path.is_dir,
    lambda path, options: FolderFrames(path, options.lens),
    is_recording=lambda path: bool(images_in(path)),
)
