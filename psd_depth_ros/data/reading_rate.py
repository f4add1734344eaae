"""How fast a recording becomes tensors: the part of training that is not the network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
import time

from psd_depth_ros.data.open import open_frames
from psd_depth_ros.preprocess import network_size, Preprocessor

_NEUTRAL = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ReadingRate:
    """What was read, and how long it took."""

    frames: int
    seconds: float
    width: int
    height: int

    @property
    def frames_per_second(self) -> float:
        """Frames decoded, rectified, resized and normalised per second."""
        return self.frames / self.seconds


def measure_reading(path: str | Path, pixel_budget: int, most: int | None = None) -> ReadingRate:
    """Read a recording into network inputs once and take the time, opening it included.

    `most` stops after so many frames. Raises what the recording raises.
    """
    start = time.perf_counter()
    frames, preprocess = 0, None
    with open_frames(path) as source:
        for frame in islice(source.frames(), most):
            if preprocess is None or preprocess.source != frame.camera:
                camera = frame.camera
                size = network_size(camera, pixel_budget)
                preprocess = Preprocessor(camera, size, _NEUTRAL, _NEUTRAL)
            preprocess(frame.rgb)
            frames += 1
    seconds = time.perf_counter() - start
    height, width = (0, 0) if preprocess is None else preprocess.size
    return ReadingRate(frames, seconds, width, height)
