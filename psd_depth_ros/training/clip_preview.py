"""Pictures of a self-supervised step: image, depth, patch, what was taught, and the error."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.training.views import Pictures
from psd_depth_ros.visualisation import colour_depth

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
            _heat(seen.sight.error[0, 0] / LARGEST_ERROR),
            _masked(image, seen.sight.auto_mask[0, 0]),
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
            rows.append([_heat(seen.patch_error[0, 0] / LARGEST_ERROR), patch * taught[..., None]])
    height, width = image.shape[:2]
    return np.concatenate([np.concatenate([_fit(p, height, width) for p in r], 1) for r in rows])


def _fit(picture: Picture, height: int, width: int) -> Picture:
    """A picture in the middle of a tile, enlarged as far as it goes."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    h, w = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    tile = np.zeros((height, width, 3), np.uint8)
    y, x = (height - h) // 2, (width - w) // 2
    tile[y : y + h, x : x + w] = cv2.resize(picture, (w, h), interpolation=cv2.INTER_LINEAR)
    return tile


def _heat(share: Tensor) -> Picture:
    values = (255.0 * share.clamp(0.0, 1.0)).byte().cpu().numpy()
    return cv2.cvtColor(cv2.applyColorMap(values, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _masked(image: Picture, mask: Tensor) -> Picture:
    return image // 4 + (image // 4 * 3) * mask.cpu().numpy().astype(np.uint8)[..., None]


def _framed(image: Picture, seen: Pictures) -> Picture:
    """The image with the outline of its patch."""
    assert seen.patches is not None
    pixels = seen.patches.pixels()[0].cpu().numpy()
    corners = [tuple(round(float(v)) for v in pixels[i, i]) for i in (0, -1)]
    framed = np.ascontiguousarray(image)
    return cv2.rectangle(framed, corners[0], corners[1], (255, 220, 0), 1)
