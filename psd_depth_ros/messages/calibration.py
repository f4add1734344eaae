"""CameraInfo messages to `Camera`, and back.

Fields are read in the spelling of ROS 2 (`k d r p`) or ROS 1 (`K D R P`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.geometry.camera import Intrinsics, Matrix3
from psd_depth_ros.geometry.distortion import COUNTS
from psd_depth_ros.geometry.view import seen_fraction, with_view

Array = npt.NDArray[np.float64]

# Names of the lens models in drivers, calibrators and simulators, lower case with underscores.
_MODELS = {
    'plumb_bob': (
        'plumb_bob', 'plumbbob', 'radtan', 'radial_tangential', 'radialtangential',
        'pinhole_radtan', 'brown', 'brown_conrady', 'opencv',
    ),
    'rational_polynomial': (
        'rational_polynomial', 'rational', 'rational_polynomial_thin_prism', 'thin_prism',
        'full_opencv', 'radtan8', 'tilted',
    ),
    'equidistant': (
        'equidistant', 'equi', 'equidist', 'pinhole_equi', 'pinhole_equidistant', 'fisheye',
        'opencv_fisheye', 'kannala_brandt', 'kannala_brandt4', 'kannala_brandt8',
        'kannalabrandt', 'kannalabrandt4', 'kannalabrandt8', 'kb4', 'kb8',
    ),
}  # fmt: skip
_ALIASES = {alias: model for model, aliases in _MODELS.items() for alias in aliases}
_NO_MODEL = (
    '', 'none', 'no', 'null', 'pinhole', 'perspective', 'ideal', 'linear', 'rectified',
    'undistorted', 'no_distortion', 'identity',
)  # fmt: skip

# Plausible focal lengths over the longer side: views of 175 to 0.1 degrees.
_MIN_FOCAL, _MAX_FOCAL = 0.02, 500.0
_MAX_ASPECT = 8.0
# Relative difference below which P is K, and R the identity, except for rounding.
_SAME = 1e-6


def camera_from_info(
    message: Any, image_is_rectified: bool = False, rectify_alpha: float = -1.0
) -> Camera:
    """Camera of the image that comes with a sensor_msgs/CameraInfo.

    K, D, R and P refer to the full sensor; the region of interest and then the binning are applied
    to them, c' = (c + 1/2) / binning - 1/2 for pixel centres. An all-zero R is the identity; where
    P[0] is 0 the rectified view is that of K.

    Args:
        message: The CameraInfo, of a bag or live.
        image_is_rectified: The image is the rectified view already (an `image_rect` topic, whose
            CameraInfo still describes the raw lens): the camera is P, or K where there is no P.
        rectify_alpha: 0 to 1 chooses the view instead of P (`geometry.view.with_view`); negative
            values take P.

    Raises CalibrationError, with `uncalibrated` set where K[0], or the only P, is 0.
    """
    if image_is_rectified:
        return _rectified_camera(message)
    camera = _raw_camera(message)
    if rectify_alpha < 0:
        view = _projection(message)
        if view is not None and not np.allclose(view, _view_of(camera), rtol=_SAME, atol=0):
            camera = replace(camera, rectified_intrinsics=view)
    camera = _binned(_region(camera, message), message)
    if rectify_alpha >= 0:
        camera = with_view(camera, rectify_alpha)
    if seen_fraction(camera) == 0.0:
        raise CalibrationError(
            'the camera sees nothing of the rectified view that R and P of the CameraInfo '
            'describe, so they do not belong to K and D; calibrate again, or choose a view with '
            'rectify_alpha'
        )
    return camera


def check_sizes(camera: Camera, width: int, height: int) -> None:
    """Raise CalibrationError where the size of an image is not that of its CameraInfo."""
    if (camera.width, camera.height) == (width, height):
        return
    text = f'CameraInfo is for {camera.width}x{camera.height}'
    found = f'(binning and ROI applied) but the image is {width}x{height}'
    raise CalibrationError(f'{text} {found}; {_size_advice(camera, width, height)}')


def _size_advice(camera: Camera, width: int, height: int) -> str:
    """Advice for an image of another size than its calibration."""
    if (camera.width, camera.height) == (height, width):
        return (
            'they are turned by 90 degrees against each other: switch off the rotation of camera '
            'or video player (ffmpeg -noautorotate), or calibrate with images as they are now'
        )
    same_shape = abs(camera.width * height - camera.height * width) <= max(width, height)
    if same_shape and (width, height) != (0, 0):
        factor = width / camera.width
        return (
            'publish the CameraInfo of this resolution: where the driver scales and does not '
            f'crop, fx fy cx cy are about {factor:.4g} times those (and binning says so only '
            'where width and height are of the full sensor)'
        )
    return (
        'publish the CameraInfo of this resolution; a part of the sensor needs its region of '
        'interest in roi'
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


def _raw_camera(message: Any) -> Camera:
    """Camera of the full sensor from K, D and R."""
    K = _field(message, 'k', 9).reshape(3, 3)
    width, height = int(message.width), int(message.height)
    if K[0, 0] == 0:
        raise CalibrationError(
            'K[0] is 0, which marks an uncalibrated camera; calibrate it (camera_calibration) '
            f'and publish its CameraInfo{_hint_of_P(message)}',
            uncalibrated=True,
        )
    _check_size(width, height)
    try:
        _check_focal('K', (K[0, 0], K[1, 1]), (width, height))
    except CalibrationError as error:
        raise CalibrationError(f'{error}{_hint_of_P(message)}') from error
    camera = Camera.from_K(K, width, height, _distortion(message))
    return replace(camera, rectification=_rectification(message))


def _hint_of_P(message: Any) -> str:
    """Advice where K is unusable but P is plausible."""
    P = _field(message, 'p', 12)
    try:
        _check_focal('P', (P[0], P[5]), (int(message.width), int(message.height)))
    except CalibrationError:
        return ''
    return (
        f'; but P has a focal length of {P[0]:g} px: if the images are rectified (image_rect), '
        'set image_is_rectified (--rectified)'
    )


def _rectified_camera(message: Any) -> Camera:
    """Camera of an image that is rectified already; D and R have been applied."""
    P = _field(message, 'p', 12).reshape(3, 4)
    name, matrix = ('P', P[:, :3]) if P[0, 0] else ('K', _field(message, 'k', 9).reshape(3, 3))
    if matrix[0, 0] == 0:
        raise CalibrationError(
            'K[0] and P[0] are 0, which marks an uncalibrated camera; calibrate it '
            '(camera_calibration) and publish its CameraInfo',
            uncalibrated=True,
        )
    width, height = int(message.width), int(message.height)
    _check_size(width, height)
    _check_focal(name, (matrix[0, 0], matrix[1, 1]), (width, height))
    camera = Camera.from_K(matrix / (matrix[2, 2] or 1.0), width, height)
    return _binned(_region(camera, message), message)


def _check_size(width: int, height: int) -> None:
    if width == 0 and height == 0:
        raise CalibrationError(
            'CameraInfo has width 0 and height 0, so nobody knows which size its K is of; let the '
            'driver fill in the size of the images it was calibrated with'
        )


def _check_focal(name: str, focal: tuple[float, float], size: tuple[int, int]) -> None:
    """Raise CalibrationError for implausible focal lengths: identity, millimetres, other units."""
    fx, fy = focal
    side = max(size)
    text = f'{name} of the CameraInfo has focal lengths fx {fx:g}, fy {fy:g} px'
    if fx <= 0 or fy <= 0:
        raise CalibrationError(f'{text}, expected positive pixels')
    if not (_MIN_FOCAL * side < min(focal) and max(focal) < _MAX_FOCAL * side):
        raise CalibrationError(
            f'{text} for images of {size[0]}x{size[1]}, which no lens has: expected pixels, '
            f'{_MIN_FOCAL * side:.0f} to {_MAX_FOCAL * side:.0f} (not millimetres, not an '
            'identity matrix); calibrate the camera'
        )
    if not 1 / _MAX_ASPECT < fx / fy < _MAX_ASPECT:
        raise CalibrationError(f'{text}, expected about the same; calibrate the camera again')


def _view_of(camera: Camera) -> Intrinsics:
    return camera.fx, camera.fy, camera.cx, camera.cy


def _field(message: Any, name: str, count: int) -> Array:
    """Read a matrix by its ROS 2 or ROS 1 name; `values` 0 accepts any number."""
    values = getattr(message, name, None)
    if values is None:
        values = getattr(message, name.upper())
    try:
        array = np.asarray(values, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise CalibrationError(
            f'CameraInfo {name.upper()} holds something that is no number: {values!r:.200}'
        ) from error
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
    said = str(message.distortion_model)
    name = said.strip().lower().replace('-', '_').replace(' ', '_')
    if name in _NO_MODEL:
        if coefficients.any():
            raise CalibrationError(
                f'distortion model {said!r} has no coefficients, but D is '
                f'{coefficients.tolist()}; name the model that they are of: plumb_bob, '
                'rational_polynomial or equidistant'
            )
        return None
    model = _ALIASES.get(name, said)
    if model in ('plumb_bob', 'rational_polynomial') and not coefficients.any():
        return None
    return Distortion(model, tuple(_without_padding(model, coefficients.tolist())))


def _without_padding(model: str, coefficients: list[float]) -> list[float]:
    """Remove the zeros with which drivers pad D to a fixed length."""
    counts = COUNTS.get(model, ())
    if len(coefficients) in counts:
        return coefficients
    shorter = [count for count in counts if not any(coefficients[count:])]
    fitting = [count for count in shorter if count < len(coefficients)]
    return coefficients[: max(fitting)] if fitting else coefficients


def _rectification(message: Any) -> Matrix3 | None:
    rotation = _field(message, 'r', 9).reshape(3, 3)
    if not rotation.any() or np.allclose(rotation, np.eye(3), rtol=0, atol=_SAME):
        return None
    return tuple((row[0], row[1], row[2]) for row in rotation.tolist())


def _projection(message: Any) -> Intrinsics | None:
    """`fx fy cx cy` of P; None where P[0] is 0, whatever else simulators fill in.

    Its fourth column, a stereo baseline, does not move this camera; a skew is left out of the
    view, which is ours to make.
    """
    P = _field(message, 'p', 12).reshape(3, 4)
    if P[0, 0] == 0:
        return None
    size = int(message.width), int(message.height)
    try:
        _check_focal('P', (P[0, 0], P[1, 1]), size)
    except CalibrationError as error:
        raise CalibrationError(
            f'{error}; leave P all zero to keep the view of K, or choose a view with '
            'rectify_alpha, which does not need P'
        ) from error
    return float(P[0, 0]), float(P[1, 1]), float(P[0, 2]), float(P[1, 2])


def _region(camera: Camera, message: Any) -> Camera:
    """Crop to the region of interest; a size of 0 is the whole sensor."""
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
    """Resize by the binning; 0 and 1 both mean none."""
    across, down = int(message.binning_x) or 1, int(message.binning_y) or 1
    if across > camera.width or down > camera.height:
        raise CalibrationError(
            f'CameraInfo has binning {across}x{down} for {camera.width}x{camera.height} pixels'
        )
    # A sensor drops the odd row or column that does not fill a bin; the scale stays 1 / binning.
    width, height = camera.width // across, camera.height // down
    whole = camera.crop(0, 0, width * across, height * down)
    return whole.resize(width, height)
