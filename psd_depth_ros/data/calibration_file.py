"""Calibration files -> `Camera`: camera.yaml in a simple form, and what calibrators write.

Values pass through `messages.camera_from_info` like those of a topic, so both have one set of
checks and one meaning. Formats are told by their keys: camera_calibration of ROS, a CameraInfo
dumped by `ros2 topic echo`, OpenCV's FileStorage, a camchain of Kalibr or a sensor.yaml of EuRoC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.synchronizer import fixed_transforms, GROUND_FRAMES, TF_TYPE
from psd_depth_ros.errors import CalibrationError, MessageError, TransformError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import from_quaternion, make_pose
from psd_depth_ros.messages import camera_from_info
from psd_depth_ros.parsing import (
    is_file,
    parse_yaml,
    ParseError,
    read_text,
    shorten,
    user_path,
    YAML_BYTES,
)

Array = NDArray[np.float64]

ASSUMED_FOV_DEG = 60.0  # horizontally, of a camera of which nothing is known
_ENOUGH = 400

_SIMPLE = ('fx', 'fy', 'cx', 'cy', 'width', 'height')
# Facts about the recording that may stand beside the intrinsics.
_REMARKS = ('camera_height_m', 'channels', 'camera_name', 'pose')
_ROS = ('image_width', 'image_height', 'camera_matrix')

_FORMS = f'{" ".join(_SIMPLE)}, or the output of camera_calibration, OpenCV or Kalibr'

# Other spellings of the keys of camera_calibration, in lower case without underscores.
_SPELLINGS = {
    'image_width': ('imagewidth', 'width', 'w'),
    'image_height': ('imageheight', 'height', 'h'),
    'camera_matrix': ('cameramatrix', 'k', 'intrinsicmatrix', 'cameraintrinsics'),
    'distortion_coefficients': (
        'distortioncoefficients', 'distcoeffs', 'distortioncoeffs', 'd', 'dist', 'distcoefs',
    ),
    'distortion_model': ('distortionmodel',),
    'rectification_matrix': ('rectificationmatrix', 'r'),
    'projection_matrix': ('projectionmatrix', 'p'),
    'camera_model': ('cameramodel',),
    'fisheye_model': ('fisheyemodel',),
}  # fmt: skip


class Mounting:
    """The fixed transforms among the frames of a robot."""

    def __init__(self, reader: BagReader) -> None:
        self._buffer = fixed_transforms(_messages(reader))

    def transform(self, target: str, source: str) -> Array | None:
        """T_target_source of two frames, None where they are not fixed to each other."""
        try:
            return self._buffer.lookup(target, source, 0)
        except TransformError:
            return None

    def height_m(self, frame: str) -> float | None:
        """Height above base_footprint, which by convention (REP 120) is on the ground."""
        pose = self.transform(GROUND_FRAMES[0], frame)
        return None if pose is None else float(pose[2, 3])


def transform_topics(reader: BagReader) -> dict[str, bool]:
    """Topics of transforms of a bag, and whether they are of fixed ones."""
    return {
        name: name.endswith('tf_static')
        for name, info in reader.topics.items()
        if info.msgtype == TF_TYPE
    }


def _messages(reader: BagReader) -> Iterator[Any]:
    """The first messages on every topic of transforms."""
    for topic in transform_topics(reader):
        for item in itertools.islice(reader.messages([topic]), _ENOUGH):
            try:
                yield item.message
            except MessageError:
                continue


_MEANING = {spelling: key for key, all_ in _SPELLINGS.items() for spelling in all_}


def load_camera(
    path: str | Path, image_is_rectified: bool = False, rectify_alpha: float = -1.0
) -> Camera:
    """Read a calibration file; see `messages.camera_from_info` for what the others are.

    Simple form: `fx fy cx cy width height` in pixels, and if there is a lens `distortion_model`
    and `distortion` (a list of coefficients). Else what `camera_calibration` writes (image_width,
    image_height, camera_matrix, distortion_model, distortion_coefficients, rectification_matrix,
    projection_matrix), a CameraInfo (width, height, d, k, r, p, binning_x, binning_y, roi), a
    FileStorage of OpenCV with the keys of its samples, or Kalibr's camchain (camera_model pinhole;
    intrinsics, distortion_model, distortion_coeffs, resolution), where FILE#cam1 takes one of
    several cameras. Raises CalibrationError that names the file.
    """
    path, camera = _split(path)
    values = _choose(_load(path), path, camera)
    try:
        fields = _fields(values)
        return camera_from_info(SimpleNamespace(**fields), image_is_rectified, rectify_alpha)
    except CalibrationError as error:
        name = shorten(path)
        raise CalibrationError(f'{name}: {error}', uncalibrated=error.uncalibrated) from error


def load_camera_height(path: str | Path) -> float | None:
    """`camera_height_m` of a camera.yaml, None where it is missing. Raises CalibrationError."""
    path, _ = _split(path)
    values = _load(path)
    if 'camera_height_m' not in values:
        return None
    try:
        return _number(values, 'camera_height_m')
    except CalibrationError as error:
        raise CalibrationError(f'{path}: {error}') from error


def load_pose(path: str | Path) -> Array:
    """`pose` of a camera.yaml: x y z qx qy qz qw of the camera in the frame of another one.

    Returns T_other_camera (4, 4) in metres, the identity where it is missing. Raises
    CalibrationError.
    """
    path, _ = _split(path)
    numbers = _load(path).get('pose', [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
    try:
        if not isinstance(numbers, list) or len(numbers) != 7 or not all(map(_is_number, numbers)):
            raise ValueError(f'{numbers!r:.200}')
        return make_pose(from_quaternion(numbers[3:]), numbers[:3])
    except ValueError as error:
        raise CalibrationError(
            f'{path}: the pose cannot be used ({error}); expected x y z qx qy qz qw in metres'
        ) from error


def camera_from_fov(width: int, height: int, horizontal_fov_deg: float) -> Camera:
    """Make a pinhole camera with square pixels, centred, from its horizontal field of view."""
    if not 1 <= horizontal_fov_deg <= 170:
        raise CalibrationError(
            f'horizontal field of view is {horizontal_fov_deg:g} degrees, expected 1 to 170'
        )
    focal_px = width / 2 / math.tan(math.radians(horizontal_fov_deg) / 2)
    return Camera(width, height, focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)


def _split(path: str | Path) -> tuple[Path, str]:
    """FILE#cam1 -> the file and the camera in it, '' without a name."""
    whole = user_path(path)
    name, mark, camera = whole.name.rpartition('#')
    return (whole.with_name(name), camera) if name and mark and not is_file(whole) else (whole, '')


