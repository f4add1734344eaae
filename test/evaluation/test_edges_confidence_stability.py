from itertools import pairwise
import math

import cv2
import numpy as np
import pytest

from psd_depth_ros.data.frames import TimedFrame
from psd_depth_ros.evaluation.metrics import boundary_f1, match, measure_confidence, measure_edges
from psd_depth_ros.evaluation.stability import Stability
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import make_pose

LIMITS = {'minimum_m': 0.1, 'maximum_m': 80.0}


def step_at(column, size=(40, 60)):
    """A wall at 5 m in front of one at 10 m, left of a column."""
    depth = np.full(size, 10.0, np.float32)
    depth[:, :column] = 5.0
    return depth


def box(near_m=5.0, far_m=10.0):
    depth = np.full((40, 60), far_m, np.float32)
    depth[10:30, 20:40] = near_m
    return depth


def test_edges_in_place_are_perfect_whatever_the_scale():
    found = measure_edges(box() * 0.5, box(), **LIMITS)
    assert found.boundary_f1 == 1.0
    assert (found.accuracy_px, found.completeness_px) == (0.0, 0.0)


def test_a_truth_with_edges_in_one_direction_scores_one():
    assert measure_edges(step_at(30), step_at(30), **LIMITS).boundary_f1 == 1.0


def test_a_wall_has_no_edges_to_find():
    wall = np.full((40, 60), 5.0)
    assert math.isnan(measure_edges(step_at(30), wall, **LIMITS).boundary_f1)


def test_an_edge_that_is_too_weak_is_found_at_the_lower_ratios_only():
    # A ratio of 1.1 is above 1.05, 1.0722 and 1.0944 of the ten.
    ratios = np.linspace(1.05, 1.25, 10)
    expected = ratios[ratios < 1.1].sum() / ratios.sum()
    found = measure_edges(box(near_m=10 / 1.1), box(), **LIMITS)
    assert found.boundary_f1 == pytest.approx(expected)


def test_edges_beside_are_as_far_off_as_they_are():
    found = measure_edges(step_at(33), step_at(30), **LIMITS)
    assert found.boundary_f1 == 0.0
    assert found.accuracy_px == pytest.approx(3.0)
    assert found.completeness_px == pytest.approx(3.0)


def test_depth_without_edges_has_none_to_be_exact_about():
    found = measure_edges(np.full((40, 60), 5.0), step_at(30), **LIMITS)
    assert found.boundary_f1 == 0.0
    assert math.isnan(found.accuracy_px)
    assert found.completeness_px == 10.0


def test_wide_holes_of_the_truth_make_no_edges():
    truth = step_at(30)
    truth[:, 28:32] = np.nan
    found = measure_edges(step_at(30), truth, **LIMITS)
    assert math.isnan(found.accuracy_px)
    assert math.isnan(found.boundary_f1)


def test_an_edge_that_lies_in_a_narrow_hole_counts():
    # such as in the shadow of a depth camera
    truth = step_at(30)
    truth[:, 29:31] = np.nan
    assert measure_edges(step_at(30), truth, **LIMITS).boundary_f1 == 1.0
    assert measure_edges(step_at(35), truth, **LIMITS).boundary_f1 == 0.0
    assert measure_edges(10.0 / step_at(30), truth, **LIMITS).boundary_f1 == 0.0  # wrong way


def large_box():
    depth = np.full((480, 640), 10.0)
    depth[103:303, 207:427] = 5.0
    return depth


