import math

import numpy as np
import pytest

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera, Distortion

CAMERA = Camera(100, 60, 200.0, 210.0, 49.5, 29.5)


def project(camera, point):
    return camera.project([point])[0]


def test_the_middle_of_an_image_stays_the_middle():
    # The centre of a 100 px wide image is 49.5; doubled, 99.5.
    assert CAMERA.resize(200, 120).cx == 99.5
    assert CAMERA.resize(200, 120).cy == 59.5
    assert CAMERA.resize(50, 30).cx == 24.5


def test_resize_moves_every_projection_by_the_half_pixel_rule():
    point = (0.11, -0.04, 1.0)
    u, v = project(CAMERA, point)
    du, dv = project(CAMERA.resize(250, 90), point)
    assert du == pytest.approx(2.5 * (u + 0.5) - 0.5)
    assert dv == pytest.approx(1.5 * (v + 0.5) - 0.5)


def test_crop_subtracts_the_corner():
    u, v = project(CAMERA, (0.1, 0.05, 1.0))
    assert project(CAMERA.crop(10, 20, 50, 30), (0.1, 0.05, 1.0)) == pytest.approx(
        (u - 10, v - 20)
    )


def test_zoom_is_resize_then_crop():
    zoomed = CAMERA.zoom(2.0, 30, 14, 80, 64)
    expected = CAMERA.resize(200, 120).crop(30, 14, 80, 64)
    assert zoomed == expected
    assert (zoomed.fx, zoomed.cx) == (400.0, 2.0 * 50.0 - 0.5 - 30)


def test_flip_mirrors_about_the_middle_and_twice_is_nothing():
    camera = Camera(100, 60, 200.0, 210.0, 40.0, 29.5)
    assert camera.flip().cx == 59.0
    assert camera.flip().flip() == camera
    with pytest.raises(CalibrationError, match='rectify it first'):
        Camera(
            100, 60, 200.0, 210.0, 40.0, 29.5, Distortion('plumb_bob', (0.1, 0, 0, 0, 0))
        ).flip()


def test_rectified_intrinsics_follow_too():
    camera = Camera(100, 60, 200.0, 210.0, 49.5, 29.5, rectified_intrinsics=(180, 190, 51, 30))
    assert not camera.is_rectified
    assert camera.resize(50, 30).rectified().cx == 0.5 * 51.5 - 0.5
    assert camera.rectified().is_rectified


def test_canonical_depth_is_the_same_before_and_after_a_zoom():
    # An object twice as large in pixels looks half as far: Z' halves, the ratio doubles.
    assert CAMERA.resize(200, 120).canonical_ratio(100.0) == 2 * CAMERA.canonical_ratio(100.0)


def test_projection_and_backprojection_are_inverse_through_a_lens():
    camera = Camera.from_K(
        [[400, 0, 320], [0, 410, 240], [0, 0, 1]], 640, 480, (-0.2, 0.05, 1e-3, -1e-3, 0.0)
    )
    pixels = np.array([[320.0, 240.0], [50.0, 400.0], [600.0, 30.0]])
    points = camera.backproject(pixels, [2.0, 3.0, 4.0])
    assert points[0] == pytest.approx((0.0, 0.0, 2.0))
    assert camera.project(points) == pytest.approx(pixels, abs=1e-6)


def test_rays_of_the_principal_point_look_straight_ahead():
    rays = Camera(5, 3, 2.0, 4.0, 2.0, 1.0).rays()
    assert rays.shape == (3, 5, 2)
    assert rays[1, 2].tolist() == [0.0, 0.0]
    assert rays[2, 4].tolist() == [1.0, 0.25]


@pytest.mark.parametrize(
    ('K', 'message'),
    [
        (np.zeros((3, 3)), 'marks an uncalibrated camera'),
        ([[math.nan, 0, 1], [0, 1, 1], [0, 0, 1]], 'not finite'),
        ([[-3, 0, 1], [0, 3, 1], [0, 0, 1]], 'expected positive pixels'),
        ([[3, 1, 1], [0, 3, 1], [0, 0, 1]], 'a skew of 1 px'),
        (np.eye(4), r'shape \(4, 4\)'),
    ],
)
def test_unusable_matrices_are_refused(K, message):
    with pytest.raises(CalibrationError, match=message) as caught:
        Camera.from_K(K, 64, 48)
    assert caught.value.uncalibrated == ('uncalibrated' in message)


@pytest.mark.parametrize(('width', 'height'), [(0, 10), (10, 0), (100000, 10)])
def test_impossible_sizes_are_refused(width, height):
    with pytest.raises(CalibrationError, match=f'{width}x{height}'):
        Camera.from_K(np.eye(3), width, height)


def test_a_rectification_that_is_no_rotation_is_refused():
    with pytest.raises(CalibrationError, match='rotation'):
        Camera(4, 4, 1.0, 1.0, 1.5, 1.5, rectification=((2, 0, 0), (0, 1, 0), (0, 0, 1)))


def test_skew_slants_columns_and_is_undone() -> None:
    # A skew of 20 px moves a point half a focal length below the axis by 10 px.
    camera = Camera.from_K([[400, 20, 320], [0, 400, 240], [0, 0, 1]], 640, 480)
    assert project(camera, (0.0, 0.5, 1.0)) == pytest.approx((330.0, 440.0))
    assert camera.backproject([[330.0, 440.0]], [2.0])[0] == pytest.approx((0.0, 1.0, 2.0))
    assert not camera.is_rectified
    assert camera.rectified() == Camera(640, 480, 400.0, 400.0, 320.0, 240.0)
    assert camera.resize(320, 480).skew == 10.0
    # One that moves no pixel by 1/64 px is not worth bending the image for.
    assert Camera.from_K([[400, 0.02, 320], [0, 400, 240], [0, 0, 1]], 640, 480).is_rectified


def test_a_mirror_is_no_rotation() -> None:
    with pytest.raises(CalibrationError, match='rotation'):
        Camera(4, 4, 1.0, 1.0, 1.5, 1.5, rectification=((-1, 0, 0), (0, 1, 0), (0, 0, 1)))
