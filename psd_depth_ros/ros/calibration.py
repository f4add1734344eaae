"""What is known of one camera's calibration, from the CameraInfo messages that come.

A camera without usable CameraInfo gives no depth; one that says it is uncalibrated gives depth up
to an unknown factor through a nominal lens. Reading the fields is left to `messages`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.view import describe_camera, find_doubts, seen_share
from psd_depth_ros.messages import camera_from_info


class CalibrationState(Enum):
    """How far a camera's depth can be trusted for its geometry."""

    WAITING = 'waiting for camera_info'
    CALIBRATED = 'calibrated'
    UNCALIBRATED = 'uncalibrated: depth up to scale'
    REFUSED = 'camera_info refused'


@dataclass(frozen=True)
class Calibration:
    """The state, the camera where there is one, and the reason where there is none.

    Of a camera that can be used, `seen` is the share of its rectified view that it sees, `words`
    tell of that view, and `doubts` of what is probably wrong.
    """

    state: CalibrationState = CalibrationState.WAITING
    camera: Camera | None = None
    reason: str = ''
    seen: float = 1.0
    words: str = ''
    doubts: tuple[str, ...] = ()

    def camera_for(self, width: int, height: int) -> Camera:
        """Give the camera of an image, the nominal one where it is uncalibrated."""
        if self.state is CalibrationState.UNCALIBRATED:
            return nominal_camera(width, height)
        assert self.camera is not None, 'callers drop frames without a camera first'
        return self.camera


def nominal_camera(width: int, height: int) -> Camera:
    """Stand-in for an uncalibrated camera: a view 60 degrees wide, centred, without distortion."""
    focal_px = 0.866 * width
    return Camera(width, height, focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)


class CalibrationMonitor:
    """Keeps the calibration of the newest CameraInfo; reads repeated ones only once."""

    def __init__(self, image_is_rectified: bool, rectify_alpha: float = -1.0) -> None:
        self._image_is_rectified = image_is_rectified
        self._rectify_alpha = rectify_alpha
        self._seen: tuple[Any, ...] | None = None
        self.calibration = Calibration()

    def receive(self, message: Any, image_topic: str = '') -> bool:
        """Take the CameraInfo of a topic's images; True where it changes the calibration."""
        content = _content(message)
        if content == self._seen:
            return False
        self._seen = content
        self.calibration = self._read(message, image_topic)
        return True

    def _read(self, message: Any, image_topic: str) -> Calibration:
        try:
            camera = camera_from_info(message, self._image_is_rectified, self._rectify_alpha)
        except CalibrationError as error:
            state = (
                CalibrationState.UNCALIBRATED if error.uncalibrated else CalibrationState.REFUSED
            )
            return Calibration(state, None, str(error))
        return Calibration(
            CalibrationState.CALIBRATED,
            camera,
            seen=seen_share(camera),
            words=describe_camera(camera),
            doubts=tuple(find_doubts(camera, image_topic)),
        )


def _content(message: Any) -> tuple[Any, ...]:
    """Everything but the header; the bytes of the matrices, for a NaN is not equal to itself."""
    roi = message.roi
    matrices = (bytes(message.d), *(one.tobytes() for one in (message.k, message.r, message.p)))
    sizes = (message.width, message.height, message.binning_x, message.binning_y)
    window = (roi.x_offset, roi.y_offset, roi.width, roi.height)
    return (message.distortion_model, *matrices, *sizes, *window)
