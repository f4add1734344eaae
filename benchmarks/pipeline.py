"""Everything but the network, step by step, for one 640x480 frame."""

from __future__ import annotations

from collections.abc import Callable
import itertools
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from processes import start_sink
from scene import camera, picture
from timing import measure, Timing

from psd_depth_ros.inference.cloud import build_cloud, CloudSettings
from psd_depth_ros.inference.postprocess import ConfidenceModel, DepthSettings, finish_depth
from psd_depth_ros.inference.temporal import TemporalFilter
from psd_depth_ros.messages import camera_info_fields, decode, image_fields
from psd_depth_ros.preprocess import choose_input_size, Preprocessor, Rectifier
from psd_depth_ros.runtime import configure_runtime

WIDTH, HEIGHT = 640, 480
BUDGET = 640 * 192  # without --pixel-budget
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LENS = (-0.28, 0.07, 2e-4, -1e-4, 0.0)
Step = Callable[[], Any]
Maps = tuple[np.ndarray, np.ndarray, np.ndarray]  # u', sigma and the probability of sky


def measure_pipeline(quick: bool, pixel_budget: int = 0) -> list[dict[str, Any]]:
    """Rows of step and times; `in_total` marks those every frame of a rectified camera pays."""
    configure_runtime('openvino')  # as the node does
    seconds = 0.3 if quick else 2.0
    size = choose_input_size(WIDTH, HEIGHT, pixel_budget or BUDGET)
    rows = []
    for name, (step, in_total) in {**_input_steps(size), **_output_steps(size)}.items():
        rows.append(measure(step, seconds).row(step=name, in_total=in_total))
    rows += [timing.row(step=name, in_total=True) for name, timing in _measure_messages(seconds)]
    total = sum(row['median_ms'] for row in rows if row['in_total'])
    rows.append({'step': 'everything but the network', 'in_total': None, 'median_ms': total})
    return rows


def _input_steps(size: tuple[int, int]) -> dict[str, tuple[Step, bool]]:
    rgb = picture(WIDTH, HEIGHT)
    jpeg = cv2.imencode('.jpg', np.ascontiguousarray(rgb[..., ::-1]))[1].reshape(-1)
    messages = {
        'decode rgb8': _image(rgb, 'rgb8'),
        'decode bgr8': _image(rgb, 'bgr8'),
        'decode yuv422_yuy2': _yuyv(rgb),
        'decode jpeg': SimpleNamespace(format='jpeg', data=jpeg, header=None),
    }
    steps: dict[str, tuple[Step, bool]] = {}
    for name, message in messages.items():
        steps[name] = (lambda message=message: decode(message)), name == 'decode rgb8'  # type: ignore[misc]
    straight = Preprocessor(camera(WIDTH, HEIGHT), size, MEAN, STD)
    bent = Preprocessor(camera(WIDTH, HEIGHT, LENS), size, MEAN, STD)
    rectifier = Rectifier(camera(WIDTH, HEIGHT, LENS))
    steps[f'preprocess to {size[1]}x{size[0]}'] = (lambda: straight(rgb)), True
    steps['preprocess, plumb_bob'] = (lambda: bent(rgb)), False
    steps['rectify colours, plumb_bob'] = (lambda: rectifier.rectify(rgb)), False
    return steps


def _output_steps(size: tuple[int, int]) -> dict[str, tuple[Step, bool]]:
    maps = _maps(size)
    rgb, view = picture(WIDTH, HEIGHT), camera(WIDTH, HEIGHT)
    depth, confidence = _finish(maps)
    dense = CloudSettings(min_confidence=0.0, max_range_m=1000.0)
    organised = CloudSettings(organised=True, confidence=True)
    return {
        'temporal filter': (_filter(maps[0], size), False),
        'upsample and mark invalid': ((lambda: _finish(maps)), True),
        'cloud, dense, rgb': ((lambda: build_cloud(depth, confidence, rgb, view, dense)), True),
        'cloud, organised, rgb, confidence': (
            (lambda: build_cloud(depth, confidence, rgb, view, organised)),
            False,
        ),
    }


