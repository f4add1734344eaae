"""Flow, parallax, sharpness and exposure of pictures whose motion is known."""

import cv2
import numpy as np
import pytest

from psd_depth_ros.data.triplets.choose import (
    find_corners,
    measure_saturation,
    measure_sharpness,
    measure_shift,
    shrink_grey,
)

FOCAL = 0.8


def make_texture(seed=0, height=120, width=208):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 5, width // 5)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def moved(grey, x_px):
    """The picture, each point of it `x_px` (H, W) further to the right."""
    height, width = grey.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(grey, (x - x_px).astype(np.float32), y, cv2.INTER_LINEAR)


def shift_between(first, second):
    return measure_shift(first, second, find_corners(first), FOCAL)


def test_the_flow_is_in_percent_of_the_width():
    grey = make_texture()
    shift = shift_between(grey, moved(grey, np.full(grey.shape, 5.2)))
    assert shift.flow == pytest.approx(2.5, abs=0.05)
    assert shift.tracked > 0.8


def test_a_turn_leaves_no_parallax():
    """About y by 1.5 degrees: x' = f tan(atan(x / f) + a), y' = y cos(phi) / cos(phi + a)."""
    grey = make_texture()
    height, width = grey.shape
    angle, focal_px = np.radians(1.5), FOCAL * width
    y, x = np.mgrid[:height, :width].astype(np.float64)
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    before = np.arctan(x / focal_px) - angle
    maps = focal_px * np.tan(before), y * np.cos(before + angle) / np.cos(before)
    turned = cv2.remap(
        grey,
        (maps[0] + (width - 1) / 2).astype(np.float32),
        (maps[1] + (height - 1) / 2).astype(np.float32),
        cv2.INTER_LINEAR,
    )
    shift = shift_between(grey, turned)
    assert shift.flow > 2
    assert shift.parallax < 0.06


def test_near_and_far_give_parallax():
    """Half of the picture moves by 2 px, half by 6: a turn explains 4, 2 px are left."""
    grey = make_texture()
    x_px = np.full(grey.shape, 2.0)
    x_px[60:] = 6.0
    shift = shift_between(grey, moved(grey, x_px))
    assert shift.parallax > 0.5


def test_another_scene_is_not_found_again():
    assert shift_between(make_texture(1), make_texture(2)).tracked < 0.3


def test_nothing_to_track():
    flat = np.full((120, 208), 80, np.uint8)
    shift = shift_between(flat, flat)
    assert shift.tracked == 0
    assert np.isnan(shift.flow)


def test_motion_blur_takes_sharpness_away_and_contrast_does_not():
    rng = np.random.default_rng(3)
    blocks = rng.integers(0, 256, (26, 84)).astype(np.uint8)
    sharp = np.kron(blocks, np.ones((5, 5), np.uint8))
    assert measure_sharpness(sharp) > 0.3
    assert measure_sharpness(sharp) == pytest.approx(measure_sharpness(sharp // 3), abs=0.05)
    assert measure_sharpness(cv2.GaussianBlur(sharp, (0, 0), 3.0, sigmaY=0.1)) < 0.1
    assert measure_sharpness(np.full((128, 416), 9, np.uint8)) == 0


def test_saturation_is_the_share_of_black_and_white():
    grey = np.full((10, 10), 100, np.uint8)
    grey[:2] = 255
    grey[2] = 0
    assert measure_saturation(grey) == pytest.approx(0.3)


def test_shrinking_keeps_the_shape():
    assert shrink_grey(np.zeros((375, 1242, 3), np.uint8)).shape == (63, 208)
