"""What is measured: an image, its camera and its true depth, whatever they were read from.

Reading folders is in `folders`, benchmarks in `benchmarks`, bags in `bag_truth`; which of them a
path is, in `layouts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import EvaluationError, MessageError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import ImageDecoder
from psd_depth_ros.parsing import ParseError, read_array

Image = NDArray[np.uint8]
Map = NDArray[np.float32]
T = TypeVar('T')


@dataclass(frozen=True)
class Sample:
    """One image to be measured.

    `rgb` (H, W, 3) is as recorded. `truth` (h, w) are metres along Z in the rectified view of
    `camera`; what is not finite or not above 0 is not known (+Inf: sky, known to be far). None
    where the image has no truth at all. It is of the image's size, except where `predicted_on`
    brings a depth image (H, W) onto its grid. Images of one `sequence` follow each other in time;
    '' is an image on its own. `pose` is T_world_camera of the rectified view in metres.
    """

    name: str
    rgb: Image
    camera: Camera
    truth: Map | None
    sequence: str = ''
    stamp_ns: int = 0
    pose: NDArray[np.float64] | None = None
    predicted_on: Callable[[Map], Map] | None = None

    def on_grid(self, values: Map) -> Map:
        """Bring a map of the image's size (H, W) onto the grid of the truth."""
        return values if self.predicted_on is None else self.predicted_on(values)


class Samples(ABC):
    """Samples in order, each read when its turn comes."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are, as far as is known."""

    @abstractmethod
    def __iter__(self) -> Iterator[Sample]:
        """Read them one by one."""

    @abstractmethod
    def part(self, chosen: slice) -> Samples:
        """Some of them, by their index."""

    @property
    def unreadable(self) -> dict[str, int]:
        """How many of those that were read could not be used, by reason."""
        return {}

    @property
    def notes(self) -> list[str]:
        """What a person should know of those that were read."""
        return []


class SampleList(Samples, Generic[T]):
    """Samples of files that are known beforehand: `load` reads what an item stands for."""

    def __init__(self, items: Sequence[T], load: Callable[[T], Sample]) -> None:
        self._items = items
        self._load = load

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._items)

    def __iter__(self) -> Iterator[Sample]:
        """Read them one by one."""
        return map(self._load, self._items)

    @property
    def notes(self) -> list[str]:
        """What the loader noticed."""
        return list(getattr(self._load, 'notes', ()))

    def part(self, chosen: slice) -> SampleList[T]:
        """Some of them, by their index."""
        return SampleList(self._items[chosen], self._load)


def parse_range(text: str) -> slice:
    """Read `START:STOP` or `START:STOP:STEP`, each may be left out. Raises EvaluationError."""
    parts = text.split(':')
    try:
        numbers = [int(part) if part else None for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and (numbers[2] or 1) < 1):
        raise EvaluationError(
            f'--frames is {text!r}, expected START:STOP or START:STOP:STEP, such as 240:300'
        )
    return slice(*numbers)


def check_truth(name: str, truth: Map, rgb: Image) -> Map:
    """Pass a truth of the image's size; else EvaluationError."""
    if truth.shape != rgb.shape[:2]:
        raise EvaluationError(
            f'the ground truth {name} is {truth.shape[1]}x{truth.shape[0]}, but its image is '
            f'{rgb.shape[1]}x{rgb.shape[0]}; expected a depth for every pixel of the image, '
            'registered to it'
        )
    return truth


def rectify_truth(truth: Map, camera: Camera) -> Map:
    """Bring a truth (H, W) in the geometry of the raw image into the rectified view.

    The nearest pixel is taken, so that no depth is mixed over an edge; NaN where the raw image
    does not see the view. Z stays along the raw axis, which differs from the rectified one by the
    rotation R alone.
    """
    if camera.is_rectified:
        return truth
    rays = np.concatenate([camera.rays(), np.ones((*camera.size, 1))], axis=-1).reshape(-1, 3)
    if camera.rectification is not None:
        rays = rays @ np.asarray(camera.rectification)
    with np.errstate(invalid='ignore'):
        pixels = camera.project(rays).reshape(*camera.size, 2).astype(np.float32)
    return cv2.remap(
        truth,
        np.nan_to_num(pixels, nan=-1e6),
        None,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float('nan'),
    )


def read_rgb(path: Path, decoder: ImageDecoder | None = None) -> Image:
    """An image file as (H, W, 3) uint8 RGB. Raises EvaluationError."""
    try:
        return (decoder or ImageDecoder()).decode_file(path)
    except MessageError as error:
        raise EvaluationError(str(error)) from error


def read_truth(path: Path, units_per_metre: float) -> Map:
    """A depth file as (H, W) float32 metres, NaN where it has none.

    16-bit images hold `units_per_metre`, with 0 for no measurement; .npy, .tiff and other files
    of floats hold metres. Raises EvaluationError.
    """
    try:
        is_array = path.suffix == '.npy'
        stored = read_array(path) if is_array else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except ParseError as error:
        raise EvaluationError(f'ground truth {path} {error}') from error
    if stored is None or stored.ndim != 2:
        found = 'damaged or of an unknown format' if stored is None else f'of shape {stored.shape}'
        raise EvaluationError(
            f'ground truth {path} is {found}, expected a 16-bit image with one channel, or metres '
            'in a .npy or .tiff'
        )
    if stored.dtype == np.uint8:
        raise EvaluationError(
            f'ground truth {path} has 8 bits, which is a picture of depth, not depth; expected '
            '16 bits or floats'
        )
    is_float = np.issubdtype(stored.dtype, np.floating)
    depth = (
        stored.astype(np.float32) if is_float else (stored / units_per_metre).astype(np.float32)
    )
    depth[~(depth > 0)] = np.nan
    return depth
