"""A procedural world with a camera that drives or walks through it.

`World(seed, settings).render(index)` gives image, exact depth, pose and motion mask of one frame;
the same arguments give the same frame. Layouts, rendering and camera response have files of
their own; this one draws the world's character and moves the ego.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np
import numpy.typing as npt
import torch

from psd_depth_ros.config import setting, validate
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.synth.layouts import ROOMS, sample_room_layout
from psd_depth_ros.synth.primitives import BASIS, CENTRE, HALF, join_rows, Rows
from psd_depth_ros.synth.profile import sample_ground, sample_street_layout, STREETS, WALKED
from psd_depth_ros.synth.raycast import View
from psd_depth_ros.synth.render import Ground, Occlusion, render, Shell, Stage
from psd_depth_ros.synth.response import expose, sample_response
from psd_depth_ros.synth.room import Room
from psd_depth_ros.synth.shading import (
    Atlas,
    Blob,
    cast_depth_map,
    cast_open_map,
    LightMaps,
    look_along,
    look_down,
    sample_room_light,
    sample_street_light,
)
from psd_depth_ros.synth.street import CHUNK_M, Street
from psd_depth_ros.synth.textures import Palette, ROOM_TILES, STREET_TILES
from psd_depth_ros.synth.viewpoint import (
    sample_lens,
    sample_room_viewpoint,
    sample_street_viewpoint,
)

RENDERER_VERSION = 3  # of the pictures: stored ones of another version are not these
BLOB_REACH_M = 80.0
LIT_CHUNKS = 3  # that have maps of light
KINDS = ('street', 'room', 'mixed')
LAYOUTS = ('any', *STREETS, *ROOMS)
VIEWPOINTS = ('ahead', 'anywhere')
CONDITIONS = ('clear', 'fog', 'rain', 'night', 'blur', 'any')
_OUTDOORS = ('fog', 'rain')
_WEATHERS = ('clear', 'fog', 'rain', 'night', 'blur')
_WEATHER_PROBABILITIES = (0.4, 0.15, 0.15, 0.15, 0.15)
_Map = tuple[torch.Tensor, View]
_Maps = tuple[_Map, _Map]
_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True)
class WorldSettings:
    """What a synthetic world looks like; 0 leaves a number to the seed."""

    kind: str = setting(
        'mixed', 'street, room, or by seed (two streets to one room)', choices=KINDS
    )
    layout: str = setting('any', 'kind of street or room; any: by seed', choices=LAYOUTS)
    viewpoint: str = setting(
        'ahead',
        'of streets: from a lane ahead, or anywhere: also from beside the road, sideways, up and '
        'down; rooms are seen from anywhere',
        choices=VIEWPOINTS,
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


@dataclass(frozen=True)
class SynthFrame:
    """One rendered frame.

    rgb (H, W, 3) uint8; depth_m (H, W) float32 metres along Z at pixel centres, +inf for sky;
    moving (H, W) bool; T_world_camera (4, 4) float64, world z up, camera axes x right, y down,
    z forward; linear_mps (3,) camera velocity in the world; yaw_rate_radps about the vertical.
    """

    rgb: torch.Tensor
    depth_m: torch.Tensor
    moving: torch.Tensor
    T_world_camera: npt.NDArray[np.float64]
    stamp_ns: int
    linear_mps: npt.NDArray[np.float64]
    yaw_rate_radps: float


class World:
    """One seeded world: a street or a room, its light, and a camera on its way through it."""

    def __init__(self, seed: int, settings: WorldSettings | None = None) -> None:
        """Draw the world; raises SettingsError for settings out of range or at odds."""
        self.settings = settings if settings is not None else WorldSettings()
        validate(self.settings)
        self.seed = int(seed)
        rng = np.random.default_rng([self.seed, 1])
        self.kind = self._sample_kind(rng)
        self.condition = self._sample_condition(rng)
        self.layout = self._sample_layout(np.random.default_rng([self.seed, 7]))
        self._sample_camera(np.random.default_rng([self.seed, 2]))
        tiles = STREET_TILES if self.kind == 'street' else ROOM_TILES
        self._palette = Palette(np.random.default_rng([self.seed, 3]), tiles)
        self._stages: dict[str, Stage] = {}
        self._maps: dict[str, dict[int, _Maps]] = {}
        night = self.condition == 'night'
        movers = self.settings.moving_objects
        self._street = self._room = None
        if self.kind == 'street':
            self._street = Street(self.seed, self._palette, self.layout, night, movers, self._view)
        else:
            self._room = Room(self.seed, self._palette, self.layout, self.camera_height_m, movers)
        rng = np.random.default_rng([self.seed, 4])
        if self._room is not None:
            self._light = sample_room_light(rng, self.condition, self._room.size)
        else:
            self._light = sample_street_light(rng, self.condition)
        rng = np.random.default_rng([self.seed, 5])
        self._response = sample_response(rng, self.condition, held=self.kind == 'room')

    def _sample_kind(self, rng: np.random.Generator) -> str:
        drawn = 'room' if rng.random() < 1 / 3 else 'street'
        kind, condition = self.settings.kind, self.settings.condition
        if kind == 'room' and condition in _OUTDOORS:
            raise SettingsError(
                f'condition is {condition!r} and kind is room, expected clear, night, blur or any '
                'indoors; choose one of those or kind street'
            )
        layout = self.settings.layout
        if kind == 'mixed':
            drawn = 'street' if condition in _OUTDOORS else drawn
            kind = drawn if layout == 'any' else 'street' if layout in STREETS else 'room'
        if layout != 'any' and layout not in (STREETS if kind == 'street' else ROOMS):
            known = ', '.join(STREETS if kind == 'street' else ROOMS)
            raise SettingsError(
                f'layout is {layout!r} and kind is {kind}, expected one of any, {known}; choose '
                'one of those or another kind'
            )
        return kind

    def _sample_layout(self, rng: np.random.Generator) -> str:
        if self.settings.layout != 'any':
            return self.settings.layout
        return sample_street_layout(rng) if self.kind == 'street' else sample_room_layout(rng)

    def _sample_condition(self, rng: np.random.Generator) -> str:
        drawn = str(rng.choice(_WEATHERS, p=_WEATHER_PROBABILITIES))
        if self.settings.condition != 'any':
            return self.settings.condition
        return 'clear' if self.kind == 'room' and drawn in _OUTDOORS else drawn

    def _sample_camera(self, rng: np.random.Generator) -> None:
        wanted, street = self.settings, self.kind == 'street'
        self.camera = sample_lens(rng, wanted.width, wanted.height, wanted.focal_px)
        if street:
            view = sample_street_viewpoint(
                rng, wanted.viewpoint == 'anywhere', wanted.camera_height_m
            )
        else:
            view = sample_room_viewpoint(rng, wanted.camera_height_m)
        if not wanted.vary_pitch:
            view = replace(view, pitch=math.radians(wanted.camera_pitch_deg), roll=0.0)
        self._view = view
        self.camera_height_m = view.height_m
        drawn = float(rng.uniform(2, 15)) if street else float(rng.uniform(0.2, 0.9))
        walked = view.place != 'lane' or self.layout in WALKED
        drawn *= 0.15 if street and walked else 0.25 if self.layout == 'jam' else 1.0
        self.speed_mps = wanted.speed_mps or drawn
        self._sway = rng.uniform(0, 6.28, 6)

    def pose(self, time: float) -> npt.NDArray[np.float64]:
        """Camera pose T_world_camera (4, 4) at `time` seconds."""
        travelled = self.speed_mps * time
        shake = 0.004 if self.settings.vary_pitch else 0.0
        wave = [math.sin((2.1 + 0.9 * i) * time + p) * shake for i, p in enumerate(self._sway)]
        if self._street is not None:
            x, y, base, yaw = self._street.locate(travelled)
            z, yaw = base + self.camera_height_m, yaw + self._view.yaw
        else:
            assert self._room is not None
            x, y, yaw = self._room.walk(travelled)
            z = self.camera_height_m
        rotation = _rotate(yaw + wave[0], self._view.pitch + wave[1], self._view.roll + wave[2])
        pose = np.eye(4)
        pose[:3, :3] = rotation @ _OPTICAL
        pose[:3, 3] = (x, y, z + 2 * wave[3] * min(1.0, z))
        return pose

    def render(self, index: int, device: str | torch.device = 'cpu') -> SynthFrame:
        """Render frame `index` (>= 0) on a device."""
        time = index / self.settings.frame_rate_hz
        pose = self.pose(time)
        camera = self.camera
        view = View(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, pose)
        stage = self._stage(torch.device(device))
        with torch.no_grad():
            picture = render(self._collect(time), view, stage, self._occlude(time, stage))
            rgb = expose(picture, self._response, (self.seed, index))
        step = 1e-3
        linear = (self.pose(time + step)[:3, 3] - self.pose(time - step)[:3, 3]) / (2 * step)
        rate = (self._yaw(time + step) - self._yaw(time - step)) / (2 * step)
        stamp = round(index * 1_000_000_000 / self.settings.frame_rate_hz)
        return SynthFrame(rgb, picture.depth, picture.moving, pose, stamp, linear, rate)

    def _collect(self, time: float) -> npt.NDArray[np.float64]:
        if self._street is not None:
            travelled = self.speed_mps * time
            return self._street.collect(travelled, time)
        assert self._room is not None
        return self._room.collect(time)

    def _occlude(self, time: float, stage: Stage) -> Occlusion:
        """Light maps about the ego; those of places left behind are dropped."""
        cache = self._maps.setdefault(str(stage.cutout.device), {})
        if self._room is not None:
            if 0 not in cache:
                cache[0] = self._cast_room(stage.cutout)
            (main, view), (sky, above) = cache[0]
            return Occlusion(
                LightMaps(main[None], (view,)), LightMaps(sky[None], (above,), soft=True)
            )
        assert self._street is not None
        travelled = self.speed_mps * time
        behind, _ = self._street.reach
        first = math.floor((travelled - min(behind, 60)) / CHUNK_M)
        places = range(first, first + LIT_CHUNKS)
        for k in [k for k in cache if k not in places]:
            del cache[k]
        for k in places:
            if k not in cache:
                cache[k] = self._cast_chunk(k, stage.cutout)
        sun, above_all = (
            LightMaps(
                torch.stack([cache[k][i][0] for k in places]),
                tuple(cache[k][i][1] for k in places), first, CHUNK_M, soft=i == 1,
            )
            for i in (0, 1)
        )  # fmt: skip
        movers = self._street.collect_movers(travelled, time)
        blobs = (_blob_under(rows) for rows in movers)
        near = tuple(blob for blob in blobs if blob.x - travelled < BLOB_REACH_M)
        return Occlusion(sun, above_all, near)

    def _cast_chunk(self, k: int, cutout: torch.Tensor) -> _Maps:
        assert self._street is not None
        middle = (k + 0.5) * CHUNK_M
        lateral = self._street.profile.bend(middle)[0]
        rows = join_rows([self._street.chunk(k + step) for step in (-1, 0, 1)])
        half = np.array([CHUNK_M / 2, 20.0, 5.0])
        view = look_along(self._light.sun, np.array([middle, lateral, 5.0]), half, 224)
        half[2] = 0.1
        above = look_along(np.array([0, 0, 1.0]), np.array([middle, lateral, 0.0]), half, 144)
        main = cast_depth_map(rows, view, cutout)
        return (main, view), (cast_open_map(rows, above, cutout), above)

    def _cast_room(self, cutout: torch.Tensor) -> _Maps:
        assert self._room is not None
        rows, size = self._room.fixed, self._room.size
        view = look_down(self._light.lamps[0], 320)
        half = np.array([size[0] / 2, size[1] / 2, 0.1])
        above = look_along(np.array([0, 0, 1.0]), np.zeros(3), half, 192)
        main = cast_depth_map(rows, view, cutout)
        return (main, view), (cast_open_map(rows, above, cutout), above)

    def _yaw(self, time: float) -> float:
        forward = self.pose(time)[:3, 2]
        return math.atan2(forward[1], forward[0])

    def _background(self) -> Ground | Shell:
        if self._room is not None:
            return self._room.shell
        assert self._street is not None
        rng = np.random.default_rng([self.seed, 6])
        return sample_ground(rng, self._street.profile, self._palette, self.condition)

    def _stage(self, device: torch.device) -> Stage:
        key = str(device)
        if key not in self._stages:
            palette = self._palette
            background = self._background()
            cutout = torch.tensor(palette.cutout, device=device)
            clouds = torch.tensor(palette.clouds, device=device)
            atlas = Atlas(palette.atlas, device)
            self._stages[key] = Stage(atlas, cutout, clouds, self._light, background)
        return self._stages[key]


def _blob_under(rows: Rows) -> Blob:
    low, high = rows[:, CENTRE].min(0), rows[:, CENTRE].max(0)
    centre = (low + high) / 2
    longest = int(np.argmax(rows[:, HALF].prod(1)))
    axis, half = rows[longest, BASIS][:3], rows[longest, HALF]
    yaw = math.atan2(axis[1], axis[0])
    return Blob(float(centre[0]), float(centre[1]), yaw, float(half[0]), float(half[1]))


def _rotate(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """Rotation of a body (x forward, y left, z up): yaw, then pitch (nose down), then roll."""
    cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return about_z @ about_y @ about_x
