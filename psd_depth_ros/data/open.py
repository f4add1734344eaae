"""From what a person names to recordings, and to the reader of their layout.

A layout is one file in `readers` and one entry of `READERS`.
"""

from __future__ import annotations

from dataclasses import replace
import glob
from pathlib import Path
import re

from psd_depth_ros.data.bag_storage import is_bag_name
from psd_depth_ros.data.frames import (
    FrameSource,
    IMAGE_SUFFIXES,
    LensChoice,
    Reader,
    Recording,
    SourceOptions,
)
from psd_depth_ros.data.readers import (
    bag,
    cityscapes,
    files,
    kitti,
    make3d,
    nyuv2,
    pairs,
    rgbd,
    worlds,
)
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.errors import BagError, EvaluationError, SettingsError
from psd_depth_ros.files import natural_key
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages.images import FULL
from psd_depth_ros.parsing import user_path

# The first that matches reads a path: special layouts before general ones.
READERS: tuple[Reader, ...] = (
    worlds.READER,
    nyuv2.READER,
    files.VIDEO,
    bag.READER,
    kitti.SEQUENCES,
    kitti.RAW,
    cityscapes.SNIPPETS,
    cityscapes.STEREO,
    make3d.READER,
    pairs.READER,
    rgbd.READER,
    files.FOLDER,
)

_RANGE = re.compile(r'(?P<path>.+)#(?P<first>\d*):(?P<stop>\d*)')
_OWN = (*files.TABLES, 'camera.yaml')


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
    with_depth: bool = False,
) -> FrameSource:
    """Open a recording of any layout: a bag, a video, a folder, a data set, a rendered world.

    Args:
        path: of the recording, or `synth:KIND:SEED?...` of a world (see `readers.worlds`).
        image_topic, camera_info_topic, with_lidar, lidar_topic: see `SourceOptions`.
        camera: goes before what the recording says; a video or folder needs it, or the next, or a
            camera.yaml beside its frames (see `calibration_file`).
        horizontal_fov_deg: of a centred pinhole, instead of `camera`.
        image_is_rectified, rectify_alpha: see `messages.camera_from_info`; a `camera` that is
            given has its view already.
        stamps: of a bag, those of the headers (`header`), or for drivers that set none the times
            of recording (`recorded`).
        sixteen_bit_range: see `messages.images`.
        with_depth: frames come with true depth, as from `open_with_depth`.

    Raises:
        BagError: the recording cannot be read.
        SettingsError: an option means nothing to its layout.
        CalibrationError: there is no usable camera.
    """
    path = user_path(path)
    reader = find_reader(path)
    lens = LensChoice(
        camera, horizontal_fov_deg, image_is_rectified, sixteen_bit_range, rectify_alpha
    )
    options = SourceOptions(
        lens, image_topic, camera_info_topic, with_lidar, lidar_topic, stamps == 'recorded'
    )
    if with_depth:
        return open_with_depth(path, options)
    _refuse_unused(path, reader, options)
    return reader.open(path, options)


def open_with_depth(path: str | Path, options: SourceOptions | None = None) -> FrameSource:
    """Open a recording whose frames come with exact depth.

    Raises EvaluationError where it has none, SettingsError where an option means nothing to it.
    """
    path = user_path(path)
    options = replace(options or SourceOptions(), with_depth=True)
    if not worlds.is_world(path) and not path.exists():
        raise EvaluationError(f'{path} is not there; expected a bag or a folder with true depth')
    reader = find_reader(path)
    if not reader.has_depth:
        raise EvaluationError(
            f'{path} has no true depth that is known here; expected a bag with a depth or lidar '
            'topic, images with <id>_depth.png beside them, frames.csv with a column depth, '
            'folders color/ and depth/, KITTI raw, Cityscapes (leftImg8bit/ and disparity/), '
            'Make3D (Test134/ and Gridlaserdata/) or nyu_depth_v2_labeled.mat'
        )
    _refuse_unused(path, reader, options)
    return reader.open(path, options)


