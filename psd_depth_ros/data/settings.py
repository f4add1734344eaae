"""Which recordings are learned from, and which of their frames."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from psd_depth_ros.config import section, setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.messages.images import DESCRIPTION, FULL, parse_sixteen_bit


@dataclass(frozen=True)
class TripletSettings:
    """Which frames of a recording make triplets."""

    minimum_flow: float = setting(
        0.3, 'Median optical flow between target and source, at least, in % of the width', '%',
        minimum=0.0, maximum=50.0,
    )  # fmt: skip
    maximum_flow: float = setting(
        12.0, 'Median optical flow between target and source, at most, in % of the width', '%',
        minimum=0.1, maximum=100.0,
    )  # fmt: skip
    minimum_parallax: float = setting(
        0.1, 'Median flow that no rotation of the camera explains, at least, in % of the width',
        '%', minimum=0.0, maximum=50.0,
    )  # fmt: skip
    maximum_gap_s: float = setting(
        0.5, 'Longest time between target and source', 's', minimum=0.001, maximum=60.0
    )
    held_out: float = setting(
        0.15,
        'Fraction of the time, at the end, that is held out for validation',
        minimum=0.0,
        maximum=0.9,
    )
    mask_fixed_regions: bool = setting(
        True, 'Find regions that never move, such as the bonnet, and mask them'
    )


@dataclass(frozen=True)
class DataSettings:
    """Which recordings are learned from."""

    removed_settings: ClassVar[dict[str, str]] = {
        **{
            f'clips.{field.name}': f'it is triplets.{field.name}'
            for field in fields(TripletSettings)
        },
        'clips.minimum_translation_m': 'sources less than 1 cm away are never used',
        'clips.sharpness': 'frames with a sharpness below 0.1 are never used',
        'clips.saturated': 'frames with more than 40 % of black or white pixels are never used',
    }

    paths: tuple[str, ...] = setting(
        (), 'Bags, videos, folders, data sets, synth:street:0-7?frames=40; patterns such as '
        '*.mcap; PATH#0:240 takes some of the frames'
    )  # fmt: skip
    image_topic: str = setting('', 'Topic of the images in a bag; empty: the only one')
    camera_info_topic: str = setting(
        '', 'Topic of the CameraInfo in a bag; empty: beside the image'
    )
    camera: str = setting('', 'Calibration file that replaces those of the recordings')
    rectified: bool = setting(False, 'The images are rectified already: use P of the calibration')
    rectify_alpha: float = setting(
        -1.0, 'Rectified view: below 0 that of P of the calibration; 0 only pixels that are seen, '
        '1 all pixels of the image, or in between', minimum=-1.0, maximum=1.0,
    )  # fmt: skip
    horizontal_fov_deg: float = setting(
        0.0, 'Field of view of recordings without calibration; 0: unknown', 'deg', minimum=0.0,
        maximum=179.0,
    )  # fmt: skip
    focal_deviation: float = setting(
        0.0, 'Standard deviation of the logarithm of a factor of the focal length, drawn for each '
        'sample, where it is a guess: networks then rely on it less', minimum=0.0, maximum=0.5,
    )  # fmt: skip
    sixteen_bit_range: str = setting(FULL, DESCRIPTION)
    stamps: str = setting(
        'header', 'Times of the images of a bag: those of their headers, or those of recording '
        'for drivers that set none', choices=('header', 'recorded'),
    )  # fmt: skip
    split: str = setting(
        'time', 'Held out: the end of every recording, or the lists of a benchmark',
        choices=('time', 'eigen_zhou', 'cityscapes'),
    )  # fmt: skip
    split_file: str = setting('', 'List of the frames to train on, for a split that has one')
    held_out_file: str = setting('', 'List of the frames held out, for a split that has one')
    strict: bool = setting(False, 'Stop at a recording that cannot be read instead of going on')
    camera_height_m: float = setting(
        0.0,
        'Height of the camera above the ground; 0: what the recording says',
        'm',
        minimum=0.0,
        maximum=100.0,
    )
    lidar_topic: str = setting(
        '', 'Topic of a lidar in a bag; for KITTI any text, such as velodyne; empty: none'
    )
    lidar_pose: tuple[float, ...] = setting(
        (), "x y z qx qy qz qw of the lidar in the camera's optical frame; empty: from TF", 'm'
    )
    depth: bool = setting(
        False, 'Keep the true depth of the recordings for terms that learn from it; recordings '
        'without any are refused'
    )  # fmt: skip
    cache: str = setting(
        '', 'Folder of decoded frames, shared by all runs; empty: psd_depth_ros/frames in '
        '$XDG_CACHE_HOME or ~/.cache'
    )  # fmt: skip
    cache_gb: float = setting(
        20.0, 'Most that decoded frames take on disk; those unused for longest are removed, but '
        'never those of the run itself', 'GB', minimum=0.0, maximum=1e6,
    )  # fmt: skip
    licence: str = setting('', 'Licence of the recordings, for the provenance of the checkpoint')
    triplets: TripletSettings = section(TripletSettings)

    def __post_init__(self) -> None:
        """Refuse a malformed 16-bit range, and to rectify what is rectified."""
        parse_sixteen_bit(self.sixteen_bit_range, 'data.sixteen_bit_range')
        if self.rectified and self.rectify_alpha >= 0:
            raise SettingsError(
                'rectified pictures are in the view of P already; leave out rectify_alpha '
                '(--rectify-alpha)'
            )
