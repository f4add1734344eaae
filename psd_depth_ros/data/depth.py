"""Exact depth that comes with images: reading files, registering, rectifying, projecting."""

from __future__ import annotations

from dataclasses import dataclass
import math
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.calibration_file import load_camera, load_pose
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import transform
from psd_depth_ros.parsing import ParseError, read_array

Map = NDArray[np.float32]


@dataclass(frozen=True)
class DepthCamera:
    """The camera of a depth that is not registered to the images; `T_colour_depth` (4, 4)."""

    camera: Camera
    T_colour_depth: NDArray[np.float64]


def load_depth_camera(path: Path) -> DepthCamera:
    """Read a calibration with the `pose` in the colour camera's frame. Raises CalibrationError."""
    return DepthCamera(load_camera(path), load_pose(path))


def read_depth(path: Path, units_per_metre: float) -> Map:
    """Read a depth file as (H, W) float32 metres, NaN where unknown.

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


def check_depth(name: str, depth: Map, rgb: NDArray[np.uint8]) -> Map:
    """Pass a depth (H, W) of the size of its image (H, W, 3); else raise EvaluationError."""
    if depth.shape != rgb.shape[:2]:
        raise EvaluationError(
            f'the ground truth {name} is {depth.shape[1]}x{depth.shape[0]}, but its image is '
            f'{rgb.shape[1]}x{rgb.shape[0]}; expected a depth for every pixel of the image, '
            'registered to it, or the calibration of the depth camera (depth_camera.yaml of an '
            'RGB-D folder)'
        )
    return depth


def check_depth_camera(name: str, depth: Map, depth_camera: DepthCamera) -> Map:
    """Pass a depth of the size of its camera; else raise EvaluationError."""
    camera = depth_camera.camera
    if depth.shape != camera.size:
        raise EvaluationError(
            f'the ground truth {name} is {depth.shape[1]}x{depth.shape[0]}, but the calibration '
            f'of the depth camera is for {camera.width}x{camera.height}'
        )
    return depth


def rectify_depth(depth: Map, camera: Camera) -> Map:
    """Bring a depth (H, W) of the raw image into the rectified view (H, W).

    The nearest pixel is taken, so that no depth is mixed over an edge; NaN where the raw image
    does not see the view. Z stays along the raw axis, which differs from the rectified one by the
    rotation R alone.
    """
    if camera.is_rectified:
        return depth
    rays = np.concatenate([camera.rays(), np.ones((*camera.size, 1))], axis=-1).reshape(-1, 3)
    if camera.rectification is not None:
        rays = rays @ np.asarray(camera.rectification)
    with np.errstate(invalid='ignore'):
        pixels = camera.project(rays).reshape(*camera.size, 2).astype(np.float32)
    return cv2.remap(
        depth,
        np.nan_to_num(pixels, nan=-1e6),
        None,
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float('nan'),
    )


def register_depth(depth: Map, depth_camera: DepthCamera, camera: Camera) -> Map:
    """Bring a depth (h, w) of another camera into the raw image (H, W) of `camera`.

    Each of its pixels is a point that is projected; the nearest point of a pixel counts, and what
    the depth camera does not see is NaN. Where the image is finer, pixels of depth are divided, so
    that there are no gaps between them.
    """
    source = depth_camera.camera
    parts = max(1, math.ceil(camera.fx / source.fx), math.ceil(camera.fy / source.fy))
    fine = depth.repeat(parts, axis=0).repeat(parts, axis=1)
    row, column = np.nonzero(fine > 0)
    pixels = np.stack([column, row], axis=1)
    view = source.resize(parts * source.width, parts * source.height)
    points = view.backproject(pixels, fine[row, column])
    return project_depth(transform(depth_camera.T_colour_depth, points), camera)


def project_depth(points: NDArray, camera: Camera) -> Map:
    """Z (H, W) of the nearest of the points (N, 3) in each pixel, NaN without one."""
    pixels = camera.project(points)
    seen = np.isfinite(pixels).all(axis=1)
    column, row = np.rint(pixels[seen]).astype(np.int64).T
    return nearest_depth(column, row, np.asarray(points, dtype=np.float64)[seen, 2], camera)


def nearest_depth(
    column: NDArray[np.int64], row: NDArray[np.int64], depth: NDArray[np.float64], camera: Camera
) -> Map:
    """The least depth (H, W) of points (N,) in each pixel of an image, NaN without one."""
    inside = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height)
    found = np.full(camera.size, np.inf)
    np.minimum.at(found, (row[inside], column[inside]), depth[inside])
    return np.where(np.isinf(found), np.nan, found).astype(np.float32)
