"""Networks of unknown scale and shift: fits by hand, worlds whose 1/Z a network knows exactly."""

from dataclasses import replace
from functools import cache
import math

import numpy as np
import pytest

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import exponential
from psd_depth_ros.inference import DepthEngine, Scale
from psd_depth_ros.inference.affine import (
    Affine,
    AffineFilter,
    AffineFit,
    align_least_squares,
    find_misplacement,
    fit_inverse_depth,
    read_off,
)
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_sources import Samples
from psd_depth_ros.inference.temporal import TemporalFilter
from psd_depth_ros.synth import World, WorldSettings

SECOND = 1_000_000_000
WIDE = DepthSettings(min_depth_m=0.001, max_depth_m=1000.0)
RATE, OFFSET = 0.5, 0.25  # 1/Z = 0.5 d + 0.25
RAMP = np.tile(np.linspace(0.0, 3.5, 80, dtype=np.float32), (60, 1))


def samples_of(values, count=400, seed=0):
    """Exact samples of a map at places drawn at random."""
    rng = np.random.default_rng(seed)
    row, column = rng.integers(values.shape[0], size=count), rng.integers(80, size=count)
    inverse = RATE * values[row, column].astype(np.float64) + OFFSET
    return Samples(inverse, 0.02 * inverse, row, column)


def fitted(samples, values=RAMP):
    return fit_inverse_depth(read_off(samples, values), values)


def test_points_at_edges_are_left_out():
    """A step of 2 between columns 39 and 40: what is 2 pixels beside it may belong to either."""
    step = np.tile(np.where(np.arange(80) < 40, 1.0, 3.0).astype(np.float32), (60, 1))
    column = np.array([20, 37, 38, 41, 42, 60])
    samples = Samples(np.ones(6), np.ones(6), np.full(6, 30), column)
    np.testing.assert_array_equal(read_off(samples, step).d, [1.0, 1.0, 3.0, 3.0])


def test_depth_follows_from_scale_and_slope_by_hand():
    """1/Z = (1 + 0.5 (d - 2) / 1) / s: d = 2 is s away, d = 4 half of it, d = 0 infinitely far."""
    shape = Affine(2.0, 1.0, 0.5)
    np.testing.assert_allclose(
        shape.relative_depth(np.array([2.0, 4.0, 1.0, 0.0, -5.0], np.float32)),
        [1.0, 0.5, 2.0, 1000.0, 1000.0],
    )


def test_exact_samples_give_both_numbers_and_the_place_does_not_matter():
    fit = fitted(samples_of(RAMP))
    assert isinstance(fit, AffineFit)
    assert (fit.rate, fit.offset) == pytest.approx((RATE, OFFSET), rel=1e-6)
    for centre, spread in ((fit.centre, fit.spread), (2.0, 1.0)):
        pair = fit.measurements('test', centre, spread, 0.0)
        assert pair is not None
        shape = Affine(centre, spread, math.exp(pair[1].log_scale))
        metres = math.exp(pair[0].log_scale) * shape.relative_depth(RAMP)
        np.testing.assert_allclose(metres, 1.0 / (RATE * RAMP + OFFSET), rtol=1e-5)


