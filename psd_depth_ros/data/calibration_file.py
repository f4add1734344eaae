"""camera.yaml files -> `Camera`, in the simple form or that of camera_calibration.

Values pass through `messages.camera_from_info` like those of a topic, so both have one set of
checks and one meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_from_info
from psd_depth_ros.parsing import ParseError, read_yaml, shorten, user_path

_SIMPLE = ('fx', 'fy', 'cx', 'cy', 'width', 'height')
# Facts about the recording that may stand beside the intrinsics.
_REMARKS = ('camera_height_m', 'channels', 'camera_name')
_ROS = ('image_width', 'image_height', 'camera_matrix')


def load_camera(path: str | Path, image_is_rectified: bool = False) -> Camera:
    """Read a camera.yaml; see `messages.camera_from_info` for `image_is_rectified`.

    Simple form: `fx fy cx cy width height` in pixels, and if there is a lens `distortion_model`
    and `distortion` (a list of coefficients). Otherwise what `camera_calibration` writes:
    image_width, image_height, camera_matrix, distortion_model, distortion_coefficients,
    rectification_matrix, projection_matrix. Raises CalibrationError that names the file.
    """
    path = user_path(path)
    values = _load(path)
    try:
        fields = _ros_fields(values) if 'camera_matrix' in values else _simple_fields(values)
        return camera_from_info(SimpleNamespace(**fields), image_is_rectified)
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}', uncalibrated=error.uncalibrated) from error


def load_camera_height(path: str | Path) -> float | None:
    """Read `camera_height_m` of a camera.yaml, None where it has none. Raises CalibrationError."""
    path = user_path(path)
    values = _load(path)
    if 'camera_height_m' not in values:
        return None
    try:
        return _number(values, 'camera_height_m')
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from error


def camera_from_fov(width: int, height: int, horizontal_fov_deg: float) -> Camera:
    """Make a pinhole camera with square pixels, centred, from its horizontal field of view."""
    if not 1 <= horizontal_fov_deg <= 170:
        raise CalibrationError(
            f'horizontal field of view is {horizontal_fov_deg:g} degrees, expected 1 to 170'
        )
    focal_px = width / 2 / math.tan(math.radians(horizontal_fov_deg) / 2)
    return Camera(width, height, focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        values = read_yaml(path)
    except ParseError as error:
        raise CalibrationError(f'calibration {shorten(path)} {error}') from error
    if not isinstance(values, Mapping):
        raise CalibrationError(
            f'calibration {path} holds no settings, expected {" ".join(_SIMPLE)} or the output '
            'of camera_calibration'
        )
    return values


def _simple_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    known = (*_SIMPLE, 'distortion', 'distortion_model', *_REMARKS)
    unknown = sorted(str(key) for key in values if key not in known)
    if unknown:
        raise CalibrationError(
            f'{", ".join(unknown)} is not known; expected {", ".join(known)}, or the output of '
            'camera_calibration'
        )
    fx, fy, cx, cy, width, height = (_number(values, name) for name in _SIMPLE)
    model, coefficients = _simple_lens(values)
    matrix = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    return _info(width, height, model, coefficients, matrix, np.zeros(9), np.zeros(12))


def _simple_lens(values: Mapping[str, Any]) -> tuple[str, list[float]]:
    """Take `distortion` as coefficients, or as a remark that starts with `none`."""
    distortion = values.get('distortion', [])
    if isinstance(distortion, str):
        if not distortion.startswith('none'):
            raise CalibrationError(
                f'distortion is {distortion!r}, expected none or a list of coefficients with '
                'distortion_model'
            )
        distortion = []
    if distortion and 'distortion_model' not in values:
        raise CalibrationError(
            'distortion has coefficients but distortion_model is missing; expected plumb_bob, '
            'rational_polynomial or equidistant'
        )
    return str(values.get('distortion_model', 'plumb_bob')), list(distortion)


def _ros_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    width, height = _number(values, 'image_width'), _number(values, 'image_height')
    return _info(
        width,
        height,
        str(values.get('distortion_model', '')),
        _matrix(values, 'distortion_coefficients', 0),
        _matrix(values, 'camera_matrix', 9),
        _matrix(values, 'rectification_matrix', 9),
        _matrix(values, 'projection_matrix', 12),
    )


def _info(
    width: float, height: float, model: str, d: Any, k: Any, r: Any, p: Any
) -> dict[str, Any]:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    return {
        'width': int(width),
        'height': int(height),
        'distortion_model': model,
        'd': d,
        'k': k,
        'r': r,
        'p': p,
        'binning_x': 0,
        'binning_y': 0,
        'roi': roi,
    }


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CalibrationError(
            f'{name} is {value!r}, expected a number; needed are {", ".join(_SIMPLE)}, or '
            f'{", ".join(_ROS)} as camera_calibration writes them'
        )
    return value


def _matrix(values: Mapping[str, Any], name: str, count: int) -> list[float]:
    """Read `data` of a matrix; one that is left out is all zero, which means not given."""
    matrix = values.get(name, {'data': [0.0] * count})
    data = matrix.get('data') if isinstance(matrix, Mapping) else matrix
    if not isinstance(data, list) or not all(isinstance(x, (int, float)) for x in data):
        raise CalibrationError(f'{name} is {matrix!r}, expected rows, cols and a list as data')
    return data
