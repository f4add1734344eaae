"""Where an image lies in the input of a network, and the way back for the network's maps."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.external.options import NetworkOptions
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.resample import positions, sample_bilinear

Image = NDArray[np.uint8]
Map = NDArray[np.float32]


@dataclass(frozen=True)
class Placement:
    """The rectangle that the whole image takes in an input of `size` (height, width).

    `left`, `top`, `right` and `bottom` are edges in pixels of the input. Parts of the image may
    lie outside; parts of the input that nothing lies in continue the image's border.
    """

    size: tuple[int, int]
    left: int
    top: int
    right: int
    bottom: int

    def image(self, rgb: Image) -> Image:
        """The network's input (h, w, 3) of an image (H, W, 3), area-averaged where it shrinks."""
        size = (self.right - self.left, self.bottom - self.top)
        method = cv2.INTER_AREA if size[0] < rgb.shape[1] else cv2.INTER_LINEAR
        whole = cv2.resize(np.ascontiguousarray(rgb), size, interpolation=method)
        height, width = self.size
        rows = slice(max(0, -self.top), min(size[1], height - self.top))
        columns = slice(max(0, -self.left), min(size[0], width - self.left))
        borders = (
            max(0, self.top),
            max(0, height - self.bottom),
            max(0, self.left),
            max(0, width - self.right),
        )
        return cv2.copyMakeBorder(whole[rows, columns], *borders, cv2.BORDER_REPLICATE)

    def whole(self, maps: Map) -> Map:
        """The part of maps (..., h', w') of the input that is the image's; NaN outside."""
        height, width = self.size
        if (self.left, self.top, self.right, self.bottom) == (0, 0, width, height):
            return maps
        y, x = maps.shape[-2] / height, maps.shape[-1] / width
        rows = max(1, round((self.bottom - self.top) * y))
        columns = max(1, round((self.right - self.left) * x))
        return sample_bilinear(
            maps,
            positions(rows, self.top * y - 0.5, self.bottom * y - 0.5),
            positions(columns, self.left * x - 0.5, self.right * x - 0.5),
            outside=False,
        )


def place(
    image_size: tuple[int, int], camera: Camera, size: tuple[int, int], options: NetworkOptions
) -> Placement:
    """Place an image (height, width) of a rectified camera in a network's input."""
    height, width = size
    if options.focal_px:
        return _place_by_focal(image_size, camera, size, options)
    if options.keep_aspect:
        scale = min(height / image_size[0], width / image_size[1])
        rows, columns = (max(1, round(side * scale)) for side in image_size)
        top, left = (height - rows) // 2, (width - columns) // 2
        return Placement(size, left, top, left + columns, top + rows)
    return Placement(size, 0, 0, width, height)


def _place_by_focal(
    image_size: tuple[int, int], camera: Camera, size: tuple[int, int], options: NetworkOptions
) -> Placement:
    """Scale the image so that its focal lengths are those of the camera in the options."""
    height, width = size
    focal = options.focal_px * width / options.focal_width  # in pixels of the input
    found = []
    for side, own, centre, extent, where in (
        (image_size[1], camera.fx, camera.cx, width, options.principal[0]),
        (image_size[0], camera.fy, camera.cy, height, options.principal[1]),
    ):
        scale = focal / own
        start = round(where * extent - scale * (centre + 0.5))
        found.append((start, start + max(1, round(scale * side))))
    (left, right), (top, bottom) = found
    return Placement(size, left, top, right, bottom)
