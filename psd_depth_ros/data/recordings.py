"""From what a person names to single recordings: patterns, data sets, worlds, lists of frames.

What one recording holds is left to `sources`.
"""

from __future__ import annotations

from dataclasses import dataclass
import glob
from pathlib import Path
import re

from psd_depth_ros.data.bag_storage import bag_files_in, is_bag_name, is_split
from psd_depth_ros.data.file_frames import images_in
from psd_depth_ros.data.file_order import natural_key
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.sources import kind_of, VIDEO_SUFFIXES
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.parsing import ParseError, read_text, shorten, user_path

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
        from psd_depth_ros.data.world_frames import list_worlds

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
