"""Frames of one camera on their way to disk: rectified, resized, measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.array_file import ArrayFile
from psd_depth_ros.data.motion import (
    find_corners,
    GREY_WIDTH,
    measure_saturation,
    measure_sharpness,
    shrink_grey,
    track,
)
from psd_depth_ros.data.sources import FrameSource, TimedFrame
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import invert, make_pose, transform
from psd_depth_ros.preprocess import network_size, Rectifier

Array = NDArray[np.float64]

_MOST_POINTS = 4096
_NEAREST_M = 0.1


@dataclass(frozen=True)
class Layout:
    """How frames are kept: at `fine_factor` times the network's size for `pixel_budget`.

    Without `keep_pixels` only what was measured is.
    """

    pixel_budget: int
    fine_factor: int
    keep_pixels: bool = True

    def network_size(self, camera: Camera) -> tuple[int, int]:
        """Height and width of the network's input for frames of a camera."""
        return network_size(camera, self.pixel_budget)

    def bytes_of(self, camera: Camera) -> int:
        """Room that a frame takes on disk, about."""
        height, width = self.network_size(camera)
        pixels = height * width * self.fine_factor**2
        return round(3.2 * pixels) if self.keep_pixels else GREY_WIDTH**2


class FrameWriter:
    """Writes the frames of one camera into a folder that it makes."""

    def __init__(self, folder: Path, source: FrameSource, camera: Camera, layout: Layout) -> None:
        folder.mkdir()
        self._folder = folder
        self._rectifier = Rectifier(camera)
        height, width = layout.network_size(camera)
        self._network = (width, height)
        scale = layout.fine_factor
        self.camera = self._rectifier.camera.resize(scale * width, scale * height)
        self._focal = self.camera.fx / self.camera.width
        T_view_camera = _turn(camera)
        body, lidar = source.T_body_camera, source.T_camera_lidar
        self._T_known_view = (np.eye(4) if body is None else body) @ invert(T_view_camera)
        self._poses_are_of_camera = body is not None or source.poses_are_of_camera
        self._T_view_lidar = None if lidar is None else T_view_camera @ lidar
        self._rgb = ArrayFile(folder / 'rgb.npy') if layout.keep_pixels else None
        self._grey = ArrayFile(folder / 'grey.npy')
        self._depth: ArrayFile | None = None
        self._facts: list[tuple[int, int, float, float]] = []
        self._poses: list[Array] = []
        self._points: list[NDArray[np.float32]] = []
        self._shifts: list[tuple[float, float, float]] = []
        self._last: tuple[NDArray[np.uint8], NDArray[np.float32]] | None = None

    def add(self, frame: TimedFrame) -> None:
        """Rectify, resize, measure and write a frame. Raises OSError where the disk is full."""
        rgb = _resize(self._rectifier.rectify(frame.rgb), self.camera)
        grey = shrink_grey(rgb)
        if self._rgb is not None:
            self._rgb.append(rgb)
        self._grey.append(grey)
        if frame.depth_m is not None and self._rgb is not None:
            self._add_depth(frame.depth_m)
        self._points.append(self._project(frame.lidar))
        self._poses.append(self._pose(frame.pose))
        seen = cv2.resize(
            cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), self._network, interpolation=cv2.INTER_AREA
        )
        measures = (measure_sharpness(seen), measure_saturation(grey))
        self._facts.append((frame.index, frame.stamp_ns, *measures))
        if self._last is not None:
            shift = track(self._last[0], grey, self._last[1], self._focal)
            self._shifts.append((shift.flow, shift.parallax, shift.tracked))
        self._last = grey, find_corners(grey)

    def finish(self) -> None:
        """Write what was measured."""
        self.close()
        poses = np.array(self._poses)
        indices, stamps, sharpness, saturation = zip(*self._facts, strict=True)
        with_points = any(len(points) for points in self._points)
        np.savez(
            self._folder / 'facts.npz',
            seen=self._seen(),
            indices=np.array(indices, np.int64),
            stamps_ns=np.array(stamps, np.int64),
            sharpness=np.array(sharpness, np.float32),
            saturation=np.array(saturation, np.float32),
            neighbours=np.array(self._shifts, np.float32).reshape(-1, 3),
            poses=poses if np.isfinite(poses).any() else poses[:0],
            points=np.concatenate(self._points),
            point_counts=np.array([len(points) for points in self._points]) * with_points,
        )
        facts = {'camera': asdict(self.camera), 'poses_are_of_camera': self._poses_are_of_camera}
        (self._folder / 'facts.json').write_text(json.dumps(facts))

    def close(self) -> None:
        """Close the files."""
        for file in (self._rgb, self._grey, self._depth):
            if file is not None:
                file.close()

    def _add_depth(self, depth_m: NDArray[np.float32]) -> None:
        if self._depth is None:
            self._depth = ArrayFile(self._folder / 'depth.npy')
        if depth_m.shape != self.camera.size:
            size = self.camera.size[::-1]
            depth_m = cv2.resize(depth_m, size, interpolation=cv2.INTER_NEAREST_EXACT)
        far = np.finfo(np.float16).max
        self._depth.append(np.where(depth_m > far, np.inf, depth_m).astype(np.float16))

    def _pose(self, pose: Array | None) -> Array:
        """T_world_view, or of the body where nobody knows where the camera is on it."""
        if pose is None:
            return np.full((4, 4), np.nan)
        return pose @ self._T_known_view if self._poses_are_of_camera else pose

    def _project(self, lidar: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Points (n, 3) seen in the picture: x, y in pixels, Z in metres."""
        if lidar is None or self._T_view_lidar is None:
            return np.zeros((0, 3), np.float32)
        points = transform(self._T_view_lidar, lidar)
        points = points[points[:, 2] > _NEAREST_M]
        pixels = self.camera.project(points)
        height, width = self.camera.size
        inside = np.all((pixels > -0.5) & (pixels < (width - 0.5, height - 0.5)), axis=1)
        found = np.concatenate([pixels, points[:, 2:]], axis=1)[inside].astype(np.float32)
        return found[:: max(1, -(-len(found) // _MOST_POINTS))]

    def _seen(self) -> NDArray[np.bool_]:
        mask = self._rectifier.mask
        if mask is None:
            return np.ones(self.camera.size, bool)
        return cv2.resize(mask.astype(np.float32), self.camera.size[::-1]) > 0.999


def _turn(camera: Camera) -> Array:
    """T_view_camera: from the optical frame of the raw image to that of the rectified one."""
    rotation = np.eye(3) if camera.rectification is None else np.array(camera.rectification)
    return make_pose(rotation, np.zeros(3))


def _resize(rgb: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
    height, width = camera.size
    if rgb.shape[:2] == (height, width):
        return rgb
    method = cv2.INTER_AREA if width < rgb.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(rgb, (width, height), interpolation=method)
