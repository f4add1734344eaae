"""A small video of a run to look at: each image beside the colours of its depth."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
import shutil
import tempfile
from types import TracebackType

import cv2
import numpy as np

from psd_depth_ros.cli.preview import depth_colours, Image, Map
from psd_depth_ros.errors import BagError
from psd_depth_ros.files import unfinished

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
                with unfinished(self._path) as target:
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
