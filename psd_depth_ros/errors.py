"""Errors that a user can cause and fix, one class per kind of input.

Every message names the input, what was found, what was expected and the next step. Commands and
nodes catch `PsdDepthError`; any other exception is a bug.
"""

from __future__ import annotations


class PsdDepthError(Exception):
    """Base of every error that the user can cause and fix."""


class ParseError(PsdDepthError):
    """A file or text is malformed or exceeds its bounds; says where, without the file name."""


class SettingsError(PsdDepthError):
    """A setting is unknown, of the wrong type or out of its range."""


class MessageError(PsdDepthError):
    """An Image, CompressedImage, PointCloud2 or Odometry cannot be read."""


class CalibrationError(PsdDepthError):
    """A CameraInfo, camera matrix or lens model cannot be used.

    `uncalibrated`: the driver itself marks the camera as uncalibrated (`K[0] == 0`).
    """

    def __init__(self, message: str, *, uncalibrated: bool = False) -> None:
        super().__init__(message)
        self.uncalibrated = uncalibrated


class TransformError(PsdDepthError):
    """Two frames are not connected by the known transforms, or not at that time.

    `may_come`: a later transform of a known link would connect them.
    """

    def __init__(self, message: str, *, may_come: bool = False) -> None:
        super().__init__(message)
        self.may_come = may_come


class BagError(PsdDepthError):
    """A bag, video or image folder cannot be read or written."""


class CheckpointError(PsdDepthError):
    """A checkpoint is missing, damaged, hostile or of another version or architecture."""


class DeviceError(PsdDepthError):
    """The requested device or inference backend is not available."""


class EvaluationError(PsdDepthError):
    """Ground truth is missing or does not fit its images."""


class TrainingError(PsdDepthError):
    """A training run cannot continue: it diverges, memory or disk is full, a process is lost."""
