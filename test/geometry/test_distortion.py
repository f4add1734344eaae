"""Lens models against OpenCV, against values known by hand, and at the edge of their validity."""

import cv2
import numpy as np
import pytest

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry.distortion import Distortion

BARREL = (-0.28, 0.07, 2e-4, -1e-4, 0.0)
RATIONAL = (0.62, -0.15, 3e-4, -2e-4, -0.012, 1.0, -0.03, -0.041)
THIN_PRISM = (*RATIONAL, 1e-3, -2e-4, 5e-4, 1e-4)
FISHEYE = (-0.012, 0.004, -0.0035, 0.0006)

BROWN = [
    ('plumb_bob', BARREL[:4]),
    ('plumb_bob', BARREL),
    ('rational_polynomial', RATIONAL),
    ('rational_polynomial', THIN_PRISM),
    ('rational_polynomial', (*THIN_PRISM, 0.0, 0.0)),
    ('rational_polynomial', (*THIN_PRISM, 0.03, -0.05)),
]


def grid(limit: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.meshgrid(np.linspace(-limit, limit, 31), np.linspace(-0.7, 0.7, 23))
    return x, y


@pytest.mark.parametrize(('model', 'coefficients'), BROWN)
def test_agrees_with_opencv(model: str, coefficients: tuple[float, ...]) -> None:
    x, y = grid()
    points = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 1, 3)
    expected, _ = cv2.projectPoints(
        points, np.zeros(3), np.zeros(3), np.eye(3), np.array(coefficients)
    )
    xd, yd = Distortion(model, coefficients).distort(x, y)
    found = np.stack([xd, yd], -1).reshape(-1, 2)
    np.testing.assert_allclose(found, expected.reshape(-1, 2), atol=1e-12)


def test_equidistant_agrees_with_opencv_fisheye() -> None:
    x, y = grid(2.5)
    points = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 1, 3)
    expected, _ = cv2.fisheye.projectPoints(
        points, np.zeros(3), np.zeros(3), np.eye(3), np.array(FISHEYE)
    )
    xd, yd = Distortion('equidistant', FISHEYE).distort(x, y)
    found = np.stack([xd, yd], -1).reshape(-1, 2)
    np.testing.assert_allclose(found, expected.reshape(-1, 2), atol=1e-12)


@pytest.mark.parametrize(('model', 'coefficients'), [*BROWN, ('equidistant', FISHEYE)])
def test_undistort_inverts_distort(model: str, coefficients: tuple[float, ...]) -> None:
    lens = Distortion(model, coefficients)
    x, y = grid()
    back = lens.undistort(*lens.distort(x, y))
    np.testing.assert_allclose(back, (x, y), atol=1e-8)


def test_values_by_hand() -> None:
    # r^2 = 0.25: 1 - 0.2 * 0.25 = 0.95
    xd, yd = Distortion('plumb_bob', (-0.2, 0.0, 0.0, 0.0)).distort(0.3, 0.4)
    assert (float(xd), float(yd)) == pytest.approx((0.285, 0.38))
    # A ray at 45 degrees lands at theta = pi / 4 on an ideal equidistant lens.
    xd, yd = Distortion('equidistant', (0.0,) * 4).distort(1.0, 0.0)
    assert (float(xd), float(yd)) == pytest.approx((np.pi / 4, 0.0))


def test_fold_is_found_and_nothing_lies_beyond_it() -> None:
    # r (1 - r^2 / 3) grows up to r = 1, where it reaches 2 / 3.
    lens = Distortion('plumb_bob', (-1 / 3, 0.0, 0.0, 0.0))
    assert lens.max_radius == pytest.approx(1.0)
    xd, _ = lens.distort([0.99, 1.01, 1.7], [0.0, 0.0, 0.0])
    assert np.isfinite(xd).tolist() == [True, False, False]
    x, _ = lens.undistort([0.6, 0.666, 0.68, 1.0], np.zeros(4))
    assert np.isfinite(x).tolist() == [True, True, False, False]


def test_rational_pole_and_fisheye_fold_bound_the_radius() -> None:
    pole = Distortion('rational_polynomial', (0.0,) * 5 + (-0.25, 0.0, 0.0))
    assert pole.max_radius == pytest.approx(2.0)
    # theta (1 - theta^2 / 3) grows up to theta = 1.
    fisheye = Distortion('equidistant', (-1 / 3, 0.0, 0.0, 0.0))
    assert fisheye.max_radius == pytest.approx(np.tan(1.0))


def test_only_a_lens_that_changes_nothing_is_zero() -> None:
    assert Distortion('plumb_bob', (0.0,) * 5).is_zero
    assert not Distortion('plumb_bob', BARREL).is_zero
    assert not Distortion('equidistant', (0.0,) * 4).is_zero


@pytest.mark.parametrize(
    ('model', 'coefficients', 'words'),
    [
        ('fov', (0.9,), ["'fov'", 'plumb_bob', 'equidistant']),
        ('plumb_bob', (0.1, 0.2, 0.3), ['plumb_bob', '4 or 5', 'found 3']),
        ('equidistant', (0.1,) * 5, ['equidistant needs 4', 'found 5']),
        ('plumb_bob', (0.1, float('nan'), 0.0, 0.0), ['finite', 'nan']),
        ('rational_polynomial', (1.7e308,) + (0.0,) * 7, ['at most 1e+15', '1.7e+308']),
        ('plumb_bob', ('a', 0.0, 0.0, 0.0), ['must be numbers']),
        ('rational_polynomial', (0.0,) * 12 + (1.1, 0.0), ['tilted', '1.1', 'at most 0.7']),
    ],
)
def test_bad_coefficients_are_refused(model, coefficients, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CalibrationError) as caught:
        Distortion(model, coefficients)
    for word in words:
        assert word in str(caught.value)


def test_coefficients_become_plain_floats() -> None:
    lens = Distortion('plumb_bob', np.array(BARREL))  # type: ignore[arg-type]
    assert lens.coefficients == BARREL
    assert lens == Distortion('plumb_bob', BARREL)


def test_the_count_tells_the_model() -> None:
    assert Distortion.from_coefficients(BARREL) == Distortion('plumb_bob', BARREL)
    assert Distortion.from_coefficients(RATIONAL).model == 'rational_polynomial'
    with pytest.raises(CalibrationError, match='found 3'):
        Distortion.from_coefficients([0.1, 0.2, 0.3])
