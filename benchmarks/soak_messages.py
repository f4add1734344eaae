"""Part `messages`: hostile messages through the functions of the depth node, in one process.

Image, CompressedImage and CameraInfo go through the callbacks of `CameraStream`, the network and
the publishers; Odometry and PointCloud2 through those of `ScaleInputs`, and an image asks for what
belongs to it. Every message begins valid; up to three changes make it hostile. One of ten stays
as it is and has to give the right result.
"""

from __future__ import annotations

import array
from collections.abc import Callable
import os
from pathlib import Path
import random
import struct
import tempfile
import time
from typing import Any

import cv2
from nav_msgs.msg import Odometry
import numpy as np
import rclpy
from rclpy.context import Context
from rclpy.logging import get_logger, LoggingSeverity
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from soak_cases import Cases, Check, run_cases, WrongError
from soak_files import write_tiny_checkpoint
from std_msgs.msg import Header
import torch

from psd_depth_ros.data.calibration_file import camera_from_fov
from psd_depth_ros.errors import CalibrationError, MessageError
from psd_depth_ros.geometry.camera import Camera
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.scale import Scale, ScaleSettings
from psd_depth_ros.messages import camera_info_fields, ENCODINGS, image_fields
from psd_depth_ros.ros.conversions import camera_info_message, image_message
from psd_depth_ros.ros.depth_node.camera import ArrivedFrame, CameraStream
from psd_depth_ros.ros.depth_node.scale import ScaleInputs
from psd_depth_ros.ros.depth_node.settings import DepthNodeSettings

COUNT = 20_000
KINDS = ('Image', 'CompressedImage', 'CameraInfo', 'Odometry', 'PointCloud2')
UINT32 = (0, 1, 2, 3, 47, 63, 64, 65, 4096, 16385, 65535, 2**31 - 1, 2**31, 2**32 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-308, 1e-30, 1e9, 1e30, 1.7e308, float('nan'), float('inf'),
          float('-inf'))  # fmt: skip
NAMES = (
    '', '/', '//a//', 'camera optical', 'kamera_äöü_光学', '\u202egnp', 'a' * 5000, '\x01\x7f\n',
    '../../etc', '{}', '%s%n', "'; --", '\U0001f916',
)  # fmt: skip
ENCODING_NAMES = (*ENCODINGS, '', 'RGB8', '8UC2', '32FC1', '64FC4', 'bayer_rggb12', 'h264')
SIZE = (64, 48)
MOST_PIXELS = 1 << 18  # of an image that goes through the network


