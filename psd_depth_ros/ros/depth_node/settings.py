"""Every parameter of the depth node: one home for defaults, ranges, units and descriptions.

Declared by `ros.parameters`; the documentation lists them from here. What belongs to a checkpoint
(normalisation, focal length, units) is in the checkpoint and not here. Each class of
the node sees only the base class whose settings it uses. No ROS is needed to import this module.
"""

from __future__ import annotations

from dataclasses import dataclass

from psd_depth_ros.checkpoint import check_pixel_budget, MAX_PIXELS
from psd_depth_ros.config import section, setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.inference.cloud import CloudSettings
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.scale import ScaleSettings
from psd_depth_ros.messages.images import DESCRIPTION, FULL, parse_sixteen_bit


@dataclass(frozen=True)
class DepthImageSettings(DepthSettings):
    """Which depths are published as numbers, and in which form."""

    encoding: str = setting(
        '32FC1',
        'metres as floats, or millimetres with 0 for invalid',
        choices=('32FC1', '16UC1'),
    )
    size: str = setting(
        'native',
        'resolution of the camera, or of the network (smaller, faster)',
        choices=('native', 'network'),
    )


@dataclass(frozen=True)
class PointsSettings(CloudSettings):
    """Which points are published, and how often."""

    rate_hz: float = setting(
        0.0, 'most clouds per second; 0: one for each frame', 'Hz', minimum=0.0, maximum=1e3
    )


@dataclass(frozen=True)
class EngineSettings:
    """Which network runs where, and for which images it is prepared before the first one."""

    checkpoint: str = setting(
        '',
        'checkpoint file, or the name of weights that come with the package; empty is `default`; '
        'or a network of others: .onnx, .tflite, hf:OWNER/NAME or a folder; may change while '
        'active',
    )
    pixel_budget: int = setting(
        0,
        'most pixels of the input of the network: more for finer depth, fewer for speed; 0 is '
        'that of the checkpoint; may change while active',
        'px',
        minimum=0,
        maximum=MAX_PIXELS,
    )
    device: str = setting('auto', 'auto, cpu, cuda or cuda:N', read_only=True)
    backend: str = setting('auto', 'library that runs the network', read_only=True)
    image_width: int = setting(
        640,
        'width of the images the network is compiled for at the start',
        'px',
        minimum=16,
        maximum=16384,
        read_only=True,
    )
    image_height: int = setting(
        480, 'height of these images', 'px', minimum=16, maximum=16384, read_only=True
    )

    def __post_init__(self) -> None:
        """Refuse a budget that no image can have."""
        check_pixel_budget(self.pixel_budget)


@dataclass(frozen=True)
class CameraSettings:
    """How images and calibrations are received and read."""

    image_transport: str = setting(
        'raw',
        'subscribe to image (Image) or to image/compressed (CompressedImage)',
        choices=('raw', 'compressed'),
        read_only=True,
    )
    image_is_rectified: bool = setting(
        False, 'images are rectified already (image_rect): use P of camera_info', read_only=True
    )
    sixteen_bit_range: str = setting(FULL, DESCRIPTION)
    rectify_alpha: float = setting(
        -1.0,
        'view that images are rectified to: below 0 P of camera_info; 0 only pixels that are '
        'seen, 1 all pixels of the image, or in between',
        minimum=-1.0,
        maximum=1.0,
        read_only=True,
    )
    image_reliability: str = setting(
        'auto',
        'QoS asked of cameras; auto is reliable where every publisher offers it',
        choices=('auto', 'reliable', 'best_effort'),
    )
    camera_info_timeout_s: float = setting(
        5.0,
        'warn when images come without camera_info for this long',
        's',
        minimum=0.1,
        maximum=3600,
    )

    def __post_init__(self) -> None:
        """Refuse an empty range, and to rectify images that are rectified."""
        parse_sixteen_bit(self.sixteen_bit_range)
        if self.image_is_rectified and self.rectify_alpha >= 0:
            raise SettingsError(
                'image_is_rectified and rectify_alpha are both set: images that are rectified '
                'have the view of P; leave out one of them'
            )


@dataclass(frozen=True)
class OutputSettings:
    """What the published messages contain."""

    depth: DepthImageSettings = section(DepthImageSettings)
    points: PointsSettings = section(PointsSettings)


@dataclass(frozen=True)
class DepthNodeSettings(OutputSettings, CameraSettings, EngineSettings):
    """Parameters of the depth node."""

    scale: ScaleSettings = section(ScaleSettings)
    cameras: tuple[str, ...] = setting(
        ('',),
        "namespaces of the cameras, one batch for all; '' is the namespace of the node",
        read_only=True,
    )
    batch_wait_s: float = setting(
        0.01,
        'with several cameras, time to wait for the others to join a batch',
        's',
        minimum=0.0,
        maximum=1.0,
    )
    autostart: bool = setting(
        True, 'configure and activate at start, without a lifecycle manager', read_only=True
    )
    diagnostics_period_s: float = setting(
        1.0, 'period of /diagnostics', 's', minimum=0.1, maximum=60.0, read_only=True
    )

    def __post_init__(self) -> None:
        """Check the settings of both bases."""
        CameraSettings.__post_init__(self)
        EngineSettings.__post_init__(self)
