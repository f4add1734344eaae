"""Silence of the libraries that decode videos, for --quiet."""

from __future__ import annotations

import os

_SILENT = '-8'  # AV_LOG_QUIET


def silence_decoders() -> None:
    """Keep FFmpeg from writing to stderr; to be called before the first video is opened.

    What it would say of damaged frames is counted and reported at the end of a command.
    """
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', _SILENT)
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')