def run_messages(count: int, seed: int, end_s: float) -> dict[str, Any]:
    """Send `count` messages, or those until the monotonic clock reads `end_s`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases: Cases = run_cases(lambda: make_check(Path(folder)), count, seed, end_s)
    return cases.summary()


def make_check(folder: Path) -> Check:
    """The check of one message."""
    weights = folder / 'tiny.safetensors'
    write_tiny_checkpoint(weights, 0)
    bench = Bench(weights)

    def check(number: int, draw: random.Random) -> str:
        kind = KINDS[number % len(KINDS)]
        is_valid = draw.random() < 0.1
        return f'{kind}: {getattr(bench, f"check_{kind.lower()}")(draw, is_valid)}'

    return check


class Bench:
    """The parts of a depth node that take messages, without a middleware between them."""

    def __init__(self, weights: Path) -> None:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'OFF'
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = Node('soak', context=self._context)
        get_logger('soak').set_level(LoggingSeverity.FATAL)
        settings = DepthNodeSettings()
        self._stream = CameraStream(self._node, '', settings, settings)
        self._packed = CameraStream(self._node, 'packed', settings, settings)
        self._engine = DepthEngine.from_checkpoint(weights, device='cpu', backend='torch')
        self._arrived: list[ArrivedFrame] = []
        for stream in (self._stream, self._packed):
            stream.open(self._hand_over, relative=False)
        self._inputs = {
            mode: ScaleInputs(self._node, ScaleSettings(mode=mode), 'auto')
            for mode in ('odometry', 'lidar')
        }
        self._calibrate(self._stream)
        self._calibrate(self._packed)
        self._pixels = np.random.default_rng(0).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)

    def check_image(self, draw: random.Random, is_valid: bool) -> str:
        """An Image, with the calibration of its size or of another."""
        if not is_valid:
            return self._pass(self._stream, break_image(draw, *SIZE), None)
        message = image_message(Header(), image_fields(self._pixels, 'rgb8'))
        return self._pass(self._stream, message, self._pixels)

    def check_compressedimage(self, draw: random.Random, is_valid: bool) -> str:
        """A CompressedImage: jpeg or png."""
        message = make_picture(draw, self._pixels, is_exact=is_valid)
        if not is_valid:
            break_picture(draw, message)
        return self._pass(self._packed, message, self._pixels if is_valid else None)

    def check_camerainfo(self, draw: random.Random, is_valid: bool) -> str:
        """A CameraInfo, then an image of its size; afterwards a good one again."""
        width, height = SIZE
        message = info_message(width, height)
        if not is_valid:
            for _ in range(draw.randint(1, 3)):
                break_info(draw, message)
        stream = self._stream
        try:
            stream._on_camera_info(message)
            calibration = stream.report().calibration
            if calibration.camera is None:
                raise CalibrationError(f'{calibration.state.value}: {calibration.reason}')
            width, height = calibration.camera.width, calibration.camera.height
            if width * height > MOST_PIXELS or not width * height:
                return 'taken'
            pixels = np.zeros((height, width, 3), np.uint8)
            image = image_message(Header(), image_fields(pixels, 'rgb8'))
            return self._pass(stream, image, pixels)
        finally:
            self._calibrate(stream)

    def check_odometry(self, draw: random.Random, is_valid: bool) -> str:
        """An Odometry, then a question for its pose."""
        message = Odometry()
        message.pose.pose.orientation.w = 1.0
        message.child_frame_id, message.header.frame_id = 'base_link', 'odom'
        message.header.stamp.sec = 100
        if not is_valid:
            for _ in range(draw.randint(1, 3)):
                break_odometry(draw, message)
        synchronizer = self._inputs['odometry'].synchronizer
        synchronizer.forget()
        now_ns, time_ns = time.monotonic_ns(), 100 * 10**9
        try:
            synchronizer.add_odometry(message, now_ns)
        except MessageError:
            self._inputs['odometry']._on_odometry(message)
            raise
        found = synchronizer.at(time_ns, message.header.frame_id, now_ns)
        if found.pose is None:
            if is_valid or not found.problem:
                raise WrongError(f'no pose, and the reason is {found.problem!r}')
            return 'no pose'
        rotation = found.pose[:3, :3]
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise WrongError(f'the pose has no rotation: {found.pose.tolist()}')
        if not np.isfinite(found.pose).all():
            raise WrongError(f'the pose is not finite: {found.pose.tolist()}')
        return 'right'

    def check_pointcloud2(self, draw: random.Random, is_valid: bool) -> str:
        """A PointCloud2, then a question for its points."""
        points = np.random.default_rng(draw.randrange(1000)).normal(0, 9, (50, 3)).astype('<f4')
        message = cloud_of(points)
        if not is_valid:
            for _ in range(draw.randint(1, 3)):
                break_cloud(draw, message)
        inputs = self._inputs['lidar']
        inputs.synchronizer.forget()
        now_ns = time.monotonic_ns()
        inputs.synchronizer.add_cloud(message, now_ns)
        found = inputs.synchronizer.at(100 * 10**9, 'camera', now_ns)
        if found.points is None:
            if is_valid or not found.problem:
                raise WrongError(f'no points, and the reason is {found.problem!r}')
            return 'refused'
        got = found.points
        if got.dtype != np.float32 or got.ndim != 2 or got.shape[1] != 3:
            raise WrongError(f'points are {got.dtype} of shape {got.shape}')
        if not np.isfinite(got).all():
            raise WrongError('points that are not finite')
        if is_valid and not np.array_equal(got, points):
            raise WrongError('points of a valid cloud are not those that were packed')
        return 'right'

    def _pass(self, stream: CameraStream, message: Any, wanted: Any) -> str:
        """An image through callback, network and publishers; `wanted` is its RGB where known."""
        before = stream.report().counters.dropped
        self._arrived.clear()
        stream._on_image(message)
        frame = ArrivedFrame(message, 0, time.monotonic_ns())
        ready = stream.prepare(frame)
        if ready is None:
            after = stream.report().counters.dropped
            reason = next(name for name in after if after[name] != before.get(name, 0))
            if wanted is not None or not stream.report().problem:
                raise WrongError(f'dropped ({reason}): {stream.report().problem!r}')
            return reason
        height, width = ready.rgb.shape[:2]
        if ready.rgb.dtype != np.uint8 or ready.rgb.shape[2:] != (3,):
            raise WrongError(f'pixels are {ready.rgb.dtype} of shape {ready.rgb.shape}')
        if (height, width) != ready.camera.size:
            raise WrongError(f'{width}x{height} pixels of a camera of {ready.camera.size}')
        if wanted is not None and not np.array_equal(ready.rgb, wanted):
            raise WrongError('pixels of a valid image are not those that were sent')
        if width * height > MOST_PIXELS:
            return 'decoded'
        self._engine.prepare([ready.camera])
        (depth,) = self._engine.infer_batch([(ready.rgb, ready.camera)], scales=[Scale(1.0, 0.0)])
        self._check_depth(depth, ready.camera)
        return 'right'

    def _check_depth(self, frame: Any, camera: Camera) -> None:
        """REP 117: a positive number, or no number; a cloud of finite points."""
        depth = frame.depth_m
        if depth.shape != (camera.height, camera.width):
            raise WrongError(f'depth is {depth.shape} of a camera of {camera.size}')
        if (depth[np.isfinite(depth)] <= 0).any():
            raise WrongError('depth that is not positive')
        settings = DepthNodeSettings()
        frame.cloud(settings.points).message_fields()
        camera_info_fields(frame.camera)

    def _calibrate(self, stream: CameraStream) -> None:
        stream._on_camera_info(info_message(*SIZE))

    def _hand_over(self, _stream: CameraStream, frame: ArrivedFrame) -> bool:
        self._arrived.append(frame)
        return False


def info_message(width: int, height: int) -> CameraInfo:
    """A CameraInfo of 70 degrees."""
    fields = camera_info_fields(camera_from_fov(width, height, 70.0))
    return camera_info_message(Header(frame_id='camera'), fields)


def cloud_of(points: Any) -> PointCloud2:
    """A cloud of (N, 3) float32."""
    message = PointCloud2(height=1, width=len(points), point_step=12, row_step=12 * len(points))
    message.header.stamp.sec = 100
    message.header.frame_id = 'lidar'
    message.fields = [
        PointField(name=name, offset=4 * place, datatype=PointField.FLOAT32, count=1)
        for place, name in enumerate('xyz')
    ]
    message.data = array.array('B', points.tobytes())
    return message


def break_image(draw: random.Random, width: int, height: int) -> Image:
    """A hostile Image."""
    encoding = draw.choice(ENCODINGS)
    step = draw.choice((1, 2, 3, 4, 6, 8)) * width
    message = Image(width=width, height=height, encoding=encoding, step=step)
    message.data = array.array('B', draw.randbytes(step * height * draw.choice((1, 1, 2, 3)) // 1))
    for _ in range(draw.randint(0, 3)):
        draw.choice(_IMAGE)(draw, message)
    return message


def _cut(draw: random.Random, message: Any) -> None:
    message.data = message.data[: draw.randrange(len(message.data) + 1)]


def _rename(draw: random.Random, message: Any) -> None:
    message.header.frame_id = draw.choice(NAMES)


def _restamp(draw: random.Random, message: Any) -> None:
    message.header.stamp.sec = draw.choice((-(2**31), -1, 0, 100, 2**31 - 1))
    message.header.stamp.nanosec = draw.choice((0, 999_999_999, 2**32 - 1))


def _setter(name: str, values: Any) -> Callable[[random.Random, Any], None]:
    def change(draw: random.Random, message: Any) -> None:
        setattr(message, name, draw.choice(values))

    return change


_IMAGE: tuple[Callable[[random.Random, Any], None], ...] = (
    _setter('width', UINT32), _setter('height', UINT32), _setter('step', UINT32),
    _setter('encoding', (*ENCODING_NAMES, *NAMES)), _setter('is_bigendian', (0, 1, 2, 255)),
    _cut, _rename, _restamp,
)  # fmt: skip


def make_picture(draw: random.Random, pixels: Any, is_exact: bool) -> CompressedImage:
    """A jpeg or png of the pixels; exact is png."""
    kind, flags = draw.choice(
        [('png', [])] if is_exact else [
            ('png', []), ('jpeg', []), ('jpeg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
            ('jpeg', [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
        ]
    )  # fmt: skip
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    if not is_exact and draw.random() < 0.3:
        bgr = bgr[..., 0].astype(np.uint16) * 257 if kind == 'png' else bgr[..., 0]
    data = cv2.imencode({'png': '.png', 'jpeg': '.jpg'}[kind], bgr, flags)[1]
    message = CompressedImage(format=f'rgb8; {kind} compressed bgr8')
    message.data = array.array('B', data.tobytes())
    return message


def break_picture(draw: random.Random, message: CompressedImage) -> None:
    """Flip bytes, cut, lengthen, change the format, claim another size."""
    data = bytearray(message.data)
    for _ in range(draw.randint(1, 3)):
        way = draw.randrange(7)
        if way == 0 and data:
            for _ in range(draw.choice((1, 2, 20))):
                data[draw.randrange(len(data))] = draw.randrange(256)
        elif way == 1:
            del data[draw.randrange(len(data) + 1) :]
        elif way == 2:
            data += draw.randbytes(draw.choice((1, 100, 5000)))
        elif way == 3:  # the header: sizes, depths, kinds of chunks
            place = draw.randrange(min(len(data), 64) or 1)
            data[place : place + 4] = struct.pack('>I', draw.choice(UINT32))
        elif way == 4:
            compressed_depth = '16UC1; compressedDepth png'
            message.format = draw.choice(
                (*NAMES, compressed_depth, 'bayer_rggb8; jpeg compressed ', 'bayer_grbg16; png')
            )
        elif way == 5 and data:  # a part of it again
            place = draw.randrange(len(data))
            data[place:place] = data[draw.randrange(len(data)) :][:200]
        else:
            _rename(draw, message)
    message.data = array.array('B', bytes(data))


def break_info(draw: random.Random, message: CameraInfo) -> None:
    """Change one field of a CameraInfo."""
    way = draw.randrange(10)
    if way < 4:
        name = 'krpk'[way]
        values = list(getattr(message, name))
        values[draw.randrange(len(values))] = draw.choice((*FLOATS, 50.0, 1e5, 1e-3))
        setattr(message, name, values)
    elif way == 4:
        message.d = [draw.choice((*FLOATS, 0.1, -0.3, 5.0)) for _ in range(draw.randrange(15))]
    elif way == 5:
        models = ('plumb_bob', 'rational_polynomial', 'equidistant', 'fisheye', 'none')
        message.distortion_model = draw.choice((*models, *models, *NAMES))
    elif way == 6:
        setattr(message, draw.choice(('width', 'height')), draw.choice(UINT32))
    elif way == 7:
        setattr(message, draw.choice(('binning_x', 'binning_y')), draw.choice(UINT32))
    elif way == 8:
        names = ('x_offset', 'y_offset', 'width', 'height')
        setattr(message.roi, draw.choice(names), draw.choice((*UINT32, 10, 20)))
    else:
        name = draw.choice('krp')
        setattr(message, name, [0.0] * len(getattr(message, name)))


def break_odometry(draw: random.Random, message: Odometry) -> None:
    """Change one field of an Odometry."""
    way = draw.randrange(6)
    if way == 0:
        setattr(message.pose.pose.position, draw.choice('xyz'), draw.choice(FLOATS))
    elif way == 1:
        setattr(message.pose.pose.orientation, draw.choice('xyzw'), draw.choice((*FLOATS, 0.5)))
    elif way == 2:
        setattr(message.twist.twist.linear, draw.choice('xyz'), draw.choice(FLOATS))
    elif way == 3:
        message.child_frame_id = draw.choice(NAMES)
    elif way == 4:
        _rename(draw, message)
    else:
        _restamp(draw, message)


def break_cloud(draw: random.Random, message: PointCloud2) -> None:
    """Change one field of a PointCloud2."""
    way = draw.randrange(9)
    field = draw.choice(message.fields) if message.fields else PointField()
    if way == 0:
        setattr(message, draw.choice(('height', 'width')), draw.choice(UINT32))
    elif way == 1:
        setattr(message, draw.choice(('point_step', 'row_step')), draw.choice((*UINT32, 12, 16)))
    elif way == 2:
        field.offset = draw.choice((*UINT32, 8, 9, 12))
    elif way == 3:
        field.datatype = draw.choice((0, 1, 2, 3, 6, 7, 8, 9, 255))
    elif way == 4:
        field.count = draw.choice(UINT32)
    elif way == 5:
        field.name = draw.choice((*NAMES, 'x', 'X', 'intensity'))
    elif way == 6:
        message.is_bigendian = not message.is_bigendian
    elif way == 7:
        draw.choice((_cut, _rename, _restamp))(draw, message)
    else:
        message.fields = list(message.fields)[: draw.randrange(4)]
        data = bytearray(message.data)
        for _ in range(min(20, len(data))):
            data[draw.randrange(len(data))] = draw.choice((0, 127, 128, 192, 255))
        message.data = array.array('B', bytes(data))
