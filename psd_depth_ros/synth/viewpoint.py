"""Cameras of rendered worlds: lens, height, tilt, and where they stand and look.

Most fields of view lie between 50 and 90 degrees, all between 40 and 120. Rooms are seen from
robots near the floor, from hands and heads, and from below the ceiling. Streets are seen by a
vehicle that looks ahead, or (`anywhere`) also by people and robots beside the road that look any
way.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from psd_depth_ros.geometry import Camera

Rng = np.random.Generator

NARROWEST_DEG, WIDEST_DEG = 40.0, 120.0
_LOW_M = 0.6  # cameras below this stand on robots, which look about level


@dataclass(frozen=True)
class Viewpoint:
    """How a camera is held: metres above the ground, radians of pitch (down), roll and yaw."""

    height_m: float
    pitch: float
    roll: float
    yaw: float = 0.0  # from the direction of travel; streets only
    place: str = 'lane'  # streets only: lane, left or right (beside the road)


def sample_fov_deg(rng: Rng) -> float:
    """Sample a horizontal field of view, over the longer side of the image."""
    if rng.random() < 0.72:
        return float(rng.uniform(50, 90))
    low, high = math.log(NARROWEST_DEG), math.log(WIDEST_DEG)
    return float(np.clip(np.exp(rng.uniform(low, high)), NARROWEST_DEG, WIDEST_DEG))


def sample_lens(rng: Rng, width: int, height: int, focal_px: float = 0.0) -> Camera:
    """Sample a camera with square pixels; `focal_px` fixes its focal length where it is not 0."""
    focal = max(width, height) / 2 / math.tan(math.radians(sample_fov_deg(rng)) / 2)
    focal = focal_px or focal
    shift = rng.normal(0, 0.02, 2)
    return Camera(
        width, height, focal, focal,
        (width - 1) / 2 + float(shift[0]) * width, (height - 1) / 2 + float(shift[1]) * height,
    )  # fmt: skip


def sample_room_viewpoint(rng: Rng, height_m: float = 0.0) -> Viewpoint:
    """Sample a camera in a room; `height_m` fixes its height where it is not 0."""
    kind = rng.choice(4, p=[0.5, 0.22, 0.18, 0.1])
    low, high = ((1.15, 1.8), (0.2, _LOW_M), (_LOW_M, 1.15), (1.8, 2.5))[kind]
    drawn = float(rng.uniform(low, high))
    height = height_m or drawn
    if height < _LOW_M:
        pitch = np.clip(rng.normal(2, 7), -15, 15)
    else:
        mean = 4 + 11 * height / 1.6
        pitch = np.clip(rng.normal(mean, 14), -20, 50)
    roll = np.clip(rng.normal(0, 3.5), -10, 10)
    return Viewpoint(height, math.radians(pitch), math.radians(roll))


def sample_street_viewpoint(rng: Rng, anywhere: bool, height_m: float = 0.0) -> Viewpoint:
    """Sample a camera in a street; `height_m` fixes its height where it is not 0."""
    tall = rng.uniform(0.3, 2.2) if rng.random() < 0.4 else rng.uniform(1.2, 1.9)
    pitch, roll = np.clip(rng.normal(0, 2.0), -8, 8), rng.normal(0, 0.8)
    yaw, place = 0.0, 'lane'
    if anywhere:
        if rng.random() < 0.3:
            place = str(rng.choice(['left', 'right']))
            tall = rng.uniform(0.2, 0.7) if rng.random() < 0.35 else rng.uniform(1.0, 1.9)
        elif rng.random() < 0.15:
            tall = rng.uniform(2.0, 3.0)
        turned = 0.6 if place != 'lane' else 0.25
        if rng.random() < turned:
            yaw = rng.uniform(-math.pi, math.pi) if rng.random() < 0.4 else rng.normal(0, 0.7)
        if rng.random() < (0.4 if place != 'lane' else 0.15):
            low = height_m or tall
            pitch = rng.uniform(-15, 12 if low < _LOW_M else 22)
            roll = np.clip(rng.normal(0, 3), -10, 10)
    height = float(height_m or tall)
    return Viewpoint(height, math.radians(pitch), math.radians(roll), float(yaw), place)
