"""Corners of an image that moves by a known shift."""

import cv2
import numpy as np

from psd_depth_ros.odometry.tracking import Tracker

TRACKER = Tracker(300, 0.01, 8, window_px=15, levels=4, return_px=0.5)


def make_texture(seed=0, height=160, width=240):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 5, width // 5)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def test_corners_are_followed_to_a_fraction_of_a_pixel():
    grey = make_texture()
    shift = np.float32([[1, 0, 7.25], [0, 1, -3.5]])
    moved = cv2.warpAffine(grey, shift, grey.shape[::-1])
    start, end, fraction = TRACKER.follow(grey, moved, TRACKER.find(grey))
    assert len(start) > 50
    assert fraction > 0.5  # those near the border leave the image
    assert np.abs(np.median(end - start, axis=0) - [7.25, -3.5]).max() < 0.05


def test_corners_lie_where_the_mask_allows():
    grey = make_texture()
    mask = np.zeros_like(grey)
    mask[:, 120:] = 1
    corners = TRACKER.find(grey, mask)
    assert len(corners) > 20
    assert corners[:, 0].min() >= 120


def test_what_does_not_come_back_is_left_out():
    one, other = make_texture(1), make_texture(2)
    assert TRACKER.follow(one, other, TRACKER.find(one)).fraction < 0.3


def test_nothing_to_find():
    flat = np.full((160, 240), 80, np.uint8)
    corners = TRACKER.find(flat)
    assert corners.shape == (0, 2)
    start, end, fraction = TRACKER.follow(flat, flat, corners)
    assert (len(start), len(end), fraction) == (0, 0, 0.0)
