import numpy as np

from psd_depth_ros.visualisation import colour_depth


def test_near_is_red_far_is_blue_and_invalid_is_dark() -> None:
    depth = np.array([[1.0, 80.0, np.nan, np.inf, -np.inf]], np.float32)
    near, far, unknown, sky, close = colour_depth(depth, 1.0, 80.0)[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert unknown.tolist() == close.tolist() == [0, 0, 0]
    assert sky.tolist() not in ([0, 0, 0], far.tolist())


def test_equal_ratios_are_equal_steps() -> None:
    depth = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]], np.float32)
    one, _, middle, _, last = colour_depth(depth, 1.0, 16.0)[0]
    again = colour_depth(depth * 3, 3.0, 48.0)[0]
    assert np.array_equal(again[0], one)
    assert np.abs(again[2].astype(int) - middle).max() <= 3
    assert np.array_equal(again[4], last)
