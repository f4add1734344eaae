"""Random crops of an image, resized to the network's input, with the camera that follows.

A crop of another size than the input is a zoom: it changes the focal length in pixels, by which
the network learns canonical depth instead of the depth of one camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.resample import positions, sample_bilinear


@dataclass(frozen=True)
class Window:
    """A window (x, y, width, height) of an image, its output size and whether it is mirrored."""

    x: int
    y: int
    width: int
    height: int
    output_width: int
    output_height: int
    mirrored: bool

    def camera(self, camera: Camera) -> Camera:
        """The camera of the output, for a rectified `camera` of the whole image."""
        cropped = camera.crop(self.x, self.y, self.width, self.height)
        resized = cropped.resize(self.output_width, self.output_height)
        return resized.flip() if self.mirrored else resized

    def image(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The output image (h, w, 3), area-averaged where it shrinks."""
        method = cv2.INTER_AREA if self.width > self.output_width else cv2.INTER_LINEAR
        return self._take(rgb, method)

    def depth(self, depth_m: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output depth (h, w): the nearest pixel, never a mean across an edge."""
        return self._take(depth_m, cv2.INTER_NEAREST_EXACT)

    def coverage(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Fraction of every output pixel (h, w) that a mask (H, W) covers."""
        return self._take(mask.astype(np.float32), cv2.INTER_LINEAR)

    def map(self, maps: NDArray, size: tuple[int, int], output: tuple[int, int]) -> NDArray:
        """The part of maps in the window, resized bilinearly and mirrored as the image is.

        Args:
            maps: (..., h, w) of the whole image, at any size; NaN is unknown.
            size: Height and width of the whole image.
            output: Height and width of the result.

        Returns:
            (..., *output) float32.
        """
        y, x = maps.shape[-2] / size[0], maps.shape[-1] / size[1]
        rows = positions(output[0], self.y * y - 0.5, (self.y + self.height) * y - 0.5)
        columns = positions(output[1], self.x * x - 0.5, (self.x + self.width) * x - 0.5)
        return sample_bilinear(maps, rows, columns[::-1] if self.mirrored else columns)

    def pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where pixels (n, 2) of the whole image lie in the output; some lie outside."""
        scale = np.array([self.output_width / self.width, self.output_height / self.height])
        moved = (pixels - (self.x, self.y) + 0.5) * scale - 0.5
        if self.mirrored:
            moved[:, 0] = self.output_width - 1 - moved[:, 0]
        return moved.astype(np.float32)

    def _take(self, image: NDArray, method: int) -> NDArray:
        output = image[self.y : self.y + self.height, self.x : self.x + self.width]
        size = (self.output_width, self.output_height)
        if size != (self.width, self.height):
            output = cv2.resize(output, size, interpolation=method)
        return cv2.flip(output, 1) if self.mirrored else np.ascontiguousarray(output)


def sample_window(
    rng: np.random.Generator, size: tuple[int, int], output: tuple[int, int], smallest: float
) -> Window:
    """Sample a window of an image of `size` (height, width) for an `output` (height, width).

    It has the output's aspect ratio (to a pixel), covers from `smallest` to all of what fits, and
    is mirrored half of the time.
    """
    height, width = size
    w, h = _extent(size, output, rng.uniform(smallest, 1.0))
    x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
    return Window(x, y, w, h, output[1], output[0], bool(rng.random() < 0.5))


def centred_window(size: tuple[int, int], output: tuple[int, int]) -> Window:
    """The largest window in the middle of an image of `size`, not mirrored."""
    w, h = _extent(size, output, 1.0)
    return Window((size[1] - w) // 2, (size[0] - h) // 2, w, h, output[1], output[0], False)


def _extent(size: tuple[int, int], output: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Width and height of a window of the output's aspect ratio."""
    height, width = size
    scale = min(width / output[1], height / output[0]) * fraction
    return min(width, round(output[1] * scale)), min(height, round(output[0] * scale))
