"""Types of recorded data: frames, sources of frames, what a reader of a layout is.

Training, evaluation, replay and the command line read every layout through a `FrameSource`. The
readers are in `readers`, one file per layout; `open` finds the one of a path. Rectifying, resizing
and batching are left to `preprocess` and its callers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from psd_depth_ros.data.calibration_file import camera_from_fov
from psd_depth_ros.data.synchronizer import RequiredInputs
from psd_depth_ros.errors import EvaluationError, MessageError, PsdDepthError
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import invert, make_pose
from psd_depth_ros.geometry.view import find_doubts
from psd_depth_ros.messages import ImageDecoder
from psd_depth_ros.messages.images import FULL

DepthMap = NDArray[np.float32]
T = TypeVar('T')

VIDEO_SUFFIXES = (
    *('.mp4', '.avi', '.mkv', '.mov', '.webm', '.m4v', '.mpg', '.mpeg', '.ts', '.mts', '.m2ts'),
    *('.wmv', '.flv', '.3gp', '.ogv'),
)
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.ppm', '.pgm', '.tif', '.tiff', '.webp')
SEMANTIC_STRIDE = 8  # pixels of the network's input for one of `Sequence.semantics`
# Give up a recording whose first frames, this many, are all unusable.
_HOPELESS_AFTER = 100


@dataclass(frozen=True)
class Origin:
    """Where the frames of a sequence are in their recording.

    Maps that lie apart from the recording are matched with its frames by this.

    Attributes:
        path: of the recording.
        names: of the frames' files, without suffix; empty texts where frames have no files.
        numbers: (N,) count the images of the recording, see `TimedFrame.index`.
        positions: (h, w, 2) float32, of every pixel of the network's input its place x, y in the
            recorded image, in fractions of the width and the height from the outer edges; NaN
            where that image does not see it. None where the recorded image is the view.
    """

    path: Path
    names: tuple[str, ...]
    numbers: NDArray[np.int64]
    positions: NDArray[np.float32] | None = None


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
        origin: where the frames are in their recording.
        pseudo_depth: (N, h, w) float16, disparity by a depth teacher up to an unknown scale and
            shift of each frame, larger is nearer, at the size of the network's input.
        semantics: (N, C, ceil(h / 8), ceil(w / 8)) float16, class probabilities or features by a
            semantic expert.
        focal_deviation: how well the focal length is known: the standard deviation of its
            logarithm, 0 where it was calibrated.
        frames_id: differs where `rgb` or `camera` do; empty where that is not known.
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
    origin: Origin | None = None
    pseudo_depth: NDArray[np.float16] | None = None
    semantics: NDArray[np.float16] | None = None
    focal_deviation: float = 0.0
    frames_id: str = ''

    @property
    def names(self) -> tuple[str, ...]:
        """Names by which others may call the recording: of itself, its file, its folders."""
        found = [self.name, self.name.partition('/')[0]]
        if self.origin is not None:
            path = self.origin.path
            found += [path.stem, path.name, *(parent.name for parent in list(path.parents)[:2])]
        return tuple(dict.fromkeys(name for name in found if name))

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        height, width = self.camera.size
        return height // self.fine_factor, width // self.fine_factor

    def network_image(self, index: int) -> NDArray[np.uint8]:
        """A frame (h, w, 3) at the size of the network's input."""
        if self.image is not None:
            return self.image[index]
        return self.shrink(self.rgb[index])

    def shrink(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a frame (H, W, 3) of `rgb`, or a window of one, to the network's input."""
        if self.fine_factor == 1:
            return frame
        return cv2.resize(frame, self.network_size[::-1], interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame.

    Attributes:
        index: counts the recording's images from 0, skipped ones included.
        stamp_ns: from `header.stamp`, or what stands for it.
        frame_id: of the image.
        rgb: (H, W, 3) uint8 as recorded, not rectified.
        camera: of `rgb`.
        pose: (4, 4) in metres, None where the recording lacks it: of a bag T_odom_body of its
            odometry at the stamp, of files T_world_camera.
        lidar: (N, 3) float32 metres, the points nearest in time in their own frame, where they
            were asked for.
        depth_m: (h, w) float32 metres along Z, exact, in the rectified view of `camera`; not above
            0 or not finite where unknown, +Inf for sky. None where the recording lacks it or it
            was not asked for. Of the image's size, unless `to_depth_grid` is given.
        extrinsics: what TF knew at the stamp, where that was asked for.
        moving: (h, w) bool, the pixels of `depth_m` that show moving things; None: not known.
        problem: why there is no pose or no points where they were asked for.
        remark: what TF did not know.
        name: for reports; empty: the index.
        file: name of the image's file without suffix; empty where it has none.
        sequence: frames with the same one follow each other in time; empty: not known to.
        to_depth_grid: brings a map (H, W) onto the grid of `depth_m`, where that is another.
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
    moving: NDArray[np.bool_] | None = None
    problem: str = ''
    remark: str = ''
    name: str = ''
    sequence: str = ''
    file: str = ''
    to_depth_grid: Callable[[DepthMap], DepthMap] | None = None

    def on_depth_grid(self, values: DepthMap) -> DepthMap:
        """Bring a map of the image's size (H, W) onto the grid of `depth_m`."""
        return values if self.to_depth_grid is None else self.to_depth_grid(values)


@dataclass(frozen=True)
class SkippedFrame:
    """A frame that could not be used: `reason` is a word to count by, `detail` the message."""

    index: int
    stamp_ns: int
    reason: str
    detail: str


@dataclass(frozen=True)
class LensChoice:
    """Camera given by the caller: all of it, its field of view, or nothing.

    `sixteen_bit_range` is how its 16-bit images become 8 bits, see `messages.images`.
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


@dataclass(frozen=True)
class SourceOptions:
    """Options for opening a recording.

    Attributes:
        lens: the camera, where the recording does not know it or is not to be believed.
        image_topic, camera_info_topic: of a bag.
        with_lidar: frames come with lidar points.
        lidar_topic: of a bag; None is its only cloud.
        recorded_stamps: times are those of recording, for drivers that set none.
        with_depth: frames come with exact depth; the recording is refused where it has none.
        depth_topic: of a bag, with depth registered to the image pixel by pixel.
        lidar_pose: x y z qx qy qz qw of the lidar in the optical frame.
        units_per_metre: of 16-bit depth files.
        depth_camera: a calibration, where depth is not registered to the images.
        split_file: lists the images to measure, of KITTI.
        truth_folder: has the improved depth of KITTI, where it is not among the raw data.
        protocol: the evaluation protocol that was asked for; `auto` is that of the layout.
    """

    lens: LensChoice = field(default_factory=LensChoice)
    image_topic: str | None = None
    camera_info_topic: str | None = None
    with_lidar: bool = False
    lidar_topic: str | None = None
    recorded_stamps: bool = False
    with_depth: bool = False
    depth_topic: str | None = None
    lidar_pose: tuple[float, ...] | None = None
    units_per_metre: float | None = None
    depth_camera: Path | None = None
    split_file: Path | None = None
    truth_folder: Path | None = None
    protocol: str = 'auto'


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
    protocol = 'outdoor'  # the evaluation protocol that is usual for such data

    def __init__(self, path: Path, lens: LensChoice) -> None:
        self.path = path
        self._selected = slice(None)
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
        """Remarks for the user once the recording was read, such as what was lost."""
        return [*([self.decoder.note] if self.decoder.note else []), *self._doubts]

    @abstractmethod
    def frames(self) -> Iterator[TimedFrame]:
        """Decode the frames one by one."""

    @abstractmethod
    def close(self) -> None:
        """Close the recording."""

    def locate(self) -> None:  # noqa: B027
        """Look up the mounting of camera and lidar in the recording; nothing to do for files."""

    def request_transforms(self, required: RequiredInputs) -> None:  # noqa: B027
        """Give frames their `extrinsics` where the recording has transforms."""

    def select(self, chosen: slice) -> None:
        """Let `frames` give only some of the frames, by their place in the recording."""
        self._selected = chosen

    @property
    def selected(self) -> range:
        """The places of the frames that `frames` gives."""
        return range(*self._selected.indices(self.count))

    def view_pose(self, frame: TimedFrame) -> npt.NDArray[np.float64] | None:
        """T_world_camera (4, 4) of a frame's rectified view, None where it is not known."""
        T_known_camera = np.eye(4) if self.poses_are_of_camera else self.T_body_camera
        if frame.pose is None or T_known_camera is None:
            return None
        return frame.pose @ T_known_camera @ invert(view_rotation(frame.camera))

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

    def __exit__(self, *_error: object) -> None:
        """Close the recording."""
        self.close()

    def _is_selected(self, place: int) -> bool:
        """Whether `frames` gives a frame; without `select` also those beyond `count`."""
        return self._selected == slice(None) or place in self.selected

    def _is_last_selected(self, place: int) -> bool:
        """Whether `frames` gives no frame from a place on."""
        return self._selected != slice(None) and place >= max(self.selected, default=0)

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


class LoadedFrames(FrameSource, Generic[T]):
    """Frames of items known beforehand: `load` makes the frame of a place and an item.

    What cannot be read is an error, not skipped: benchmarks count all of their frames. The camera
    is what `load` gives: a reader whose `load` does not ask `SourceOptions.lens` has
    `takes_lens=False`.
    """

    def __init__(
        self,
        path: Path,
        items: Items[T],
        load: Callable[[int, T], TimedFrame],
        protocol: str = '',
        close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(path, LensChoice())
        self._items = items
        self._load = load
        self._close = close
        self.protocol = protocol or self.protocol

    @property
    def count(self) -> int:
        """Number of items."""
        return len(self._items)

    @property
    def span_ns(self) -> tuple[int, int]:
        """Unknown: stamps are in the frames."""
        return 0, 0

    def close(self) -> None:
        """Close the file that `load` reads from, if there is one."""
        self._close()

    def frames(self) -> Iterator[TimedFrame]:
        """Load the frames. Raises EvaluationError where one cannot be read."""
        self._begin()
        for place in self.selected:
            try:
                frame = self._load(place, self._items[place])
            except MessageError as error:
                raise EvaluationError(str(error)) from error
            yield self._use(frame)


@dataclass(frozen=True)
class Reader:
    """A layout of recordings: how it is recognised and opened.

    Attributes:
        name: of the layout, for people.
        matches: whether what lies at a path has the layout; decided by names, little is read.
        open: opens it; raises BagError, CalibrationError or, with depth, EvaluationError.
        has_depth: whether frames can come with exact depth.
        has_lidar: whether frames can come with lidar points.
        has_topics: whether topics are chosen from, and messages have times of recording.
        takes_lens: whether a camera given by the caller replaces that of the recording.
        depth_options: fields of `SourceOptions` about exact depth that it reads, of split_file,
            truth_folder and units_per_metre.
        is_recording: whether a folder of the layout is one recording, not a set of them.
        recordings: the recordings of the layout below a folder.
    """

    name: str
    matches: Callable[[Path], bool]
    open: Callable[[Path, SourceOptions], FrameSource]
    has_depth: bool = False
    has_lidar: bool = False
    has_topics: bool = False
    takes_lens: bool = True
    depth_options: frozenset[str] = frozenset()
    is_recording: Callable[[Path], bool] = lambda path: True
    recordings: Callable[[Path], list[Path]] = lambda path: []


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


def view_rotation(camera: Camera) -> npt.NDArray[np.float64]:
    """T_view_camera (4, 4): from the optical frame of the raw image to the rectified one."""
    rotation = np.eye(3) if camera.rectification is None else np.array(camera.rectification)
    return make_pose(rotation, np.zeros(3))
