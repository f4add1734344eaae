"""What all networks of other people have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.external.options import NetworkOptions
from psd_depth_ros.parsing import shorten

Image = NDArray[np.uint8]


class Network(ABC):
    """A network that makes one map, or one for each class, of an image.

    Attributes:
        content: A hash of its weights.
        library: That runs it.
        device: That it runs on.
    """

    content: str
    library: str
    device: str = 'cpu'

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of its input; 0 where it takes any."""

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of its input for an image of a size."""
        return self.size

    def run(self, image: Image) -> NDArray:
        """The output (C, h', w') or (h', w') for an input (h, w, 3) uint8 RGB.

        Raises SettingsError where the network refuses the input, or gives no map.
        """
        return self.run_with_sky(image)[0]

    @abstractmethod
    def run_with_sky(self, image: Image) -> tuple[NDArray, NDArray | None]:
        """As `run`, and the output that `sky_output` names, of any shape; None without one."""


def run_mirrored(run: Callable[[Image], NDArray], image: Image) -> tuple[NDArray, NDArray]:
    """Maps (..., h', w') of an image (h, w, 3), and those of its mirror image, mirrored back."""
    mirrored = run(np.ascontiguousarray(image[:, ::-1]))
    return run(image), mirrored[..., ::-1]


def normalise(image: Image, options: NetworkOptions) -> NDArray[np.float32]:
    """The values (h, w, 3) that a network of floats gets for an image (h, w, 3)."""
    pixels = image[..., ::-1] if options.channels == 'bgr' else image
    values = pixels.astype(np.float32) * np.float32(options.input_max / 255.0)
    mean, std = (np.array(one, np.float32) for one in (options.mean, options.std))
    normalised: NDArray[np.float32] = (values - mean) / std
    return normalised


def one_line(error: Exception) -> str:
    """What a library says of an error, for a message of one line."""
    return shorten(' '.join(str(error).split()) or type(error).__name__, 400)
