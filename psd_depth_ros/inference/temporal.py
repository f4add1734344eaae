"""A causal filter of log-depth over the frames of one camera, against flicker.

A network that sees one image at a time changes its mind from frame to frame. The filter carries
the last filtered depth into the new frame and takes a weighted mean of both in u = ln Z:

1. Corners are followed from the last image into the new one; with the last filtered depth at the
   corners they give the motion of the camera, in the unit of that depth (`odometry.resection`).
   No sensor is needed.
2. A pixel with depth Z is moved by it into the last frame, where it comes to depth Z' and the
   filter holds Y. The same ray there at depth Y is, in the new frame, at depth
   t_z + (Z - t_z) Y / Z': the prediction, exact for what stands still.
3. The difference d of ln Z to it is taken in part: u - (1 - k) g d. The gain k is
   1 - exp(-dt / time_s), or 1 / (n + 1) while a pixel was seen in few frames n, so that the first
   frames count alike. The gate g, from 0 to 1, is small where the pixel is not what it was: its
   d is far from the median m of all, or the brightness differs. A change m of the whole image, the
   flicker of the scale, is filtered and not gated.

Depth is that of the network before the metric scale, which has a filter of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import invert
from psd_depth_ros.geometry.warp import backproject, inside_image, project, sample, transform
from psd_depth_ros.odometry.resection import FEWEST_POINTS, find_rigid_motion
from psd_depth_ros.odometry.tracking import Grey, Tracker
from psd_depth_ros.odometry.visual_odometry import lift

Map = NDArray[np.float32]

MAX_GAP_NS = 500_000_000  # between frames that follow each other
_TRACKER = Tracker(150, 0.01, 8, window_px=11)
_GATE = 3.0  # of the spread of the differences, and of the brightness
_LEAST_SPREAD = 0.005  # of ln Z
_LEAST_CONTRAST = 2.0  # levels of brightness
_PATCH_PX = 7  # that brightness is compared over
_STRIDE_PX = 2  # of the pixels that medians are taken of
_NEAREST = 1e-3  # of depth: nothing is predicted nearer to the camera than this


@dataclass(frozen=True)
class _Past:
    """The last frame: its image (H, W), and (h, w) that image, filtered ln Z and frames behind."""

    grey: Grey
    maps: Tensor  # (1, 3, h, w)
    camera: Camera
    stamp_ns: int
    source: str


class TemporalFilter:
    """Filters the depth of one camera. Not thread-safe."""

    def __init__(self) -> None:
        self._past: _Past | None = None

    def reset(self) -> None:
        """Forget the past: the next frame is taken as it is."""
        self._past = None

    def update(
        self,
        log_depth: Map,
        grey: Grey,
        camera: Camera,
        stamp_ns: int,
        time_s: float,
        source: str = '',
    ) -> Map:
        """Filter the ln Z (h, w) of a frame, in any unit of Z; NaN stays NaN.

        Args:
            log_depth: of the whole image, of any size.
            grey: the rectified image (H, W).
            camera: of `grey`, rectified.
            stamp_ns: of the image.
            time_s: how long a change takes to come through to 63 %.
            source: what the depth was made by.

        Returns:
            The filtered ln Z (h, w). It is that of the frame where the past does not tell: after
            a gap of more than 0.5 s, stamps that go back, with another camera, size or source,
            and where the motion is not found.
        """
        u = torch.from_numpy(np.ascontiguousarray(log_depth, np.float32))[None, None]
        size = log_depth.shape[1], log_depth.shape[0]
        small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(small.astype(np.float32))[None, None]
        past, count = self._past, torch.ones_like(u)
        if past is not None and _follows(past, u, camera, stamp_ns, source):
            past = _expose(past, image)
            motion = _find_motion(past, grey)
            if motion is not None:
                view = camera.resize(*size)
                gain = 1.0 - math.exp(-(stamp_ns - past.stamp_ns) * 1e-9 / time_s)
                u, count = _blend(past.maps, u, image, motion, view, gain)
        self._past = _Past(grey, torch.cat([image, u, count], 1), camera, stamp_ns, source)
        return u[0, 0].numpy()


def _follows(past: _Past, u: Tensor, camera: Camera, stamp_ns: int, source: str) -> bool:
    return (
        0 < stamp_ns - past.stamp_ns <= MAX_GAP_NS
        and (past.camera, past.source) == (camera, source)
        and past.maps.shape[-2:] == u.shape[-2:]
    )


def _expose(past: _Past, image: Tensor) -> _Past:
    """The past as bright as the new image (1, 1, h, w), for exposure follows the scene."""
    before = past.maps[:, :1]
    ratio = float(image.mean() / before.mean().clamp(min=1.0))
    maps = torch.cat([ratio * before, past.maps[:, 1:]], dim=1)
    return replace(past, grey=cv2.convertScaleAbs(past.grey, alpha=ratio), maps=maps)


def _find_motion(past: _Past, grey: Grey) -> NDArray[np.float64] | None:
    """T_past_new (4, 4), None where it is not found."""
    corners = _TRACKER.find(past.grey)
    if len(corners) < FEWEST_POINTS:
        return None
    start, end, _ = _TRACKER.follow(past.grey, grey, corners)
    points = lift(start, past.maps[0, 1].exp().numpy(), past.camera)
    known = np.isfinite(points[:, 2])
    motion = find_rigid_motion(points[known], end[known].astype(np.float64), past.camera.K)
    return None if motion is None else invert(motion)


def _blend(
    past: Tensor,
    u: Tensor,
    image: Tensor,
    T_past_new: NDArray[np.float64],
    camera: Camera,
    gain: float,
) -> tuple[Tensor, Tensor]:
    """Filtered ln Z and the number of frames behind it, (1, 1, h, w) each.

    `past` (1, 3, h, w) as in `_Past`, `camera` is that of the maps, `gain` is k in the long run.
    """
    motion = torch.from_numpy(T_past_new).float()[None]
    K = torch.from_numpy(camera.K).float()[None]
    depth = u.exp()
    moved = transform(motion, backproject(depth, K))  # (1, 3, h, w)
    pixels = project(moved, K)
    image_before, u_before, count = sample(past, pixels).split(1, 1)
    forward = float(invert(T_past_new)[2, 3])  # t_z
    predicted = forward + (depth - forward) * u_before.exp() / moved[:, 2:]
    usable = inside_image(pixels, moved, u.shape[-2:]) & (predicted > _NEAREST)
    change = torch.where(usable, u - predicted.log(), torch.nan)
    common = _median(change)
    if not math.isfinite(common):  # nothing of the new view was seen
        return u, torch.ones_like(u)
    deviation = (change - common).abs()
    spread = max(1.4826 * _median(deviation), _LEAST_SPREAD)
    brightness = (image_before - image).abs()[0, 0].numpy()
    difference = torch.from_numpy(cv2.blur(brightness, (_PATCH_PX, _PATCH_PX)))
    contrast = max(_median(difference), _LEAST_CONTRAST)
    gate = torch.exp(-0.5 * (deviation / (_GATE * spread)).square())
    gate = gate / (1.0 + (difference / (_GATE * contrast)).square())
    gate = torch.where(torch.isfinite(change), gate, 0.0)
    count = torch.where(gate > 0, count * gate, 0.0)
    own = (1.0 / (count + 1.0)).clamp(min=gain)
    filtered = u - (1.0 - own) * gate * change.nan_to_num()
    return filtered, (count + 1.0).clamp(max=1.0 / gain)


def _median(values: Tensor) -> float:
    """The median of a part of the pixels (..., h, w) that are not NaN."""
    return float(values[..., ::_STRIDE_PX, ::_STRIDE_PX].nanmedian())