def _measure_messages(seconds: float) -> list[tuple[str, Timing]]:
    """Filling messages, and publishing them to another process that takes depth and cloud."""
    import rclpy
    from rclpy.node import Node
    from sensor_msgs.msg import CameraInfo, Image, PointCloud2
    from std_msgs.msg import Header

    from psd_depth_ros.ros.conversions import camera_info_message, cloud_message, image_message
    from psd_depth_ros.ros.qos import output_profile

    depth, confidence = _finish(_maps(choose_input_size(WIDTH, HEIGHT, BUDGET)))
    view = camera(WIDTH, HEIGHT)
    settings = CloudSettings(min_confidence=0.0, max_range_m=1000.0)
    cloud = build_cloud(depth, confidence, picture(WIDTH, HEIGHT), view, settings)
    header = Header()

    def fill() -> tuple[Image, CameraInfo, PointCloud2]:
        return (
            image_message(header, image_fields(depth, '32FC1')),
            camera_info_message(header, camera_info_fields(view)),
            cloud_message(header, cloud.message_fields()),
        )

    with start_sink() as sink:
        rclpy.init(domain_id=sink.domain)
        node = Node('benchmark')
        topics = {
            'depth/image_rect': Image,
            'depth/camera_info': CameraInfo,
            'points': PointCloud2,
        }
        outputs = [node.create_publisher(t, name, output_profile()) for name, t in topics.items()]
        sink.wait_for_subscriptions(outputs[0], outputs[2])
        messages = fill()

        def publish() -> None:
            for output, message in zip(outputs, messages, strict=True):
                output.publish(message)

        timings = [
            ('fill messages: depth, camera_info, cloud', measure(fill, seconds)),
            ('publish them to another process', measure(publish, seconds)),
        ]
        node.destroy_node()
        rclpy.shutdown()
    return timings


def _filter(log_depth: np.ndarray, size: tuple[int, int]) -> Step:
    """A step of the temporal filter over two pictures of a camera that moves sideways."""
    view = camera(size[1], size[0])
    grey = cv2.cvtColor(picture(size[1], size[0]), cv2.COLOR_RGB2GRAY)
    frames = itertools.cycle((grey, np.roll(grey, 2, axis=1)))
    temporal, stamps_ns = TemporalFilter(), itertools.count(0, 50_000_000)

    def step() -> np.ndarray:
        return temporal.update(log_depth, next(frames), view, next(stamps_ns), 0.2)

    return step


def _maps(size: tuple[int, int]) -> Maps:
    """Maps of a network for a street: smooth, sky above, near below. (h, w) each."""
    height, width = (side // 2 for side in size)
    rows = np.tile(np.linspace(-1, 1, height, dtype=np.float32)[:, None], (1, width))
    far = (rows < -0.5).astype(np.float32)
    return np.log(1.5 / np.maximum(rows, 0.03)), np.full_like(rows, 0.1), far


def _finish(maps: Maps) -> tuple[np.ndarray, np.ndarray]:
    return finish_depth(
        *maps,
        gain=1.0,
        size=(HEIGHT, WIDTH),
        settings=DepthSettings(),
        confidence_model=ConfidenceModel(1.0, 0.0),
    )


def _image(array: np.ndarray, encoding: str) -> Any:
    return SimpleNamespace(header=None, **image_fields(array, encoding))


def _yuyv(rgb: np.ndarray) -> Any:
    """Any bytes of the right size: decoding takes the same time for all."""
    data = np.ascontiguousarray(rgb[..., :2]).reshape(-1)
    fields = {**image_fields(rgb, 'rgb8'), 'encoding': 'yuv422_yuy2'}
    return SimpleNamespace(header=None, **{**fields, 'step': 2 * WIDTH, 'data': data})
