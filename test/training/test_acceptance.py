"""The gate, by cases whose answer is known."""

import math

import pytest

from psd_depth_ros.config import build
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.finetune.acceptance import AcceptanceSettings, HeldOut, judge

SETTINGS = AcceptanceSettings()
BEFORE = HeldOut(photometric=0.2, lidar_abs_rel=0.1)


def failed(after, before=BEFORE, settings=SETTINGS):
    verdict = judge(before, after, settings)
    assert verdict.accepted == all(check.passed for check in verdict.checks)
    return [check.name for check in verdict.checks if not check.passed]


@pytest.mark.parametrize(
    ('after', 'wrong'),
    [
        (HeldOut(0.19), []),  # 5 % better
        (HeldOut(0.1979), []),  # 1.05 % better
        (HeldOut(0.1981), ['gain']),  # 0.95 % better
        (HeldOut(0.21), ['gain']),
        (HeldOut(0.21, lidar_abs_rel=0.099), []),  # the lidar knows better than the images
        (HeldOut(0.21, lidar_abs_rel=0.101), ['gain']),
        (HeldOut(0.19, lidar_abs_rel=0.101), []),
        (HeldOut(0.19, scale_drift=0.099), []),
        (HeldOut(0.19, scale_drift=-0.1), ['drift']),
        (HeldOut(0.21, scale_drift=0.3), ['gain', 'drift']),
        (HeldOut(0.19, stretch=0.49), []),
        (HeldOut(0.19, stretch=-0.5), ['stretch']),
        (HeldOut(0.18, stretch=0.6), ['stretch']),  # far things ran away: better in images only
        (HeldOut(math.nan), ['gain']),
        (HeldOut(0.19, scale_drift=math.nan), ['drift']),
        (HeldOut(0.19, stretch=math.nan), ['stretch']),
    ],
)
def test_the_gate(after, wrong):
    assert failed(after) == wrong


def test_a_start_that_cannot_be_measured_is_never_beaten():
    assert failed(HeldOut(0.1), before=HeldOut(math.nan)) == ['gain']
    assert failed(HeldOut(0.1), before=HeldOut(0.0)) == ['gain']


def test_a_gate_can_be_left_open():
    limits = {'minimum_gain': -1, 'maximum_drift': 10, 'maximum_stretch': 9}
    settings = build(AcceptanceSettings, limits)
    assert failed(HeldOut(0.39, scale_drift=2.0, stretch=3.0), settings=settings) == []


def test_the_reason_has_the_numbers():
    verdict = judge(BEFORE, HeldOut(0.198, scale_drift=0.25), SETTINGS)
    assert verdict.reason == 'scale drifted by +0.250 in ln s (less than 0.1 asked)'
    accepted = judge(BEFORE, HeldOut(0.19, scale_drift=0.01), SETTINGS)
    assert '0.20000 -> 0.19000, 5.00% better (1.00% asked)' in accepted.reason


def test_scores_without_a_photometric_error_are_refused():
    scores = {'score': 0.2, 'photometric': 0.2, 'scale_drift': 0.01, 'delta1': 0.9}
    assert HeldOut.from_scores(scores) == HeldOut(0.2, 0.01)
    with pytest.raises(PsdDepthError, match='give longer recordings'):
        HeldOut.from_scores({'score': 1.0})
