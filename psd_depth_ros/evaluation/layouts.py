"""Which kind of data a path holds: its samples, and the protocol that is usual for them.

A layout is told by what lies in the folder. `auto` takes the protocol of the layout; one that is
asked for by name changes what is measured, not how files are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from psd_depth_ros.data.frames import LensChoice
from psd_depth_ros.data.open import kind_of
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation import benchmarks, folders, kitti_raw
from psd_depth_ros.evaluation.bag_truth import BagChoice, BagSamples
from psd_depth_ros.evaluation.protocols import find_protocol, Protocol
from psd_depth_ros.evaluation.samples import Samples
from psd_depth_ros.parsing import user_path

AUTO = 'auto'


@dataclass(frozen=True)
class DataChoice:
    """What the caller says of the data, all of it optional.

    `units_per_metre` are those of 16-bit depth files. `split_file` lists the images to measure,
    `truth_folder` has the improved ground truth of KITTI where it is not among the raw data.
    """

    lens: LensChoice = field(default_factory=LensChoice)
    bag: BagChoice = field(default_factory=BagChoice)
    units_per_metre: float | None = None
    split_file: Path | None = None
    truth_folder: Path | None = None


@dataclass(frozen=True)
class _Layout:
    """How a layout is recognised and opened; `open` also names its usual protocol."""

    found: Callable[[Path], bool]
    open: Callable[[Path, DataChoice, str], tuple[Samples, str]]


def open_samples(
    path: str | Path, protocol: str = AUTO, choice: DataChoice | None = None
) -> tuple[Samples, Protocol]:
    """Open what is to be measured, and choose how.

    Raises EvaluationError where no layout with true depth is found.
    """
    path = user_path(path)
    choice = choice or DataChoice()
    if protocol != AUTO:
        find_protocol(protocol)
    if not path.exists():
        raise EvaluationError(f'{path} is not there; expected a bag or a folder with true depth')
    for layout in _LAYOUTS:
        if layout.found(path):
            samples, usual = layout.open(path, choice, protocol)
            return samples, find_protocol(usual if protocol == AUTO else protocol)
    raise EvaluationError(
        f'{path} has no true depth that is known here; expected a bag with a depth or lidar '
        'topic, images with <id>_depth.png beside them, frames.csv with a column depth, folders '
        'color/ and depth/, KITTI raw, Cityscapes (leftImg8bit/ and disparity/), Make3D (Test134/ '
        'and Gridlaserdata/) or nyu_depth_v2_labeled.mat'
    )


def _is_bag(path: Path) -> bool:
    return path.suffix != '.mat' and kind_of(path) == 'bag'


def _open_bag(path: Path, choice: DataChoice, protocol: str) -> tuple[Samples, str]:
    return BagSamples(path, choice.lens, choice.bag), 'outdoor'


def _open_lidar(path: Path, choice: DataChoice, protocol: str) -> tuple[Samples, str]:
    samples = folders.open_lidar_folder(path, choice.lens, choice.units_per_metre)
    first = next(iter(samples.part(slice(1))))
    return samples, 'kitti' if kitti_raw.is_kitti_size(*first.rgb.shape[:2]) else 'outdoor'


def _open_rgbd(path: Path, choice: DataChoice, protocol: str) -> tuple[Samples, str]:
    return folders.open_rgbd_folder(path, choice.lens, choice.units_per_metre), 'indoor'


def _open_kitti(path: Path, choice: DataChoice, protocol: str) -> tuple[Samples, str]:
    if protocol == 'kitti_eigen_improved':
        return kitti_raw.open_improved(path, choice.split_file, choice.truth_folder), protocol
    if protocol == 'kitti_eigen' and choice.split_file is None:
        raise EvaluationError(
            'protocol kitti_eigen needs the list of its images: give it with --split-file, lines '
            'such as `2011_09_26/2011_09_26_drive_0002_sync 0000000069 l` (the test_files.txt of '
            'the Eigen split); without --protocol every image with a velodyne sweep is measured'
        )
    usual = 'kitti' if choice.split_file is None else 'kitti_eigen'
    return kitti_raw.open_velodyne(path, choice.split_file), usual


def _open_cityscapes(path: Path, choice: DataChoice, protocol: str) -> tuple[Samples, str]:
    return benchmarks.open_cityscapes(path), 'cityscapes'


def _open_make3d(path: Path, choice: DataChoice, protocol: str) -> tuple[Samples, str]:
    return benchmarks.open_make3d(path, choice.lens), 'make3d'


def _open_nyu(path: Path, choice: DataChoice, protocol: str) -> tuple[Samples, str]:
    return benchmarks.open_nyu(path), 'nyuv2'


_LAYOUTS = (
    _Layout(benchmarks.is_nyu, _open_nyu),
    _Layout(_is_bag, _open_bag),
    _Layout(kitti_raw.is_kitti_raw, _open_kitti),
    _Layout(benchmarks.is_cityscapes, _open_cityscapes),
    _Layout(benchmarks.is_make3d, _open_make3d),
    _Layout(folders.is_lidar_folder, _open_lidar),
    _Layout(folders.is_rgbd_folder, _open_rgbd),
)
