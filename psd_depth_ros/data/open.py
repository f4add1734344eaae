"""Opens a recording of any kind as a source of frames."""

from __future__ import annotations

from dataclasses import dataclass
import glob
from pathlib import Path
import re

from psd_depth_ros.data.bag_storage import bag_files_in, is_bag_name, is_split
from psd_depth_ros.data.frames import FrameSource, IMAGE_SUFFIXES, LensChoice, VIDEO_SUFFIXES
from psd_depth_ros.data.readers.bag import BagFrames
from psd_depth_ros.data.readers.cityscapes import CityFrames, is_city
from psd_depth_ros.data.readers.files import FolderFrames, images_in, VideoFrames
from psd_depth_ros.data.readers.kitti import (
    DriveFrames,
    is_drive,
    is_odometry_sequence,
    OdometryFrames,
)
from psd_depth_ros.data.readers.worlds import WorldFrames
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.errors import BagError, SettingsError
from psd_depth_ros.files import natural_key
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages.sixteen_bit import FULL
from psd_depth_ros.parsing import ParseError, read_text, shorten, user_path


def open_frames(
    path: str | Path,
    image_topic: str | None = None,
    camera_info_topic: str | None = None,
    camera: Camera | None = None,
    horizontal_fov_deg: float | None = None,
    image_is_rectified: bool = False,
    rectify_alpha: float = -1.0,
    with_lidar: bool = False,
    lidar_topic: str | None = None,
    stamps: str = 'header',
    sixteen_bit_range: str = FULL,
) -> FrameSource:
    """Open a bag, a video, an image folder, or a world to be rendered (see `world_frames`).

    `camera`, or a centred pinhole of `horizontal_fov_deg`, goes before what the recording says; a
    video or folder needs one of them, or a camera.yaml beside its frames (see
    `calibration_file`). Topics and lidar are for bags only; for `image_is_rectified` and
    `rectify_alpha` see `messages.camera_from_info`; a `camera` that is given has its view already.
    `stamps` of a bag are those of the headers (`header`), or for drivers that set none the times
    of recording (`recorded`). For `sixteen_bit_range` see `messages.sixteen_bit`. Raises BagError
    where the recording cannot be read and CalibrationError where there is no usable camera.
    """
    path = user_path(path)
    lens = LensChoice(
        camera, horizontal_fov_deg, image_is_rectified, sixteen_bit_range, rectify_alpha
    )
    kind = kind_of(path)
    if kind == 'bag':
        source = BagFrames(path, lens, image_topic, camera_info_topic, stamps == 'recorded')
        if with_lidar:
            source.add_lidar(lidar_topic)
        return source
    given = [name for name in (image_topic, camera_info_topic, lidar_topic) if name]
    given += ['the lidar'] if with_lidar and not lidar_topic else []
    if given and kind != 'kitti':
        raise BagError(f'{path} is a {kind} and has no topics; leave out {", ".join(given)}')
    return _open_files(path, kind, lens, with_lidar)


def _open_files(path: Path, kind: str, lens: LensChoice, with_lidar: bool) -> FrameSource:
    """Open what is no bag; imports stay with what needs them."""
    if kind == 'world':
        return WorldFrames(str(path))
    if kind == 'kitti':
        return (DriveFrames if is_drive(path) else OdometryFrames)(path, lens, with_lidar)
    if kind == 'cityscapes':
        return CityFrames(path, lens)
    return VideoFrames(path, lens) if kind == 'video' else FolderFrames(path, lens)


def kind_of(path: Path) -> str:
    """Tell `bag`, `video`, `folder`, `kitti`, `cityscapes` or `world` by names alone.

    Raises BagError where nothing is there.
    """
    if str(path).startswith('synth:'):
        return 'world'
    if not path.exists():
        raise BagError(
            f'recording {path} is not there; expected a bag, a video file or a folder of images'
        )
    if not path.is_dir():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise BagError(
                f'recording {path} is a single image; name the folder that it lies in, all of '
                'whose images are read'
            )
        return 'video' if path.suffix.lower() in VIDEO_SUFFIXES else 'bag'
    names = [child.name for child in path.iterdir() if not child.name.startswith('.')]
    if 'metadata.yaml' in names or any(is_bag_name(name) for name in names):
        return 'bag'
    return _kind_of_folder(path)


def _kind_of_folder(path: Path) -> str:
    from psd_depth_ros.data.readers.kitti import is_drive

    if is_drive(path) or is_odometry_sequence(path):
        return 'kitti'
    return 'cityscapes' if is_city(path) else 'folder'


_RANGE = re.compile(r'(?P<path>.+)#(?P<first>\d*):(?P<stop>\d*)')
_OWN = ('frames.csv', 'poses.csv', 'camera.yaml')
_CITYSCAPES = 'leftImg8bit_sequence'
_SIDES = {'l': 'image_02', 'r': 'image_03', '2': 'image_02', '3': 'image_03'}


