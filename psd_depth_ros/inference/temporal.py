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

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import invert
from psd_depth_ros.geometry.resample import sample_at
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
    """The last frame: its image (H, W), and of (h, w) that image, filtered ln Z, frames behind."""

    grey: Grey
    maps: Map  # (h, w, 3)
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
        u = np.asarray(log_depth, np.float32)
        size = u.shape[1], u.shape[0]
        image = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
        past, count = self._past, np.ones_like(u)
        if past is not None and _follows(past, u, camera, stamp_ns, source):
            past = _expose(past, image)
            motion = _find_motion(past, grey)
            if motion is not None:
                view = camera.resize(*size)
                gain = 1.0 - math.exp(-(stamp_ns - past.stamp_ns) * 1e-9 / time_s)
                u, count = _blend(past.maps, u, image, motion, view, np.float32(gain))
        self._past = _Past(grey, np.dstack([image, u, count]), camera, stamp_ns, source)
        return u


def _follows(past: _Past, u: Map, camera: Camera, stamp_ns: int, source: str) -> bool:
    return (
        0 < stamp_ns - past.stamp_ns <= MAX_GAP_NS
        and (past.camera, past.source) == (camera, source)
        and past.maps.shape[:2] == u.shape
    )


def _expose(past: _Past, image: Map) -> _Past:
    """The past as bright as the new image (h, w), for exposure follows the scene."""
    ratio = float(image.mean() / max(past.maps[..., 0].mean(), 1.0))
    maps = past.maps * np.array([ratio, 1.0, 1.0], np.float32)
    return replace(past, grey=cv2.convertScaleAbs(past.grey, alpha=ratio), maps=maps)


def _find_motion(past: _Past, grey: Grey) -> NDArray[np.float64] | None:
    """T_past_new (4, 4), None where it is not found."""
    corners = _TRACKER.find(past.grey)
    if len(corners) < FEWEST_POINTS:
        return None
    start, end, _ = _TRACKER.follow(past.grey, grey, corners)
    points = lift(start, np.exp(past.maps[..., 1]), past.camera)
    known = np.isfinite(points[:, 2])
    motion = find_rigid_motion(points[known], end[known].astype(np.float64), past.camera.K)
    return None if motion is None else invert(motion)


def _blend(
    past: Map,
    u: Map,
    image: Map,
    T_past_new: NDArray[np.float64],
    camera: Camera,
    gain: np.float32,
) -> tuple[Map, Map]:
    """Filtered ln Z and the number of frames behind it, (h, w) each.

    `past` (h, w, 3) as in `_Past`, `camera` is that of the maps, `gain` is k in the long run.
    """
    depth = np.exp(u)
    places, moved = _move(depth, T_past_new, camera)
    inside = _inside(places, moved, u.shape)
    places[~inside] = 0.0
    before = sample_at(past, places.reshape(-1, 2)).reshape(past.shape)
    image_before, u_before, count = (before[..., index] for index in range(3))
    forward = np.float32(invert(T_past_new)[2, 3])  # t_z
    with np.errstate(invalid='ignore', divide='ignore'):
        predicted = forward + (depth - forward) * np.exp(u_before) / moved
        usable = inside & (predicted > _NEAREST)
        change = np.where(usable, u - np.log(predicted), np.float32(np.nan))
    common = _median(change)
    if not math.isfinite(common):  # nothing of the new view was seen
        return u, np.ones_like(u)
    deviation = np.abs(change - common)
    spread = max(1.4826 * _median(deviation), _LEAST_SPREAD)
    difference = cv2.blur(np.abs(image_before - image), (_PATCH_PX, _PATCH_PX))
    contrast = max(_median(difference), _LEAST_CONTRAST)
    gate = np.exp(-0.5 * np.square(deviation * np.float32(1.0 / (_GATE * spread))))
    gate /= 1.0 + np.square(difference * np.float32(1.0 / (_GATE * contrast)))
    unknown = np.isnan(change)
    gate[unknown] = 0.0
    change[unknown] = 0.0
    count = np.where(gate > 0, count * gate, np.float32(0.0))
    own = np.maximum(1.0 / (count + 1.0), gain)
    filtered = u - (1.0 - own) * gate * change
    return filtered, np.minimum(count + 1.0, 1.0 / gain)


def _move(depth: Map, T_past_new: NDArray[np.float64], camera: Camera) -> tuple[Map, Map]:
    """Where the pixels of `depth` (h, w) lie in the last frame: (h, w, 2), and their Z (h, w)."""
    height, width = depth.shape
    x = ((np.arange(width) - camera.cx) / camera.fx).astype(np.float32)
    y = ((np.arange(height) - camera.cy) / camera.fy).astype(np.float32)[:, None]
    R, t = T_past_new[:3, :3].astype(np.float32), T_past_new[:3, 3].astype(np.float32)
    X, Y, Z = (depth * (R[i, 0] * x + R[i, 1] * y + R[i, 2]) + t[i] for i in range(3))
    in_front = np.maximum(Z, np.float32(_NEAREST))
    u = np.float32(camera.fx) * X / in_front + np.float32(camera.cx)
    v = np.float32(camera.fy) * Y / in_front + np.float32(camera.cy)
    return np.dstack([u, v]), Z


def _inside(places: Map, moved: Map, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether places (h, w, 2) lie between the outermost pixels, in front of the camera."""
    x, y = places[..., 0], places[..., 1]
    seen = (x >= 0) & (x <= size[1] - 1) & (y >= 0) & (y <= size[0] - 1)
    return np.asarray(seen & (moved > _NEAREST))


def _median(values: Map) -> float:
    """The median of a part of the pixels (h, w) that are not NaN; NaN where all are."""
    some = values[::_STRIDE_PX, ::_STRIDE_PX]
    some = some[~np.isnan(some)]
    return float(np.median(some)) if some.size else math.nan
