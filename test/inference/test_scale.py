"""Metric scale: the filter by hand, each source on scenes whose scale is known."""

from dataclasses import replace
import math

import cv2
import numpy as np
import pytest

from psd_depth_ros.config import build
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import exponential, make_pose
from psd_depth_ros.inference.scale import ScaleFilter, ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_sources import (
    _body_motion,
    CameraHeightSource,
    LidarSource,
    OdometrySource,
    ScaleMeasurement,
    ScaleView,
)
from psd_depth_ros.synth import World, WorldSettings

SECOND = 1_000_000_000
CAMERA = Camera(320, 240, 300.0, 300.0, 159.5, 119.5)
BLACK = np.zeros((240, 320, 3), np.uint8)
# Optical axes seen from a base with x forward, y left, z up.
OPTICAL_IN_BASE = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)


def measurement(scale: float, sigma: float = 0.1) -> ScaleMeasurement:
    return ScaleMeasurement('test', math.log(scale), sigma**2, 100)


def test_equal_variances_meet_half_way() -> None:
    one = ScaleFilter(prior_sigma=0.1, drift_sigma=0.0)
    assert one.update(measurement(1.2), 0)
    assert one.scale == pytest.approx(math.sqrt(1.2))
    assert one.variance == pytest.approx(0.1**2 / 2)


def test_variance_grows_with_time() -> None:
    one = ScaleFilter(prior_sigma=0.1, drift_sigma=0.02)
    one.update(measurement(1.0), 0)
    before = one.variance
    one.update(measurement(1.0, 1e6), 4 * SECOND)  # tells nothing
    assert one.variance == pytest.approx(before + 4 * 0.02**2, rel=1e-6)


def test_outliers_are_refused_until_they_persist() -> None:
    one = ScaleFilter(prior_sigma=0.05, drift_sigma=0.0, recovery=5)
    for i in range(10):
        assert one.update(measurement(1.0, 0.02), i)
    answers = [one.update(measurement(1.5, 0.02), 10 + i) for i in range(5)]
    assert answers == [False] * 4 + [True]
    assert one.scale == pytest.approx(1.5)
    assert one.sources['test'].accepted == 11
    assert one.sources['test'].refused == 4
    assert one.sources['test'].last_scale == pytest.approx(1.5)


def test_refusals_that_disagree_are_never_believed() -> None:
    one = ScaleFilter(prior_sigma=0.05, drift_sigma=0.0)
    for i in range(30):
        assert not one.update(measurement(1.5 + 0.4 * (i % 2), 0.02), i)
    assert one.scale == 1.0


def test_reset_forgets() -> None:
    one = ScaleFilter(prior_sigma=0.2)
    one.update(measurement(1.3), 0)
    one.reset()
    assert (one.scale, one.variance, one.sources) == (1.0, pytest.approx(0.04), {})
    assert not one.has_measured


def ground(height_m: float, pitch_deg: float, camera: Camera = CAMERA) -> np.ndarray:
    """Depth of a level plane below a camera that looks down by `pitch_deg`; +Inf above."""
    pitch = math.radians(pitch_deg)
    rays = camera.rays()
    down = rays[..., 1] * math.cos(pitch) + math.sin(pitch)
    with np.errstate(divide='ignore'):
        return np.where(down > 0.01, height_m / down, np.inf).astype(np.float32)


@pytest.mark.parametrize('pitch_deg', [0.0, 12.0, -5.0])
def test_camera_height_on_an_exact_plane(pitch_deg: float) -> None:
    pitch = math.radians(pitch_deg)
    up = np.array([0.0, -math.cos(pitch), -math.sin(pitch)])
    known = Extrinsics(camera_height_m=1.65, up=up)
    view = ScaleView(0, BLACK, ground(1.1, pitch_deg), CAMERA, extrinsics=known)
    found = CameraHeightSource(0.05).measure(view)
    assert found is not None
    assert math.exp(found.log_scale) == pytest.approx(1.5, rel=1e-4)
    assert found.variance == pytest.approx(0.05**2)


