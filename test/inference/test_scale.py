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
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_filter import ScaleFilter, ScatterEstimate
from psd_depth_ros.inference.scale_sources import (
    _body_motion,
    _make_key,
    CameraHeightSource,
    LidarSource,
    OdometrySource,
    ScaleMeasurement,
    ScaleView,
)
from psd_depth_ros.replay.offline import RunSettings
from psd_depth_ros.synth import World, WorldSettings

Source = OdometrySource | CameraHeightSource | LidarSource
SECOND = 1_000_000_000
CAMERA = Camera(320, 240, 300.0, 300.0, 159.5, 119.5)
BLACK = np.zeros((240, 320, 3), np.uint8)
# Optical axes seen from a base with x forward, y left, z up.
OPTICAL_IN_BASE = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float64)


def measurement(scale: float, sigma: float = 0.1) -> ScaleMeasurement:
    return ScaleMeasurement('test', math.log(scale), sigma**2, 100)


def test_the_first_measurement_is_weighed_against_the_prior() -> None:
    # Prior 0.1; measurement 0.1 of the source's own and 0.03 as networks usually scatter.
    one = ScaleFilter(prior_sigma=0.1)
    assert one.update(measurement(1.2), 0)
    white = 0.1**2 + 0.03**2
    gain = 0.1**2 / (0.1**2 + white)
    assert math.log(one.scale) == pytest.approx(gain * math.log(1.2))
    assert one.variance == pytest.approx((1 - gain) * 0.1**2 + 0.03**2)
    # The frame itself was measured: its own scatter is known as well.
    own = (0.1**2 + 0.03**2) / (0.1**2 + white)
    assert one.measured is not None
    assert math.log(one.measured.factor) == pytest.approx(own * math.log(1.2))
    assert one.measured.variance == pytest.approx((1 - own) * (0.1**2 + 0.03**2))


