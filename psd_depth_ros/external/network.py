"""What all networks of other people have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.external.options import NetworkOptions

Image = NDArray[np.uint8]


class Network(ABC):
    """A network that makes one map, or one for each class, of an image.

    Attributes:
        content: A hash of its weights.
        library: That runs it.
    """

    content: str
    library: str

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of its input; 0 where it takes any."""

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of its input for an image of a size."""
        return self.size

    @abstractmethod
    def run(self, image: Image) -> NDArray:
        """The output (C, h', w') or (h', w') for an input (h, w, 3) uint8 RGB.

        Raises SettingsError where the network refuses the input, or gives no map.
        """


def normalise(image: Image, options: NetworkOptions) -> NDArray[np.float32]:
    """The values (h, w, 3) that a network of floats gets for an image (h, w, 3)."""
    pixels = image[..., ::-1] if options.channels == 'bgr' else image
    values = pixels.astype(np.float32) * np.float32(options.input_max / 255.0)
    mean, std = (np.array(one, np.float32) for one in (options.mean, options.std))
    normalised: NDArray[np.float32] = (values - mean) / std
    return normalised
