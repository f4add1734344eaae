"""One camera of the depth node: what comes in, what is known of it, what goes out.

Callbacks run in the executor and only hand frames over; `prepare` and the publishing run in the
worker. Frames that give no result are counted by reason and said once. Nothing is done for a
CameraInfo alone: the network is compiled for a size only where images have it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import threading
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from psd_depth_ros.data.tracks import has_jumped
from psd_depth_ros.errors import CalibrationError, MessageError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import check_sizes, image_size, ImageDecoder, stamp_ns
from psd_depth_ros.ros.calibration import Calibration, CalibrationMonitor, CalibrationState
from psd_depth_ros.ros.counters import FrameCounters
from psd_depth_ros.ros.distribution import decode_with_cv_bridge
from psd_depth_ros.ros.input_subscription import InputSubscription
from psd_depth_ros.ros.publishers import OutputPublishers
from psd_depth_ros.ros.settings import DepthNodeSettings
from psd_depth_ros.ros.speaker import Speaker

REPEAT_S = 30.0
LOOK_AGAIN_S = 1.0  # where nobody listens, the size of the images is looked for so often
UNSTAMPED = 10  # so many images without stamps in a row are said
SETTLE_S = 1.0  # so long a calibrated camera has to be uncalibrated, before topics change names


@dataclass(frozen=True)
class ArrivedFrame:
    """An image message as it came, its stamp and its arrival on the steady clock.

    Not `wanted` is one whose depth nobody asked for: it only tells the size of the images.
    """

    message: Any
    stamp_ns: int
    received_ns: int
    wanted: bool = True


@dataclass(frozen=True)
class PreparedFrame:
    """A frame ready for the engine; an uncalibrated camera has a nominal lens."""

    arrived: ArrivedFrame
    rgb: npt.NDArray[np.uint8]
    camera: Camera
    calibrated: bool


class CameraChannel:
    """Inputs, calibration, counters and outputs of the camera in `namespace` ('' for the node's).

    `hand_over` receives every frame that somebody wants the depth of, and the first of a new
    calibration.
    """

    def __init__(
        self,
        node: Node,
        namespace: str,
        settings: Callable[[], DepthNodeSettings],
        hand_over: Callable[[CameraChannel, ArrivedFrame], bool],
    ) -> None:
        self._node = node
        self._prefix = f'{namespace}/' if namespace else ''
        self._settings = settings
        self._hand_over = hand_over
        self._speaker = Speaker(node.get_logger())
        self._early: ArrivedFrame | None = None
        self._inputs: list[InputSubscription] = []
        self._decoder = ImageDecoder()
        self._monitor = _monitor(settings())
        self.name = namespace or 'camera'
        self.counters = FrameCounters()
        self.problem = ''
        self.remark = self.delay = ''
        self.outputs: OutputPublishers | None = None
        self.outputs_lock = threading.Lock()
        self.reset_due = threading.Event()
        self.stamp_age_ns = 0
        self._last_stamp_ns = self._unstamped = 0
        self.camera: Camera | None = None
        self._look_due_s: float | None = None
        self._uncalibrated_since_s: float | None = None

    @property
    def calibration(self) -> Calibration:
        """What is known of the lens."""
        return self._monitor.calibration

    @property
    def reliability(self) -> str:
        """What is asked of the camera, '' while inactive."""
        return self._inputs[0].reliability if self._inputs else ''

    @property
    def image_topic(self) -> str:
        """Where images come from, '' while inactive."""
        return self._inputs[0].topic if self._inputs else ''

    @property
    def output_topic(self) -> str:
        """Where depth goes, '' while inactive."""
        return '' if self.outputs is None else self.outputs.depth_topic

    @property
    def subscribed(self) -> str:
        """Names of the outputs that somebody listens to."""
        return '' if self.outputs is None else str(self.outputs.wanted())

    def open(self) -> None:
        """Create the outputs, then subscribe. Counts start at zero."""
        settings = self._settings()
        self.counters = FrameCounters()
        self._monitor = _monitor(settings)
        self._speaker = Speaker(self._node.get_logger())
        self._decoder = ImageDecoder(settings.sixteen_bit_range, decode_with_cv_bridge)
        self.problem = self.remark = self.delay = ''
        self._look_due_s = self._uncalibrated_since_s = None
        self._renew_outputs()
        compressed = settings.image_transport == 'compressed'
        image = ('image/compressed', CompressedImage) if compressed else ('image', Image)
        self._inputs = [
            self._subscribe(image[1], image[0], self._on_image),
            self._subscribe(CameraInfo, 'camera_info', self._on_camera_info),
        ]

    def close(self) -> None:
        """Unsubscribe and take the outputs down."""
        for one in self._inputs:
            one.destroy()
        self._inputs = []
        self._early = None
        with self.outputs_lock:
            if self.outputs is not None:
                self.outputs.destroy()
            self.outputs = None

    def refresh(self) -> None:
        """Look again at the publishers, and warn of a calibration that does not come."""
        for one in self._inputs:
            one.refresh()
        if self.outputs is not None:
            self.outputs.refresh()
        self._follow_calibration()
        timeout_s = self._settings().camera_info_timeout_s
        waited_s = self.counters.waited_s()
        waiting = self._monitor.calibration.state is CalibrationState.WAITING
        if self._inputs and waiting and waited_s > timeout_s:
            self.problem = (
                f'images come on {self._inputs[0].topic} since {waited_s:.0f} s, but no '
                f'camera_info on {self._inputs[1].topic} '
                f'({self._inputs[1].publisher_count} publishers); remap camera_info'
            )
            self._speaker.warn('no camera_info', self.problem, REPEAT_S)

    def prepare(self, frame: ArrivedFrame) -> PreparedFrame | None:
        """Decode a frame and find its camera; None where it is dropped, counted and said."""
        calibration = self._monitor.calibration
        if calibration.state is CalibrationState.REFUSED:
            self.counters.drop('camera_info_refused')
            return None
        if self._uncalibrated_since_s is not None:
            self.counters.drop('uncalibrated')
            return None
        try:
            # No memory is taken for an image of another size than its camera's.
            width, height = image_size(frame.message)
            camera = calibration.camera_for(width, height)
            check_sizes(camera, width, height)
            rgb = self._decode(frame.message)
        except MessageError as error:
            encoding = getattr(frame.message, 'encoding', '')
            # A stream with a broken image now and then says so once; a wrong encoding repeats.
            every_s = REPEAT_S if encoding else float('inf')
            self._refuse('undecodable', str(error), encoding, every_s)
            return None
        except CalibrationError as error:
            self._refuse('size_mismatch', str(error), (width, height), REPEAT_S)
            return None
        if has_jumped(self._last_stamp_ns, frame.stamp_ns):
            self.reset_due.set()
        self._last_stamp_ns = frame.stamp_ns
        self._count_unstamped(frame.stamp_ns)
        self.camera, self._look_due_s = camera, None
        return PreparedFrame(frame, rgb, camera, calibration.state is CalibrationState.CALIBRATED)

    def _decode(self, message: Any) -> npt.NDArray[np.uint8]:
        """Decode an image, and say once what is odd about the stream."""
        decoder = self._decoder
        decoder.change_range(self._settings().sixteen_bit_range)
        rgb = decoder.decode(message)
        self.remark = decoder.note if decoder.is_settled else ''
        if self.remark:
            self._speaker.warn(
                ('remark', decoder.sixteen_bit_range), f'{self.name}: {self.remark}'
            )
        return rgb

    def _count_unstamped(self, time_ns: int) -> None:
        """Say where a driver sets no stamps; a simulation begins so before its clock runs."""
        self._unstamped = 0 if time_ns else self._unstamped + 1
        if self._unstamped < UNSTAMPED:
            return
        self.remark = (
            f'the images on {self.image_topic} have no stamps (header.stamp is 0), so nothing can '
            'be matched with them in time, TF and odometry above all; let the driver stamp its '
            'images'
        )
        self._speaker.warn('unstamped', f'{self.name}: {self.remark}', REPEAT_S)

    def reset(self) -> None:
        """Forget what was learned over time; done by the worker before the next frame."""
        self.reset_due.set()

    def _subscribe(
        self, message_type: type[Any], topic: str, callback: Callable[[Any], None]
    ) -> InputSubscription:
        return InputSubscription(
            self._node,
            message_type,
            f'{self._prefix}{topic}',
            callback,
            lambda: self._settings().image_reliability,
        )

    def wait_for_network(self, camera: Camera, reason: str) -> None:
        """Drop a frame for which the network has yet to be compiled, or cannot be (`reason`)."""
        size = f'{camera.width}x{camera.height}'
        if reason:
            self._refuse('failed', f'no depth of images of {size}: {reason}', size, REPEAT_S)
            return
        self.counters.drop('compiling')
        self.delay = f'the network is being compiled for images of {size}'
        self._speaker.warn(
            ('compiling', size),
            f'{self.name}: {self.delay}, whose depth waits for it; with the parameters '
            'image_width and image_height it is done at the start',
        )

    def _on_image(self, message: Any) -> None:
        wanted = self.outputs is not None and bool(self.outputs.wanted())
        frame = ArrivedFrame(message, stamp_ns(message.header), self.counters.receive(), wanted)
        waiting = self._monitor.calibration.state is CalibrationState.WAITING
        if not wanted and (waiting or not self._is_time_to_look()):
            self.counters.ignore()
        elif waiting:
            # The image often comes just before its camera_info: keep the newest for it.
            if self._early is not None:
                self.counters.drop('no_camera_info')
            self._early = frame
        elif self._hand_over(self, frame):
            self.counters.drop('newer_frame')

    def _is_time_to_look(self) -> bool:
        """Whether the size of the images has to be found out, though nobody listens yet.

        The network is then compiled when somebody does.
        """
        now_s = time.monotonic()
        if self._look_due_s is None or now_s < self._look_due_s:
            return False
        self._look_due_s = now_s + LOOK_AGAIN_S
        return True

    def _on_camera_info(self, message: Any) -> None:
        was_calibrated = self._monitor.calibration.state is CalibrationState.CALIBRATED
        if not self._monitor.receive(message, self.image_topic):
            return
        state = self._monitor.calibration.state
        if state is not CalibrationState.UNCALIBRATED:
            self._uncalibrated_since_s = None
        elif was_calibrated:
            self._uncalibrated_since_s = time.monotonic()
        self._announce_calibration()
        self._follow_calibration()
        self._look_due_s = time.monotonic()
        early, self._early = self._early, None
        if early is not None and self._hand_over(self, early):
            self.counters.drop('newer_frame')

    def _follow_calibration(self) -> None:
        """Rename the outputs where depth is metric no more, or now is.

        Subscribers have to find topics of another name, so a calibrated camera keeps its topics
        where only a few of its CameraInfo messages say that it is not.
        """
        since_s = self._uncalibrated_since_s
        if since_s is not None and time.monotonic() - since_s < SETTLE_S:
            return
        self._uncalibrated_since_s = None
        if self.outputs is not None and self.outputs.relative != self._is_relative():
            self._renew_outputs()

    def _announce_calibration(self) -> None:
        calibration = self._monitor.calibration
        self.problem = calibration.reason
        if calibration.state is CalibrationState.UNCALIBRATED:
            self._speaker.error(
                'uncalibrated',
                f'{self.name}: {calibration.reason}. Until then depth is known up to a factor '
                'only: it goes out as depth_relative/..., without a point cloud',
            )
        elif calibration.state is CalibrationState.REFUSED:
            self._speaker.error(calibration.reason, f'{self.name}: {calibration.reason}')
        else:
            self._speaker.info('calibration', f'{self.name}: {calibration.words}', REPEAT_S)
            for number, doubt in enumerate(calibration.doubts):
                self._speaker.warn(('calibration', number), f'{self.name}: {doubt}', REPEAT_S)

    def _is_relative(self) -> bool:
        uncalibrated = self._monitor.calibration.state is CalibrationState.UNCALIBRATED
        return uncalibrated or self._settings().scale.mode == 'relative'

    def _renew_outputs(self) -> None:
        with self.outputs_lock:
            if self.outputs is not None:
                self.outputs.destroy()
            self.outputs = OutputPublishers(self._node, self._prefix, self._is_relative())

    def _refuse(self, reason: str, text: str, kind: Any, every_s: float) -> None:
        self.counters.drop(reason)
        self.problem = text
        self._speaker.error((reason, kind), f'{self.name}: {text}', every_s)


def _monitor(settings: DepthNodeSettings) -> CalibrationMonitor:
    return CalibrationMonitor(settings.image_is_rectified, settings.rectify_alpha)
