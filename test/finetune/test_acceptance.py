"""The gate, by cases whose answer is known."""

import math

import pytest

from psd_depth_ros.config import build
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.finetune.acceptance import AcceptanceSettings, check_acceptance, HeldOutScores

SETTINGS = AcceptanceSettings()
BEFORE = HeldOutScores(photometric=0.2, lidar_abs_rel=0.1)


def failed(after, before=BEFORE, settings=SETTINGS):
    verdict = check_acceptance(before, after, settings)
    assert verdict.accepted == all(check.passed for check in verdict.checks)
    return [check.name for check in verdict.checks if not check.passed]


@pytest.mark.parametrize(
    ('after', 'wrong'),
    [
        (HeldOutScores(0.19), []),  # 5 % better
        (HeldOutScores(0.1979), []),  # 1.05 % better
        (HeldOutScores(0.1981), ['gain']),  # 0.95 % better
        (HeldOutScores(0.21), ['gain']),
        (HeldOutScores(0.21, lidar_abs_rel=0.099), []),  # the lidar knows better than the images
        (HeldOutScores(0.21, lidar_abs_rel=0.101), ['gain']),
        (HeldOutScores(0.19, lidar_abs_rel=0.101), []),
        (HeldOutScores(0.19, scale_drift=0.099), []),
        (HeldOutScores(0.19, scale_drift=-0.1), ['drift']),
        (HeldOutScores(0.21, scale_drift=0.3), ['gain', 'drift']),
        (HeldOutScores(0.19, stretch=0.49), []),
        (HeldOutScores(0.19, stretch=-0.5), ['stretch']),
        (
            HeldOutScores(0.18, stretch=0.6),
            ['stretch'],
        ),
        (HeldOutScores(math.nan), ['gain']),
        (HeldOutScores(0.19, scale_drift=math.nan), ['drift']),
        (HeldOutScores(0.19, stretch=math.nan), ['stretch']),
    ],
)
def test_the_gate(after, wrong):
    assert failed(after) == wrong


def test_a_start_that_cannot_be_measured_is_never_beaten():
    assert failed(HeldOutScores(0.1), before=HeldOutScores(math.nan)) == ['gain']
    assert failed(HeldOutScores(0.1), before=HeldOutScores(0.0)) == ['gain']


def test_a_gate_can_be_left_open():
    limits = {'minimum_gain': -1, 'maximum_drift': 10, 'maximum_stretch': 9}
    settings = build(AcceptanceSettings, limits)
    assert failed(HeldOutScores(0.39, scale_drift=2.0, stretch=3.0), settings=settings) == []


def test_the_reason_has_the_numbers():
    verdict = check_acceptance(BEFORE, HeldOutScores(0.198, scale_drift=0.25), SETTINGS)
    assert verdict.reason == 'scale drifted by +0.250 in ln s (less than 0.1 asked)'
    accepted = check_acceptance(BEFORE, HeldOutScores(0.19, scale_drift=0.01), SETTINGS)
    assert '0.20000 -> 0.19000, 5.00% better (1.00% asked)' in accepted.reason


def test_scores_without_a_photometric_error_are_refused():
    scores = {'score': 0.2, 'photometric': 0.2, 'scale_drift': 0.01, 'delta1': 0.9}
    assert HeldOutScores.from_scores(scores) == HeldOutScores(0.2, 0.01)
    with pytest.raises(PsdDepthError, match='give longer recordings'):
        HeldOutScores.from_scores({'score': 1.0})
