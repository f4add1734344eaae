"""The motion of a camera from known points, whose answer is known."""

import numpy as np

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import exponential, transform
from psd_depth_ros.odometry.resection import find_rigid_motion

CAMERA = Camera(320, 192, 250.0, 240.0, 160.0, 95.0)
MOTION = exponential([0.1, -0.05, -0.8, 0.01, 0.03, -0.02])


def scene(count):
    rng = np.random.default_rng(0)
    pixels = rng.uniform((0, 0), (320, 192), (count, 2))
    points = CAMERA.backproject(pixels, rng.uniform(4.0, 40.0, count))
    return points, CAMERA.project(transform(MOTION, points)), rng


def test_the_motion_is_found_in_the_unit_of_the_depth_a_third_of_the_points_being_wrong():
    points, pixels, rng = scene(150)
    pixels[:50] += rng.uniform(5.0, 15.0, (50, 2))
    found = find_rigid_motion(points, pixels, CAMERA.K)
    np.testing.assert_allclose(found, MOTION, atol=1e-3)
    tenfold = find_rigid_motion(10.0 * points, pixels, CAMERA.K)
    np.testing.assert_allclose(tenfold[:3, :3], found[:3, :3], atol=1e-9)
    np.testing.assert_allclose(tenfold[:3, 3], 10.0 * found[:3, 3], atol=1e-8)


def test_few_points_and_points_that_agree_on_nothing_have_no_motion():
    points, pixels, rng = scene(150)
    assert find_rigid_motion(points[:29], pixels[:29], CAMERA.K) is None
    assert find_rigid_motion(points, rng.permutation(pixels), CAMERA.K) is None
