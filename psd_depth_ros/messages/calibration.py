"""CameraInfo messages -> `Camera`, and back.

Fields are read in the spelling of ROS 2 (`k d r p`) or of ROS 1 (`K D R P`). Lens formulas are in
`geometry.distortion`; the pinhole bookkeeping of crops and resizes is in `geometry.camera`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.geometry.camera import Intrinsics, Matrix3

Array = npt.NDArray[np.float64]

_ALIASES = {'fisheye': 'equidistant', 'rational': 'rational_polynomial'}
_NO_MODEL = ('', 'none')


def camera_from_info(message: Any, image_is_rectified: bool = False) -> Camera:
    """sensor_msgs/CameraInfo -> the camera of the image that comes with it.

    K, D, R and P are of the full sensor; the region of interest and then the binning are applied
    to them, pixel centres moving by c' = (c + 1/2) / binning - 1/2. R and P all zero mean that
    there is no rectified view other than K's. With `image_is_rectified` the image already is that
    view (an `image_rect` topic, whose CameraInfo still describes the raw lens), so P is the whole
    camera. Raises CalibrationError, with `uncalibrated` set where K[0] is 0.
    """
    K = _field(message, 'k', 9).reshape(3, 3)
    camera = Camera.from_K(K, int(message.width), int(message.height), _distortion(message))
    view = _projection(message)
    if view == (camera.fx, camera.fy, camera.cx, camera.cy):
        view = None
    camera = replace(camera, rectification=_rectification(message), rectified_intrinsics=view)
    camera = _binned(_region(camera, message), message)
    return camera.rectified() if image_is_rectified else camera


def check_sizes(camera: Camera, width: int, height: int) -> None:
    """Raise CalibrationError where an image is not of its CameraInfo's size."""
    if (camera.width, camera.height) != (width, height):
        raise CalibrationError(
            f'CameraInfo is for {camera.width}x{camera.height} (binning and ROI applied) but the '
            f'image is {width}x{height}; publish the CameraInfo of this resolution'
        )


def camera_info_fields(camera: Camera) -> dict[str, Any]:
    """Fields of a sensor_msgs/CameraInfo without its header.

    A rectified camera gets D = 0, R = I and K = P[:3, :3], so readers of K and readers of P agree.
    """
    view = camera.rectified()
    rotation = np.eye(3) if camera.rectification is None else np.array(camera.rectification)
    lens = camera.distortion or Distortion('plumb_bob', (0.0,) * 5)
    return {
        'height': camera.height,
        'width': camera.width,
        'distortion_model': lens.model,
        'd': np.array(lens.coefficients, dtype=np.float64),
        'k': camera.K.reshape(-1),
        'r': rotation.astype(np.float64).reshape(-1),
        'p': np.hstack([view.K, np.zeros((3, 1))]).reshape(-1),
        'binning_x': 0,
        'binning_y': 0,
        'roi': {'x_offset': 0, 'y_offset': 0, 'height': 0, 'width': 0, 'do_rectify': False},
    }


def _field(message: Any, name: str, count: int) -> Array:
    """Read a matrix under its ROS 2 or ROS 1 name; 0 values accept any count."""
    values = getattr(message, name, None)
    if values is None:
        values = getattr(message, name.upper())
    array = np.asarray(values, dtype=np.float64).reshape(-1)
    if count and array.size != count:
        raise CalibrationError(
            f'CameraInfo {name.upper()} has {array.size} values, expected {count}'
        )
    if not np.all(np.isfinite(array)):
        raise CalibrationError(
            f'CameraInfo {name.upper()} holds a value that is not finite: {array.tolist()}; '
            'calibrate the camera again'
        )
    return array


def _distortion(message: Any) -> Distortion | None:
    coefficients = _field(message, 'd', 0)
    model = str(message.distortion_model)
    if model in _NO_MODEL and not coefficients.any():
        return None
    model = _ALIASES.get(model, model)
    if model in ('plumb_bob', 'rational_polynomial') and coefficients.size == 0:
        return None
    return Distortion(model, tuple(coefficients.tolist()))


def _rectification(message: Any) -> Matrix3 | None:
    rotation = _field(message, 'r', 9).reshape(3, 3)
    if not rotation.any() or np.array_equal(rotation, np.eye(3)):
        return None
    return tuple((row[0], row[1], row[2]) for row in rotation.tolist())


def _projection(message: Any) -> Intrinsics | None:
    """`fx fy cx cy` of P. Its fourth column, a stereo baseline, does not move this camera."""
    P = _field(message, 'p', 12).reshape(3, 4)
    if not P.any():
        return None
    return float(P[0, 0]), float(P[1, 1]), float(P[0, 2]), float(P[1, 2])


def _region(camera: Camera, message: Any) -> Camera:
    """Cut out the region of interest; a size of 0 means the whole sensor."""
    roi = message.roi
    x, y = int(roi.x_offset), int(roi.y_offset)
    width, height = int(roi.width) or camera.width, int(roi.height) or camera.height
    if x + width > camera.width or y + height > camera.height:
        raise CalibrationError(
            f'CameraInfo has a region of interest of {width}x{height} at ({x}, {y}), outside its '
            f'full size of {camera.width}x{camera.height}'
        )
    return camera.crop(x, y, width, height)


def _binned(camera: Camera, message: Any) -> Camera:
    """Shrink by the binning; 0 and 1 both mean none."""
    across, down = int(message.binning_x) or 1, int(message.binning_y) or 1
    if across > camera.width or down > camera.height:
        raise CalibrationError(
            f'CameraInfo has binning {across}x{down} for {camera.width}x{camera.height} pixels'
        )
    # A sensor drops the odd row or column that does not fill a bin; the scale stays 1 / binning.
    width, height = camera.width // across, camera.height // down
    whole = camera.crop(0, 0, width * across, height * down)
    return whole.resize(width, height)
