"""How much the depth of one thing changes from frame to frame.

Of a pixel p of frame t that is seen at q in the frame s before: |u_t(p) - u_{s->t}(p)| with
u = ln Z, the median over pixels. What is moving, hidden or beyond the range does not count.

- `poses`: where poses and true depth are known, q and the true change of depth on the way,
  ln Z_t(p) / Z_s(q), come from them, so that only the network's own restlessness is left (and
  the noise of the true depth).
- `flow`: else q comes from optical flow, and the change of depth by the camera's own motion is
  part of the figure: compare it between networks on the same frames only.

Depth is taken unscaled: a scale that flickers is what a robot suffers from.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.frames import TimedFrame
from psd_depth_ros.geometry.pose import relative, transform
from psd_depth_ros.inference.temporal import MAX_GAP_NS

Map = NDArray[np.float32]
Pixels = NDArray[np.float64]

_STRIDE_PX = 2
_SAME_SURFACE = 0.05  # of ln Z, between the truth seen and the truth expected
_FLOW_WIDTH_PX = 640
_ROUND_TRIP_PX = 1.0
_FEWEST_PIXELS = 100


@dataclass(frozen=True)
class StabilityResult:
    """The mean over `pairs` of frames of the median change of ln Z, and how q was found."""

    median_change: float
    pairs: int
    method: str


@dataclass(frozen=True)
class _View:
    """A frame as far as it is needed: pose T_world_camera, the rectified image, its depth."""

    frame: TimedFrame
    pose: Pixels | None
    rgb: NDArray[np.uint8]
    depth: Map


class Stability:
    """Compares the depth of successive frames."""

    def __init__(self, minimum_m: float, maximum_m: float) -> None:
        self._range_m = (minimum_m, maximum_m)
        self._previous: _View | None = None
        self._changes: dict[str, list[float]] = {'poses': [], 'flow': []}

    def add(
        self, frame: TimedFrame, pose: Pixels | None, rgb: NDArray[np.uint8], depth: Map
    ) -> None:
        """Take a frame: its pose, the rectified image (H, W, 3) and its depth (H, W).

        `pose` is T_world_camera (4, 4) of the rectified view, None where it is not known.
        """
        view, previous = _View(frame, pose, rgb, depth), self._previous
        self._previous = view
        if previous is None or not _follows(previous.frame, frame):
            return
        by_poses = _has_geometry(previous) and _has_geometry(view)
        found = self._by_poses(previous, view) if by_poses else self._by_flow(previous, view)
        if found is not None:
            self._changes['poses' if by_poses else 'flow'].append(found)

    @property
    def result(self) -> StabilityResult | None:
        """The mean of the pairs, by poses where there were any; None without pairs."""
        for method, changes in self._changes.items():
            if changes:
                return StabilityResult(float(np.mean(changes)), len(changes), method)
        return None

    def _by_poses(self, s: _View, t: _View) -> float | None:
        """The median change where the true depths of both frames agree on what is seen."""
        truth_t, pose_t = _geometry(t)
        truth_s, pose_s = _geometry(s)
        p = _grid(t.depth.shape)
        true_t = _at(truth_t, p)
        points = t.frame.camera.rectified().backproject(
            p, np.where(self._in_range(true_t), true_t, np.nan)
        )
        seen = transform(relative(pose_s, pose_t), points)
        q = s.frame.camera.rectified().project(np.nan_to_num(seen, nan=-1.0))
        true_s, expected = _at(truth_s, q), seen[:, 2]
        with np.errstate(invalid='ignore', divide='ignore'):
            usable = self._in_range(true_s) & self._in_range(true_t)
            usable &= np.abs(np.log(true_s / expected)) < _SAME_SURFACE
            expected_change = np.log(true_t / true_s)
        return self._median_change(_at(t.depth, p), _at(s.depth, q), expected_change, usable)

    def _by_flow(self, s: _View, t: _View) -> float | None:
        """The median change along optical flow, where following it back returns to the start."""
        if s.rgb.shape != t.rgb.shape:
            return None
        p = _grid(t.depth.shape)
        q, usable = _follow(t.rgb, s.rgb, p)
        none = np.zeros(len(p))
        return self._median_change(_at(t.depth, p), _at(s.depth, q), none, usable)

    def _median_change(
        self, depth_t: Pixels, depth_s: Pixels, expected: Pixels, usable: NDArray[np.bool_]
    ) -> float | None:
        usable = usable & self._is_depth(depth_t) & self._is_depth(depth_s)
        if np.count_nonzero(usable) < _FEWEST_PIXELS:
            return None
        change = np.log(depth_t[usable] / depth_s[usable]) - expected[usable]
        return float(np.median(np.abs(change)))

    def _in_range(self, depth: Pixels) -> NDArray[np.bool_]:
        low, high = self._range_m
        return np.isfinite(depth) & (depth > low) & (depth < high)

    def _is_depth(self, depth: Pixels) -> NDArray[np.bool_]:
        return np.isfinite(depth) & (depth > 0)


def _follows(s: TimedFrame, t: TimedFrame) -> bool:
    """Whether t comes right after s in one recording."""
    return bool(t.sequence) and s.sequence == t.sequence and (
        0 < t.stamp_ns - s.stamp_ns <= MAX_GAP_NS
    )  # fmt: skip


def _has_geometry(view: _View) -> bool:
    frame = view.frame
    return view.pose is not None and frame.depth_m is not None and frame.to_depth_grid is None


def _geometry(view: _View) -> tuple[Map, Pixels]:
    assert view.frame.depth_m is not None, 'asked for before'
    assert view.pose is not None, 'asked for before'
    return view.frame.depth_m, view.pose


def _grid(shape: tuple[int, ...]) -> Pixels:
    """Every second pixel of every second row, (N, 2)."""
    x, y = np.meshgrid(np.arange(0, shape[1], _STRIDE_PX), np.arange(0, shape[0], _STRIDE_PX))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def _at(values: Map, pixels: Pixels) -> Pixels:
    """The nearest value of each pixel (N, 2), NaN outside the image."""
    nearest = np.rint(np.nan_to_num(pixels, nan=-1.0)).astype(np.intp)
    x, y = nearest.T
    inside = (x >= 0) & (x < values.shape[1]) & (y >= 0) & (y < values.shape[0])
    found = np.full(len(pixels), np.nan)
    found[inside] = values[y[inside], x[inside]]
    return found


def _follow(
    start: NDArray[np.uint8], goal: NDArray[np.uint8], pixels: Pixels
) -> tuple[Pixels, NDArray[np.bool_]]:
    """Follow pixels (N, 2) into another image by optical flow; false where they do not return."""
    shrink = min(1.0, _FLOW_WIDTH_PX / start.shape[1])
    first, second = (
        cv2.resize(
            cv2.cvtColor(one, cv2.COLOR_RGB2GRAY),
            None,
            fx=shrink,
            fy=shrink,
            interpolation=cv2.INTER_AREA,
        )
        for one in (start, goal)
    )
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    there = flow.calc(first, second, np.zeros((*first.shape, 2), np.float32))
    back = flow.calc(second, first, np.zeros((*first.shape, 2), np.float32))
    small = (pixels + 0.5) * shrink - 0.5
    moved = small + _vectors(there, small)
    lost = np.linalg.norm(moved + _vectors(back, moved) - small, axis=1)
    return (moved + 0.5) / shrink - 0.5, lost < _ROUND_TRIP_PX


def _vectors(flow: Map, pixels: Pixels) -> Pixels:
    return np.stack([_at(flow[..., axis], pixels) for axis in (0, 1)], axis=1)