def test_a_third_of_outliers_and_noise_without_bias_move_little():
    found = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        exact = samples_of(RAMP, 400, seed)
        inverse = exact.inverse_m + rng.normal(0.0, 0.2, 400)  # far ones are beyond infinity
        inverse[: 400 // 3] = rng.uniform(0.0, 6.0, 400 // 3)
        noisy = Samples(inverse, np.full(400, 0.2), exact.row, exact.column)
        fit = fitted(noisy)
        assert isinstance(fit, AffineFit)
        found.append((fit.rate, fit.offset))
    assert np.mean(found, axis=0) == pytest.approx((RATE, OFFSET), abs=0.06)


def test_what_tells_nothing_is_refused_with_the_reason():
    samples = samples_of(RAMP)
    assert 'the same everywhere' in str(fitted(samples, np.ones_like(RAMP)))
    assert 'fewer than 40 points lie' in str(fitted(samples, np.full_like(RAMP, np.nan)))
    assert 'does not grow' in str(fitted(samples, 3.5 - RAMP))
    rng = np.random.default_rng(1)
    wall = Samples(1.0 + rng.normal(0.0, 0.1, 400), np.full(400, 0.1), samples.row, samples.column)
    said = str(fitted(wall, (1.0 + 0.001 * RAMP).astype(np.float32)))
    assert 'cannot be told apart' in said or 'does not grow' in said


def test_points_moved_in_the_picture_are_told_and_those_in_place_are_not():
    rng = np.random.default_rng(5)
    rough = np.kron(rng.uniform(0.0, 3.5, (6, 8)), np.ones((10, 10))).astype(np.float32)
    exact = samples_of(rough)
    fit = AffineFit(RATE, OFFSET, np.eye(2), 1.0, 1.0, 400)
    assert find_misplacement(exact, rough, fit) == ''
    inside = exact.column < 64
    # what is at column c + 16 (a fifth of the width) was told to be at c
    moved = Samples(
        RATE * rough[exact.row, (exact.column + 16) % 80][inside].astype(float) + OFFSET,
        exact.sigma[inside],
        exact.row[inside],
        exact.column[inside],
    )
    assert '16 px right' in find_misplacement(moved, rough, fit)


def test_both_filters_take_a_measurement_or_neither():
    follow = AffineFilter(2.0, 0.02)
    covariance = 1e-4 * np.eye(2)
    for index in range(5):
        fit = AffineFit(RATE, OFFSET, covariance, 2.0, 1.0, 400)
        assert follow.update('lidar', fit, index * SECOND // 10) == ''
    assert follow.scale.scale == pytest.approx(1.0 / 1.25, rel=0.01)  # 1/Z at 2 is 1.25
    assert follow.affine is not None
    assert follow.affine.slope == pytest.approx(0.5 / 1.25, rel=0.01)
    before = follow.scale.scale, follow.affine
    steep = AffineFit(5 * RATE, 1.25 - 5 * RATE * 2.0, covariance, 2.0, 1.0, 400)  # s is the same
    follow.update('lidar', steep, SECOND)
    assert follow.measured is None
    assert (follow.scale.scale, follow.affine.slope) == (before[0], before[1].slope)
    assert follow.scale.sources['lidar'].refused == 1
    gone = AffineFit(RATE, -2.0, covariance, 8.0, 1.0, 400)
    assert 'has jumped' in follow.update('lidar', gone, SECOND)
    follow.reset()
    assert follow.affine is None


@cache
def world_of(kind, width, height):
    return World(
        3, WorldSettings(kind=kind, speed_mps=6.0, moving_objects=2, width=width, height=height)
    )


@cache
def frame_of(world, index):
    return world.render(index)


def drive(mode, kind, count, extrinsics):
    """Frames of a world under a network with d = 3.7 / Z + 0.8: problems, then errors by frame."""
    world = world_of(kind, *((480, 270) if mode == 'odometry' else (416, 128)))
    tracker = ScaleTracker(ScaleSettings(mode=mode), None, affine=True)
    rng = np.random.default_rng(0)
    problems, errors = [], []
    for index in range(count):
        frame = frame_of(world, index)
        depth_m = frame.depth_m.numpy()
        height, width = depth_m.shape
        pixels = np.column_stack([rng.integers(width, size=4000), rng.integers(height, size=4000)])
        z = depth_m[pixels[:, 1], pixels[:, 0]].astype(np.float64)
        seen = np.isfinite(z)
        points = world.camera.backproject(pixels[seen].astype(np.float64), z[seen])
        values = (3.7 / depth_m + 0.8).astype(np.float32)  # 1 / Inf is 0: the sky is at 0.8
        tracker.observe(
            frame.stamp_ns,
            frame.rgb.numpy(),
            values,
            world.camera,
            odometry=frame.T_world_camera if mode == 'odometry' else None,
            lidar=points.astype(np.float32) if mode == 'lidar' else None,
            extrinsics=extrinsics,
            values=values,
        )
        problems.append(tracker.problem)
        if tracker.is_known:
            own = tracker.measured if tracker.is_prompt else None
            scale = tracker.estimate if own is None else own.scale
            assert scale.affine is not None
            near = depth_m < 80.0
            metres = scale.factor * scale.affine.relative_depth(values)[near]
            errors.append(float(np.mean(np.abs(metres / depth_m[near] - 1.0))))
    return problems, errors


@pytest.mark.parametrize('kind', ['street', 'room'])
def test_lidar_recovers_metres_within_ten_frames(kind):
    problems, errors = drive('lidar', kind, 10, Extrinsics(T_camera_lidar=np.eye(4)))
    assert not any(problems)
    assert max(errors) < 0.02


@pytest.mark.parametrize('mounting', [np.eye(4), None])
def test_odometry_recovers_metres_within_ten_seconds(mounting):
    _, errors = drive('odometry', 'street', 24, Extrinsics(T_body_camera=mounting))
    assert len(errors) > 12
    assert errors[-1] < 0.05
    assert float(np.median(errors)) < 0.05


@pytest.mark.parametrize(
    ('axis', 'degrees', 'words'),
    [(1, 5, 'px left'), (1, 15, 'px left'), (0, 10, 'agree with any'), (2, 90, '')],
)
def test_a_lidar_that_is_turned_is_refused_and_not_averaged_in(axis, degrees, words):
    turn = [0.0] * 6
    turn[3 + axis] = math.radians(degrees)
    wrong = Extrinsics(T_camera_lidar=exponential(turn))
    problems, errors = drive('lidar', 'street', 4, wrong)
    assert not errors
    assert all(problem and words in problem for problem in problems)


def test_odometry_of_a_camera_that_is_turned_is_refused():
    turned = Extrinsics(T_body_camera=exponential([0, 0, 0, 0, math.radians(90), 0]))
    problems, errors = drive('odometry', 'street', 4, turned)
    assert not errors
    assert 'degrees off the way that odometry says' in problems[1]


def red_network(folder, shape=(1, 3, 4, 6)):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    from teacher_files import write_red

    return write_red(folder / 'net.onnx', 'disparity', shape)


def test_metres_of_a_relative_network_by_hand(tmp_path):
    """Red 0.2 of white is d; 1/Z = (1 + 2 (0.2 - 0.1) / 0.1) / 6 = 1/2."""
    camera = Camera(60, 40, 60.0, 60.0, 29.5, 19.5)
    engine = DepthEngine.from_checkpoint(str(red_network(tmp_path)))
    assert engine.checkpoint.affine
    image = np.full((40, 60, 3), 51, np.uint8)
    scale = Scale(6.0, 0.01, Affine(0.1, 0.1, 2.0, 0.04))
    frame = engine.infer_batch([(image, camera)], scales=[scale], settings=WIDE)[0]
    np.testing.assert_allclose(frame.depth_m, 2.0, rtol=1e-5)
    assert frame.values is not None
    np.testing.assert_allclose(frame.values, 0.2, rtol=1e-5)
    farther = frame.rescaled(scale._replace(factor=12.0))
    np.testing.assert_allclose(farther.depth_m, 4.0, rtol=1e-5)
    # Beyond what the shift allows is the sky.
    beyond = frame.rescaled(scale._replace(affine=Affine(0.5, 0.1, 2.0)))
    assert np.isposinf(beyond.depth_m).all()
    # Without a scale nothing is called metres: the median is put into the middle of the range.
    unknown = engine.infer_batch([(image, camera)], settings=DepthSettings(1.0, 100.0))[0]
    np.testing.assert_allclose(unknown.depth_m, 10.0, rtol=1e-5)


def test_depth_by_the_shift_is_filtered_and_disparity_with_it(tmp_path):
    """d of 0.2 and 0.24 are 2 m and 6 / 3.8 m: of two frames the mean of ln Z."""
    camera = Camera(160, 120, 160.0, 160.0, 79.5, 59.5)
    engine = DepthEngine.from_checkpoint(str(red_network(tmp_path, (1, 3, 96, 128))))
    scale = Scale(6.0, 0.01, Affine(0.1, 0.1, 2.0))
    settings = replace(WIDE, temporal_s=10.0)
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
    moments = TemporalFilter(), 0
    for red, expected_m in ((51, 2.0), (61, math.sqrt(2.0 * 6.0 / 3.8))):
        image[..., 0] = red
        (frame,) = engine.infer_batch(
            [(image, camera)], scales=[scale], settings=settings, moments=[moments]
        )
        np.testing.assert_allclose(np.median(frame.depth_m), expected_m, rtol=0.02)
        line = 6.0 / np.median(frame.depth_m)  # 1 + 2 (d - 0.1) / 0.1
        assert np.median(frame.values) == pytest.approx(0.1 + 0.05 * (line - 1.0), rel=1e-4)
        moments = moments[0], 100_000_000


def test_confidence_tells_of_an_uncertain_slope(tmp_path):
    """z' = Z / s = 1/3: the variance of ln Z is 0.01 + (2/3)^2 times that of ln k."""
    camera = Camera(60, 40, 60.0, 60.0, 29.5, 19.5)
    engine = DepthEngine.from_checkpoint(f'{red_network(tmp_path)}?flip=true')
    image = np.full((40, 60, 3), 51, np.uint8)
    scale = Scale(6.0, 0.01, Affine(0.1, 0.1, 2.0, 0.09))
    frame = engine.infer_batch([(image, camera)], scales=[scale], settings=WIDE)[0]
    floor = engine.checkpoint.info.output.sigma_floor
    sigma = math.sqrt(0.01 + (2 / 3) ** 2 * 0.09 + floor**2)
    expected = math.erf(math.log(1.25) / (sigma * math.sqrt(2)))
    np.testing.assert_allclose(frame.confidence, expected, rtol=1e-4)


def test_modes_that_find_no_shift_are_refused(tmp_path):
    engine = DepthEngine.from_checkpoint(str(red_network(tmp_path)))
    for mode in ('fixed', 'camera_height'):
        with pytest.raises(SettingsError, match=r'finds no shift\. Choose scale.mode odometry or'):
            ScaleSettings(mode=mode, factor=2.0).refuse_unscaled(engine.checkpoint)
    for mode in ('relative', 'lidar', 'odometry'):
        ScaleSettings(mode=mode).refuse_unscaled(engine.checkpoint)
    only_scale = DepthEngine.from_checkpoint(f'{red_network(tmp_path)}?shift=false')
    assert not only_scale.checkpoint.affine


def test_least_squares_by_hand():
    """1/Z = 0.5 d + 0.25 at d = 0 and 4: the centre is 2, the deviation 2, 1/Z there 1.25."""
    shape, factor = align_least_squares(np.array([0.0, 4.0], np.float32), np.array([0.25, 2.25]))
    assert (shape.centre, shape.spread, shape.slope) == pytest.approx((2.0, 2.0, 0.8))
    assert factor == pytest.approx(0.8)
    np.testing.assert_allclose(factor * shape.relative_depth(np.float32([2.0])), 1.0 / 1.25)
    flat, factor = align_least_squares(np.ones(3, np.float32), np.full(3, 0.5))
    np.testing.assert_allclose(factor * flat.relative_depth(np.ones(3, np.float32)), 2.0)