@dataclass(frozen=True)
class Recording:
    """One recording: where it is, which of its frames are meant, and what they are for.

    `first` and `stop` are places in the recording, `stop` left out. `role` is `both` (its end is
    held out), `train` or `held_out`. Where a benchmark lists its targets, `listed` has their frame
    numbers: those to train on and those held out.
    """

    path: Path
    first: int = 0
    stop: int | None = None
    role: str = 'both'
    listed: tuple[frozenset[int], frozenset[int]] | None = None

    @property
    def name(self) -> str:
        """A short name for people."""
        path = self.path
        if str(path).startswith('synth:'):
            return str(path).partition('?')[0].replace(':', '-')
        if path.name.startswith('image_0') and path.parent.name:
            return f'{path.parent.name}-{path.name}'
        return path.stem if path.is_file() else path.name


def find_recordings(settings: DataSettings) -> list[Recording]:
    """List the recordings of the settings, in order.

    What is not there stays in the list: opening it says so. Raises SettingsError where the lists
    of a split are missing or wrong.
    """
    if settings.split == 'eigen_zhou':
        return _listed_drives(settings)
    found = [one for text in settings.paths for one in _expand(text)]
    if settings.split == 'cityscapes':
        roles = {'train': 'train', 'val': 'held_out'}
        found = [
            Recording(one.path, one.first, one.stop, roles[one.path.parent.name])
            for one in found
            if one.path.parent.name in roles
        ]
        if not found:
            raise SettingsError(
                f'data.split is cityscapes, and {", ".join(settings.paths)} holds no '
                f'{_CITYSCAPES}/train; name the folder that {_CITYSCAPES} lies in'
            )
    return list(dict.fromkeys(found))


def _expand(text: str) -> list[Recording]:
    """Resolve a pattern, a range, a data set; PATH#FIRST:STOP takes some of the frames."""
    if text.startswith('synth:'):
        from psd_depth_ros.data.readers.worlds import list_worlds

        return [Recording(Path(name)) for name in list_worlds(text)]
    found = _RANGE.fullmatch(text)
    if found is None or Path(text).exists():
        first, stop = 0, None
    else:
        text = found['path']
        first, stop = int(found['first'] or 0), int(found['stop']) if found['stop'] else None
    path = user_path(text)
    matches = sorted(map(Path, glob.glob(str(path))), key=natural_key) or [path]
    if path.exists():
        matches = [path]
    return [Recording(one, first, stop) for match in matches for one in split_folder(match)]


def split_folder(path: Path) -> list[Path]:
    """The recordings a folder is made of; the path itself where it is one, or is not there."""
    if not path.is_dir() or _is_recording(path):
        return [path]
    files = [file for file in path.iterdir() if not file.name.startswith('.')]
    bags = [file for file in files if is_bag_name(file.name) or _is_video(file)]
    cities = [city for city in path.glob(f'{_CITYSCAPES}/*/*') if city.is_dir()]
    drives = [
        drive
        for pattern in ('*', '*/*', 'sequences/*')
        for drive in path.glob(pattern)
        if drive.is_dir() and kind_of(drive) == 'kitti' and not drive.name.startswith('image_')
    ]
    below = [child for child in files if child.is_dir() and _is_recording(child)]
    return sorted(bags or cities or drives or below, key=natural_key) or [path]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _is_recording(folder: Path) -> bool:
    """Whether a folder is one recording.

    Bags beside each other are several, unless a recorder split one into them.
    """
    if (folder / 'metadata.yaml').exists():
        return True
    if any(map(_is_video, folder.iterdir())):
        return False
    if any((folder / name).exists() for name in _OWN):
        return True
    kind = kind_of(folder)
    if kind == 'bag':
        bags = bag_files_in(folder)
        return len(bags) == 1 or is_split(bags)
    return kind in ('kitti', 'cityscapes') or bool(images_in(folder))


def _listed_drives(settings: DataSettings) -> list[Recording]:
    """The drives of KITTI raw that the lists of a split name, with their frames."""
    lists = (settings.split_file, settings.held_out_file)
    if not all(lists):
        raise SettingsError(
            'data.split eigen_zhou needs the lists of the Eigen-Zhou split: data.split_file '
            '(train_files.txt) and data.held_out_file (val_files.txt), with lines such as '
            '2011_09_26/2011_09_26_drive_0022_sync 473 r; they come with the public code of '
            'monodepth2 and its successors'
        )
    frames = [read_split(user_path(name)) for name in lists]
    roots = [user_path(text) for text in settings.paths]
    found = []
    for camera in sorted({*frames[0], *frames[1]}):
        candidates = [root / camera for root in roots]
        path = next((one for one in candidates if one.is_dir()), (candidates or [Path(camera)])[0])
        train, held_out = (frozenset(part.get(camera, ())) for part in frames)
        found.append(Recording(path, listed=(train, held_out)))
    return found


def read_split(path: Path) -> dict[str, list[int]]:
    """Read lines `DATE/DRIVE FRAME l|r` into frames by DATE/DRIVE/image_02 or 03.

    Raises SettingsError.
    """
    try:
        lines = read_text(path).splitlines()
    except ParseError as error:
        raise SettingsError(f'split file {shorten(path)} {error}') from error
    frames: dict[str, list[int]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 3 or not words[1].isdigit() or words[2] not in _SIDES:
            raise SettingsError(
                f'{path}, line {number} is {shorten(line)!r}, expected a line such as '
                '2011_09_26/2011_09_26_drive_0022_sync 473 r'
            )
        frames.setdefault(f'{words[0]}/{_SIDES[words[2]]}', []).append(int(words[1]))
    if not frames:
        raise SettingsError(f'split file {path} is empty')
    return frames
