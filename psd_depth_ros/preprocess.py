"""From a camera image to network input: rectify, resize and normalise in one sampling.

Training and serving sample through the same filters, so a network meets the same pixels in both
within a level of rounding: the cache of decoded recordings keeps the output of a `ViewSampler`,
the engine feeds that of a `Preprocessor`. `.camera` of either is the camera of the output, exact
to a fraction of a pixel. Decoding messages is left to `messages`, what the network makes of the
input to `inference`, sampling on a GPU to `inference.on_device`.

Shrinking is antialiased. Large images are halved first, as often as `halvings` says, by the mean
of 2x2 pixels: a whole 1920x1080 image in 0.6 ms where a filter over all its pixels takes 3 ms.
Then a rectified image is resized by a triangle filter, see `AntialiasedResize`; a distorted one
is sampled bilinearly at `k` x `k` points per output pixel, which are then averaged: 1.1 ms for
640x480 to 384x288 on an x86 core with OpenCV's fixed-point remap (4 ms with torch's grid_sample).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
import itertools
import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import MessageError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.view import are_square, sampling_map

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Planes = NDArray[np.float32]

# A stride up to this many source pixels between two bilinear samples shows no visible aliasing.
_MAX_STRIDE = 1.25
# Source pixels that an output pixel must keep after halving. A triangle filter then hardly differs
# (Pillow's `reducing_gap` of 2); a bilinear sample of the mean of 2x2 is one of 2 to 2.5 pixels.
_LEFT_TO_FILTER, _LEFT_TO_SAMPLE = 2.0, 1.0
# Where the sampling map marks "outside": far enough that nothing of the image is blended in.
_OUTSIDE = -16.0
# What fills parts of the view that the camera does not see, where no network is known.
MEAN_COLOUR = (127.5, 127.5, 127.5)
_ROWS, _COLUMNS = 4, 8  # of the output that share a block of a band; measured
_MOST_PRODUCTS = 1 << 18  # of one multiplication: OpenBLAS starts threads for larger ones
_FAST_BLAS = ('openblas', 'mkl', 'accelerate', 'blis')


class ViewSampler:
    """Samples uint8 images of one camera, on the CPU, into its rectified view at another size.

    Everything that depends on the camera alone is computed once. Thread-safe only `with_torch` and
    for distorted cameras.

    Args:
        camera: The camera of the images.
        size: Height and width of the output.
        with_torch: Resize with torch, which is faster where it is imported anyway.

    Attributes:
        source: the camera of the images.
        camera: the camera of the output, rectified and of the output's size.
        mask: (h, w), true where all of an output pixel is seen by the camera; None where the
            images are rectified already, so that everything is.
    """

    def __init__(self, camera: Camera, size: tuple[int, int], with_torch: bool = False) -> None:
        self.source = camera
        self.size = size
        self.camera = camera.rectified().resize(size[1], size[0])
        self.mask: Mask | None = None
        self._remap: Remap | None = None
        self._resize: AntialiasedResize | None = None
        if not camera.is_rectified:
            self._remap = Remap(camera, self.camera)
            self.mask = self._remap.mask
        elif not with_torch:
            self._resize = AntialiasedResize((camera.height, camera.width), size)

    def sample(self, rgb: Image, fill: Sequence[float] = MEAN_COLOUR) -> Image:
        """(H, W, 3) -> (h, w, 3) uint8, contiguous; `fill` is the colour of what is not seen.

        Raises MessageError where the image is not uint8 RGB of the camera's size.
        """
        rgb = check_image(rgb, self.source)
        if self._remap is not None:
            return self._remap.sample(rgb, fill)
        if rgb.shape[:2] == self.size:
            return rgb
        if self._resize is None:
            return resize_with_torch(rgb, self.size)
        return round_image(self._resize(rgb))


class Preprocessor:
    """Turns uint8 RGB images of one camera into normalised network input, on the CPU.

    Everything that depends on the camera alone is computed once. Parts of the output that the
    camera does not see hold 0, which is the mean colour. Not thread-safe.

    Args:
        camera: The camera of the images.
        size: Height and width of the network input.
        mean: Of the network, of colours in [0, 1].
        std: Likewise.
    """

    def __init__(
        self,
        camera: Camera,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self.source = camera
        self.size = size
        self.camera = camera.rectified().resize(size[1], size[0])
        self._fill = [255.0 * value for value in mean]
        self._normalisation = normalisation(mean, std)
        self._remap: Remap | None = None
        source = (camera.height, camera.width)
        if not camera.is_rectified:
            self._remap = Remap(camera, self.camera)
            source = size
        self._resize = AntialiasedResize(source, size, *self._normalisation)

    def __call__(self, rgb: Image) -> Planes:
        """Give (1, 3, h, w) float32 for `rgb` (H, W, 3).

        Raises MessageError where the image is not uint8 RGB of the camera's size.
        """
        image = check_image(rgb, self.source)
        if self._remap is not None:
            image = self._remap.sample(image, self._fill)
        return self._resize(image)[None]

    def colours(self, planes: Planes) -> Image | None:
        """The image (h, w, 3) uint8 that network input (1, 3, h, w) shows.

        None where the camera does not see all of it: what fills the rest would be taken for
        something, and is blended into the pixels beside it.
        """
        if self._remap is not None and not self._remap.mask.all():
            return None
        gain, offset = (np.array(one, np.float32)[:, None, None] for one in self._normalisation)
        return round_image((planes[0] - offset) / gain)

    def depth_ratio(self, canonical_focal_px: float) -> float:
        """Factor from canonical depth to that of the camera."""
        return self.camera.canonical_ratio(canonical_focal_px)

    def whole(self, maps: Planes) -> Planes:
        """Maps (C, h, w) of the input as maps of the whole image, which the input shows."""
        return maps


class _Band(NamedTuple):
    """A block of a filter: pixels `to` of the output from pixels `of` of the input."""

    to: slice
    of: slice
    weights: Planes


class AntialiasedResize:
    """Resizes uint8 images (H, W, 3) to float32 planes (3, h, w), as `gain` x + `offset`.

    It is the filter of Pillow's BILINEAR and of torch's `antialias=True`: a triangle as wide as
    two output pixels, or two input pixels where the image is enlarged, sampled at the pixels and
    normalised, of an image halved where that leaves it two pixels. OpenCV has none: INTER_LINEAR
    leaves out pixels, INTER_AREA averages over a box.

    A filter is a matrix with a narrow band for each axis. NumPy multiplies blocks of these bands,
    so that a process that serves depth needs no torch, whose import alone takes a second and
    150 MB. Measured on one x86 core, 640x480 to 256x192 and 384x288 with normalisation: 0.5 and
    0.7 ms (torch 0.3 and 0.5 ms, Pillow 1.8 ms for the first, OpenCV's INTER_AREA 1.0 ms). A NumPy
    without a fast BLAS, as some distributions have it, takes 20 ms; torch does it there where it
    is installed.

    Args:
        source: Height and width of the images.
        size: Height and width of the planes.
        gain: For each channel.
        offset: For each channel.
    """

    def __init__(
        self,
        source: tuple[int, int],
        size: tuple[int, int],
        gain: Sequence[float] = (1.0, 1.0, 1.0),
        offset: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        self._size = size
        self._gain = np.array(gain, np.float32)[:, None, None]
        self._offset = np.array(offset, np.float32)[:, None, None]
        self._is_plain = source == size
        self._with_torch = not has_fast_blas() and find_spec('torch') is not None
        if self._is_plain or self._with_torch:
            return
        self._halvings = halvings_to_resize(source, size)
        source = self._source = halved_size(source, self._halvings)
        self._rows = _bands(source[0], size[0], _ROWS)
        self._columns = _bands(source[1], size[1], _COLUMNS)
        self._row_parts = _parts(3 * source[1], self._rows)
        self._column_parts = _parts(3 * size[0], self._columns)
        # Reused for every image: memory that the kernel just gave costs more than the arithmetic.
        tallest = max(band.weights.shape[1] for band in self._rows)
        self._wide = np.empty((tallest, 3 * source[1]), np.float32)
        self._half = np.empty((size[0], 3 * source[1]), np.float32)
        self._turned = np.empty((source[1], 3 * size[0]), np.float32)
        self._narrow = np.empty((size[1], 3 * size[0]), np.float32)

    def __call__(self, image: Image) -> Planes:
        """Planes (3, h, w), a new array, of an image (H, W, 3), contiguous. Not thread-safe."""
        if self._is_plain:
            planes = np.empty((3, *self._size), np.float32)
            np.multiply(image.transpose(2, 0, 1), self._gain, out=planes)
            planes += self._offset
            return planes
        if self._with_torch:
            return _resize_with_torch(image, self._size) * self._gain + self._offset
        image = halve(image, self._halvings).reshape(self._source[0], -1)
        for band in self._rows:
            wide = self._wide[: band.weights.shape[1]]
            np.copyto(wide, image[band.of])
            for part in self._row_parts:
                np.matmul(band.weights, wide[:, part], out=self._half[band.to, part])
        # (h, W 3) becomes (W 3, h), which is (W, 3 h): colours lie apart, columns are rows.
        cv2.transpose(self._half, self._turned.reshape(3 * self._source[1], -1))
        for band in self._columns:
            for part in self._column_parts:
                np.matmul(
                    band.weights, self._turned[band.of, part], out=self._narrow[band.to, part]
                )
        planes = cv2.transpose(self._narrow).reshape(3, *self._size)
        planes *= self._gain
        planes += self._offset
        return planes


class Rectifier:
    """Rectifies images of one camera at their own size.

    `.camera` is the camera of the rectified image and `.mask` (H, W) is true where it was seen,
    None where the image already is rectified, so that there is nothing to do.
    """

    def __init__(self, camera: Camera) -> None:
        self.source = camera
        self.camera = camera.rectified()
        self.mask: Mask | None = None
        self._remap: Remap | None = None
        self._samplers: dict[tuple[int, int], ViewSampler] = {}
        if not camera.is_rectified:
            self._remap = Remap(camera, self.camera, Sampling(0, 1))
            self.mask = self._remap.mask

    def rectify(self, rgb: Image) -> Image:
        """Rectified uint8 image (H, W, 3), black where nothing was seen."""
        rgb = check_image(rgb, self.source)
        return rgb if self._remap is None else self._remap.sample(rgb, (0.0, 0.0, 0.0))

    def rectify_to(self, rgb: Image, size: tuple[int, int]) -> Image:
        """Rectified uint8 image (h, w, 3) of another size (height, width). Not thread-safe."""
        if size == self.camera.size:
            return self.rectify(rgb)
        if size not in self._samplers:
            self._samplers[size] = ViewSampler(self.source, size)
        return self._samplers[size].sample(rgb, (0.0, 0.0, 0.0))


def check_image(rgb: Image, camera: Camera) -> Image:
    """Pass a uint8 RGB image of the camera's size, writable and contiguous; else MessageError."""
    expected = (camera.height, camera.width, 3)
    if rgb.dtype != np.uint8 or rgb.shape != expected:
        raise MessageError(
            f'the image is {rgb.dtype} of shape {rgb.shape}, expected uint8 of {expected}: the '
            f'camera is {camera.width}x{camera.height}. Check that image and camera_info come '
            'from the same stream.'
        )
    if rgb.flags.c_contiguous and rgb.flags.writeable:
        return rgb
    return np.array(rgb, order='C')  # OpenCV and torch take no reversed or read-only arrays


@lru_cache(maxsize=64)
def network_size(camera: Camera, pixel_budget: int) -> tuple[int, int]:
    """Best network input (height, width) for images of a camera; see `choose_input_size`.

    Pixels that are not square (binning across alone, fields of a video, anamorphic lenses) become
    so, as far as sides of whole tiles allow: the network has seen no others, and the focal length
    across would not tell how large things look. The coarser side is enlarged, not the finer one
    shrunk. Within 3 % pixels count as square: tiles are coarser than that.
    """
    view = camera.rectified()
    aspect = view.fx / view.fy
    if are_square(view):
        return choose_input_size(view.width, view.height, pixel_budget)
    width, height = view.width * max(1.0, 1.0 / aspect), view.height * max(1.0, aspect)
    return choose_input_size(round(width), round(height), pixel_budget)


def choose_input_size(
    width: int, height: int, pixel_budget: int, multiple: int = 32
) -> tuple[int, int]:
    """Best network input (height, width) for an image of square pixels, in whole tiles.

    Both are multiples of `multiple`. It has at most `pixel_budget` pixels and does not exceed the
    image rounded up. A wrong aspect ratio weighs four times as much as an unused part of the
    budget.
    Raises SettingsError where not even one tile fits the budget.
    """
    if pixel_budget < multiple * multiple:
        raise SettingsError(
            f'the network input may have {pixel_budget} pixels, expected at least '
            f'{multiple * multiple} ({multiple}x{multiple})'
        )
    rows, columns = math.ceil(height / multiple), math.ceil(width / multiple)
    tiles = pixel_budget // (multiple * multiple)

    def cost(size: tuple[int, int]) -> float:
        aspect = abs(math.log(size[1] * height / (size[0] * width)))
        return aspect + 0.25 * math.log(tiles / (size[0] * size[1]))

    sizes = [
        (row, column)
        for row in range(1, min(rows, tiles) + 1)
        for column in range(1, min(columns, tiles // row) + 1)
    ]
    best = min(sizes, key=cost)
    return best[0] * multiple, best[1] * multiple


class Sampling(NamedTuple):
    """How often an image is halved, and how many samples each output pixel gets per axis."""

    halvings: int
    over: int


class Remap:
    """Samples uint8 images through a map on the CPU, by `choose_sampling` unless it is given."""

    def __init__(self, camera: Camera, view: Camera, sampling: Sampling | None = None) -> None:
        self._size = (view.width, view.height)
        self._halvings, over = sampling or choose_sampling(camera, view)
        height, width = halved_size(camera.size, self._halvings)
        fine = view.resize(over * view.width, over * view.height)
        pixels = sampling_map(camera.resize(width, height), fine)
        seen = np.isfinite(pixels[..., 0])
        blocks = seen.reshape(view.height, over, view.width, over)
        self.mask: Mask = np.logical_and.reduce(blocks, axis=(1, 3))
        # Fixed point, 1/32 px: twice as fast as float maps, and the error has no bias.
        marked = np.nan_to_num(pixels, nan=_OUTSIDE)
        self._maps = cv2.convertMaps(marked, None, cv2.CV_16SC2)

    def sample(self, rgb: Image, fill: Sequence[float]) -> Image:
        """(H, W, 3) -> (h, w, 3); `fill` is the colour of what is not seen."""
        fine = cv2.remap(
            halve(rgb, self._halvings), *self._maps, cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT, borderValue=fill,
        )  # fmt: skip
        if fine.shape[1::-1] == self._size:
            return fine
        return cv2.resize(fine, self._size, interpolation=cv2.INTER_AREA)


def choose_sampling(camera: Camera, view: Camera) -> Sampling:
    """The sampling that keeps two neighbouring samples close in the source."""
    pixels = sampling_map(camera, view)
    strides = np.concatenate(
        [np.hypot(*np.moveaxis(np.diff(pixels, axis=axis), -1, 0)).ravel() for axis in (0, 1)]
    )
    strides = strides[np.isfinite(strides)]
    if strides.size == 0:
        return Sampling(0, 1)
    # A fisheye's rim may be sampled far more coarsely than the rest: let a few pixels alias.
    finest, coarsest = np.percentile(strides, (10, 90)).tolist()
    times = halvings(camera.size, finest / _LEFT_TO_SAMPLE)
    return Sampling(times, max(1, math.ceil(coarsest / 2**times / _MAX_STRIDE)))


def halvings(size: tuple[int, int], shrinking: float) -> int:
    """How often an image (height, width) can be halved without shrinking it more than that."""
    count = 0
    while shrinking >= 2 ** (count + 1) and all(side % 2 ** (count + 1) == 0 for side in size):
        count += 1
    return count


def halvings_to_resize(source: tuple[int, int], size: tuple[int, int]) -> int:
    """How often an image is halved before it is resized by a triangle filter."""
    stride = min(source[0] / size[0], source[1] / size[1])
    return halvings(source, stride / _LEFT_TO_FILTER)


def halved_size(size: tuple[int, int], times: int) -> tuple[int, int]:
    """The height and width of an image that was halved so often."""
    return size[0] >> times, size[1] >> times


def halve(image: Image, times: int) -> Image:
    """The mean of blocks of 2x2 pixels, of an image (H, W, 3), so often, rounded each time.

    OpenCV rounds halves upwards: each time the mean of an image grows by an eighth of a level.
    """
    for _ in range(times):
        size = image.shape[1] // 2, image.shape[0] // 2
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return image


def normalisation(
    mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gain and offset of each channel that turn uint8 colours into network input."""
    pairs = list(zip(mean, std, strict=True))
    return tuple(1.0 / (255.0 * d) for _, d in pairs), tuple(-m / d for m, d in pairs)


def round_image(planes: Planes) -> Image:
    """Planes (3, h, w) in [0, 255] as a uint8 image (h, w, 3)."""
    return cv2.merge([np.rint(plane).astype(np.uint8) for plane in planes])


def resize_with_torch(image: Image, size: tuple[int, int]) -> Image:
    """The same in rounded uint8, (H, W, 3) -> (h, w, 3); faster where torch is there anyway."""
    planes = _resize_with_torch(image, size)
    return cv2.merge(list(planes))  # far faster than to copy with strides


@lru_cache(maxsize=1)
def has_fast_blas() -> bool:
    """Whether NumPy was built with a BLAS that is known to be fast."""
    config: Any = np.show_config(mode='dicts')
    name = str(config.get('Build Dependencies', {}).get('blas', {}).get('name', '')).lower()
    return any(known in name for known in _FAST_BLAS)


def _resize_with_torch(image: Image, size: tuple[int, int]) -> Image:
    """Planes (3, h, w) uint8."""
    import torch

    image = halve(image, halvings_to_resize(image.shape[:2], size))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    planes = torch.nn.functional.interpolate(
        pixels, size, mode='bilinear', align_corners=False, antialias=True
    )
    found: Image = planes[0].numpy()
    return found


def _bands(old: int, new: int, block: int) -> list[_Band]:
    """The filter from `old` to `new` pixels, in blocks of its band."""
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale  # of the output, from the edge of the input
    distances = np.abs(np.arange(old) + 0.5 - centres[:, None])
    weights = np.clip(1.0 - distances / reach, 0.0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    bands = []
    for start in range(0, new, block):
        rows = weights[start : start + block]
        used = np.flatnonzero(rows.any(axis=0))
        of = slice(int(used[0]), int(used[-1]) + 1)
        to = slice(start, start + len(rows))
        bands.append(_Band(to, of, np.ascontiguousarray(rows[:, of], np.float32)))
    return bands


def _parts(count: int, bands: list[_Band]) -> list[slice]:
    """Cut `count` values into equal parts that every band can be multiplied with at once."""
    most = _MOST_PRODUCTS // max(band.weights.size for band in bands)
    number = math.ceil(count / max(1, most))
    edges = [round(count * index / number) for index in range(number + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(edges)]