def _load(path: Path) -> Mapping[str, Any]:
    """The one document of a YAML file (or of JSON, which is YAML too)."""
    try:
        text = read_text(path, YAML_BYTES)
        values = parse_yaml(_plain_yaml(text))
    except ParseError as error:
        raise CalibrationError(f'calibration {shorten(path)} {error}') from error
    if not isinstance(values, Mapping):
        raise CalibrationError(f'calibration {shorten(path)} holds no settings, expected {_FORMS}')
    return values


def _plain_yaml(text: str) -> str:
    """YAML of a calibration; OpenCV's has another first line and a tag of its own for matrices.

    Raises ParseError for the other forms that calibrators write.
    """
    if text.lstrip().startswith('<?xml'):
        raise ParseError('is XML; let cv2.FileStorage write it to a .yaml, which is read here')
    if '[image]' in text and 'camera matrix' in text:
        raise ParseError(
            'is in the INI form of camera_calibration; take the ost.yaml that it writes beside it'
        )
    if text.startswith('%YAML:'):  # OpenCV 4 and before; OpenCV 5 writes `%YAML 1.2`
        text = text.partition('\n')[2]
    return text.replace('!!opencv-matrix', '')


def _choose(values: Mapping[str, Any], path: Path, camera: str) -> Mapping[str, Any]:
    """The part of a file of several cameras that was asked for; the whole file of one camera."""
    cameras = {
        str(key): value
        for key, value in values.items()
        if isinstance(value, Mapping) and 'intrinsics' in value
    }
    if not cameras:
        if camera:
            raise CalibrationError(f'{path} holds one camera; leave out #{camera}')
        return values
    if camera in cameras:
        return cameras[camera]
    if len(cameras) == 1 and not camera:
        return next(iter(cameras.values()))
    known = ', '.join(f'{key} ({one.get("rostopic", "no topic")})' for key, one in cameras.items())
    wanted = f'no {camera}' if camera else f'{len(cameras)} cameras'
    raise CalibrationError(
        f'{path} holds {wanted}: it has {known}; name one as {path.name}#{next(iter(cameras))}'
    )


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a CameraInfo from any of the forms."""
    if 'intrinsics' in values:
        return _kalibr_fields(values)
    known = {_MEANING.get(str(key).lower().replace('_', '')): key for key in values}
    if 'camera_matrix' in known:
        renamed = {
            _MEANING.get(str(key).lower().replace('_', ''), str(key)): value
            for key, value in values.items()
        }
        return _ros_fields(renamed)
    return _simple_fields(values)


def _kalibr_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """A camera of Kalibr's camchain, or of a sensor.yaml of EuRoC: a pinhole and its lens."""
    kind = str(values.get('camera_model', 'pinhole'))
    if not kind.lower().startswith('pinhole'):
        raise CalibrationError(
            f'camera_model {kind!r} of Kalibr is not supported; expected pinhole with '
            'distortion_model radtan, equidistant or none (kalibr --models pinhole-radtan or '
            'pinhole-equi)'
        )
    model = values.get('distortion_model') or kind.lower().removeprefix('pinhole').strip('-_')
    coefficients = _numbers(
        values, 'distortion_coeffs' if 'distortion_coeffs' in values else 'distortion_coefficients'
    )
    fx, fy, cx, cy = _numbers(values, 'intrinsics', 4)
    width, height = _numbers(values, 'resolution', 2)
    matrix = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    return _info(width, height, str(model), coefficients, matrix, np.zeros(9), np.zeros(12))