def enlarged(depth, stride):
    """The output of a network that knows the mean of every square of pixels, enlarged."""
    size = (depth.shape[1] // stride, depth.shape[0] // stride)
    small = cv2.resize(np.log(depth), size, interpolation=cv2.INTER_AREA)
    return np.exp(cv2.resize(small, depth.shape[::-1], interpolation=cv2.INTER_LINEAR))


def test_edges_of_large_images_are_compared_at_the_resolution_of_a_small_network():
    truth = large_box()
    exact, at_stride, twice, blurred = (
        measure_edges(depth, truth, **LIMITS).boundary_f1
        for depth in (
            truth, enlarged(truth, 5), enlarged(truth, 10),
            np.exp(cv2.GaussianBlur(np.log(truth), (0, 0), 12.0)),
        )
    )  # fmt: skip
    assert exact == 1.0
    assert 0.6 < at_stride < 0.7  # half a cell beside the grid: two steps where one is true
    assert at_stride > 1.3 * twice > 2.0 * blurred


def test_cells_take_the_median_of_their_pixels():
    # 80x100 pixels are cells themselves, of 160x200 there are 2x2 in a cell
    truth, depth = (np.random.default_rng(i).normal(0.0, 0.1, (80, 100)) for i in range(2))
    fine_truth, fine_depth = (one.repeat(2, 0).repeat(2, 1) for one in (truth, depth))
    fine_depth[1::2, 1::2] += 1.0  # one of the four
    known = np.ones((160, 200), bool)
    known[1::2, ::2] = False
    assert boundary_f1(fine_depth, fine_truth, known) == boundary_f1(depth, truth)


def test_the_sky_is_an_edge():
    truth = box(far_m=np.inf)
    assert measure_edges(truth, truth, **LIMITS).boundary_f1 == 1.0


def confidence_of(order):
    """Areas where the error of 100 pixels grows from 0 to 99 %, by a confidence."""
    truth = np.full((10, 10), 10.0)
    depth = truth * (1.0 + np.arange(100).reshape(10, 10) / 100.0)
    matched = match(depth, truth, median_scaled=False)
    return measure_confidence(matched, order.reshape(10, 10))['abs_rel']


def test_a_confidence_that_knows_the_error_is_as_good_as_the_oracle():
    found = confidence_of(-np.arange(100.0))
    assert found.ause == pytest.approx(0.0, abs=1e-12)
    # what is left has errors 0 .. n - 1 %: mean (n - 1) / 200 for n = 100, 98, .. 2
    curve = [(n - 1) / 200 for n in range(100, 0, -2)] + [0.0]
    area = sum((a + b) / 100 for a, b in pairwise(curve))
    assert found.aurg == pytest.approx(0.495 - area)


def test_a_confidence_that_is_wrong_is_worse_than_chance():
    found = confidence_of(np.arange(100.0))
    assert found.ause > 0.3
    assert found.aurg < -0.1


CAMERA = Camera(64, 48, 50.0, 50.0, 31.5, 23.5)


def wall(index, distance_m, with_pose=True, truth=True, rgb=None):
    """A wall in front of a camera that drives towards it, frame by frame."""
    pose = make_pose(np.eye(3), (0.0, 0.0, 20.0 - distance_m)) if with_pose else None
    depth = np.full((48, 64), distance_m, np.float32)
    rgb = np.zeros((48, 64, 3), np.uint8) if rgb is None else rgb
    depth_m = depth if truth else None
    stamp_ns = index * 100_000_000
    return TimedFrame(
        index, stamp_ns, 'lens', rgb, CAMERA, pose, depth_m=depth_m, sequence='drive'
    )


def stability_of(frames, factors):
    stability = Stability(1e-3, 80.0)
    for frame, factor in zip(frames, factors, strict=True):
        depth = np.full((48, 64), 1.0, np.float32) * frame.depth_m * factor
        stability.add(frame, frame.pose, frame.rgb, depth)
    return stability.result


def test_depth_that_follows_the_motion_is_stable_at_any_scale():
    frames = [wall(0, 10.0), wall(1, 9.0), wall(2, 8.0)]
    found = stability_of(frames, (0.3, 0.3, 0.3))
    assert (found.method, found.pairs) == ('poses', 2)
    assert found.median_change == pytest.approx(0.0, abs=1e-6)


def test_depth_that_flickers_changes_by_its_flicker():
    frames = [wall(0, 10.0), wall(1, 9.0), wall(2, 8.0)]
    found = stability_of(frames, (1.0, 1.1, 1.0))
    assert found.median_change == pytest.approx(math.log(1.1), abs=1e-6)


def test_without_poses_pixels_are_followed_by_flow():
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (6, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    moved = np.roll(texture, 3, axis=1)
    frames = [wall(1, 10.0, False, False, texture), wall(2, 10.0, False, False, moved)]
    left_and_right = np.where(np.arange(64) < 32, 5.0, 10.0)[None].repeat(48, 0)
    stability = Stability(1e-3, 80.0)
    stability.add(frames[0], None, texture, left_and_right)
    stability.add(frames[1], None, moved, 1.2 * np.roll(left_and_right, 3, axis=1))
    assert stability.result.method == 'flow'
    assert stability.result.median_change == pytest.approx(math.log(1.2), abs=0.01)


def test_images_that_do_not_follow_each_other_are_not_compared():
    frames = [wall(0, 10.0), wall(20, 9.0)]
    assert stability_of(frames, (1.0, 1.1)) is None
