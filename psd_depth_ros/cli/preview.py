"""The demo's picture of one frame, and the video of `psd-depth run`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
import shutil
import tempfile

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import BagError
from psd_depth_ros.files import atomic_path
from psd_depth_ros.visualisation import (
    CAPTION,
    colour_depth,
    draw_bar,
    draw_depth_lines,
    draw_empty,
    draw_from_above,
    draw_heat,
    draw_panel,
    join_panels,
    MAGMA,
    MARGIN,
    PANEL,
    resize,
    SKY,
    VIRIDIS,
)

Image = NDArray[np.uint8]
Map = NDArray[np.float32]

PANEL_WIDTH = 640
ERROR_LIMIT = 0.5

_MPEG4 = int.from_bytes(b'mp4v', 'little')
_DEFAULT_RATE_HZ = 10.0
_MOST_PIXELS = 1280 * 720


@dataclass(frozen=True)
class Extent:
    """How far a picture reaches, in metres: colours of depth, and the cloud from above."""

    near_m: float
    far_m: float
    ticks_m: tuple[float, ...]
    forward_m: float
    side_m: float
    grid_m: int


STREET = Extent(2.0, 80.0, (2, 5, 10, 20, 40, 80), 30.0, 12.5, 5)
ROOM = Extent(0.4, 10.0, (0.5, 1, 2, 3, 5, 10), 6.0, 2.5, 1)
_ROOM_M = 8.0  # 90 % of a room is nearer


@dataclass(frozen=True)
class PreviewFrame:
    """One frame to draw. Maps are (H, W) of the same size as `rgb`; `points` is (N, 3) metres.

    `depth` and `truth` follow REP 117 (NaN untrusted, +Inf beyond range). Points are in the
    optical frame (x right, y down, z forward), `colours` (N, 3) their RGB.
    """

    rgb: Image
    depth: Map
    confidence: Map | None
    truth: Map | None
    points: Map
    colours: Image


def draw_preview(frame: PreviewFrame, title: str, subtitle: str) -> Image:
    """Image, depth, confidence, error and the cloud from above, as RGB (H, W, 3).

    Without a truth, lines of equal depth on the image take the place of the error.
    """
    size = PANEL_WIDTH, round(PANEL_WIDTH * frame.rgb.shape[0] / frame.rgb.shape[1])
    height = 2 * (CAPTION + size[1]) + MARGIN
    extent = choose_extent(frame.depth)
    cloud = draw_from_above(
        frame.points,
        frame.colours,
        height - CAPTION,
        extent.forward_m,
        extent.side_m,
        extent.grid_m,
    )
    columns = [
        [
            draw_panel('camera', resize(frame.rgb, size)),
            draw_panel('confidence', *_confidence_view(frame, size)),
        ],
        [
            draw_panel('depth', *_depth_view(frame.depth, size, extent)),
            draw_panel(*_error_view(frame, size, extent)),
        ],
        [draw_panel(f'cloud from above, grid of {extent.grid_m} m', cloud)],
    ]
    return join_panels(columns, title, subtitle)


def choose_extent(depth: Map) -> Extent:
    """The extent for a depth image (H, W): a room where nearly all of it is near."""
    known = depth[np.isfinite(depth)]
    is_room = known.size > 0 and float(np.quantile(known, 0.9)) < _ROOM_M
    return ROOM if is_room and not np.isposinf(depth).any() else STREET


def depth_colours(depth: Map, extent: Extent = STREET) -> Image:
    """The colours of the node's depth/colored, on the background of the preview."""
    picture = colour_depth(depth, extent.near_m, extent.far_m, beyond_range=SKY)
    picture[np.isnan(depth)] = PANEL
    return picture


def _depth_view(depth: Map, size: tuple[int, int], extent: Extent) -> tuple[Image, Image]:
    return depth_colours(resize(depth, size), extent), _depth_bar(size[0], extent)


def _depth_bar(width: int, extent: Extent) -> Image:
    near, far = extent.near_m, extent.far_m
    ramp = np.geomspace(near, far, width, dtype=np.float32)[None]
    places = [float(np.log(m / near) / np.log(far / near)) for m in extent.ticks_m]
    return draw_bar(depth_colours(ramp, extent), [f'{m:g} m' for m in extent.ticks_m], places)