def _refuse_unused(path: Path, reader: Reader, options: SourceOptions) -> None:
    """Raise SettingsError where an option is given that means nothing to the layout."""
    wanting_topics = {
        '--image-topic': options.image_topic,
        '--camera-info-topic': options.camera_info_topic,
        '--depth-topic': options.depth_topic,
        '--stamps recorded': options.recorded_stamps,
    }
    wanting_lidar = {'--lidar-topic': options.lidar_topic, '--lidar-pose': options.lidar_pose}
    wanting_lens = {
        '--camera': options.lens.camera,
        '--fov': options.lens.horizontal_fov_deg,
    }
    layout = f'{path} (layout {reader.name})'
    for is_used, given, why in (
        (reader.has_topics, wanting_topics, f'{layout} has no topics'),
        (reader.has_lidar, wanting_lidar, f'{layout} has no lidar'),
        (reader.takes_lens, wanting_lens, f'{layout} has a camera that is known exactly'),
    ):
        names = [name for name, value in given.items() if value is not None and value is not False]
        if names and not is_used:
            raise SettingsError(f'{why}; leave out {", ".join(names)}')
    for field, name, what in (
        ('split_file', '--split-file', 'has no list of images'),
        ('truth_folder', '--truth', 'has its depth in its own folder'),
        ('units_per_metre', '--depth-scale', 'has depth of a known unit'),
        ('depth_camera', '--depth-camera', 'has depth that is registered to its images'),
    ):
        if getattr(options, field) is not None and field not in reader.depth_options:
            raise SettingsError(f'{layout} {what}; leave out {name}')
    if options.with_lidar and not reader.has_lidar:
        raise SettingsError(f'{layout} has no lidar; choose another scale.mode than lidar')


def find_reader(path: Path) -> Reader:
    """The reader of what lies at a path. Raises BagError where nothing does."""
    if not worlds.is_world(path):
        if not path.exists():
            raise BagError(
                f'recording {path} is not there; expected a bag, a video file or a folder of '
                'images'
            )
        if not path.is_dir() and path.suffix.lower() in IMAGE_SUFFIXES:
            raise BagError(
                f'recording {path} is a single image; name the folder that it lies in, all of '
                'whose images are read'
            )
    return next(reader for reader in READERS if reader.matches(path))


def kind_of(path: Path) -> str:
    """The name of a recording's layout, such as `bag`, `video`, `folder` or `kitti`.

    Raises BagError where nothing is there.
    """
    return find_reader(path).name


def find_recordings(settings: DataSettings) -> list[Recording]:
    """List the recordings of the settings, in order.

    What is not there stays in the list: opening it says so. Raises SettingsError where the lists
    of a split are missing or wrong.
    """
    if settings.split == 'eigen_zhou':
        roots = [user_path(text) for text in settings.paths]
        return kitti.find_listed(roots, settings.split_file, settings.held_out_file)
    found = [one for text in settings.paths for one in _expand(text)]
    if settings.split == 'cityscapes':
        found = [
            replace(one, role=cityscapes.ROLES[one.path.parent.name])
            for one in found
            if one.path.parent.name in cityscapes.ROLES
        ]
        if not found:
            raise SettingsError(
                f'data.split is cityscapes, and {", ".join(settings.paths)} holds no '
                f'{cityscapes.IMAGES}/train; name the folder that {cityscapes.IMAGES} lies in'
            )
    return list(dict.fromkeys(found))


def _expand(text: str) -> list[Recording]:
    """Resolve a pattern, a range, a data set; PATH#FIRST:STOP takes some of the frames."""
    if worlds.is_world(Path(text)):
        return [Recording(Path(name)) for name in worlds.list_worlds(text)]
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
    children = [child for child in path.iterdir() if not child.name.startswith('.')]
    found = [child for child in children if is_bag_name(child.name) or files.is_video(child)]
    for reader in READERS:
        found = found or reader.recordings(path)
    found = found or [child for child in children if child.is_dir() and _is_recording(child)]
    return sorted(found, key=natural_key) or [path]


def _is_recording(folder: Path) -> bool:
    """Whether a folder is one recording, not a set of them."""
    if (folder / 'metadata.yaml').exists():
        return True
    if any(map(files.is_video, folder.iterdir())):
        return False
    if any((folder / name).exists() for name in _OWN):
        return True
    return find_reader(folder).is_recording(folder)
