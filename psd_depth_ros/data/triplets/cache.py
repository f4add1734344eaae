"""Recordings decoded once: rectified frames at one size, memory-mapped from disk.

A recording becomes a folder with one part for every camera it was taken with (nearly always one).
It appears under its name when it is complete; its name holds a key of all that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
import hashlib
import json
from pathlib import Path
import shutil
from typing import Any, BinaryIO, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.frames import FrameSource, TimedFrame, view_rotation
from psd_depth_ros.data.triplets.choose import (
    find_corners,
    GREY_WIDTH,
    measure_saturation,
    measure_sharpness,
    measure_shift,
    Shift,
    shrink_grey,
)
from psd_depth_ros.data.triplets.workers import Workers
from psd_depth_ros.errors import BagError
from psd_depth_ros.files import atomic_path
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import invert, transform
from psd_depth_ros.geometry.view import sampling_map
from psd_depth_ros.parsing import (
    ARRAY_BYTES,
    ParseError,
    read_arrays,
    read_bytes,
    read_json_object,
)
from psd_depth_ros.preprocess import network_size, ViewSampler

Array = NDArray[np.float64]

_MOST_POINTS = 4096
_NEAREST_M = 0.1

_MOST_CAMERAS = 16
_INDEX = 'recording.json'
_BEGINNING = 65536  # bytes
Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Layout:
    """How frames are kept: at the network's size for `pixel_budget` and `fine_factor` times that.

    Without `keep_pixels` only what was measured is.
    """

    pixel_budget: int
    fine_factor: int
    keep_pixels: bool = True

    def network_size(self, camera: Camera) -> tuple[int, int]:
        """Height and width of the network's input for frames of a camera."""
        return network_size(camera, self.pixel_budget)

    def bytes_of(self, camera: Camera) -> int:
        """Room that a frame takes on disk, about."""
        height, width = self.network_size(camera)
        pixels = height * width * (self.fine_factor**2 + (self.fine_factor > 1))
        return round(3.2 * pixels) if self.keep_pixels else GREY_WIDTH**2


