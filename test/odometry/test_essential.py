"""Distances to epipolar lines known by hand, and a motion found again from its rays."""

import cv2
import numpy as np
import pytest

from psd_depth_ros.odometry.essential import (
    epipolar_distance,
    essential_matrix,
    pixel_rays,
    recover_motion,
    refine_motion,
)

SIDEWAYS = np.array([1.0, 0.0, 0.0])


def test_a_sideways_motion_keeps_points_on_their_row():
    assert np.array_equal(
        essential_matrix(np.eye(3), SIDEWAYS), [[0, 0, 0], [0, 0, -1], [0, 1, 0]]
    )
    to, of = np.array([[0.3, 0.2, 1.0]] * 2), np.array([[0.1, 0.2, 1.0], [0.1, 0.21, 1.0]])
    # 0.01 off its row: half of it is put right in either view, so 0.01 / sqrt(2).
    wanted = [0.0, 0.01 / np.sqrt(2.0)]
    np.testing.assert_allclose(np.abs(epipolar_distance(to, of, np.eye(3), SIDEWAYS)), wanted)


@pytest.mark.parametrize('information', [None, 1e-9 * np.eye(5)])
def test_a_motion_is_found_again_from_a_start_nearby(information):
    rng = np.random.default_rng(0)
    points = rng.uniform([-4.0, -2.0, 4.0], [4.0, 2.0, 20.0], (200, 3))
    rotation, translation = cv2.Rodrigues(np.array([0.01, 0.03, -0.02]))[0], [0.1, 0.05, 0.8]
    moved = points @ rotation.T + translation
    to, of = moved / moved[:, 2:], points / points[:, 2:]
    start = cv2.Rodrigues(np.array([0.012, 0.025, -0.02]))[0], np.array([0.15, 0.05, 0.8])
    turned, direction = refine_motion(to, of, *start, lambda off: 0.05, information)
    np.testing.assert_allclose(turned, rotation, atol=1e-6)
    np.testing.assert_allclose(direction, translation / np.linalg.norm(translation), atol=1e-5)


@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_of_four_motions_that_with_the_points_in_front_is_recovered(sign):
    rng = np.random.default_rng(1)
    points = rng.uniform([-4.0, -2.0, 4.0], [4.0, 2.0, 20.0], (300, 3))
    rotation = cv2.Rodrigues(np.array([0.01, 0.03, -0.02]))[0]
    direction = sign * np.array([0.1, 0.05, 0.8]) / np.linalg.norm([0.1, 0.05, 0.8])
    moved = points @ rotation.T + direction
    to, of = moved / moved[:, 2:], points / points[:, 2:]
    essential = essential_matrix(rotation, direction)
    found = recover_motion(-essential, to, of)  # of a matrix the sign is not known
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-9)
    np.testing.assert_allclose(found.direction, direction, atol=1e-9)
    np.testing.assert_allclose(found.distance_of, points[:, 2], rtol=1e-6)
    np.testing.assert_allclose(found.distance_to, moved[:, 2], rtol=1e-6)
    assert found.in_front.all()
    near = recover_motion(essential, to, of, farthest=10.0).in_front
    np.testing.assert_array_equal(near, (points[:, 2] < 10.0) & (moved[:, 2] < 10.0))
    # OpenCV's answer, with errors of the pixels.
    K = np.diag([400.0, 400.0, 1.0])
    here, there = (400.0 * rays[:, :2] + rng.normal(0.0, 0.2, (300, 2)) for rays in (of, to))
    _, turned, ahead, mask, homogeneous = cv2.recoverPose(
        essential, here, there, K, distanceThresh=50.0, mask=np.ones((300, 1), np.uint8)
    )
    found = recover_motion(essential, pixel_rays(there, K), pixel_rays(here, K), 50.0)
    np.testing.assert_allclose(found.rotation, turned, atol=1e-9)
    np.testing.assert_allclose(found.direction, ahead[:, 0], atol=1e-9)
    np.testing.assert_array_equal(found.in_front, mask[:, 0] > 0)
    ratio = found.distance_of / (homogeneous[2] / homogeneous[3])
    assert abs(np.median(ratio[found.in_front]) - 1.0) < 0.002
