import math

import numpy as np
import pytest

from psd_depth_ros.geometry import pose


def test_a_quarter_turn_about_z():
    half = math.sqrt(0.5)
    rotation = pose.from_quaternion((0, 0, half, half))
    assert rotation @ (1, 0, 0) == pytest.approx((0, 1, 0))
    assert pose.to_quaternion(rotation) == pytest.approx((0, 0, half, half))
    assert pose.rotation_vector(rotation) == pytest.approx((0, 0, math.pi / 2))


def test_a_screw_motion_known_by_hand():
    # Half a turn about z while moving along z, with no sideways velocity.
    T = pose.exponential((0, 0, 2.0, 0, 0, math.pi))
    assert T[:3, 3] == pytest.approx((0, 0, 2.0))
    assert T[:3, :3] @ (1, 0, 0) == pytest.approx((-1, 0, 0))
    # A quarter circle of radius 1: forward speed pi/2, turning pi/2.
    T = pose.exponential((math.pi / 2, 0, 0, 0, 0, math.pi / 2))
    assert T[:3, 3] == pytest.approx((1.0, 1.0, 0.0))


def test_exponential_and_logarithm_are_inverse():
    rng = np.random.default_rng(0)
    for twist in [
        np.zeros(6),
        *rng.uniform(-1.7, 1.7, (50, 6)),
        *(1e-10 * rng.normal(size=(5, 6))),
    ]:
        assert pose.logarithm(pose.exponential(twist)) == pytest.approx(twist, abs=1e-9)


def test_quaternions_are_inverse_at_every_branch():
    rng = np.random.default_rng(1)
    for vector in [*rng.normal(size=(50, 4)), *np.eye(4), (1, 1e-9, 0, 0), (0, 1, 1, 0)]:
        unit = np.asarray(vector) / np.linalg.norm(vector)
        unit = unit if unit[3] >= 0 else -unit
        again = pose.to_quaternion(pose.from_quaternion(unit))
        assert abs(again @ unit) == pytest.approx(1.0)


def test_relative_and_inverse():
    T_w_a, T_w_b = (
        pose.exponential((1, 2, 3, 0.1, 0.2, 0.3)),
        pose.exponential((0, 1, 0, 0.5, 0, 0)),
    )
    T_b_a = pose.relative(T_w_b, T_w_a)
    assert T_w_b @ T_b_a == pytest.approx(T_w_a)
    assert pose.invert(T_w_a) @ T_w_a == pytest.approx(np.eye(4))
    assert pose.transform(pose.make_pose(np.eye(3), (1, 0, 0)), [(0, 0, 5)])[0].tolist() == [
        1,
        0,
        5,
    ]


@pytest.mark.parametrize(
    'quaternion',
    [
        (0, 0, 0, 0),
        (0, 0, 0, 2),
        (0, 0, 0.7, 0.2),
        (0.1, 0.2, 0.3, 0.4),  # length 0.55
        (1, 1, 1, 1),
        (1e-9, 0, 0, 0),
        (math.nan, 0, 0, 1),
        (math.inf, 0, 0, 1),
        (90.0, 0, 0, 1),
        (0, 0, 1),
    ],
)
def test_what_is_no_unit_quaternion_is_refused(quaternion):
    with pytest.raises(ValueError, match=r'quaternion .* has length .*, expected 1 \(x y z w\)'):
        pose.from_quaternion(quaternion)


@pytest.mark.parametrize(
    'quaternion', [(0, 0, 0.707, 0.707), (0, 0, 0.71, 0.71), (0, 0, -0.708, -0.708)]
)
def test_rounding_is_accepted_and_taken_out(quaternion):
    assert pose.from_quaternion(quaternion) @ (1, 0, 0) == pytest.approx((0, 1, 0), abs=1e-12)