def _confidence_view(frame: PreviewFrame, size: tuple[int, int]) -> tuple[Image, Image]:
    ramp = np.linspace(0, 1, size[0], dtype=np.float32)[None]
    bar = draw_bar(draw_heat(ramp, VIRIDIS), ['0', '0.5', '1'], [0, 0.5, 1])
    if frame.confidence is None:
        return draw_empty('not recorded', size), bar
    if np.isnan(frame.confidence).all():
        return draw_empty('this network claims none', size), bar
    return draw_heat(resize(frame.confidence, size), VIRIDIS), bar


def _error_view(
    frame: PreviewFrame, size: tuple[int, int], extent: Extent
) -> tuple[str, Image, Image]:
    """Caption, picture and bar of the error; without a truth, of lines of equal depth."""
    if frame.truth is None:
        levels = np.array(extent.ticks_m[:-1], np.float32)
        picture = resize(frame.rgb, size)
        colours = depth_colours(levels[None], extent)
        lines = draw_depth_lines(picture, resize(frame.depth, size), levels.tolist(), colours)
        return 'lines of equal depth (no truth)', lines, _depth_bar(size[0], extent)
    ramp = np.linspace(0, 1, size[0], dtype=np.float32)[None]
    bar = draw_bar(draw_heat(ramp, MAGMA), ['0 %', '25 %', '50 %'], [0, 0.5, 1])
    depth, truth = resize(frame.depth, size), resize(frame.truth, size)
    known = np.isfinite(truth) & (truth > 0) & (truth < extent.far_m) & ~np.isnan(depth)
    with np.errstate(invalid='ignore', divide='ignore'):
        error = np.abs(np.minimum(depth, extent.far_m) - truth) / truth
    picture = draw_heat(error / ERROR_LIMIT, MAGMA)
    picture[~known] = PANEL
    picture[~known & ~np.isfinite(truth)] = SKY
    return 'error against the truth', picture, bar


class PreviewVideo:
    """Writes `path` (.mp4) frame by frame, as a context manager.

    The file appears under its name only when closed without an error. `rate_hz` is the frame rate
    of the recording. Raises BagError where it cannot be written.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        if path.suffix.lower() != '.mp4':
            raise BagError(f'previews are written as .mp4 files; found {path}')
        self._path = path
        self._rate_hz = rate_hz if rate_hz > 0 else _DEFAULT_RATE_HZ
        self._folder: tempfile.TemporaryDirectory | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> PreviewVideo:
        """Create a folder for the unfinished file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix='psd_depth_preview_')
        except OSError as error:
            raise self._unwritable(str(error)) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """Give the file its name, or remove it where the body failed."""
        assert self._folder is not None
        if self._writer is not None:
            self._writer.release()
        try:
            if kind is None and self._writer is not None:
                with atomic_path(self._path) as target:
                    shutil.copyfile(self._file, target)
        except OSError as problem:
            raise self._unwritable(str(problem)) from problem
        finally:
            with suppress(OSError):
                self._folder.cleanup()

    def add(self, rgb: Image, depth_m: Map) -> None:
        """Add a frame: (H, W, 3) RGB and its depth (H, W) in metres."""
        if self._writer is None:
            self._size = _half_size(rgb.shape[1], rgb.shape[0])
        halves = [cv2.resize(half, self._size) for half in (rgb, depth_colours(depth_m))]
        picture = np.hstack(halves)
        if self._writer is None:
            self._writer = self._open(picture)
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    @property
    def _file(self) -> str:
        assert self._folder is not None
        return str(Path(self._folder.name) / 'preview.mp4')

    def _open(self, picture: Image) -> cv2.VideoWriter:
        size = picture.shape[1::-1]
        writer = cv2.VideoWriter(self._file, _MPEG4, self._rate_hz, size)
        if not writer.isOpened():
            raise self._unwritable('this OpenCV has no encoder of MPEG-4')
        return writer

    def _unwritable(self, detail: str) -> BagError:
        return BagError(f'preview {self._path} cannot be written: {detail}')


def _half_size(width: int, height: int) -> tuple[int, int]:
    """Even width and height of each of the two pictures, limited to the pixels of a screen."""
    factor = min(1.0, (_MOST_PIXELS / (2 * width * height)) ** 0.5)
    return max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2)
