"""Scale from measured distances: places, fits by hand, and the file."""

from dataclasses import replace
import math
from pathlib import Path
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import Scale
from psd_depth_ros.inference.affine import Affine
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.inference.scale_calibration import (
    Calibration,
    CalibrationFile,
    default_file,
    fit_samples,
    renew,
    Sample,
    Spot,
)

CAMERA = Camera(60, 40, 60.0, 60.0, 29.5, 19.5)
FACTOR = SimpleNamespace(id='c0ffee', affine=False)
BOTH = SimpleNamespace(id='c0ffee', affine=True)


def samples_of(metres: list[float], network: list[float]) -> list[Sample]:
    pairs = enumerate(zip(metres, network, strict=True))
    return [Sample(f's{index}', (1, 2), m, n) for index, (m, n) in pairs]


def calibrated(metres: list[float], network: list[float]) -> Calibration:
    calibration = renew(None, samples_of(metres, network), FACTOR, CAMERA).calibration
    assert calibration is not None
    return calibration


def test_a_place_is_the_median_of_what_is_known_there() -> None:
    values = np.full((40, 60), 2.0, np.float32)
    values[:3, :2] = 3.0  # of the 3 x 3 px that a corner has, 6
    values[20:, :] = np.nan
    assert Spot.parse('corner', (0.0, 0.0, 4.0)).read(values, True) == 3.0
    assert Spot.parse('one', (30, 10, 4.0)).read(values, False) == 2.0
    assert Spot.parse('box', (10, 15, 20, 25, 4.0)).read(values, False) == 2.0  # half is known
    for numbers, words in (
        ((10, 16, 20, 25, 4.0), 'only 40 of the 90 px there have depth'),
        ((60, 10, 4.0), r'\(60, 10\) is outside of the depth image of 60x40 px'),
        ((50, 0, 61, 10, 4.0), 'is outside of the depth image'),
        ((0, 0, 4, 3, 4.0), 'depth in that place reaches from 2 to 3'),
    ):
        found = Spot.parse('x', numbers).read(values, False)
        assert isinstance(found, str)
        assert re.search(words, found), found