def test_scatter_and_rate_are_those_of_the_measurements() -> None:
    rng = np.random.default_rng(1)
    found = []
    for white, rate in ((0.05, 0.0), (0.005, 0.09), (0.1, 0.25)):
        estimates = []
        for _ in range(40):
            walk = np.cumsum(rng.normal(0, math.sqrt(rate * 0.1), 60))
            one = ScatterEstimate()
            for index, value in enumerate(walk + rng.normal(0, white, 60)):
                one.add(index * SECOND // 10, value)
            estimates.append(one.estimate(white**2))
        found.append(np.mean(estimates, axis=0))
    assert math.sqrt(found[0][0]) == pytest.approx(0.05, rel=0.15)
    assert found[0][1] < 0.005
    assert found[1][1] == pytest.approx(0.09, rel=0.25)
    assert math.sqrt(found[2][0]) == pytest.approx(0.1, rel=0.25)
    assert found[2][1] == pytest.approx(0.25, rel=0.3)


@pytest.mark.parametrize(('white', 'rate'), [(0.02, 0.0), (0.08, 0.0), (0.15, 0.0), (0.03, 0.05)])
def test_no_setting_tells_the_filter_how_much_is_noise(white: float, rate: float) -> None:
    """Whatever the network scatters: innovations have unit variance and nothing is refused."""
    rng = np.random.default_rng(2)
    one = ScaleFilter(prior_sigma=0.15)
    level, square, refused = 0.1, [], 0
    for index in range(400):
        level += rng.normal(0, math.sqrt(rate * 0.1))
        seen = ScaleMeasurement('test', level + rng.normal(0, white), 0.01**2, 100)
        refused += not one.update(seen, index * SECOND // 10)
        square.append(one.normalised_innovation**2)
    assert np.mean(square[40:]) == pytest.approx(1.0, abs=0.35)
    assert refused <= 8
    if rate == 0:
        assert math.log(one.scale) == pytest.approx(0.1, abs=white)


def test_an_error_that_all_measurements_share_does_not_average_out() -> None:
    """1000 agreeing measurements of a source that may be 0.1 off, against a prior of 0.1."""
    one = ScaleFilter(prior_sigma=0.1, systematic_sigma=0.1)
    for index in range(1000):
        one.update(measurement(1.2, 0.01), index)
    assert math.log(one.scale) == pytest.approx(0.5 * math.log(1.2), rel=0.01)
    assert one.variance == pytest.approx(0.1**2 / 2, rel=0.1)


def test_what_changes_is_followed_though_the_source_is_biased() -> None:
    """The bias is shared, a change is not: all of a change is of the scale."""
    one = ScaleFilter(prior_sigma=0.1, systematic_sigma=0.1)
    for index in range(100):
        one.update(measurement(1.2, 0.01), index * SECOND // 10)
    before = math.log(one.scale)
    for index in range(100, 160):
        one.update(measurement(1.2 * math.exp(0.004 * (index - 99)), 0.01), index * SECOND // 10)
    assert math.log(one.scale) - before == pytest.approx(0.24, abs=0.02)


def test_variance_grows_while_nothing_is_measured_up_to_the_prior() -> None:
    one = ScaleFilter(prior_sigma=0.1)
    for index in range(30):
        one.update(measurement(1.1, 0.01), index * SECOND // 10)
    known = one.variance
    one.advance(4 * SECOND)
    later = one.variance
    one.advance(10_000 * SECOND)
    assert known < later < one.variance
    assert one.variance == pytest.approx(0.1**2, rel=0.1)


def test_outliers_are_refused_until_they_persist() -> None:
    one = ScaleFilter(prior_sigma=0.2)
    for i in range(30):
        assert one.update(measurement(1.0, 0.02), i * SECOND // 10)
    answers = [one.update(measurement(1.5, 0.02), (30 + i) * SECOND // 10) for i in range(12)]
    assert answers == [False] * 11 + [True]  # half a second for each of ln 1.5 / 0.2 sigmas
    white = 0.02**2 * 4 / 34 + 0.03**2 * 4 / 34  # what little is made up
    gain = 0.2**2 / (0.2**2 + white)
    assert math.log(one.scale) == pytest.approx(gain * math.log(1.5), rel=0.05)
    assert one.sources['test'].accepted == 31
    assert one.sources['test'].refused == 11
    assert one.sources['test'].last_scale == pytest.approx(1.5)


def test_one_outlier_moves_nothing() -> None:
    one = ScaleFilter(prior_sigma=0.15)
    for i in range(40):
        one.update(measurement(1.0 + 0.02 * (i % 2), 0.01), i * SECOND // 10)
    before = one.scale
    assert not one.update(measurement(0.23, 0.01), 40 * SECOND // 10)
    assert one.scale == before
    assert one.measured is None
    assert one.update(measurement(1.01, 0.01), 41 * SECOND // 10)


def test_refusals_that_disagree_are_never_believed() -> None:
    one = ScaleFilter(prior_sigma=0.05)
    for i in range(40):
        one.update(measurement(1.0, 0.02), i * SECOND // 10)
    for i in range(4):
        assert not one.update(measurement(1.5 + 0.8 * (i % 2), 0.02), 4 * SECOND + i * SECOND)
    assert one.scale == pytest.approx(1.0)


def test_reset_forgets() -> None:
    one = ScaleFilter(prior_sigma=0.2, systematic_sigma=0.1)
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


def measured(source: Source, view: ScaleView) -> ScaleMeasurement:
    found = source.measure(view)
    assert isinstance(found, ScaleMeasurement), found
    return found


@pytest.mark.parametrize('pitch_deg', [0.0, 12.0, -5.0])
def test_camera_height_on_an_exact_plane(pitch_deg: float) -> None:
    pitch = math.radians(pitch_deg)
    up = np.array([0.0, -math.cos(pitch), -math.sin(pitch)])
    known = Extrinsics(camera_height_m=1.65, up=up)
    view = ScaleView(0, BLACK, ground(1.1, pitch_deg), CAMERA, extrinsics=known)
    assert math.exp(measured(CameraHeightSource(), view).log_scale) == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize('pitch_deg', [-2.0, 2.0])
def test_a_pitch_that_nobody_told_is_found_in_the_ground(pitch_deg: float) -> None:
    known = Extrinsics(camera_height_m=1.65)
    view = ScaleView(0, BLACK, ground(1.1, pitch_deg), CAMERA, extrinsics=known)
    # A level camera was expected, to within 2.5 degrees: the mounting keeps a little of its say.
    assert math.exp(measured(CameraHeightSource(), view).log_scale) == pytest.approx(1.5, rel=0.03)


def test_camera_height_from_noisy_ground_between_cars() -> None:
    rng = np.random.default_rng(4)
    smooth = cv2.resize(rng.normal(0, 0.1, (6, 8)), (320, 240), interpolation=cv2.INTER_CUBIC)
    depth = ground(1.1, 1.0) * np.exp(smooth).astype(np.float32)
    depth[130:200, :90] = np.minimum(depth[130:200, :90], 4.0)  # something stands on it
    known = Extrinsics(camera_height_m=1.65)
    view = ScaleView(0, BLACK, depth, CAMERA, extrinsics=known)
    found = measured(CameraHeightSource(), view)
    assert abs(found.log_scale - math.log(1.5)) < 2.0 * math.sqrt(found.variance)
    assert 0.05 < math.sqrt(found.variance) < 0.1


def test_camera_height_gives_reasons_without_ground() -> None:
    source = CameraHeightSource()
    known = Extrinsics(camera_height_m=1.65)
    half = ground(1.1, 0.0)
    half[:, 110:] = np.minimum(half[:, 110:], 4.0)  # a wall over two thirds of the picture
    view = ScaleView(0, BLACK, half, CAMERA, extrinsics=known)
    assert math.exp(measured(source, view).log_scale) == pytest.approx(1.5, rel=0.02)
    wall = np.full((240, 320), 4.0, np.float32)
    assert source.measure(replace(view, depth=wall)) == 'no level ground is seen'
    nothing = np.full((240, 320), np.nan, np.float32)
    assert 'too little is seen' in str(source.measure(replace(view, depth=nothing)))
    assert 'height of the camera' in str(source.measure(replace(view, extrinsics=Extrinsics())))


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
    source = LidarSource()
    known = Extrinsics(T_camera_lidar=T_camera_lidar)
    view = ScaleView(0, BLACK, depth, CAMERA, lidar=in_lidar, extrinsics=known)
    found = measured(source, view)
    assert math.exp(found.log_scale) == pytest.approx(10 / 8)
    assert found.support == 450
    few = source.measure(replace(view, lidar=in_lidar[:300]))
    assert few == (
        'only 150 points fall on known depth, 200 are needed (150 of 300 are in the picture)'
    )
    body = replace(known, T_camera_lidar=make_pose(np.eye(3), (0.1, -0.3, 0.2)))
    astray = str(source.measure(replace(view, extrinsics=body)))  # the frame of a camera_link
    assert '(0 of 600 are in the picture: the pose of the lidar is wrong' in astray
    assert 'not an optical one' in astray
    assert source.measure(replace(view, lidar=None)) == 'no cloud near the stamp of the image'
    assert 'pose of the lidar' in str(source.measure(replace(view, extrinsics=Extrinsics())))
    millimetres = str(source.measure(replace(view, lidar=1000 * in_lidar)))
    assert 'm away and more; are they in millimetres?' in millimetres


def test_where_a_lidar_scans_most_does_not_decide() -> None:
    """Nine points of ten on the lower two fifths of the picture, where the network is right."""
    rng = np.random.default_rng(5)
    depth = np.full((240, 320), 6.0, np.float32)
    row = np.concatenate([rng.uniform(150, 239, 1800), rng.uniform(1, 140, 200)])
    pixels = np.column_stack([rng.uniform(1, 318, 2000), row])
    depth[:144] = 20.0  # and above that it says 20 for 26
    points = CAMERA.backproject(pixels, np.where(row > 144, 6.0, 26.0))
    known = Extrinsics(T_camera_lidar=np.eye(4))
    view = ScaleView(0, BLACK, depth, CAMERA, lidar=points.astype(np.float32), extrinsics=known)
    assert math.exp(measured(LidarSource(), view).log_scale) == pytest.approx(1.3, rel=1e-3)


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
    source = OdometrySource()
    first, second = wall_views(moved, unit)
    assert source.measure(first) == 'waits for a second picture'
    found = measured(source, second)
    assert math.exp(found.log_scale) == pytest.approx(unit, rel=0.03)
    assert math.sqrt(found.variance) < 0.02


@pytest.mark.parametrize('moved', [(0.0, 0.8), (0.5, 0.3), (0.3, 0.3)])
def test_the_scale_of_most_pixels_counts_and_not_that_of_the_nearest_corners(
    moved: tuple[float, float],
) -> None:
    """A third of the wall seems half as far away: near corners would say the most of a motion.

    And of a wall the picture hardly tells a way to the side from a turn: odometry does.
    """
    source = OdometrySource()
    first, second = wall_views(moved, 1.5)
    second.depth[:, :107] *= np.float32(0.5)
    source.measure(first)
    assert math.exp(measured(source, second).log_scale) == pytest.approx(1.5, rel=0.03)


def test_odometry_waits_for_20_centimetres() -> None:
    source = OdometrySource()
    views = wall_views((0.0, 0.1), 1.0)
    source.measure(views[0])
    assert source.measure(views[1]) == 'odometry has moved less than 0.2 m'
    assert 'no pose' in str(source.measure(replace(views[0], odometry=None)))


def test_a_turn_counts_less_where_the_mounting_is_unknown() -> None:
    first, second = wall_views((0.0, 0.8), 1.0)
    assert second.odometry is not None
    turned = second.odometry @ exponential([0, 0, 0, 0, 0.02, 0])
    variances = []
    for mounting in (np.eye(4), None):
        source = OdometrySource()
        known = Extrinsics(T_body_camera=mounting)
        source.measure(replace(first, extrinsics=known))
        found = measured(source, replace(second, odometry=turned, extrinsics=known))
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
    motion, lever_arm_m = _body_motion(_make_key(before), after)
    assert np.linalg.norm(motion[:3, 3]) == pytest.approx(2 * 2.0 * math.sin(0.1))
    assert lever_arm_m == 0.0


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
    assert tracker.sources['odometry'].accepted >= 6
    assert tracker.scale == pytest.approx(1.4, rel=0.05)
    assert 0.02 < math.sqrt(tracker.variance) < 0.06


def test_camera_height_in_a_rendered_street() -> None:
    wanted = WorldSettings(
        layout='dense', width=416, height=128, camera_height_m=1.5, vary_pitch=False
    )
    world = World(8, wanted)
    chosen = ScaleSettings(mode='camera_height', camera_height_m=1.5)
    tracker = ScaleTracker(chosen, checkpoint_sigma=0.15)
    for index in range(3):
        frame = world.render(index)
        depth = frame.depth_m.numpy() * np.float32(0.8)
        tracker.observe(frame.stamp_ns, frame.rgb.numpy(), depth, world.camera)
    # Ground may be scaled unlike the rest (0.08), and the checkpoint said 1 to within 0.15.
    assert tracker.scale == pytest.approx(0.8 ** -(0.15**2 / (0.15**2 + 0.08**2)), rel=0.05)


def test_what_contradicts_the_checkpoint_beyond_belief_is_refused_with_the_reason() -> None:
    """Centimetres for metres: 100 times what a metric checkpoint says, however often."""
    chosen = ScaleSettings(mode='camera_height', camera_height_m=100.0)
    tracker = ScaleTracker(chosen, checkpoint_sigma=0.15)
    for index in range(10):
        assert not tracker.observe(index, BLACK, ground(1.0, 0.0), CAMERA)
    assert tracker.scale == 1.0
    assert 'camera_height says 100 times the metres of the checkpoint' in tracker.problem
    unknown = ScaleTracker(chosen, checkpoint_sigma=None)  # which may count in anything
    assert unknown.observe(0, BLACK, ground(1.0, 0.0), CAMERA)
    assert unknown.problem == ''


def test_applied_scale_is_taken_out() -> None:
    chosen = ScaleSettings(mode='camera_height', camera_height_m=1.65)
    tracker = ScaleTracker(chosen, checkpoint_sigma=None)
    # The network says 1.1 m; twice that was published.
    assert tracker.observe(0, BLACK, ground(2.2, 0.0), CAMERA, applied_scale=2.0)
    assert tracker.sources['camera_height'].last_scale == pytest.approx(1.5, rel=1e-3)
    tracker.reset()
    assert not tracker.is_known


def test_a_held_scale_stays_until_it_is_reset() -> None:
    chosen = ScaleSettings(mode='camera_height', camera_height_m=1.65, hold_after=3)
    tracker = ScaleTracker(chosen, checkpoint_sigma=None)
    for index in range(3):
        assert not tracker.is_held
        assert tracker.is_prompt
        tracker.observe(index * SECOND, BLACK, ground(1.1, 0.0), CAMERA)
    assert tracker.is_held
    held = tracker.estimate
    assert held.factor == pytest.approx(1.5, rel=1e-3)
    assert not tracker.observe(3 * SECOND, BLACK, ground(2.2, 0.0), CAMERA)
    assert tracker.estimate == held
    assert tracker.problem == ''
    assert not tracker.is_prompt  # frames are not rescaled by their own measurement any more
    tracker.reset()
    assert not tracker.is_held
    tracker.observe(4 * SECOND, BLACK, ground(2.2, 0.0), CAMERA)
    assert tracker.estimate.factor == pytest.approx(0.75, rel=0.02)


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


def test_settings_of_old_are_explained() -> None:
    words = '--set: scale.lidar_sigma is no setting any more; it is estimated from the measure'
    with pytest.raises(SettingsError, match=words):
        build(RunSettings, {'scale.lidar_sigma': 0.1}, '--set')
