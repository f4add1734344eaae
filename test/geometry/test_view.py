"""The rectified view: what of it is seen, and its choice by alpha, against values by hand."""

from dataclasses import replace
import math

import cv2
import numpy as np
import pytest

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.geometry.view import (
    describe_camera,
    find_doubts,
    kept_fraction,
    seen_fraction,
    view_mask,
    with_view,
)

BARREL = Distortion('plumb_bob', (-0.28, 0.07, 2e-4, -1e-4, 0.0))
PINCUSHION = Distortion('plumb_bob', (0.3, 0.0, 0.0, 0.0))
IDEAL_FISHEYE = Distortion('equidistant', (0.0,) * 4)
FISHEYE = Distortion('equidistant', (-0.012, 0.004, -0.0035, 0.0006))


def make_camera(lens: Distortion | None, focal_px: float = 420.0) -> Camera:
    return Camera(640, 480, focal_px, 1.01 * focal_px, 318.5, 241.0, lens)


@pytest.mark.parametrize('lens', [BARREL, PINCUSHION])
def test_keeping_all_pixels_agrees_with_opencv(lens: Distortion) -> None:
    camera = make_camera(lens)
    wanted, _ = cv2.getOptimalNewCameraMatrix(
        camera.K, np.array(lens.coefficients), (640, 480), 1.0
    )
    view = with_view(camera, 1.0).rectified()
    # OpenCV lets both sides touch and gives up square pixels; here the tighter side decides.
    assert min(view.fx - wanted[0, 0], view.fy - wanted[1, 1], key=abs) == pytest.approx(0, abs=1)
    assert (view.cx, view.cy) == pytest.approx((wanted[0, 2], wanted[1, 2]), abs=1.0)
    assert view.fy / view.fx == pytest.approx(camera.fy / camera.fx)


def test_an_ideal_fisheye_by_hand() -> None:
    # r = f theta on a square image, 1 radian from the middle to an edge and sqrt 2 to a corner.
    camera = Camera(401, 401, 200.5, 200.5, 200.0, 200.0, IDEAL_FISHEYE)
    # Inside lies the square that touches the edges in their middle: tan 1 at the last centre.
    inner = with_view(camera, 0.0).rectified()
    assert inner.fx == pytest.approx(200.0 / math.tan(1.0), rel=2e-3)
    # Outside lies the square through the corners, at tan(sqrt 2) / sqrt 2, but no further than
    # 80 degrees; sqrt 2 is 81 degrees.
    outer = with_view(camera, 1.0).rectified()
    assert outer.fx == pytest.approx(200.5 / (math.tan(math.radians(80)) / math.sqrt(2)), rel=0.02)
    between = with_view(camera, 0.5).rectified()
    assert between.fx == pytest.approx(0.5 * (inner.fx + outer.fx))
    assert (inner.cx, outer.cx) == pytest.approx((200.0, 200.0), abs=0.2)


@pytest.mark.parametrize(
    ('lens', 'focal_px'), [(BARREL, 420.0), (PINCUSHION, 420.0), (FISHEYE, 260.0), (None, 420.0)]
)
def test_zero_sees_everywhere_and_one_keeps_everything(lens, focal_px) -> None:  # type: ignore[no-untyped-def]
    turn, _ = cv2.Rodrigues(np.array([0.01, -0.03, 0.02]))
    camera = replace(
        make_camera(lens, focal_px), rectification=tuple(map(tuple, turn.tolist())), skew=3.0
    )
    inner, outer = with_view(camera, 0.0), with_view(camera, 1.0)
    assert view_mask(inner, inner.rectified()).all()
    # A view that is 3 % wider is not all seen: there is no larger one about this middle.
    fx, fy, cx, cy = inner.rectified_intrinsics
    wider = replace(inner, rectified_intrinsics=(0.97 * fx, 0.97 * fy, cx, cy))
    assert not view_mask(wider, wider.rectified()).all()
    assert kept_fraction(outer) > (0.97 if lens is FISHEYE else 0.999)
    assert kept_fraction(inner) < kept_fraction(outer)
    assert seen_fraction(inner) == 1.0
    assert seen_fraction(outer) < 1.0


def test_where_nothing_is_bent_the_view_is_that_of_K() -> None:
    camera = replace(make_camera(None), rectified_intrinsics=(300.0, 300.0, 300.0, 200.0))
    assert with_view(camera, 0.0) == make_camera(None)
    with pytest.raises(CalibrationError, match=r'rectify_alpha is 1.5, expected 0 to 1'):
        with_view(camera, 1.5)


def test_shares_by_hand() -> None:
    # A view twice as wide as the image is seen in a quarter of it, and holds all of the image.
    camera = replace(make_camera(None), rectified_intrinsics=(210.0, 212.1, 319.5, 239.5))
    assert seen_fraction(camera) == pytest.approx(0.25, abs=0.02)
    assert kept_fraction(camera) == 1.0
    # One twice as narrow is all seen, and holds a quarter.
    camera = replace(make_camera(None), rectified_intrinsics=(840.0, 848.4, 319.5, 239.5))
    assert seen_fraction(camera) == 1.0
    assert kept_fraction(camera) == pytest.approx(0.25, abs=0.02)
    assert '100 % of the rectified view is seen, 2' in describe_camera(camera)


def test_doubts_name_the_share_and_the_way_out() -> None:
    wide = replace(make_camera(FISHEYE, 260.0), rectified_intrinsics=(40.0, 40.0, 319.5, 239.5))
    (doubt,) = find_doubts(wide)
    assert f'only {100 * seen_fraction(wide):.0f} % of its rectified view' in doubt
    assert 'rectify_alpha' in doubt
    assert find_doubts(with_view(wide, 0.0)) == []
    # K of 1280x960 beside a size of 640x480.
    (doubt,) = find_doubts(Camera(640, 480, 900.0, 900.0, 639.5, 479.5))
    assert 'principal point of K, (639.5, 479.5), would suit images of about 1280x960' in doubt
    (doubt,) = find_doubts(Camera(640, 480, 300.0, 300.0, 159.0, 121.0))
    assert 'of about 319x243' in doubt
    assert find_doubts(Camera(640, 480, 300.0, 300.0, 210.0, 380.0)) == []  # a crop off the axis
    assert find_doubts(make_camera(BARREL)) == []


def test_rectified_pictures_with_the_calibration_of_a_lens_are_doubtful() -> None:
    for topic in ('/cam/image_rect', '/left/image_rect_color/compressed', '/rgb/rect/image'):
        (doubt,) = find_doubts(make_camera(BARREL), topic)
        assert topic in doubt
        assert 'rectified twice' in doubt
        assert 'image_is_rectified' in doubt
        assert find_doubts(make_camera(None), topic) == []
    for topic in ('/cam/image_raw', '/direct/image', '/rectangle/image', '/image_unrect'):
        assert find_doubts(make_camera(BARREL), topic) == []