def test_camera_height_ignores_walls_and_gives_up_without_ground() -> None:
    depth = ground(1.1, 0.0)
    depth[:, 110:] = np.minimum(depth[:, 110:], 4.0)  # a wall over two thirds of the picture
    source = CameraHeightSource(0.05)
    known = Extrinsics(camera_height_m=1.65)
    view = ScaleView(0, BLACK, depth, CAMERA, extrinsics=known)
    found = source.measure(view)
    assert found is not None
    assert math.exp(found.log_scale) == pytest.approx(1.5, rel=0.02)
    wall = np.full((240, 320), 4.0, np.float32)
    assert source.measure(replace(view, depth=wall)) is None
    nothing = np.full((240, 320), np.nan, np.float32)
    assert source.measure(replace(view, depth=nothing)) is None
    assert source.measure(replace(view, extrinsics=Extrinsics())) is None


def test_lidar_is_the_median_ratio_and_needs_200_points() -> None:
    rng = np.random.default_rng(0)
    in_camera = np.column_stack(
        [rng.uniform(-2, 2, 600), rng.uniform(-1, 1, 600), np.full(600, 10.0)]
    )
    in_camera[:150, 2] = 14.0  # seen by the lidar behind what the camera sees
    in_camera[150:300, 2] *= -1  # behind the camera
    T_camera_lidar = make_pose(OPTICAL_IN_BASE.T, (0.1, -0.3, 0.2))
    in_lidar = (in_camera - T_camera_lidar[:3, 3]) @ T_camera_lidar[:3, :3]
    depth = np.full((240, 320), 8.0, np.float32)
    source = LidarSource(0.01)
    known = Extrinsics(T_camera_lidar=T_camera_lidar)
    view = ScaleView(0, BLACK, depth, CAMERA, lidar=in_lidar, extrinsics=known)
    found = source.measure(view)
    assert found is not None
    assert math.exp(found.log_scale) == pytest.approx(10 / 8)
    assert found.support == 450
    assert source.measure(replace(view, lidar=in_lidar[:300])) is None
    assert source.measure(replace(view, lidar=None)) is None
    assert source.measure(replace(view, extrinsics=Extrinsics())) is None


