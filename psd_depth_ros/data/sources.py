"""One face for every recording: a bag, a video or an image folder as timed, calibrated frames.

Reading bags is in `bag_frames`, videos and folders in `file_frames`. Rectifying, resizing and
batching are left to `preprocess` and its callers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from psd_depth_ros.data.calibration_file import camera_from_fov
from psd_depth_ros.errors import BagError, PsdDepthError
from psd_depth_ros.geometry import Camera

VIDEO_SUFFIXES = ('.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v')
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.pgm', '.tif', '.tiff')

# A recording none of whose first frames can be used is not going to get better.
_HOPELESS_AFTER = 100


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame.

    `index` counts the recording's images from 0, skipped ones included. `rgb` is (H, W, 3) uint8
    as recorded, not rectified. `pose` is 4x4 in metres, None where the recording has none: of a
    bag T_odom_body of its odometry at the stamp, of a folder T_world_camera. `lidar` (N, 3)
    float32 metres are the points nearest in time, in their own frame, where they were asked for.
    """

    index: int
    stamp_ns: int
    frame_id: str
    rgb: npt.NDArray[np.uint8]
    camera: Camera
    pose: npt.NDArray[np.float64] | None = None
    lidar: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that could not be used: `reason` is a word to count by, `detail` the message."""

    index: int
    stamp_ns: int
    reason: str
    detail: str


@dataclass(frozen=True)
class LensChoice:
    """What the caller says of the camera: all of it, its field of view, or nothing."""

    camera: Camera | None = None
    horizontal_fov_deg: float | None = None
    image_is_rectified: bool = False

    @property
    def is_given(self) -> bool:
        """Whether the recording need not know its camera."""
        return self.camera is not None or self.horizontal_fov_deg is not None

    def camera_for(self, width: int, height: int) -> Camera | None:
        """Give the camera of images of a size; None where nothing was said."""
        if self.camera is None and self.horizontal_fov_deg is not None:
            return camera_from_fov(width, height, self.horizontal_fov_deg)
        return self.camera


class FrameSource(ABC):
    """Frames of one recording, in order, as a context manager.

    Frames that cannot be used are left out and noted in `skipped`.
    """

    def __init__(self, path: Path, lens: LensChoice) -> None:
        self.path = path
        self._lens = lens
        self.skipped: list[SkippedFrame] = []
        self._used = 0

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of images in the recording, as far as it says."""

    @property
    @abstractmethod
    def span_ns(self) -> tuple[int, int]:
        """First and last stamp, as far as the recording says."""

    @abstractmethod
    def frames(self) -> Iterator[TimedFrame]:
        """Decode the frames one by one."""

    @abstractmethod
    def close(self) -> None:
        """Close the recording."""

    @property
    def skipped_by_reason(self) -> dict[str, int]:
        """How many frames were skipped, by reason."""
        return dict(sorted(Counter(frame.reason for frame in self.skipped).items()))

    def __enter__(self) -> FrameSource:
        """Hand out the opened source."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the recording."""
        self.close()

    def _begin(self) -> None:
        self.skipped.clear()
        self._used = 0

    def _use(self, frame: TimedFrame) -> TimedFrame:
        self._used += 1
        return frame

    def _skip(self, index: int, stamp_ns: int, reason: str, error: PsdDepthError) -> None:
        """Note a frame; raise the error where all of the first frames fail."""
        self.skipped.append(SkippedFrame(index, stamp_ns, reason, str(error)))
        if not self._used and len(self.skipped) >= _HOPELESS_AFTER:
            raise error

    def _finish(self, error: PsdDepthError | None) -> None:
        """Raise the last error where not one frame could be used."""
        if not self._used and error is not None:
            raise error


def open_frames(
    path: str | Path,
    image_topic: str | None = None,
    camera_info_topic: str | None = None,
    camera: Camera | None = None,
    horizontal_fov_deg: float | None = None,
    image_is_rectified: bool = False,
    with_lidar: bool = False,
    lidar_topic: str | None = None,
) -> FrameSource:
    """Open a bag, a video or an image folder.

    `camera`, or a centred pinhole of `horizontal_fov_deg`, goes before what the recording says; a
    video or folder needs one of them, or a camera.yaml beside its frames (see
    `calibration_file`). Topics and lidar are for bags only; for `image_is_rectified` see
    `messages.camera_from_info`. Raises BagError where the recording cannot be read and
    CalibrationError where there is no usable camera.
    """
    # Imported here because both build on the classes above.
    from psd_depth_ros.data.bag_frames import BagFrames
    from psd_depth_ros.data.file_frames import FolderFrames, VideoFrames

    path = Path(path).expanduser()
    lens = LensChoice(camera, horizontal_fov_deg, image_is_rectified)
    kind = kind_of(path)
    if kind == 'bag':
        source = BagFrames(path, lens, image_topic, camera_info_topic)
        if with_lidar:
            source.add_lidar(lidar_topic)
        return source
    given = [name for name in (image_topic, camera_info_topic, lidar_topic) if name]
    given += ['the lidar'] if with_lidar and not lidar_topic else []
    if given:
        raise BagError(f'{path} is a {kind} and has no topics; leave out {", ".join(given)}')
    return VideoFrames(path, lens) if kind == 'video' else FolderFrames(path, lens)


def kind_of(path: Path) -> str:
    """Tell `bag`, `video` or `folder` by names alone. Raises BagError where nothing is there."""
    if not path.exists():
        raise BagError(
            f'recording {path} is not there; expected a bag, a video file or a folder of images'
        )
    if path.is_dir():
        names = [child.name for child in path.iterdir()]
        bags = [name for name in names if name.endswith(('.mcap', '.db3', '.bag'))]
        return 'bag' if bags or 'metadata.yaml' in names else 'folder'
    return 'video' if path.suffix.lower() in VIDEO_SUFFIXES else 'bag'