@pytest.mark.parametrize(
    ('numbers', 'words'),
    [
        ([1.0, 2.0], '2 numbers, expected u v METRES'),
        ([], '0 numbers'),
        ([1.0, math.nan, 2.0], 'not finite'),
        ([1.0, 2.0, -3.0], '-3 m, expected a distance above 0'),
        ([1.0, 2.0, 2000.0], '2000 m, expected'),
        ([5.0, 5.0, 5.0, 9.0, 2.0], r'the box \(5, 5, 5, 9\) is empty'),
    ],
)
def test_a_place_that_is_none_is_refused(numbers: list[float], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Spot.parse('x', numbers)


def test_a_factor_is_the_median_of_those_that_agree() -> None:
    """Twice the network's depth; 9 m instead of 2 m is -78 % off."""
    fit = fit_samples(samples_of([2.0, 4.0, 6.0, 9.0], [1.0, 2.0, 3.0, 1.0]), False)
    assert fit.scale is not None
    assert fit.scale.factor == pytest.approx(2.0)
    np.testing.assert_array_equal(fit.used, [True, True, True, False])
    np.testing.assert_allclose(fit.residuals, [0.0, 0.0, 0.0, 2.0 / 9.0 - 1.0], atol=1e-12)
    # The network's own 0.15 as one more sample, and one left out, over three; and 0.08 of places.
    assert fit.scale.variance == pytest.approx((0.15**2 + 0.3**2) / 3**2 + 0.08**2)


def test_one_sample_is_taken_and_two_that_contradict_each_other_are_not() -> None:
    one = renew(None, samples_of([3.0], [2.0]), FACTOR, CAMERA)
    assert one.calibration is not None
    assert one.calibration.factor == pytest.approx(1.5)
    assert one.calibration.variance == pytest.approx(0.15**2 + 0.08**2)
    assert one.verdict('s0') == (
        True,
        'residual +0.0 %, unchecked: 2 samples would check each other',
    )
    two = renew(None, samples_of([2.0, 8.0], [2.0, 2.0]), FACTOR, CAMERA)
    assert two.calibration is None
    successful, text = two.verdict('s1')
    assert not successful
    # Their median is a factor of 2: 4 m.
    assert text.startswith('residual -50.0 %; nothing was changed: the samples contradict each')


def test_scale_and_shift_of_exact_samples_and_one_that_is_wrong() -> None:
    """1/Z = 0.5 d + 0.25; the last was measured 10 m away where it is 0.8 m."""
    d = [0.5, 1.5, 3.5, 2.0]
    fit = fit_samples(samples_of([2.0, 1.0, 0.5, 10.0], d), True)
    assert fit.scale is not None
    assert fit.scale.affine is not None
    np.testing.assert_array_equal(fit.used, [True, True, True, False])
    np.testing.assert_allclose(fit.residuals, [0.0, 0.0, 0.0, -0.92], atol=1e-6)
    metres = fit.scale.factor * fit.scale.affine.relative_depth(np.array(d, np.float32))
    np.testing.assert_allclose(metres, [2.0, 1.0, 0.5, 0.8], rtol=1e-5)


@pytest.mark.parametrize(
    ('metres', 'd', 'words'),
    [
        ([2.0], [1.0], 'need two samples at least, at different distances'),
        ([2.0, 1.9], [1.0, 1.1], 'equally far'),
        ([2.0, 2.0], [1.0, 1.0], 'equally far'),
        ([1.0, 2.0], [1.0, 2.0], 'depth does not grow where'),
        ([2.0, 1.0, 10.0], [0.5, 1.5, 2.0], 'agree with no scale and shift'),
    ],
)
def test_samples_that_tell_no_scale_and_shift(
    metres: list[float], d: list[float], words: str
) -> None:
    renewal = renew(None, samples_of(metres, d), BOTH, CAMERA)
    assert renewal.calibration is None
    assert words in renewal.verdict('s0')[1]


def test_samples_of_before_count_under_other_names() -> None:
    former = calibrated([2.0, 4.0], [1.0, 2.0])
    more = renew(former, [Sample('s0', (1, 2), 2.2, 1.0), Sample('new', (1, 2), 6.0, 3.0)],
                 FACTOR, CAMERA)  # fmt: skip
    assert more.calibration is not None
    assert {one.name: one.metres for one in more.calibration.samples} == {
        's0': 2.2, 'new': 6.0, 's1': 4.0,
    }  # fmt: skip
    # One that contradicts those of before is left out, and they stay.
    wrong = renew(former, [Sample('new', (1, 2), 30.0, 3.0)], FACTOR, CAMERA)
    assert wrong.verdict('new') == (
        False, 'residual -80.0 % against the 2 that agree: left out, measure it again',
    )  # fmt: skip
    alone = calibrated([2.0], [1.0])
    contradicted = renew(alone, [Sample('new', (1, 2), 30.0, 3.0)], FACTOR, CAMERA)
    assert contradicted.calibration is None
    assert contradicted.verdict('new')[1].endswith('; of before is s0: measure that again, too')
    for checkpoint, camera in (
        (SimpleNamespace(id='other', affine=False), CAMERA),
        (FACTOR, replace(CAMERA, fx=70.0)),
    ):
        anew = renew(former, samples_of([3.0], [1.0]), checkpoint, camera).calibration
        assert anew is not None
        assert anew.factor == pytest.approx(3.0)


def test_a_file_keeps_what_it_has_of_other_cameras(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'scale.yaml'
    front = calibrated([2.0], [1.0])
    fit = fit_samples(samples_of([2.0, 1.0], [0.5, 1.5]), True)
    assert fit.scale is not None
    assert fit.scale.affine is not None
    rear = renew(None, samples_of([2.0, 1.0], [0.5, 1.5]), BOTH, CAMERA).calibration
    assert rear is not None
    CalibrationFile.load(path).renewed('front', front)
    CalibrationFile(path).renewed('rear', rear)  # which has not seen the first
    assert [child.name for child in path.parent.iterdir()] == ['scale.yaml']
    file = CalibrationFile.load(path)
    assert file.cameras == {'front': front, 'rear': rear}
    assert file.find('rear', 'c0ffee').scale == fit.scale
    found = file.find('front', 'c0ffee', CAMERA)
    assert found.source.endswith(f'with 1 samples, {path}')
    assert found.warning == ''
    assert file.find('front', 'c0ffee', CAMERA.resize(120, 80)).warning == ''
    wider = file.find('front', 'c0ffee', replace(CAMERA, fx=66.0))
    assert wider.scale == found.scale
    assert 'metres may be +10% off' in wider.warning
    other = file.find('front', 'abc')
    assert other.scale is None
    assert 'is of checkpoint c0ffee, this is abc: it is not used' in other.warning
    assert 'no calibration of top' in file.find('top', 'c0ffee').warning
    # A file that nobody has named need not be there.
    assert CalibrationFile.load(tmp_path / 'none.yaml').find('front', 'abc').warning == ''
    named = CalibrationFile.load(tmp_path / 'none.yaml', is_named=True)
    assert 'none.yaml has no calibration of front' in named.find('front', 'abc').warning


GOOD = (
    'cameras: {front: {checkpoint: abc, factor: 2.0, camera: {width: 6, height: 4, fx: 6, fy: 6}'
)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{', 'is not YAML'),
        ('[1]', 'has no mapping `cameras`'),
        ('cameras: {front: 3}', r'cameras\.front.*expected a mapping'),
        ('cameras: {front: {factor: 2.0}}', r'cameras\.front: checkpoint is missing'),
        (
            GOOD.replace('2.0', '-2.0') + '}}',
            r'front: factor is -2\.0, expected 1e-06 \.\. 1e\+06',
        ),
        (GOOD.replace('factor: 2.0, ', '') + '}}', r'front: factor is 0\.0, expected'),
        (GOOD + ', scale: 3}}', "front: unknown setting 'scale'"),
        (GOOD + ', affine: {spread: 1.0}}}', 'affine has one of spread and slope only'),
        (GOOD + ', samples: [{name: x, metres: far}]}}', r"samples\[0\].*metres is 'far'"),
        (GOOD + ', samples: [4]}}', r'samples\[0\] is 4, expected a mapping'),
    ],
)
def test_a_file_that_is_none_says_which_key(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / 'scale.yaml'
    path.write_text(text)
    with pytest.raises(SettingsError, match=rf'scale\.yaml.*{words}'):
        CalibrationFile.load(path)


def test_the_file_of_a_node_is_beside_what_ros_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ROS_HOME', '/home/robot/.ros')
    expected = Path('/home/robot/.ros/psd_depth_ros/scale/left/depth_node.yaml')
    assert default_file('/left/depth_node') == expected


def test_a_tracker_takes_a_calibration_in_mode_fixed_without_a_factor() -> None:
    scale = Scale(2.0, 0.01, Affine(1.0, 1.0, 0.5))

    def tracker(**settings: Any) -> ScaleTracker:
        return ScaleTracker(ScaleSettings(**settings), None, affine=True, calibrated=scale)

    one = tracker()
    one.reset()
    assert one.estimate == scale
    assert (one.scale, one.variance, one.is_known) == (2.0, 0.01, True)
    assert tracker(factor=3.0).estimate.factor == 3.0
    assert not tracker(mode='odometry').is_known
    assert not tracker(mode='relative').is_known
    checkpoint: Any = SimpleNamespace(affine=True, path='x')
    ScaleSettings().refuse_unscaled(checkpoint, is_calibrated=True)
    with pytest.raises(SettingsError, match='calibrate both with ~/calibrate_scale'):
        ScaleSettings(factor=3.0).refuse_unscaled(checkpoint, is_calibrated=True)
