"""Settings of a synthetic world: what the caller fixes; the seed draws the rest."""

from __future__ import annotations

from dataclasses import dataclass

from psd_depth_ros.config import setting

KINDS = ('street', 'room', 'mixed')
CONDITIONS = ('clear', 'fog', 'rain', 'night', 'blur', 'any')


@dataclass(frozen=True)
class WorldSettings:
    """What a synthetic world looks like; 0 leaves a number to the seed."""

    kind: str = setting(
        'mixed', 'street, room, or by seed (two streets to one room)', choices=KINDS
    )
    width: int = setting(416, 'image width', 'px', minimum=16, maximum=4096)
    height: int = setting(128, 'image height', 'px', minimum=16, maximum=4096)
    frame_rate_hz: float = setting(10.0, 'frames per second', 'Hz', minimum=0.1, maximum=1000)
    condition: str = setting(
        'clear',
        'weather and light; fog and rain are for streets; any: by seed',
        choices=CONDITIONS,
    )
    focal_px: float = setting(0.0, 'focal length; 0: by seed', 'px', minimum=0, maximum=20000)
    camera_height_m: float = setting(
        0.0, 'camera above the ground; 0: by seed', 'm', minimum=0, maximum=3
    )
    vary_pitch: bool = setting(True, 'draw camera pitch and roll by seed; else level')
    camera_pitch_deg: float = setting(
        0.0,
        'camera pitch where it is not drawn, positive looks down',
        'deg',
        minimum=-45,
        maximum=45,
    )
    speed_mps: float = setting(0.0, 'ego speed; 0: by seed', 'm/s', minimum=0, maximum=40)
    moving_objects: int = setting(
        -1, 'cars, cyclists and people that move; -1: by seed', minimum=-1, maximum=64
    )
