"""Pictures of a self-supervised step: image, depth, patch, what was taught, and the error."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.training.views import Pictures
from psd_depth_ros.visualisation import colour_depth, draw_box, draw_heat, draw_masked, draw_tiles

Picture = NDArray[np.uint8]
LARGEST_ERROR = 0.3


def draw_preview(batch: TripletBatch, seen: Pictures) -> Picture:
    """Tiles of one sample: image, depth; error, mask; patch, its depth, what it taught.

    Depth is coloured over the range of the full image, so that both branches compare.
    """
    assert seen.full is not None
    assert seen.sight is not None
    image = batch.image[0, 0].permute(1, 2, 0).cpu().numpy()
    depth = seen.full.log_depth[0, 0].exp()
    low, high = (float(depth.flatten().quantile(q)) for q in (0.02, 0.98))

    def coloured(metres: Tensor) -> Picture:
        return colour_depth(metres.float().cpu().numpy(), low, max(high, 1.01 * low))

    rows = [
        [image, coloured(depth)],
        [
            _heat(seen.sight.error),
            draw_masked(image, seen.sight.auto_mask[0, 0].cpu().numpy()),
        ],
    ]
    if seen.patch is not None and seen.patch_image is not None:
        assert seen.patches is not None
        patch = np.ascontiguousarray(
            (255.0 * seen.patch_image[0]).byte().permute(1, 2, 0).cpu().numpy()
        )
        rows[0][0] = _framed(image, seen)
        rows.append([patch, coloured(seen.patch.log_depth[0, 0].exp())])
        if seen.taught is not None and seen.patch_error is not None:
            taught = cv2.resize(
                seen.taught[0, 0].cpu().numpy().astype(np.uint8), patch.shape[1::-1],
                interpolation=cv2.INTER_NEAREST_EXACT,
            )  # fmt: skip
            rows.append([_heat(seen.patch_error), patch * taught[..., None]])
    return draw_tiles(rows, *image.shape[:2])


def _heat(error: Tensor) -> Picture:
    return draw_heat(error[0, 0].cpu().numpy() / LARGEST_ERROR)


def _framed(image: Picture, seen: Pictures) -> Picture:
    """The image with the outline of its patch."""
    assert seen.patches is not None
    pixels = seen.patches.pixels()[0].cpu().numpy()
    corners = [(round(float(x)), round(float(y))) for x, y in (pixels[0, 0], pixels[-1, -1])]
    return draw_box(image, corners[0], corners[1], (255, 220, 0))
