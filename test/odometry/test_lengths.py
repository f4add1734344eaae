"""Lengths of motions that agree through the corners they share."""

import numpy as np
import pytest

from psd_depth_ros.odometry.lengths import (
    average_scales,
    compare_lengths,
    PairMotion,
    weighted_median,
)


def test_the_weighted_median() -> None:
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([1.0, 1.0, 1.0])) == 3.0
    assert weighted_median(np.array([5.0, 1.0, 3.0]), np.array([9.0, 1.0, 1.0])) == 5.0
    # Half of the weight ends between two values: the middle between them.
    assert weighted_median(np.array([4.0, 1.0, 2.0, 8.0]), np.ones(4)) == 3.0
    assert weighted_median(np.array([1.0, 9.0]), np.array([2.0, 2.0])) == 5.0


def test_corners_count_as_the_same_within_a_pixel() -> None:
    rng = np.random.default_rng(2)
    places = np.stack(np.meshgrid(np.arange(10.0), np.arange(6.0)), axis=-1).reshape(-1, 2) * 9.0
    distance = rng.uniform(5.0, 40.0, 60)
    one, other = (
        np.column_stack([places + shift, distance / length]).astype(np.float32)
        for shift, length in (((0.0, 0.0), 1.0), ((0.6, -0.6), 2.5))
    )
    rng.shuffle(other)
    assert compare_lengths(one, other) == pytest.approx(0.4, rel=1e-5)
    assert compare_lengths(one, other + np.float32([0.3, 0.0, 0.0])) is None
    assert compare_lengths(one, other[:19]) is None


def test_lengths_of_a_recording_agree() -> None:
    """A steady drive, 1 m from frame to frame, whose lengths were taken for 0.5 m .. 2 m."""
    rng = np.random.default_rng(1)
    found = {}
    for target in range(1, 40):
        x, y, depth = rng.random((3, 50)) * [[600], [180], [40]] + 5.0
        for source in (target - 1, target + 1):
            pose = np.eye(4)
            pose[2, 3] = (source - target) * np.exp(rng.uniform(-0.7, 0.7))
            kept = rng.random(50) < 0.9  # corners are not the same for both
            corners = np.column_stack([x, y, depth])[kept].astype(np.float32)
            found[target, source] = PairMotion(pose, corners)
    del found[7, 8], found[20, 19], found[20, 21]  # some could not be told
    agreed = average_scales(found)
    assert agreed.keys() == found.keys()
    lengths = np.array([motion.pose[2, 3] * np.sign(b - a) for (a, b), motion in agreed.items()])
    assert lengths.min() > 0.0
    np.testing.assert_allclose(lengths, np.median(lengths), rtol=0.2)
    early, late = lengths[:20], lengths[-20:]  # either side of what is missing
    np.testing.assert_allclose(early, np.median(early), rtol=0.02)
    np.testing.assert_allclose(late, np.median(late), rtol=0.02)
    assert np.median(lengths) == pytest.approx(1.0, rel=0.2)
    # Motions to and fro between two frames are equally long.
    assert agreed[3, 4].pose[2, 3] == pytest.approx(-agreed[4, 3].pose[2, 3])


def test_lengths_that_change_keep_their_ratios() -> None:
    """The second half of the drive is three times as fast; a wall says otherwise."""
    found = {}
    for target in range(1, 30):
        depth = np.linspace(5.0, 40.0, 60)
        for source in (target - 1, target + 1):
            length = 1.0 if min(target, source) < 15 else 3.0
            pose = np.eye(4)
            pose[0, 3] = source - target
            corners = np.column_stack([10 * depth, depth, depth / length]).astype(np.float32)
            found[target, source] = PairMotion(pose, corners)
    lengths = {key: abs(motion.pose[0, 3]) for key, motion in average_scales(found).items()}
    assert lengths[20, 21] / lengths[5, 4] == pytest.approx(3.0, rel=0.1)
    assert lengths[15, 16] / lengths[15, 14] == pytest.approx(3.0, rel=0.01)