def wall_views(moved: tuple[float, float], unit: float) -> list[ScaleView]:
    """Two views of a wall at 8 m, the second `moved` (right, forward) metres on.

    Depth is that of a network whose metre is `unit` metres long.
    """
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (600, 800, 3), np.uint8), (0, 0), 2.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    views = []
    for index, (right, forward) in enumerate(((0.0, 0.0), moved)):
        z = 8.0 - forward
        # 40 texture pixels per metre, the texture's centre on the first optical axis.
        k = 40.0 * z / CAMERA.fx
        shift = (400 + 40 * right - k * CAMERA.cx, 300 - k * CAMERA.cy)
        affine = np.array([[k, 0, shift[0]], [0, k, shift[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        rgb = cv2.warpAffine(texture, affine, (320, 240), flags=flags)
        depth = np.full((240, 320), z / unit, np.float32)
        pose = make_pose(OPTICAL_IN_BASE, (forward, -right, 0.0))
        known = Extrinsics(T_body_camera=np.eye(4))
        stamp_ns = index * SECOND // 10
        views.append(ScaleView(stamp_ns, rgb, depth, CAMERA, pose, extrinsics=known))
    return views


@pytest.mark.parametrize('moved', [(0.0, 0.8), (0.5, 0.3)])
@pytest.mark.parametrize('unit', [1.0, 2.5])
def test_odometry_on_an_exact_wall(moved: tuple[float, float], unit: float) -> None:
    source = OdometrySource(0.03)
    first, second = wall_views(moved, unit)
    assert source.measure(first) is None
    found = source.measure(second)
    assert found is not None
    assert math.exp(found.log_scale) == pytest.approx(unit, rel=0.03)
    assert 0.03**2 < found.variance < 0.05**2


def test_odometry_waits_for_20_centimetres() -> None:
    source = OdometrySource(0.03)
    views = wall_views((0.0, 0.1), 1.0)
    assert [source.measure(view) for view in views] == [None, None]
    assert source.measure(replace(views[0], odometry=None)) is None


def test_a_turn_counts_less_where_the_mounting_is_unknown() -> None:
    first, second = wall_views((0.0, 0.8), 1.0)
    turned = second.odometry @ exponential([0, 0, 0, 0, 0.02, 0])
    variances = []
    for mounting in (np.eye(4), None):
        source = OdometrySource(0.03)
        known = Extrinsics(T_body_camera=mounting)
        source.measure(replace(first, extrinsics=known))
        found = source.measure(replace(second, odometry=turned, extrinsics=known))
        assert found is not None
        variances.append(found.variance)
    assert variances[1] - variances[0] == pytest.approx((1.5 * 0.02 / 0.8) ** 2, rel=1e-3)


def test_odometry_with_a_known_mounting_measures_the_camera() -> None:
    # The base turns on the spot about a point 2 m behind the camera: the camera moves sideways.
    known = Extrinsics(T_body_camera=make_pose(OPTICAL_IN_BASE, (2.0, 0.0, 0.0)))
    before, after = (
        replace(view, odometry=pose, extrinsics=known)
        for view, pose in zip(
            wall_views((0.0, 0.8), 1.0),
            (np.eye(4), exponential([0, 0, 0, 0, 0, 0.2])),
            strict=True,
        )
    )
    moved = _body_motion(before, after)
    assert moved == (pytest.approx(2 * 2.0 * math.sin(0.1)), pytest.approx(0.2), 0.0)


def test_odometry_in_a_rendered_street() -> None:
    wanted = WorldSettings(kind='street', width=416, height=128, speed_mps=8.0, moving_objects=2)
    world = World(5, wanted)
    tracker = ScaleTracker(ScaleSettings(mode='odometry'), checkpoint_sigma=None)
    assert not tracker.is_known
    for index in range(16):
        frame = world.render(index)
        tracker.observe(
            frame.stamp_ns,
            frame.rgb.numpy(),
            frame.depth_m.numpy() / np.float32(1.4),
            world.camera,
            odometry=frame.T_world_camera,
        )
    assert tracker.is_known
    assert tracker.sources['odometry'].accepted >= 2
    assert tracker.scale == pytest.approx(1.4, rel=0.05)
    assert tracker.variance < 0.05**2


def test_camera_height_in_a_rendered_street() -> None:
    wanted = WorldSettings(
        kind='street', width=416, height=128, camera_height_m=1.5, vary_pitch=False
    )
    world = World(7, wanted)
    chosen = ScaleSettings(mode='camera_height', camera_height_m=1.5)
    tracker = ScaleTracker(chosen, checkpoint_sigma=0.15)
    for index in range(3):
        frame = world.render(index)
        depth = frame.depth_m.numpy() * np.float32(0.8)
        tracker.observe(frame.stamp_ns, frame.rgb.numpy(), depth, world.camera)
    assert tracker.scale == pytest.approx(1 / 0.8, rel=0.05)


def test_applied_scale_is_taken_out() -> None:
    chosen = ScaleSettings(mode='camera_height', camera_height_m=1.65)
    tracker = ScaleTracker(chosen, checkpoint_sigma=None)
    # The network says 1.1 m; twice that was published.
    found = tracker.observe(0, BLACK, ground(2.2, 0.0), CAMERA, applied_scale=2.0)
    assert found is not None
    assert math.exp(found.log_scale) == pytest.approx(1.5, rel=1e-3)
    tracker.reset()
    assert not tracker.is_known


@pytest.mark.parametrize(
    ('settings', 'sigma', 'scale', 'variance', 'known'),
    [
        (ScaleSettings(), 0.1, 1.0, 0.01, True),
        (ScaleSettings(), None, 1.0, 0.0, False),
        (ScaleSettings(factor=3.0), None, 3.0, 0.0, True),
        (ScaleSettings(mode='relative'), 0.1, 1.0, 0.0, False),
        (ScaleSettings(mode='odometry'), 0.1, 1.0, 0.01, True),
        # Not masked by its own uncertainty before there was anything to measure it from.
        (ScaleSettings(mode='odometry'), None, 1.0, 0.0, False),
    ],
)
def test_scale_without_measurements(settings, sigma, scale, variance, known) -> None:  # type: ignore[no-untyped-def]
    tracker = ScaleTracker(settings, sigma)
    assert (tracker.scale, tracker.variance) == (scale, pytest.approx(variance))
    assert tracker.is_known is known
    assert settings.needs_metric_checkpoint is (settings == ScaleSettings())


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'camera_pose': [1.0, 2.0]}, 'camera_pose has 2 numbers, expected 7'),
        ({'lidar_pose': [0.0] * 7}, 'lidar_pose: quaternion'),
        ({'mode': 'stereo'}, 'expected one of fixed, odometry'),
    ],
)
def test_settings_that_cannot_work_are_refused(values, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SettingsError, match=words):
        build(ScaleSettings, values)
