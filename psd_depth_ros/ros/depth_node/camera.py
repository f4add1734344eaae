"""One camera of the depth node: images and calibration in, what is known of it, results out.

Callbacks run in the executor and only hand images over; `prepare` and `publish` run in the worker.
Images that give no result are counted by reason and logged once. A CameraInfo alone starts
nothing: the network is compiled for a size only where images have it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from psd_depth_ros.data.calibration_file import ASSUMED_FOV_DEG, camera_from_fov
from psd_depth_ros.data.synchronizer import has_jumped
from psd_depth_ros.errors import CalibrationError, MessageError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.view import describe_camera, find_doubts, seen_fraction
from psd_depth_ros.inference import DepthFrame
from psd_depth_ros.inference.scale_calibration import SpotReader
from psd_depth_ros.messages import (
    camera_from_info,
    check_sizes,
    image_size,
    ImageDecoder,
    stamp_ns,
)
from psd_depth_ros.ros.common import REPEAT_S, ThrottledLogger
from psd_depth_ros.ros.conversions import decode_with_cv_bridge
from psd_depth_ros.ros.depth_node.outputs import OutputPublishers
from psd_depth_ros.ros.depth_node.settings import CameraSettings, OutputSettings
from psd_depth_ros.ros.qos import InputSubscription

SIZE_CHECK_S = 1.0  # without subscribers, one image is taken so often to learn the size
UNSTAMPED = 10  # so many images without stamps in a row are logged
SETTLE_S = 1.0  # a calibrated camera keeps its topics until it is uncalibrated for so long
_WINDOW = 200


class Durations:
    """Percentiles of the newest durations, in milliseconds. Thread-safe."""

    def __init__(self) -> None:
        self._values_ms: deque[float] = deque(maxlen=_WINDOW)
        self._lock = threading.Lock()

    def add_ns(self, duration_ns: int) -> None:
        """Add one duration."""
        with self._lock:
            self._values_ms.append(duration_ns / 1e6)

    def percentiles_ms(self) -> tuple[float, float]:
        """p50 and p95 in milliseconds, NaN before the first duration."""
        with self._lock:
            values = list(self._values_ms)
        if not values:
            return float('nan'), float('nan')
        p50, p95 = np.percentile(values, (50, 95))
        return float(p50), float(p95)


class FrameCounters:
    """What became of the images of one camera. Thread-safe.

    Every image received ends as processed, as dropped with a reason or as unwanted (nobody
    subscribes to any output), or waits for the worker.
    """

    def __init__(self) -> None:
        self.latency = Durations()
        self._lock = threading.Lock()
        self._arrivals_ns: deque[int] = deque(maxlen=_WINDOW)
        self._first_ns: int | None = None
        self._received = 0
        self._processed = 0
        self._unwanted = 0
        self._dropped: Counter[str] = Counter()

    def receive(self) -> int:
        """Count an arrival; returns its time on the steady clock in nanoseconds."""
        now_ns = time.monotonic_ns()
        with self._lock:
            self._received += 1
            self._arrivals_ns.append(now_ns)
            if self._first_ns is None:
                self._first_ns = now_ns
        return now_ns

    def process(self, received_ns: int) -> None:
        """Count an image whose results are published now."""
        self.latency.add_ns(time.monotonic_ns() - received_ns)
        with self._lock:
            self._processed += 1

    def drop(self, reason: str) -> None:
        """Count an image without a result."""
        with self._lock:
            self._dropped[reason] += 1

    def ignore(self) -> None:
        """Count an image whose depth nobody asked for."""
        with self._lock:
            self._unwanted += 1

    @property
    def received(self) -> int:
        """Images that arrived."""
        return self._received

    @property
    def processed(self) -> int:
        """Images whose results were published."""
        return self._processed

    @property
    def unwanted(self) -> int:
        """Images whose depth nobody asked for."""
        return self._unwanted

    @property
    def dropped(self) -> dict[str, int]:
        """Images without a result, by reason."""
        with self._lock:
            return dict(self._dropped)

    def waited_s(self) -> float:
        """Seconds since the first arrival, 0 before it."""
        first_ns = self._first_ns
        return 0.0 if first_ns is None else (time.monotonic_ns() - first_ns) / 1e9

    def rate_hz(self, window_s: float = 5.0) -> float:
        """Arrivals per second over the newest seconds."""
        now_ns = time.monotonic_ns()
        with self._lock:
            start_ns = now_ns - window_s * 1e9
            recent = [time_ns for time_ns in self._arrivals_ns if time_ns > start_ns]
        if len(recent) < 2:
            return 0.0
        return (len(recent) - 1) / max((recent[-1] - recent[0]) / 1e9, 1e-9)

    def age_s(self) -> float:
        """Seconds since the last arrival, infinite before the first."""
        with self._lock:
            last_ns = self._arrivals_ns[-1] if self._arrivals_ns else None
        return float('inf') if last_ns is None else (time.monotonic_ns() - last_ns) / 1e9


class CalibrationState(Enum):
    """How far the depth of a camera can be trusted for its geometry."""

    WAITING = 'waiting for camera_info'
    CALIBRATED = 'calibrated'
    UNCALIBRATED = 'uncalibrated: depth up to scale'
    REFUSED = 'camera_info refused'


@dataclass(frozen=True)
class Calibration:
    """What the newest CameraInfo says.

    Attributes:
        state: See CalibrationState.
        camera: The camera where there is one.
        reason: Why there is no camera.
        seen: Fraction of the rectified view that the camera sees.
        description: The rectified view in words.
        doubts: What is probably wrong with a calibration that can be used.
    """

    state: CalibrationState = CalibrationState.WAITING
    camera: Camera | None = None
    reason: str = ''
    seen: float = 1.0
    description: str = ''
    doubts: tuple[str, ...] = ()


def read_calibration(message: CameraInfo, settings: CameraSettings, topic: str) -> Calibration:
    """Read a CameraInfo; `topic` is that of the images it belongs to."""
    try:
        camera = camera_from_info(message, settings.image_is_rectified, settings.rectify_alpha)
    except CalibrationError as error:
        unknown = error.uncalibrated
        state = CalibrationState.UNCALIBRATED if unknown else CalibrationState.REFUSED
        return Calibration(state, reason=str(error))
    return Calibration(
        CalibrationState.CALIBRATED,
        camera,
        seen=seen_fraction(camera),
        description=describe_camera(camera),
        doubts=tuple(find_doubts(camera, topic)),
    )


def _content(message: CameraInfo) -> tuple[Any, ...]:
    """Everything but the header; the bytes of the matrices, because a NaN differs from itself."""
    roi = message.roi
    K_R_P = (message.k, message.r, message.p)
    matrices = (bytes(message.d), *(matrix.tobytes() for matrix in K_R_P))
    sizes = (message.width, message.height, message.binning_x, message.binning_y)
    window = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    return (message.distortion_model, *matrices, *sizes, *window)


@dataclass(frozen=True)
class ArrivedFrame:
    """An image message as it came.

    Attributes:
        message: sensor_msgs Image or CompressedImage.
        stamp_ns: Its stamp.
        received_ns: Its arrival on the steady clock.
        is_wanted: Whether somebody subscribes to an output; else it only tells the size.
    """

    message: Any
    stamp_ns: int
    received_ns: int
    is_wanted: bool = True


@dataclass(frozen=True)
class PreparedFrame:
    """An image ready for the engine.

    Attributes:
        arrived: The message.
        rgb: (H, W, 3) uint8.
        camera: Its camera; one ASSUMED_FOV_DEG wide where it is uncalibrated.
        is_calibrated: Whether there is a calibration.
    """

    arrived: ArrivedFrame
    rgb: npt.NDArray[np.uint8]
    camera: Camera
    is_calibrated: bool


@dataclass(frozen=True)
class CameraReport:
    """State of one camera at one moment, for diagnostics.

    `problem` is an error, `delay` and `remark` are worth a warning; all are '' where all is well.
    """

    name: str
    image_topic: str
    reliability: str
    output_topic: str
    subscribed: tuple[str, ...]
    counters: FrameCounters
    calibration: Calibration
    stamp_age_ns: int
    problem: str
    delay: str
    remark: str


HandOver = Callable[['CameraStream', ArrivedFrame], bool]


class CameraStream:
    """Topics, calibration and counters of one camera.

    Args:
        node: The node that subscribes and publishes.
        namespace: Namespace of the camera, '' for that of the node.
        settings: How images are received.
        outputs: What messages contain.

    Attributes:
        spots: Reads the depth of some places of the next images, if somebody asks for it.
    """

    def __init__(
        self,
        node: Node,
        namespace: str,
        settings: CameraSettings,
        outputs: OutputSettings,
    ) -> None:
        self.name = namespace or 'camera'
        self._node = node
        self._prefix = f'{namespace}/' if namespace else ''
        self._settings = settings
        self._output_settings = outputs
        self._inputs: list[InputSubscription] = []
        self._outputs: OutputPublishers | None = None
        self._outputs_lock = threading.Lock()
        self._reset_due = threading.Event()
        self.spots: SpotReader | None = None
        self._is_relative = False
        self._camera: Camera | None = None
        self._stamp_age_ns = 0
        self._last_stamp_ns = 0
        self._start_anew()

    def _start_anew(self) -> None:
        self._counters = FrameCounters()
        self._logger = ThrottledLogger(self._node.get_logger())
        self._decoder = ImageDecoder(self._settings.sixteen_bit_range, decode_with_cv_bridge)
        self._calibration = Calibration()
        self._info_content: tuple[Any, ...] | None = None
        self._early: ArrivedFrame | None = None
        self._problem = self._remark = self._delay = ''
        self._unstamped = 0
        self._size_check_due_s: float | None = None
        self._uncalibrated_since_s: float | None = None

    def configure(self, settings: CameraSettings, outputs: OutputSettings) -> None:
        """Take changed settings, from the next image on."""
        self._settings, self._output_settings = settings, outputs

    @property
    def camera(self) -> Camera | None:
        """Camera of the newest image, None before the first."""
        return self._camera

    def open(self, hand_over: HandOver, relative: bool) -> None:
        """Create the outputs, then subscribe. Counts start at zero.

        Args:
            hand_over: Receives every image that somebody wants the depth of, and the first one of
                a new calibration; returns whether an older image was replaced.
            relative: Depth is up to an unknown factor even where the camera is calibrated.
        """
        self._start_anew()
        self._hand_over = hand_over
        self._is_relative = relative
        self._renew_outputs()
        compressed = self._settings.image_transport == 'compressed'
        image = ('image/compressed', CompressedImage) if compressed else ('image', Image)
        self._inputs = [
            self._subscribe(image[1], image[0], self._on_image),
            self._subscribe(CameraInfo, 'camera_info', self._on_camera_info),
        ]

    def close(self) -> None:
        """Unsubscribe and take the outputs down."""
        for subscription in self._inputs:
            subscription.destroy()
        self._inputs = []
        self._early = None
        with self._outputs_lock:
            if self._outputs is not None:
                self._outputs.destroy()
            self._outputs = None

    def refresh(self) -> None:
        """Look up publishers and subscribers again; warn of a calibration that does not come."""
        for subscription in self._inputs:
            subscription.refresh(self._settings.image_reliability)
        if self._outputs is not None:
            self._outputs.refresh()
        self._follow_calibration()
        waited_s = self._counters.waited_s()
        waiting = self._calibration.state is CalibrationState.WAITING
        if self._inputs and waiting and waited_s > self._settings.camera_info_timeout_s:
            self._problem = (
                f'images come on {self._inputs[0].topic} since {waited_s:.0f} s, but no '
                f'camera_info on {self._inputs[1].topic} '
                f'({self._inputs[1].publisher_count} publishers); remap camera_info'
            )
            self._logger.warn('no camera_info', self._problem, REPEAT_S)

    def reset(self) -> None:
        """Let the worker forget, before the next image, what was learned over time."""
        self._reset_due.set()

    def report(self) -> CameraReport:
        """Return the state now."""
        source = self._inputs[0] if self._inputs else None
        outputs = self._outputs
        return CameraReport(
            name=self.name,
            image_topic='' if source is None else source.topic,
            reliability='' if source is None else source.reliability,
            output_topic='' if outputs is None else outputs.depth_topic,
            subscribed=() if outputs is None else tuple(outputs.wanted),
            counters=self._counters,
            calibration=self._calibration,
            stamp_age_ns=self._stamp_age_ns,
            problem=self._problem,
            delay=self._delay,
            remark=self._remark,
        )

    # Steps of the worker.

    def take_reset(self) -> bool:
        """Whether stamps or the clock have jumped, or a user asked, since the last call."""
        if not self._reset_due.is_set():
            return False
        self._reset_due.clear()
        return True

    def prepare(self, frame: ArrivedFrame) -> PreparedFrame | None:
        """Decode an image and find its camera; None where it is dropped (counted and logged)."""
        calibration = self._calibration
        if calibration.state is CalibrationState.REFUSED:
            self._counters.drop('camera_info_refused')
            return None
        if self._uncalibrated_since_s is not None:
            self._counters.drop('uncalibrated')
            return None
        try:
            # The size first: no memory is taken for an image of another size than its camera's.
            width, height = image_size(frame.message)
            camera = self._camera_of(calibration, width, height)
            rgb = self._decode(frame.message)
        except MessageError as error:
            encoding = getattr(frame.message, 'encoding', '')
            # A broken image in a stream is logged once; a wrong encoding again and again.
            every_s = REPEAT_S if encoding else float('inf')
            self.drop('undecodable', str(error), encoding, every_s)
            return None
        except CalibrationError as error:
            self.drop('size_mismatch', str(error), (width, height))
            return None
        before_ns = self._last_stamp_ns
        if frame.stamp_ns < before_ns and has_jumped(before_ns, frame.stamp_ns):
            self._reset_due.set()
        self._last_stamp_ns = frame.stamp_ns
        self._check_stamp(frame.stamp_ns)
        self._camera, self._size_check_due_s = camera, None
        calibrated = calibration.state is CalibrationState.CALIBRATED
        return PreparedFrame(frame, rgb, camera, calibrated)

    def is_wanted(self, ready: PreparedFrame) -> bool:
        """Whether the image is to give depth; else it is counted as unwanted."""
        if not ready.arrived.is_wanted:
            self._problem = ''
            self._counters.ignore()
        return ready.arrived.is_wanted

    def publish(self, ready: PreparedFrame, frame: DepthFrame) -> None:
        """Publish a DepthFrame on the topics that have subscribers."""
        with self._outputs_lock:
            outputs = self._outputs
            if outputs is None or not (ready.is_calibrated or outputs.is_relative):
                # Deactivated, or calibrated, while this image was in the network.
                self._counters.drop('outdated')
                return
            header, time_ns = ready.arrived.message.header, ready.arrived.stamp_ns
            outputs.publish(header, time_ns, frame, self._output_settings, ready.is_calibrated)
        self._counters.process(ready.arrived.received_ns)
        self._delay = ''
        if ready.is_calibrated:
            self._problem = frame.problem
        if frame.problem:
            self._logger.error('no depth', f'{self.name}: {frame.problem}', REPEAT_S)
        self._stamp_age_ns = self._node.get_clock().now().nanoseconds - time_ns

    def drop(
        self, reason: str, problem: str, kind: Hashable = '', every_s: float = REPEAT_S
    ) -> None:
        """Count an image without a result, and log the problem once per `kind`."""
        self.withhold(reason, problem)
        self._logger.error((reason, kind), f'{self.name}: {problem}', every_s)

    def withhold(self, reason: str, problem: str) -> None:
        """Count an image without a result; the problem is shown in diagnostics only."""
        self._counters.drop(reason)
        self._problem = problem

    def wait_for_network(self, camera: Camera, refusal: str) -> None:
        """Drop an image whose size the network is not compiled for; `refusal`: nor can be."""
        size = f'{camera.width}x{camera.height}'
        if refusal:
            self.drop('failed', f'no depth of images of {size}: {refusal}', size)
            return
        self._counters.drop('compiling')
        self._delay = f'the network is being compiled for images of {size}'
        self._logger.warn(
            ('compiling', size),
            f'{self.name}: {self._delay}, whose depth waits for it; with the parameters '
            'image_width and image_height it is done at the start',
        )

    # Internals.

    def _subscribe(
        self, message_type: type[Any], topic: str, callback: Callable[[Any], None]
    ) -> InputSubscription:
        reliability = self._settings.image_reliability
        return InputSubscription(
            self._node, message_type, f'{self._prefix}{topic}', callback, reliability
        )

    def _camera_of(self, calibration: Calibration, width: int, height: int) -> Camera:
        """Camera of an image of this size. Raises CalibrationError where the sizes differ."""
        camera = calibration.camera
        if camera is None:
            return camera_from_fov(width, height, ASSUMED_FOV_DEG)
        if (camera.width, camera.height) != (width, height):
            check_sizes(camera, width, height)
        return camera

    def _decode(self, message: Any) -> npt.NDArray[np.uint8]:
        """Decode an image, and log once what is odd about the stream."""
        decoder = self._decoder
        decoder.change_range(self._settings.sixteen_bit_range)
        rgb = decoder.decode(message)
        self._remark = decoder.note if decoder.is_settled else ''
        if self._remark:
            self._logger.warn(
                ('remark', decoder.sixteen_bit_range), f'{self.name}: {self._remark}'
            )
        return rgb

    def _check_stamp(self, time_ns: int) -> None:
        """Warn of a driver that sets no stamps; a simulation starts so before its clock runs."""
        self._unstamped = 0 if time_ns else self._unstamped + 1
        if self._unstamped < UNSTAMPED:
            return
        topic = self._inputs[0].topic if self._inputs else ''
        self._remark = (
            f'the images on {topic} have no stamps (header.stamp is 0), so nothing can '
            'be matched with them in time, TF and odometry above all; let the driver stamp its '
            'images'
        )
        self._logger.warn('unstamped', f'{self.name}: {self._remark}', REPEAT_S)

    def _on_image(self, message: Any) -> None:
        outputs = self._outputs
        wanted = outputs is not None and bool(outputs.wanted or self.spots)
        frame = ArrivedFrame(message, stamp_ns(message.header), self._counters.receive(), wanted)
        waiting = self._calibration.state is CalibrationState.WAITING
        if not wanted and (waiting or not self._is_size_check_due()):
            self._counters.ignore()
        elif waiting:
            # The image often comes just before its camera_info: keep the newest for it.
            if self._early is not None:
                self._counters.drop('no_camera_info')
            self._early = frame
        elif self._hand_over(self, frame):
            self._counters.drop('newer_frame')

    def _is_size_check_due(self) -> bool:
        """Whether the size of the images has to be found out, though nobody subscribes yet.

        The network is then compiled when somebody does.
        """
        now_s = time.monotonic()
        if self._size_check_due_s is None or now_s < self._size_check_due_s:
            return False
        self._size_check_due_s = now_s + SIZE_CHECK_S
        return True

    def _on_camera_info(self, message: CameraInfo) -> None:
        content = _content(message)
        if content == self._info_content:
            return
        self._info_content = content
        was_calibrated = self._calibration.state is CalibrationState.CALIBRATED
        topic = self._inputs[0].topic if self._inputs else ''
        self._calibration = read_calibration(message, self._settings, topic)
        if self._calibration.state is not CalibrationState.UNCALIBRATED:
            self._uncalibrated_since_s = None
        elif was_calibrated:
            self._uncalibrated_since_s = time.monotonic()
        self._log_calibration()
        self._follow_calibration()
        self._size_check_due_s = time.monotonic()
        early, self._early = self._early, None
        if early is not None and self._hand_over(self, early):
            self._counters.drop('newer_frame')

    def _log_calibration(self) -> None:
        calibration = self._calibration
        self._problem = calibration.reason
        if calibration.state is CalibrationState.UNCALIBRATED:
            self._logger.error(
                'uncalibrated',
                f'{self.name}: {calibration.reason}. Until then depth is known up to a factor '
                'only: it goes out as depth_relative/..., without a point cloud',
            )
        elif calibration.state is CalibrationState.REFUSED:
            self._logger.error(calibration.reason, f'{self.name}: {calibration.reason}')
        else:
            self._logger.info('calibration', f'{self.name}: {calibration.description}', REPEAT_S)
            for number, doubt in enumerate(calibration.doubts):
                self._logger.warn(('calibration', number), f'{self.name}: {doubt}', REPEAT_S)

    def _follow_calibration(self) -> None:
        """Rename the outputs where depth is no longer metric, or now is.

        Subscribers have to find topics of another name, so a calibrated camera keeps its topics
        where only a few of its CameraInfo messages say that it is uncalibrated.
        """
        since_s = self._uncalibrated_since_s
        if since_s is not None and time.monotonic() - since_s < SETTLE_S:
            return
        self._uncalibrated_since_s = None
        outputs = self._outputs
        if outputs is not None and outputs.is_relative != self._publishes_relative():
            self._renew_outputs()

    def _publishes_relative(self) -> bool:
        uncalibrated = self._calibration.state is CalibrationState.UNCALIBRATED
        return uncalibrated or self._is_relative

    def _renew_outputs(self) -> None:
        with self._outputs_lock:
            if self._outputs is not None:
                self._outputs.destroy()
            relative = self._publishes_relative()
            self._outputs = OutputPublishers(self._node, self._prefix, relative)
