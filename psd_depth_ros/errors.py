"""The errors a user can meet, one class per kind of thing that can be wrong.

Every message names the thing, what was found, what was expected and the next step. Command lines
and nodes catch `PsdDepthError` at their edge; any other exception is a mistake of ours.
"""

from __future__ import annotations


class PsdDepthError(Exception):
    """Parent of every error that the user can cause and mend."""


class ParseError(PsdDepthError):
    """A file or text is not of its format, or beyond its bounds; says where, names no file."""


class SettingsError(PsdDepthError):
    """A setting is unknown, of the wrong type or out of its range."""


class MessageError(PsdDepthError):
    """An Image, CompressedImage, PointCloud2 or Odometry cannot be read."""


class CalibrationError(PsdDepthError):
    """A CameraInfo, camera matrix or lens model cannot be used.

    `uncalibrated` is true where the driver says so itself (`K[0] == 0`).
    """

    def __init__(self, message: str, *, uncalibrated: bool = False) -> None:
        super().__init__(message)
        self.uncalibrated = uncalibrated


class TransformError(PsdDepthError):
    """Two frames are not connected by the transforms there are, or not at that time.

    `may_come` is true where a later transform of a known link would connect them.
    """

    def __init__(self, message: str, *, may_come: bool = False) -> None:
        super().__init__(message)
        self.may_come = may_come


class BagError(PsdDepthError):
    """A bag, video or image folder cannot be read or written."""


class CheckpointError(PsdDepthError):
    """A checkpoint is missing, damaged, hostile or of another version or architecture."""


class DeviceError(PsdDepthError):
    """The device or inference backend asked for is not there."""


class EvaluationError(PsdDepthError):
    """There is no ground truth to measure against, or it does not fit its images."""


class TrainingError(PsdDepthError):
    """A training run cannot go on: it diverges, memory or disk is full."""