def _numbers(values: Mapping[str, Any], name: str, count: int = 0) -> list[float]:
    """Read a list; without a count it may be missing."""
    numbers = values.get(name, [] if not count else None)
    good = isinstance(numbers, list) and all(_is_number(one) for one in numbers)
    if not good or (count and len(numbers) != count):
        wanted = f'{count} numbers' if count else 'a list of numbers'
        raise CalibrationError(f'{name} is {numbers!r:.200}, expected {wanted}')
    return [float(one) for one in numbers]


def _is_number(value: Any) -> bool:
    """Whether a value of YAML is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


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
    if not isinstance(distortion, list):
        raise CalibrationError(f'distortion is {distortion!r:.200}, expected a list of numbers')
    if distortion and 'distortion_model' not in values:
        raise CalibrationError(
            'distortion has coefficients but distortion_model is missing; expected plumb_bob, '
            'rational_polynomial or equidistant'
        )
    return str(values.get('distortion_model', 'plumb_bob')), list(distortion)


def _ros_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    width, height = _number(values, 'image_width'), _number(values, 'image_height')
    coefficients = _matrix(values, 'distortion_coefficients', 0)
    fields = _info(
        width,
        height,
        _lens_model(values, coefficients),
        coefficients,
        _matrix(values, 'camera_matrix', 9),
        _matrix(values, 'rectification_matrix', 9),
        _matrix(values, 'projection_matrix', 12),
    )
    for name in ('binning_x', 'binning_y'):
        fields[name] = int(_number(values, name)) if name in values else 0
    roi = values.get('roi')
    if isinstance(roi, Mapping):
        for name in ('x_offset', 'y_offset', 'width', 'height'):
            setattr(fields['roi'], name, int(_number(roi, name)) if name in roi else 0)
    return fields


def _lens_model(values: Mapping[str, Any], coefficients: list[float]) -> str:
    """The name of the lens model; where a file has none, the one that the count tells.

    camera_calibration_parsers takes plumb_bob where no name is given; but four coefficients are
    as well those of OpenCV's fisheye, so they need one.
    """
    camera = str(values.get('camera_model', '')).strip()
    said = values.get('distortion_model')
    if said is None and values.get('fisheye_model'):
        return 'equidistant'
    if said is not None and said != '':
        is_fisheye = camera.lower() in ('fisheye', 'equidistant', 'kannala_brandt')
        if is_fisheye and str(said).lower() in ('plumb_bob', 'radtan', 'rational_polynomial'):
            raise CalibrationError(
                f'camera_model is {camera!r} but distortion_model is {said!r}; keep the one that '
                'the coefficients are of'
            )
        return str(said)
    if camera and camera.lower() not in ('pinhole', 'perspective'):
        return camera
    if not any(coefficients):
        return ''
    if len(coefficients) == 4:
        raise CalibrationError(
            'distortion_model is missing, and four coefficients are of two models; add '
            'distortion_model: plumb_bob, or equidistant for those of cv2.fisheye'
        )
    return 'plumb_bob' if len(coefficients) == 5 else 'rational_polynomial'


def _info(
    width: float, height: float, model: str, d: Any, k: Any, r: Any, p: Any
) -> dict[str, Any]:
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    if not (math.isfinite(width) and math.isfinite(height)):
        raise CalibrationError(f'width and height are {width} and {height}, expected pixels')
    return {
        'width': round(width),
        'height': round(height),
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
            f'{name} is {value!r:.200}, expected a number; needed are {", ".join(_SIMPLE)}, or '
            f'{", ".join(_ROS)} as camera_calibration writes them'
        )
    return value


def _matrix(values: Mapping[str, Any], name: str, count: int) -> list[float]:
    """Read a matrix as a flat list: `data` of one, a list, or a list of rows.

    One that is left out is all zero, which means not given.
    """
    matrix = values.get(name, [0.0] * count)
    data = matrix.get('data') if isinstance(matrix, Mapping) else matrix
    if isinstance(data, list) and data and all(isinstance(row, list) for row in data):
        data = [value for row in data for value in row]
    if not isinstance(data, list) or not all(_is_number(value) for value in data):
        raise CalibrationError(
            f'{name} is {matrix!r:.200}, expected rows, cols and a list as data'
        )
    return data
