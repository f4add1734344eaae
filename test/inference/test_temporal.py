"""The temporal filter on a textured plane, where every answer is known."""

from dataclasses import replace
import math

import cv2
import numpy as np
import pytest

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import exponential, transform
from psd_depth_ros.inference.temporal import TemporalFilter

CAMERA = Camera(320, 192, 250.0, 250.0, 159.5, 95.5)
HALF = CAMERA.resize(160, 96)  # of the depth
STEP_NS = 100_000_000
NORMAL, DISTANCE_M = np.array([0.4, 0.2, 1.0]), 6.0  # the plane n.X = d
RNG = np.random.default_rng(0)
TEXTURE = cv2.GaussianBlur(RNG.uniform(0, 255, (1024, 1024)).astype(np.float32), (0, 0), 2.0)
TEXTURE = cv2.normalize(TEXTURE, None, 0, 255, cv2.NORM_MINMAX)


def look(camera, T_world_camera):
    """The picture of the plane (H, W) and its depth (H, W)."""
    rays = np.concatenate([camera.rays(), np.ones((*camera.size, 1))], -1).reshape(-1, 3)
    centre = T_world_camera[:3, 3]
    depth = (DISTANCE_M - NORMAL @ centre) / (rays @ T_world_camera[:3, :3].T @ NORMAL)
    points = transform(T_world_camera, rays * depth[:, None])
    places = (512 + 50 * points[:, :2]).astype(np.float32).reshape(*camera.size, 2)
    grey = cv2.remap(TEXTURE, places, None, cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    return grey, depth.reshape(camera.size)


def still(time_s=0.2):
    """A filter that has seen ln Z = 1 for 2 s, its picture, and the stamp of the last one."""
    grey, _ = look(CAMERA, np.eye(4))
    one, flat = TemporalFilter(), np.ones((96, 160), np.float32)
    for index in range(21):
        filtered = one.update(flat, grey, CAMERA, index * STEP_NS, time_s)
    np.testing.assert_allclose(filtered, 1.0, atol=2e-3)
    return one, grey, 20 * STEP_NS


@pytest.mark.parametrize(
    'twist', [[0, 0, 0.5, 0, 0, 0], [0.3, 0, 0, 0, 0, 0], [0.1, 0.1, 0.3, 0.01, -0.02, 0.03]]
)
def test_depth_is_predicted_by_the_motion_that_is_seen(twist):
    one, moved = TemporalFilter(), exponential(twist)
    grey, _ = look(CAMERA, np.eye(4))
    one.update(np.log(look(HALF, np.eye(4))[1]), grey, CAMERA, 0, 10.0)
    grey, _ = look(CAMERA, moved)
    truth = np.log(look(HALF, moved)[1])
    # Half of an error of the prediction is in the result, for the first two frames count alike.
    found = one.update(truth, grey, CAMERA, STEP_NS, 10.0)
    assert np.abs(found - truth)[8:-8, 16:-16].max() < 0.0005


def test_a_lasting_change_comes_through_by_the_time_constant():
    one, grey, stamp_ns = still(time_s=0.2)
    for index in range(1, 5):
        jumped = np.full((96, 160), 1.1, np.float32)
        found = one.update(jumped, grey, CAMERA, stamp_ns + index * STEP_NS, 0.2)
        assert np.median(found) == pytest.approx(1.1 - 0.1 * math.exp(-0.5 * index), abs=2e-3)


def test_another_exposure_is_no_other_scene():
    one, grey, stamp_ns = still()
    darker = (0.6 * grey).astype(np.uint8)
    jumped = np.full((96, 160), 1.1, np.float32)
    found = one.update(jumped, darker, CAMERA, stamp_ns + STEP_NS, 0.2)
    assert np.median(found) == pytest.approx(1.1 - 0.1 * math.exp(-0.5), abs=2e-3)


def test_the_first_frames_count_alike():
    grey, _ = look(CAMERA, np.eye(4))
    one = TemporalFilter()
    for index, (value, mean) in enumerate([(1.0, 1.0), (1.1, 1.05), (1.2, 1.1)]):
        depth = np.full((96, 160), value, np.float32)
        found = one.update(depth, grey, CAMERA, index * STEP_NS, 10.0)
        assert np.median(found) == pytest.approx(mean, abs=2e-3)


def test_what_is_new_has_its_own_depth_and_nan_stays_where_it_is():
    one, grey, stamp_ns = still()
    depth, other = np.full((96, 160), 1.05, np.float32), grey.copy()
    depth[30:60, 40:80] = 0.5  # something nearer that was not there
    other[60:120, 80:160] = 255 - other[60:120, 80:160]
    depth[5:10, 100:120] = np.nan
    found = one.update(depth, other, CAMERA, stamp_ns + STEP_NS, 0.2)
    assert np.abs(found[32:58, 42:78] - 0.5).max() < 0.01
    assert np.array_equal(np.isnan(found), np.isnan(depth))
    assert np.median(found[70:90]) == pytest.approx(1.05 - 0.05 * math.exp(-0.5), abs=2e-3)
    # What had no depth takes its first one as it is.
    found = one.update(np.full_like(depth, 1.05), grey, CAMERA, stamp_ns + 2 * STEP_NS, 0.2)
    np.testing.assert_allclose(found[6:9, 102:118], 1.05, atol=1e-6)


@pytest.mark.parametrize(
    'change',
    [
        {'stamp_ns': 20 * STEP_NS + 500_000_001},
        {'stamp_ns': 19 * STEP_NS},
        {'camera': replace(CAMERA, fx=260.0)},
        {'source': 'another network'},
        {'grey': np.full((192, 320), 100, np.uint8)},  # no corner to be followed
        {'grey': look(CAMERA, exponential([4, 0, 0, 0, 0, 0]))[0]},  # a cut
    ],
)  # fmt: skip
def test_where_the_past_does_not_tell_a_frame_is_taken_as_it_is(change):
    one, grey, stamp_ns = still()
    depth = np.full((96, 160), 1.1, np.float32)
    frame = {'grey': grey, 'camera': CAMERA, 'stamp_ns': stamp_ns + STEP_NS, 'source': ''}
    found = one.update(depth, time_s=0.2, **{**frame, **change})
    assert np.array_equal(found, depth)


def test_after_a_reset_a_frame_is_taken_as_it_is():
    one, grey, stamp_ns = still()
    one.reset()
    depth = np.full((96, 160), 1.1, np.float32)
    assert np.array_equal(one.update(depth, grey, CAMERA, stamp_ns + STEP_NS, 0.2), depth)
