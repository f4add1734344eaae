"""Kinds of rooms and streets, cameras in them, and the room that they have."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
import torch

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.synth.clearance import clearances, distances
from psd_depth_ros.synth.layouts import ROOMS, sample_room_layout
from psd_depth_ros.synth.primitives import join_rows, make_box, make_post, Material, place
from psd_depth_ros.synth.profile import STREETS
from psd_depth_ros.synth.raycast import cast, View
from psd_depth_ros.synth.room import Room
from psd_depth_ros.synth.street import Street
from psd_depth_ros.synth.street_things import make_gantry
from psd_depth_ros.synth.textures import Palette, ROOM_TILES, STREET_TILES
from psd_depth_ros.synth.vehicles import make_car
from psd_depth_ros.synth.viewpoint import (
    sample_fov_deg,
    sample_room_viewpoint,
    sample_street_viewpoint,
)

SMALL = {'width': 104, 'height': 64}
CUTOUT = torch.from_numpy(np.random.default_rng(0).standard_normal((64, 64)))


@pytest.fixture(scope='module')
def room_palette() -> Palette:
    return Palette(np.random.default_rng(0), ROOM_TILES)


@pytest.fixture(scope='module')
def street_palette() -> Palette:
    return Palette(np.random.default_rng(0), STREET_TILES)


def test_distance_from_a_turned_box_is_that_of_its_nearest_face_or_edge() -> None:
    box = make_box((0, 0, 0), (2.0, 4.0, 6.0), Material())
    points = np.array([[3.0, 0, 0], [4.0, 6.0, 0.0], [0.5, 1.0, -2.0]])
    assert distances(box, points)[0] == pytest.approx([2.0, 5.0, 0.0])
    turned = place(box, 0.0, 0.0, 0.0, math.pi / 2)
    assert distances(turned, np.array([[3.0, 0, 0]]))[0] == pytest.approx([1.0])
    post = make_post(0.0, 5.0, 0.0, 2.0, 0.5, Material())
    near = clearances(join_rows([box, post]), np.array([[0.0, 3.5, 1.0]]))
    assert near == pytest.approx([1.0])


def test_fields_of_view_reach_from_40_to_120_degrees_and_most_are_common() -> None:
    rng = np.random.default_rng(0)
    fov = np.array([sample_fov_deg(rng) for _ in range(4000)])
    assert fov.min() >= 40
    assert fov.max() <= 120
    assert (fov < 45).mean() > 0.01
    assert (fov > 110).mean() > 0.01
    assert ((fov >= 50) & (fov <= 90)).mean() > 0.75
    world = World(3, WorldSettings(kind='room', **SMALL))
    whole = 2 * math.degrees(math.atan(52 / world.camera.fx))
    assert 40 <= whole <= 120


def test_cameras_in_rooms_stand_low_and_high_and_look_up_and_down() -> None:
    rng = np.random.default_rng(1)
    views = [sample_room_viewpoint(rng) for _ in range(3000)]
    height, pitch, roll = (
        np.array([getattr(view, name) for view in views]) for name in ('height_m', 'pitch', 'roll')
    )
    assert 0.2 <= height.min() < 0.25
    assert 2.4 < height.max() <= 2.5
    assert np.degrees(pitch.min()) == pytest.approx(-20)
    assert np.degrees(pitch.max()) == pytest.approx(50)
    assert np.degrees(np.abs(roll).max()) == pytest.approx(10)
    # The floor below a robot stays in front of it: 0.2 m / (sin 15 + 1.3 cos 15) is 0.13 m.
    assert np.degrees(pitch[height < 0.6].max()) <= 15


def test_vehicles_look_ahead_unless_cameras_may_be_anywhere() -> None:
    rng = np.random.default_rng(2)
    ahead = [sample_street_viewpoint(rng, anywhere=False) for _ in range(500)]
    assert all(view.yaw == 0 and view.place == 'lane' for view in ahead)
    anywhere = [sample_street_viewpoint(rng, anywhere=True) for _ in range(500)]
    assert {view.place for view in anywhere} == {'lane', 'left', 'right'}
    assert any(abs(view.yaw) > 2 for view in anywhere)


def test_low_camera_sees_the_floor_where_its_height_puts_it() -> None:
    settings = WorldSettings(
        layout='hall', width=160, height=96, focal_px=80.0, camera_height_m=0.2, vary_pitch=False
    )
    world = World(5, settings)
    depth, camera = world.render(0).depth_m, world.camera
    expected = 0.2 * camera.fy / (95 - camera.cy)
    assert 0.3 < expected < 0.4  # nearer than anything else can be
    floor = np.abs(depth[95].numpy() / expected - 1) < 1e-4
    assert floor.mean() > 0.5


def test_car_is_where_it_was_placed(street_palette: Palette) -> None:
    pose = np.eye(4)
    pose[:3, :3] = [[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    pose[2, 3] = 1.0
    view = View(320, 120, 200.0, 200.0, 159.5, 59.5, pose)
    for seed in range(12):
        car = make_car(np.random.default_rng(seed), street_palette)
        rear = float((car[:, 0] - car[:, 12]).min())  # along x: nothing of a car is turned far
        depth = cast(place(car, 4.0 - rear, 0.0), view, CUTOUT).depth
        assert depth.min() == pytest.approx(4.0, abs=0.06)
        seen = torch.isfinite(depth).view(120, 320).any(0).sum()
        assert 1.55 < seen * 4.0 / 200.0 < 2.4  # metres wide


def test_somebody_stands_close_ahead_in_a_jam() -> None:
    near = []
    for seed in range(6):
        settings = WorldSettings(layout='jam', camera_height_m=1.2, vary_pitch=False, **SMALL)
        frame = World(seed, settings).render(0)
        middle = frame.depth_m[20:52, 44:60]
        near.append(float(middle[frame.moving[20:52, 44:60]].min()))
    assert all(1.5 < depth < 10 for depth in near)


@pytest.mark.parametrize('layout', ROOMS)
def test_camera_keeps_clear_of_everything_in_a_room(layout: str, room_palette: Palette) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        height = sample_room_viewpoint(rng).height_m
        room = Room(seed, room_palette, layout, height, 0)
        way = np.array([room.walk(travelled)[:2] for travelled in np.linspace(0, 60, 500)])
        points = np.column_stack([way, np.full(len(way), height)])
        assert clearances(room.fixed, points).min() > 0.36
        assert (np.abs(way) < room.size[:2] / 2 - 0.36).all()
        assert room.size[2] > height + 0.4


def test_camera_beside_the_road_keeps_clear_of_what_stands_there(
    street_palette: Palette,
) -> None:
    rng = np.random.default_rng(3)
    for seed in range(20):
        view = sample_street_viewpoint(rng, anywhere=True)
        view = replace(view, place=('left', 'right')[seed % 2], yaw=0.0)
        street = Street(seed, street_palette, STREETS[seed % len(STREETS)], False, 0, view)
        rows = street.collect(20.0, 0.0)
        way = [street.locate(travelled)[:3] for travelled in np.arange(0.0, 75.0, 0.5)]
        points = np.array(way) + np.array([0.0, 0.0, view.height_m])
        tall = rows[rows[:, 2] + rows[:, 12:15].max(1) > points[0, 2] - view.height_m + 0.1]
        assert clearances(tall, points).min() > 0.4


def test_no_picture_begins_at_the_lens() -> None:
    for seed in range(10):
        kind = ('room', 'street')[seed % 2]
        world = World(seed, WorldSettings(kind=kind, viewpoint='anywhere', width=64, height=48))
        assert all(world.render(index).depth_m.min() > 0.13 for index in (0, 9, 27))


@pytest.mark.parametrize('layout', [*STREETS, *ROOMS])
def test_every_layout_can_be_asked_for(layout: str) -> None:
    world = World(1, WorldSettings(layout=layout, **SMALL))
    assert world.layout == layout
    assert world.kind == ('street' if layout in STREETS else 'room')
    a, b = world.render(0), world.render(9)
    # Frames of one world that are taken for training differ.
    assert (a.depth_m != b.depth_m).float().mean() > 0.3
    assert a.rgb.float().std() > 3


def test_layouts_of_another_kind_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"layout is 'kitchen' and kind is street"):
        World(1, WorldSettings(kind='street', layout='kitchen'))
    with pytest.raises(SettingsError, match=r'kitchen, lounge'):
        World(1, WorldSettings(kind='room', layout='jam'))


def test_seeds_reach_every_kind_of_room() -> None:
    rng = np.random.default_rng(0)
    assert {sample_room_layout(rng) for _ in range(300)} == set(ROOMS)


def test_what_spans_the_road_is_higher_than_lorries(street_palette: Palette) -> None:
    for seed in range(30):
        gantry = make_gantry(np.random.default_rng(seed), street_palette, 6.0, -5.0)
        over_road = np.abs(gantry[:, 1] - 0.5) - gantry[:, 13] < 4.6
        axes = gantry[:, 3:12].reshape(-1, 3, 3) * gantry[:, 12:15, None]
        lowest = gantry[:, 2] - np.abs(axes).sum(1)[:, 2]
        assert over_road.any()
        assert lowest[over_road].min() > 4.0


def test_cars_of_a_car_park_stand_beside_each_other(street_palette: Palette) -> None:
    view = sample_street_viewpoint(np.random.default_rng(0), anywhere=False)
    street = Street(1, street_palette, 'parking', False, 0, view)
    parts = street._line_bays(np.random.default_rng(0), 0.0, 1)
    x = np.array([part[:, 0].mean() for part in parts])
    offset = np.array([part[:, 1].mean() for part in parts])
    assert len(parts) > 4
    assert np.diff(np.sort(x[offset < offset.min() + 2])).min() > 2.0
    assert (offset > street.profile.left_edge).all()