class ArrayFile:
    """A .npy file of arrays of one shape and type, written one after another.

    Written, not mapped: on a full disk a write raises, but writing to a mapping kills the process.
    """

    def __init__(self, path: Path) -> None:
        self._stream: BinaryIO = path.open('wb')
        self._shape: tuple[int, ...] = (0,)
        self._type = np.dtype(np.uint8)
        self._count = 0

    def append(self, array: NDArray) -> None:
        """Append an array. Raises OSError where the disk is full."""
        if not self._count:
            self._shape, self._type = array.shape, array.dtype
            self._write_header()
        assert (array.shape, array.dtype) == (self._shape, self._type), 'one file, one shape'
        self._stream.write(np.ascontiguousarray(array).data)
        self._count += 1

    def close(self) -> None:
        """Write the number of arrays; a second call does nothing."""
        if not self._stream.closed:
            with self._stream:
                self._stream.seek(0)
                self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the first number to grow.
        facts = {
            'descr': np.lib.format.dtype_to_descr(self._type),
            'fortran_order': False,
            'shape': (self._count, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, facts)


class MeasuredFrame(NamedTuple):
    """A frame at the sizes it is kept in, and what was measured of it.

    `rgb` (H, W, 3), `image` (h, w, 3) and `grey` are uint8, `depth` (H, W) is float16 or None,
    `corners` (n, 2) are of `grey`, `points` as of `Sequence.lidar`.
    """

    frame: TimedFrame
    rgb: NDArray[np.uint8]
    image: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    depth: NDArray[np.float16] | None
    points: NDArray[np.float32]
    corners: NDArray[np.float32]
    sharpness: float
    saturation: float


class FrameWriter:
    """Writes the frames of one camera into a folder that it makes.

    `measure` may be called by several threads at once, the rest by one.
    """

    def __init__(
        self,
        folder: Path,
        source: FrameSource,
        camera: Camera,
        layout: Layout,
        workers: Workers | None = None,
    ) -> None:
        folder.mkdir()
        self._workers = workers or Workers(1)
        self._folder = folder
        height, width = layout.network_size(camera)
        scale = layout.fine_factor
        # Both sizes are sampled from the recorded image, so that `image` is what a node sees.
        self._fine = ViewSampler(camera, (scale * height, scale * width), with_torch=True)
        self._network = self._fine
        if scale != 1:
            self._network = ViewSampler(camera, (height, width), with_torch=True)
        self.camera = self._fine.camera
        self._focal = self.camera.fx / self.camera.width
        T_view_camera = view_rotation(camera)
        body, lidar = source.T_body_camera, source.T_camera_lidar
        self._T_known_view = (np.eye(4) if body is None else body) @ invert(T_view_camera)
        self._poses_are_of_camera = body is not None or source.poses_are_of_camera
        self._T_view_lidar = None if lidar is None else T_view_camera @ lidar
        self._rgb = ArrayFile(folder / 'rgb.npy') if layout.keep_pixels else None
        has_both = layout.keep_pixels and scale > 1
        self._image = ArrayFile(folder / 'image.npy') if has_both else None
        self._grey = ArrayFile(folder / 'grey.npy')
        self._depth: ArrayFile | None = None
        self._facts: list[tuple[int, int, float, float]] = []
        self._names: list[str] = []
        self._positions = np.zeros(0, np.float32)
        if not camera.is_rectified:
            pixels = sampling_map(camera, camera.rectified().resize(width, height))
            sides = np.array(camera.size[::-1])
            self._positions = ((pixels + 0.5) / sides).astype(np.float32)
        self._poses: list[Array] = []
        self._points: list[NDArray[np.float32]] = []
        self._shifts: list[Future[Shift]] = []
        self._last: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None

    def add(self, frame: TimedFrame) -> None:
        """Rectify, resize, measure and write a frame. Raises OSError where the disk is full."""
        self.write(self.measure(frame))

    def measure(self, frame: TimedFrame) -> MeasuredFrame:
        """Rectify, resize and measure a frame."""
        rgb = self._fine.sample(frame.rgb)
        image = rgb if self._network is self._fine else self._network.sample(frame.rgb)
        grey = shrink_grey(rgb)
        return MeasuredFrame(
            frame,
            rgb,
            image,
            grey,
            None if self._rgb is None else self._resize_depth(frame.depth_m),
            self._project(frame.lidar),
            find_corners(grey),
            measure_sharpness(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)),
            measure_saturation(grey),
        )

    def write(self, measured: MeasuredFrame) -> None:
        """Write a frame, the next in order. Raises OSError where the disk is full."""
        frame = measured.frame
        if self._rgb is not None:
            self._rgb.append(measured.rgb)
        if self._image is not None:
            self._image.append(measured.image)
        self._grey.append(measured.grey)
        if measured.depth is not None:
            if self._depth is None:
                self._depth = ArrayFile(self._folder / 'depth.npy')
            self._depth.append(measured.depth)
        self._points.append(measured.points)
        self._poses.append(self._pose(frame.pose))
        measures = (measured.sharpness, measured.saturation)
        self._facts.append((frame.index, frame.stamp_ns, *measures))
        self._names.append(frame.file)
        if self._last is not None:
            grey, corners = self._last
            self._shifts.append(
                self._workers.submit(measure_shift, grey, measured.grey, corners, self._focal)
            )
        self._last = measured.grey, measured.corners

    def finish(self) -> None:
        """Write what was measured."""
        self.close()
        poses = np.array(self._poses)
        found = [future.result() for future in self._shifts]
        shifts = [(shift.flow, shift.parallax, shift.tracked) for shift in found]
        indices, stamps, sharpness, saturation = zip(*self._facts, strict=True)
        with_points = any(len(points) for points in self._points)
        np.savez(
            self._folder / 'facts.npz',
            seen=self._seen(),
            indices=np.array(indices, np.int64),
            names=np.array(self._names, np.str_),
            positions=self._positions,
            stamps_ns=np.array(stamps, np.int64),
            sharpness=np.array(sharpness, np.float32),
            saturation=np.array(saturation, np.float32),
            neighbours=np.array(shifts, np.float32).reshape(-1, 3),
            poses=poses if np.isfinite(poses).any() else poses[:0],
            points=np.concatenate(self._points),
            point_counts=np.array([len(points) for points in self._points]) * with_points,
        )
        facts = {'camera': asdict(self.camera), 'poses_are_of_camera': self._poses_are_of_camera}
        (self._folder / 'facts.json').write_text(json.dumps(facts))

    def close(self) -> None:
        """Close the files."""
        for file in (self._rgb, self._image, self._grey, self._depth):
            if file is not None:
                file.close()

    def _resize_depth(self, depth_m: NDArray[np.float32] | None) -> NDArray[np.float16] | None:
        """A depth of the rectified view at the size of the frames."""
        if depth_m is None:
            return None
        if depth_m.shape != self.camera.size:
            size = self.camera.size[::-1]
            depth_m = cv2.resize(depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT)
        far = np.finfo(np.float16).max
        return np.where(depth_m > far, np.inf, depth_m).astype(np.float16)

    def _pose(self, pose: Array | None) -> Array:
        """T_world_view, or T_world_body where the mounting of the camera is unknown."""
        if pose is None:
            return np.full((4, 4), np.nan)
        return pose @ self._T_known_view if self._poses_are_of_camera else pose

    def _project(self, lidar: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Points (n, 3) inside the image: x, y in pixels, Z in metres."""
        if lidar is None or self._T_view_lidar is None:
            return np.zeros((0, 3), np.float32)
        points = transform(self._T_view_lidar, lidar)
        points = points[points[:, 2] > _NEAREST_M]
        pixels = self.camera.project(points)
        height, width = self.camera.size
        inside = np.all((pixels > -0.5) & (pixels < (width - 0.5, height - 0.5)), axis=1)
        found = np.concatenate([pixels, points[:, 2:]], axis=1)[inside].astype(np.float32)
        return found[:: max(1, -(-len(found) // _MOST_POINTS))]

    def _seen(self) -> NDArray[np.bool_]:
        mask = self._fine.mask
        return np.ones(self.camera.size, bool) if mask is None else mask


@dataclass(frozen=True)
class CachedFrames:
    """The frames of a recording that one camera took, with what was measured of them.

    Fields that are not explained are those of `Sequence`, `names` and `positions` those of
    `Origin`. `indices` (N,) count the images of the recording, `seen` (H, W) is false where
    rectifying leaves nothing, `neighbours` (N - 1, 3) are flow, parallax and tracked between a
    frame and the next, see `Shift`.
    """

    rgb: NDArray[np.uint8]
    image: NDArray[np.uint8] | None
    grey: NDArray[np.uint8]
    depth: NDArray[np.float16] | None
    camera: Camera
    poses_are_of_camera: bool
    seen: NDArray[np.bool_]
    indices: NDArray[np.int64]
    names: tuple[str, ...]
    positions: NDArray[np.float32] | None
    stamps_ns: NDArray[np.int64]
    poses: NDArray[np.float64] | None
    lidar: tuple[NDArray[np.float32], ...] | None
    sharpness: NDArray[np.float32]
    saturation: NDArray[np.float32]
    neighbours: NDArray[np.float32]

    def shift(self, first: int, second: int) -> Shift:
        """How the image moved between two frames."""
        if second == first + 1:
            return Shift(*(float(value) for value in self.neighbours[first]))
        corners = find_corners(self.grey[first])
        focal = self.camera.fx / self.camera.width
        return measure_shift(self.grey[first], self.grey[second], corners, focal)


@dataclass(frozen=True)
class CachedRecording:
    """A recording in the cache.

    `skipped` counts by reason the frames that could not be decoded; `notes` are for people.
    """

    folder: Path
    parts: tuple[CachedFrames, ...]
    skipped: dict[str, int]
    notes: tuple[str, ...]
    camera_height_m: float | None


@dataclass(frozen=True)
class Job:
    """Frames to decode: a source, the range of its frames (`stop` excluded), the layout.

    `make_room` is called with the bytes that they will take, before the first is written.
    """

    open: Callable[[], FrameSource]
    layout: Layout
    workers: Workers
    first: int = 0
    stop: int | None = None
    make_room: Callable[[int], None] = lambda needed: None


def describe_files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of a file, or of all files in a folder."""
    files = sorted(path.rglob('*')) if path.is_dir() else [path]
    found = []
    for file in files:
        with suppress(OSError):
            facts = file.stat()
            if file.is_file():
                name = str(file.relative_to(path))
                found.append((name, facts.st_size, facts.st_mtime_ns))
    return found


def find_recording(folder: Path) -> CachedRecording | None:
    """The recording kept in `folder`; None where it is not there, or damaged."""
    if not folder.is_dir():
        return None
    try:
        return _load(folder)
    except (ParseError, OSError):
        return None


def decode_recording(folder: Path, job: Job, report: Report) -> CachedRecording:
    """Decode a recording into `folder`, where a damaged one may lie, and read it from there.

    `report` gets the frames decoded and how many there are. Raises BagError where the disk is full
    (nothing is left behind then) or no frame is there, and all that the source raises.
    """
    _write(folder, job, report, replace=folder.is_dir())
    try:
        return _load(folder)
    except (ParseError, OSError) as error:
        raise BagError(
            f'decoded frames in {folder} are damaged ({error}) as soon as they are written; '
            'choose another disk for them'
        ) from error


def _write(folder: Path, job: Job, report: Report, replace: bool = False) -> None:
    """Decode into a folder beside, which then takes the place; `replace` a damaged one."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder, folder=True) as partial:
            with job.open() as source:
                _decode(partial, source, job, report)
            if replace:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise BagError(
            f'decoded frames cannot be kept in {folder.parent}: {error.strerror or error}; make '
            'room, or choose another folder for them (data.cache)'
        ) from error


def _decode(folder: Path, source: FrameSource, job: Job, report: Report) -> None:
    writers: dict[Camera, FrameWriter] = {}
    notes: list[str] = []
    source.locate()

    def assigned() -> Iterator[tuple[FrameWriter, TimedFrame]]:
        """Every frame with the writer of its camera."""
        for frame in _wanted(source, job):
            if frame.camera not in writers:
                if writers:
                    notes.append(_changed(source.path, list(writers), frame))
                else:
                    _check_room(folder, source, frame, job)
                part = folder / str(len(writers))
                writers[frame.camera] = FrameWriter(
                    part, source, frame.camera, job.layout, job.workers
                )
            yield writers[frame.camera], frame

    try:
        measured = job.workers.map(lambda one: (one[0], one[0].measure(one[1])), assigned())
        for done, (writer, frame) in enumerate(measured, 1):
            writer.write(frame)
            report(done, max(done, _count(source, job)))
        for writer in writers.values():
            writer.finish()
    finally:
        for writer in writers.values():
            writer.close()
    if not writers:
        raise BagError(f'{source.path} holds no images{_range_words(job)}')
    facts = {
        'skipped': source.skipped_by_reason,
        'notes': [*notes, *source.notes],
        'camera_height_m': source.camera_height_m,
    }
    _write_index(folder, facts)


def _wanted(source: FrameSource, job: Job) -> Iterator[TimedFrame]:
    """The frames in the range, by their place in the recording."""
    for place, frame in enumerate(source.frames()):
        if job.stop is not None and place >= job.stop:
            return
        if place >= job.first:
            yield frame


def _count(source: FrameSource, job: Job) -> int:
    stop = source.count if job.stop is None else min(job.stop, source.count)
    return max(0, stop - job.first)


def _range_words(job: Job) -> str:
    whole = job.first == 0 and job.stop is None
    return '' if whole else f' in the range {job.first}:{"" if job.stop is None else job.stop}'


def _changed(path: Path, known: list[Camera], frame: TimedFrame) -> str:
    """Say that another camera begins. Raises BagError where that goes on and on."""
    change = (
        f'the CameraInfo of {path} changes at stamp {frame.stamp_ns} ns from {_words(known[-1])} '
        f'to {_words(frame.camera)}'
    )
    if len(known) < _MOST_CAMERAS:
        return f'{change}; its frames are kept as a sequence of their own'
    raise BagError(
        f'{change}, the {len(known)}th change; give one calibration for the whole recording with '
        '--camera camera.yaml'
    )


def _words(camera: Camera) -> str:
    intrinsics = f'fx {camera.fx:.2f} fy {camera.fy:.2f} cx {camera.cx:.2f} cy {camera.cy:.2f}'
    return f'{camera.width}x{camera.height} {intrinsics}'


def _check_room(folder: Path, source: FrameSource, frame: TimedFrame, job: Job) -> None:
    count = _count(source, job)
    needed = count * job.layout.bytes_of(frame.camera)
    job.make_room(needed)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BagError(
            f'the {count} frames of {source.path} need {needed / 1e6:.1f} MB decoded, and '
            f'{folder.parent} has room for {free / 1e6:.1f} MB; make room, choose another folder '
            'for them (data.cache), or lower pixel_budget'
        )


def _write_index(folder: Path, facts: Any) -> None:
    """Write what is known of the recording, and which files belong to it, with a checksum."""
    files = {
        str(path.relative_to(folder)): [path.stat().st_size, _digest_of(path)]
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }
    index = {'facts': facts, 'files': files}
    (folder / _INDEX).write_text(json.dumps({**index, 'sha256': _digest(_text(index))}))


def _read_index(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The facts of a recording and the names of its parts. Raises ParseError for any damage.

    Of the large files, size and beginning are checked: a flipped bit of a pixel changes nothing
    else.
    """
    index = read_json_object(folder / _INDEX)
    if index.pop('sha256', None) != _digest(_text(index)):
        raise ParseError(f'{_INDEX} differs from its checksum')
    for name, (size, digest) in index['files'].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size or _digest_of(path) != digest:
            raise ParseError(f'{name} is not as it was written')
    return index['facts'], sorted({name.partition('/')[0] for name in index['files']}, key=int)


def _digest_of(path: Path) -> str:
    """Of the whole file, of a large array its header and what comes first."""
    if path.suffix != '.npy':
        return _digest(read_bytes(path, ARRAY_BYTES))
    with open(path, 'rb') as stream:
        return _digest(stream.read(_BEGINNING))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _load(folder: Path) -> CachedRecording:
    """Raises ParseError where something is damaged."""
    facts, names = _read_index(folder)
    parts = tuple(_load_part(folder / name) for name in names)
    return CachedRecording(
        folder, parts, facts['skipped'], tuple(facts['notes']), facts['camera_height_m']
    )


def _load_part(part: Path) -> CachedFrames:
    values = read_arrays(part / 'facts.npz')
    facts = read_json_object(part / 'facts.json')
    poses, points, counts = (values.pop(name) for name in ('poses', 'points', 'point_counts'))
    names, positions = values.pop('names'), values.pop('positions')
    camera = Camera(**facts['camera'])
    rgb, image, depth = (_load_array(part / f'{name}.npy') for name in ('rgb', 'image', 'depth'))
    if rgb is None:  # measured only
        rgb = np.broadcast_to(np.uint8(0), (len(values['stamps_ns']), *camera.size, 3))
    return CachedFrames(
        rgb=rgb,
        image=image,
        grey=np.load(part / 'grey.npy', mmap_mode='r'),
        depth=depth,
        camera=camera,
        poses_are_of_camera=facts['poses_are_of_camera'],
        poses=poses if len(poses) else None,
        lidar=tuple(np.split(points, np.cumsum(counts)[:-1])) if counts.any() else None,
        names=tuple(names.tolist()),
        positions=positions if len(positions) else None,
        **values,
    )


def _load_array(path: Path) -> NDArray | None:
    return np.load(path, mmap_mode='r') if path.exists() else None
