"""The picture of one frame: image, depth, confidence, error and the cloud from above.

Drawing only: what is drawn comes from the caller, and nothing is read or measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
import shutil
import tempfile
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import BagError
from psd_depth_ros.files import atomic_path
from psd_depth_ros.visualisation import colour_depth

Image = NDArray[np.uint8]
Map = NDArray[np.float32]
Lookup = NDArray[np.uint8]

BACKGROUND = (26, 22, 20)  # colours are BGR, as OpenCV writes them
PANEL = (44, 38, 34)
TEXT = (235, 235, 235)
FAINT = (150, 145, 140)
GRID = (70, 62, 56)
SKY = (120, 100, 84)
MARGIN, CAPTION, HEADER, BAR = 18, 30, 64, 14
PANEL_WIDTH = 640
NEAR_M, FAR_M = 2.0, 80.0
CLOUD_FORWARD_M, CLOUD_SIDE_M = 40.0, 16.0
FONT = cv2.FONT_HERSHEY_SIMPLEX


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
    """Draw the picture as BGR (H, W, 3)."""
    size = _panel_size(frame.rgb)
    left = [
        _panel('camera', cv2.cvtColor(_fit(frame.rgb, size), cv2.COLOR_RGB2BGR)),
        _panel('confidence', *_confidence_view(frame, size)),
    ]
    right = [
        _panel('depth', *_depth_view(frame.depth, size)),
        _panel('error against the truth', *_error_view(frame, size)),
    ]
    columns = [_stack(left), _stack(right)]
    height = columns[0].shape[0]
    columns.append(_panel('cloud from above', _cloud_view(frame, height - CAPTION)))
    body = _join(columns, height)
    return np.vstack([_header(title, subtitle, body.shape[1]), body])


def depth_colours(depth: Map) -> Image:
    """The colours of the node's depth/colored as BGR, on this picture's background."""
    picture = cv2.cvtColor(colour_depth(depth, NEAR_M, FAR_M), cv2.COLOR_RGB2BGR)
    picture[np.isnan(depth)] = PANEL
    picture[np.isposinf(depth)] = SKY
    return picture


def _depth_view(depth: Map, size: tuple[int, int]) -> tuple[Image, Image]:
    ticks = [(f'{metres:g} m', metres) for metres in (2, 5, 10, 20, 40, 80)]
    ramp = np.geomspace(NEAR_M, FAR_M, size[0], dtype=np.float32)[None]
    places = [float(np.log(m / NEAR_M) / np.log(FAR_M / NEAR_M)) for _, m in ticks]
    bar = _bar(depth_colours(ramp), [text for text, _ in ticks], places)
    return depth_colours(_fit(depth, size)), bar


def _confidence_view(frame: PreviewFrame, size: tuple[int, int]) -> tuple[Image, Image]:
    ramp = np.linspace(0, 1, size[0], dtype=np.float32)[None]
    bar = _bar(_look_up(ramp, cv2.COLORMAP_VIRIDIS), ['0', '0.5', '1'], [0, 0.5, 1])
    if frame.confidence is None:
        return _empty('not recorded', size), bar
    return _look_up(_fit(frame.confidence, size), cv2.COLORMAP_VIRIDIS), bar


def _error_view(frame: PreviewFrame, size: tuple[int, int]) -> tuple[Image, Image]:
    limit = 0.5
    ramp = np.linspace(0, 1, size[0], dtype=np.float32)[None]
    bar = _bar(_look_up(ramp, cv2.COLORMAP_MAGMA), ['0 %', '25 %', '50 %'], [0, 0.5, 1])
    if frame.truth is None:
        return _empty('this recording has no true depth', size), bar
    depth, truth = _fit(frame.depth, size), _fit(frame.truth, size)
    known = np.isfinite(truth) & (truth > 0) & (truth < FAR_M) & ~np.isnan(depth)
    with np.errstate(invalid='ignore', divide='ignore'):
        error = np.abs(np.minimum(depth, FAR_M) - truth) / truth
    picture = _look_up(error / limit, cv2.COLORMAP_MAGMA)
    picture[~known] = PANEL
    picture[~known & ~np.isfinite(truth)] = SKY
    return picture, bar


def _cloud_view(frame: PreviewFrame, height: int) -> Image:
    """Points seen from above, the camera at the bottom, high ones over low ones."""
    scale = height / CLOUD_FORWARD_M
    width = round(2 * CLOUD_SIDE_M * scale)
    canvas = np.full((height, width, 3), PANEL, np.uint8)
    _draw_grid(canvas, scale)
    order = np.argsort(-frame.points[:, 1], kind='stable')  # y points down: lowest first
    x, z = frame.points[order, 0], frame.points[order, 2]
    inside = (np.abs(x) < CLOUD_SIDE_M) & (z > 0) & (z < CLOUD_FORWARD_M)
    column = ((x[inside] + CLOUD_SIDE_M) * scale).astype(int)
    row = (height - 1 - z[inside] * scale).astype(int)
    colours = frame.colours[order][inside][:, ::-1]
    for down, right in ((1, 0), (0, 1), (1, 1), (0, 0)):  # four pixels a point
        canvas[np.clip(row + down, 0, height - 1), np.clip(column + right, 0, width - 1)] = colours
    apex = (width // 2, height - 1)
    cv2.drawMarker(canvas, apex, TEXT, cv2.MARKER_TRIANGLE_UP, 18, 2, cv2.LINE_AA)
    return canvas


def _draw_grid(canvas: Image, scale: float) -> None:
    height, width = canvas.shape[:2]
    for metres in range(10, int(CLOUD_FORWARD_M), 10):
        row = round(height - 1 - metres * scale)
        cv2.line(canvas, (0, row), (width, row), GRID, 1)
        _write(canvas, f'{metres} m', (6, row - 5), 0.45, FAINT)
    for metres in range(-10, 11, 10):
        column = round((metres + CLOUD_SIDE_M) * scale)
        cv2.line(canvas, (column, 0), (column, height), GRID, 1)


def _panel_size(rgb: Image) -> tuple[int, int]:
    return PANEL_WIDTH, round(PANEL_WIDTH * rgb.shape[0] / rgb.shape[1])


def _fit(array: NDArray, size: tuple[int, int]) -> NDArray:
    """Resize a picture smoothly, and a map without mixing neighbours over an edge."""
    smooth = array.ndim == 3 and size[0] < array.shape[1]
    flag = cv2.INTER_AREA if smooth else cv2.INTER_LINEAR if array.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(array, size, interpolation=flag)


def _look_up(share: Map, table: int) -> Image:
    clean = np.nan_to_num(share, nan=0.0, posinf=1.0, neginf=0.0)
    return cv2.applyColorMap((np.clip(clean, 0, 1) * 255).astype(np.uint8), table)


def _empty(text: str, size: tuple[int, int]) -> Image:
    canvas = np.full((size[1], size[0], 3), PANEL, np.uint8)
    _write(canvas, text, (16, size[1] // 2), 0.6, FAINT)
    return canvas


def _panel(caption: str, picture: Image, bar: Image | None = None) -> Image:
    strip = np.full((CAPTION, picture.shape[1], 3), BACKGROUND, np.uint8)
    _write(strip, caption, (0, CAPTION - 10), 0.6, TEXT)
    if bar is not None:
        strip[:, -bar.shape[1] :] = bar
    return np.vstack([strip, picture])


def _bar(ramp: Image, labels: Sequence[str], places: Sequence[float]) -> Image:
    """A colour bar for the right half of a caption, labels above it."""
    width = ramp.shape[1] // 2
    bar = np.full((CAPTION, width, 3), BACKGROUND, np.uint8)
    bar[-BAR + 4 : -4] = cv2.resize(ramp, (width, BAR - 8), interpolation=cv2.INTER_LINEAR)
    for label, place in zip(labels, places, strict=True):
        (wide, _), _ = cv2.getTextSize(label, FONT, 0.4, 1)
        left = int(np.clip(place * width - wide / 2, 0, width - wide))
        _write(bar, label, (left, CAPTION - BAR - 2), 0.4, FAINT)
    return bar


def _stack(panels: Sequence[Image]) -> Image:
    gap = np.full((MARGIN, panels[0].shape[1], 3), BACKGROUND, np.uint8)
    return np.vstack([panels[0], gap, panels[1]])


def _join(columns: Sequence[Image], height: int) -> Image:
    gap = np.full((height, MARGIN, 3), BACKGROUND, np.uint8)
    parts = [gap]
    for column in columns:
        parts += [column, gap]
    row = np.hstack(parts)
    return np.vstack([row, np.full((MARGIN, row.shape[1], 3), BACKGROUND, np.uint8)])


def _header(title: str, subtitle: str, width: int) -> Image:
    strip = np.full((HEADER, width, 3), BACKGROUND, np.uint8)
    _write(strip, title, (MARGIN, 30), 0.8, TEXT, 2)
    _write(strip, subtitle, (MARGIN, 54), 0.5, FAINT)
    return strip


def _write(
    canvas: Image,
    text: str,
    place: tuple[int, int],
    size: float,
    colour: tuple[int, int, int],
    weight: int = 1,
) -> None:
    cv2.putText(canvas, text, place, FONT, size, colour, weight, cv2.LINE_AA)


_MPEG4 = int.from_bytes(b'mp4v', 'little')
_USUAL_RATE_HZ = 10.0
_MOST_PIXELS = 1280 * 720


class PreviewVideo:
    """Writes `path` (.mp4) frame by frame, as a context manager.

    It appears under its name only when closed without an error. Frames are shown at the mean rate
    of the recording. Raises BagError where it cannot be written.
    """

    def __init__(self, path: Path, rate_hz: float) -> None:
        if path.suffix.lower() != '.mp4':
            raise BagError(f'previews are written as .mp4 files; found {path}')
        self._path = path
        self._rate_hz = rate_hz if rate_hz > 0 else _USUAL_RATE_HZ
        self._folder: tempfile.TemporaryDirectory | None = None
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def __enter__(self) -> PreviewVideo:
        """Make room for the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix='psd_depth_preview_')
        except OSError as error:
            raise self._unwritable(str(error)) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the file its name, or take it away where the body failed."""
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
        left = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
        right = depth_colours(depth_m)
        if self._writer is None:
            self._size = _half_size(left.shape[1], left.shape[0])
        picture = np.hstack([cv2.resize(half, self._size) for half in (left, right)])
        if self._writer is None:
            self._writer = self._open(picture)
        self._writer.write(picture)

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
    """Width and height of one of the two pictures, even and of no more pixels than a screen."""
    factor = min(1.0, (_MOST_PIXELS / (2 * width * height)) ** 0.5)
    return max(2, round(width * factor) // 2 * 2), max(2, round(height * factor) // 2 * 2)
