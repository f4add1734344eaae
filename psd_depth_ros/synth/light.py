"""Sun, sky, haze and lamps of one world, drawn for its weather."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from psd_depth_ros.synth.shading import Light

Array = npt.NDArray[np.float64]
_DARK = np.zeros(3)


def draw_street_light(rng: np.random.Generator, condition: str) -> Light:
    """Draw daylight, fog or night outdoors."""
    azimuth, height = rng.uniform(0, 6.28), math.radians(rng.uniform(12, 65))
    flat = math.cos(height)
    sun = np.array([math.cos(azimuth) * flat, math.sin(azimuth) * flat, math.sin(height)])
    warm = np.array([1.0, 0.93, 0.82]) if rng.random() < 0.6 else np.array([1.0, 0.97, 0.93])
    bright = condition in ('clear', 'blur')
    cloud = float(rng.uniform(0, 0.75) if bright else rng.uniform(0.8, 1))
    overcast = cloud > 0.6
    strength = (rng.uniform(0.0, 0.4) if overcast else rng.uniform(1.2, 3.2)) * warm
    level = rng.uniform(0.7, 1.2) if overcast else rng.uniform(0.22, 0.5)
    ambient = np.array([0.5, 0.54, 0.6]) * level
    horizon = np.array([0.87, 0.91, 0.95]) * rng.uniform(0.9, 2.8)
    zenith = np.array([0.2, 0.36, 0.68]) * rng.uniform(0.8, 1.3)
    zenith = horizon * 0.8 if overcast else zenith
    haze, beam = float(10 ** rng.uniform(-4, -2.7)), 0.0
    if condition == 'fog':
        haze, strength = float(10 ** rng.uniform(-1.9, -1.3)), strength * 0.2
    if condition == 'night':
        strength, ambient = _DARK, ambient * rng.uniform(0.02, 0.08)
        horizon, zenith, beam = horizon * 0.02, zenith * 0.01, float(rng.uniform(0.6, 1.6))
    return Light(
        sun, strength, ambient, zenith, horizon, cloud, haze, np.zeros((0, 3)), _DARK, beam
    )


def draw_room_light(rng: np.random.Generator, condition: str, size: Array) -> Light:
    """Draw one to three lamps and what the walls scatter, in a room of a size (3,) m."""
    count = int(rng.integers(1, 4))
    lamps = rng.uniform(-0.45, 0.45, (count, 3)) * size
    lamps[:, 2] = rng.uniform(0.6, 0.97, count) * size[2]
    glow = np.array([1.0, 0.92, 0.8]) * rng.uniform(1.5, 3.5) / count * size[:2].max() / 4
    dim = 0.15 if condition == 'night' else 1.0
    ambient = np.array([0.66, 0.65, 0.64]) * rng.uniform(0.2, 0.8) * dim
    sky = np.array([0.5, 0.5, 0.5])
    return Light(np.array([0, 0, 1.0]), _DARK, ambient, sky, sky, 0.0, 0.0, lamps, glow)
