"""One face for every recording: a bag, a video or an image folder as timed, calibrated frames.

Reading bags is in `bag_frames`, videos and folders in `file_frames`. Rectifying, resizing and
batching are left to `preprocess` and its callers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from psd_depth_ros.data.calibration_file import camera_from_fov
from psd_depth_ros.data.surroundings import Asked
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.view import find_doubts
from psd_depth_ros.messages import ImageDecoder
from psd_depth_ros.messages.sixteen_bit import FULL


@dataclass(frozen=True)
class Sequence:
    """The frames of one recording and the triplets that can be learned from.

    Unknown numbers are NaN; what a recording has nothing of is None.

    Attributes:
        name: of the recording, for people.
        rgb: (N, H, W, 3) uint8, memory-mapped, rectified, of the size of `camera`.
        camera: of `rgb`; its sides are `fine_factor` times those of the network's input.
        stamps_ns: (N,) of the frames.
        valid: (H, W), false on the bonnet, other fixed regions and what the camera does not see.
        triplets: (M, 3) indices into `rgb`: target, earlier source, later source.
        held_out: (K, 3) triplets for validation.
        poses: (N, 4, 4) in metres, T_world_camera where `poses_are_of_camera`, else of the robot's
            body: their distances are right, their rotations about other axes.
        lidar: for every frame points (n, 3): x, y in pixels of `rgb` and Z in metres.
        camera_height_m: of the camera above the ground.
        fine_factor: see `camera`.
        depth: (N, H, W) float16 metres along Z, exact.
        pair_poses: T_source_target by (target, source), estimated from the images in no certain
            scale; they count where `poses` say nothing.
        fingerprint: differs where the data do.
        image: (N, h, w, 3) uint8, the frames at the size of the network's input, sampled from the
            recorded ones as a node samples them (`preprocess`); None where `rgb` has that size.
    """

    name: str
    rgb: NDArray[np.uint8]
    camera: Camera
    stamps_ns: NDArray[np.int64]
    valid: NDArray[np.bool_]
    triplets: NDArray[np.int32]
    held_out: NDArray[np.int32]
    poses: NDArray[np.float64] | None = None
    poses_are_of_camera: bool = True
    lidar: tuple[NDArray[np.float32], ...] | None = None
    camera_height_m: float | None = None
    fine_factor: int = 1
    depth: NDArray[np.float16] | None = None
    pair_poses: Mapping[tuple[int, int], NDArray[np.float64]] | None = None
    fingerprint: str = ''
    image: NDArray[np.uint8] | None = None

    def network_image(self, index: int) -> NDArray[np.uint8]:
        """A frame (h, w, 3) at the size of the network's input."""
        if self.image is not None:
            return self.image[index]
        return self.shrink(self.rgb[index])

    def shrink(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a frame (H, W, 3) of `rgb`, or a window of one, to the network's input."""
        if self.fine_factor == 1:
            return frame
        height, width = (side // self.fine_factor for side in self.camera.size)
        return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


VIDEO_SUFFIXES = (
    *('.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v', '.mpg', '.mpeg', '.ts', '.mts', '.m2ts'),
    *('.wmv', '.flv', '.3gp', '.ogv'),
)
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.webp')

# A recording none of whose first frames can be used is not going to get better.
_HOPELESS_AFTER = 100


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame.

    `index` counts the recording's images from 0, skipped ones included. `rgb` is (H, W, 3) uint8
    as recorded, not rectified. `pose` is 4x4 in metres, None where the recording has none: of a
    bag T_odom_body of its odometry at the stamp, of a folder T_world_camera. `lidar` (N, 3)
    float32 metres are the points nearest in time, in their own frame, where they were asked for.
    `depth_m` (H, W) is the truth of a rendered frame, +Inf for sky. `extrinsics` are what TF knew
    at the stamp, where that was asked for; `problem` says why there is no pose or no points where
    they were, `remark` what TF did not know.
    """

    index: int
    stamp_ns: int
    frame_id: str
    rgb: npt.NDArray[np.uint8]
    camera: Camera
    pose: npt.NDArray[np.float64] | None = None
    lidar: npt.NDArray[np.float32] | None = None
    depth_m: npt.NDArray[np.float32] | None = None
    extrinsics: Extrinsics | None = None
    problem: str = ''
    remark: str = ''


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that could not be used: `reason` is a word to count by, `detail` the message."""

    index: int
    stamp_ns: int
    reason: str
    detail: str


@dataclass(frozen=True)
class LensChoice:
    """What the caller says of the camera: all of it, its field of view, or nothing.

    `sixteen_bit_range` is how its 16-bit images become 8 bits, see `messages.sixteen_bit`.
    """

    camera: Camera | None = None
    horizontal_fov_deg: float | None = None
    image_is_rectified: bool = False
    sixteen_bit_range: str = FULL
    rectify_alpha: float = -1.0

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

    Frames that cannot be used are left out and noted in `skipped`. What the recording knows of
    where things are is there after `locate`, None where it does not know: `T_body_camera` where
    poses are of the robot's body (else they are of the camera), `T_camera_lidar` and the height
    of the camera above the ground.
    """

    poses_are_of_camera = True
    image_topic = ''  # of a bag
    T_body_camera: npt.NDArray[np.float64] | None = None
    T_camera_lidar: npt.NDArray[np.float64] | None = None
    camera_height_m: float | None = None

    def __init__(self, path: Path, lens: LensChoice) -> None:
        self.path = path
        self._lens = lens
        self.decoder = ImageDecoder(lens.sixteen_bit_range)
        self.skipped: list[SkippedFrame] = []
        self._used = 0
        self._doubts: list[str] = []

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of images in the recording, as far as it says."""

    @property
    @abstractmethod
    def span_ns(self) -> tuple[int, int]:
        """First and last stamp, as far as the recording says."""

    @property
    def rate_hz(self) -> float:
        """Mean rate of the images, as far as the recording says; 0 where it does not."""
        start_ns, end_ns = self.span_ns
        seconds = (end_ns - start_ns) / 1e9
        return (self.count - 1) / seconds if seconds > 0 and self.count > 1 else 0.0

    @property
    def notes(self) -> list[str]:
        """What a person should know of the recording once it was read, such as what is lost."""
        return [*([self.decoder.note] if self.decoder.note else []), *self._doubts]

    @abstractmethod
    def frames(self) -> Iterator[TimedFrame]:
        """Decode the frames one by one."""

    @abstractmethod
    def close(self) -> None:
        """Close the recording."""

    def locate(self) -> None:  # noqa: B027
        """Find out where camera and lidar are; nothing to do where the files say so."""

    def follow(self, asked: Asked) -> None:  # noqa: B027
        """Let frames come with `extrinsics` where the recording has transforms."""

    @property
    def extrinsics(self) -> Extrinsics:
        """What the recording knows without transforms, for frames that come with none."""
        body = np.eye(4) if self.poses_are_of_camera else self.T_body_camera
        return Extrinsics(body, self.T_camera_lidar, self.camera_height_m)

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
        if not self._used:
            self._doubts = find_doubts(frame.camera, self.image_topic)
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
