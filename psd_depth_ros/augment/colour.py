"""Colour, blur and noise: the differences between cameras.

Applied to the input of the network, never to the images that a photometric loss compares.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Colours:
    """One change of colours for all frames of a triplet: `table` (256, 3) by value and channel."""

    table: NDArray[np.uint8]
    saturation: float

    def change(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Change an image (H, W, 3)."""
        return _saturate(cv2.LUT(rgb, self.table[None]), self.saturation)


def sample_colours(rng: np.random.Generator) -> Colours:
    """Sample a mild change of brightness, contrast, gamma, white balance and saturation."""
    steps = np.arange(256, dtype=np.float32) / 255.0
    gain, contrast, gamma = rng.uniform(0.8, 1.2, size=3)
    balance = rng.uniform(0.95, 1.05, size=3)
    curve = (steps**gamma)[:, None] * gain * balance[None, :]
    curve = (curve - 0.45) * contrast + 0.45
    table = np.clip(curve * 255.0 + 0.5, 0, 255).astype(np.uint8)
    return Colours(table, float(rng.uniform(0.8, 1.2)))


def jitter(rng: np.random.Generator, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Change exposure, contrast, gamma, white balance and saturation of an image (H, W, 3)."""
    steps = np.arange(256, dtype=np.float32) / 255.0
    gamma, gain = rng.uniform(0.65, 1.5), rng.uniform(0.7, 1.4)
    contrast = rng.uniform(0.7, 1.6)
    balance = rng.uniform(0.9, 1.1, size=3)
    curve = (steps**gamma)[:, None] * gain * balance[None, :]
    curve = (curve - 0.45) * contrast + 0.45
    table = np.clip(curve * 255.0, 0, 255).astype(np.uint8)  # (256, 3)
    changed = cv2.LUT(rgb, table[None])
    return _saturate(changed, 0.0 if rng.random() < 0.1 else rng.uniform(0.6, 1.4))


def degrade(rng: np.random.Generator, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Soften or sharpen, add noise, JPEG artefacts, each to some of the images (H, W, 3)."""
    choice = rng.random()
    if choice < 0.2:
        rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.3, 1.2))
    elif choice < 0.6:  # cameras sharpen; rendered pictures are softer than theirs
        soft, amount = cv2.GaussianBlur(rgb, (0, 0), 1.0), rng.uniform(0.3, 2.0)
        rgb = cv2.addWeighted(rgb, 1.0 + amount, soft, -amount, 0.0)
    if rng.random() < 0.3:
        noise = rng.normal(0.0, rng.uniform(1.0, 8.0), rgb.shape).astype(np.float32)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))]
        decoded = cv2.imdecode(cv2.imencode('.jpg', rgb, quality)[1], cv2.IMREAD_COLOR)
        assert decoded is not None, 'it was encoded a moment ago'
        rgb = decoded
    return rgb


def _saturate(rgb: NDArray[np.uint8], amount: float) -> NDArray[np.uint8]:
    """Mix with the grey image: 0 is grey, 1 unchanged, above 1 more vivid."""
    grey = cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(rgb, amount, grey, 1.0 - amount, 0.0)
