"""Which frames make triplets: known motions in, known triplets and counts out."""

from collections import Counter

import numpy as np
import pytest

from psd_depth_ros.config import build
from psd_depth_ros.data.settings import DataSettings, TripletSettings
from psd_depth_ros.data.triplets.choose import (
    choose_triplets,
    FrameMeasures,
    list_triplets,
    REASONS,
    Shift,
)
from psd_depth_ros.errors import SettingsError

RATE_NS = 100_000_000
WHOLE = TripletSettings(held_out=0.0)


def make_measures(places, **changes):
    """Frames at `places` along a line: the flow between two is their distance in %."""
    places = np.asarray(places, float)
    count = len(places)
    values = {
        'stamps_ns': np.arange(count) * RATE_NS,
        'sharpness': np.full(count, 0.3, np.float32),
        'saturation': np.zeros(count, np.float32),
        'positions': np.full((count, 3), np.nan),
        'shift': lambda i, j: Shift(*([abs(places[j] - places[i])] * 2), 0.9),
    }
    return FrameMeasures(**{**values, **changes})


def choose(measures, settings=WHOLE):
    chosen = choose_triplets(measures, settings)
    total = len(chosen.triplets) + len(chosen.held_out) + sum(chosen.rejected.values())
    assert total == len(measures.stamps_ns)
    assert set(chosen.rejected) <= set(REASONS)
    return chosen


def rows(chosen):
    return chosen.triplets.tolist()


def test_neighbours_are_taken_where_they_moved_enough():
    chosen = choose(make_measures([0, 1, 2, 3]))
    assert rows(chosen) == [[1, 0, 2], [2, 1, 3]]
    assert chosen.rejected == {'end': 2}


def test_slow_motion_takes_the_nearest_source_that_moved_enough():
    chosen = choose(make_measures(np.arange(7) * 0.1))
    # 0.3 % are three frames of 0.1 %: only the middle has three on either side.
    assert rows(chosen) == [[3, 0, 6]]


def test_a_pause_is_stationary_and_the_frames_around_it_are_not():
    chosen = choose(make_measures([0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 4]))
    assert rows(chosen)[0] == [1, 0, 2]
    assert rows(chosen)[-1] == [13, 12, 14]
    assert chosen.rejected == {'stationary': 11, 'end': 2}


def test_a_robot_that_stands_still():
    chosen = choose(make_measures(np.zeros(30)))
    assert not len(chosen.triplets)
    assert chosen.rejected == {'stationary': 28, 'end': 2}


def test_turning_is_told_by_parallax_and_by_known_positions():
    turning = make_measures(range(4), shift=lambda i, j: Shift(2.0, 0.01, 0.9))
    assert choose(turning).rejected == {'turning': 2, 'end': 2}
    positions = np.zeros((4, 3))
    positions[:, 0] = 0.001 * np.arange(4)
    assert choose(make_measures(range(4), positions=positions)).rejected['turning'] == 2


def test_blurred_and_saturated_frames_are_passed_over():
    sharpness = np.full(6, 0.3, np.float32)
    sharpness[2] = 0.01
    saturation = np.zeros(6, np.float32)
    saturation[4] = 0.9
    chosen = choose(make_measures(range(6), sharpness=sharpness, saturation=saturation))
    assert rows(chosen) == [[1, 0, 3], [3, 1, 5]]
    assert chosen.rejected == {'blurred': 1, 'saturated': 1, 'end': 2}


def test_all_frames_blurred():
    chosen = choose(make_measures(range(9), sharpness=np.zeros(9, np.float32)))
    assert chosen.rejected == {'blurred': 9}


def test_no_triplet_reaches_over_a_cut_or_lost_frames():
    def shift(i, j):
        return Shift(1.0, 1.0, 0.1 if i < 3 <= j else 0.9)

    chosen = choose(make_measures(range(6), shift=shift))
    assert rows(chosen) == [[1, 0, 2], [4, 3, 5]]
    assert chosen.rejected == {'cut': 2, 'end': 2}
    stamps = np.arange(6) * RATE_NS
    stamps[3:] += 5 * RATE_NS
    chosen = choose(make_measures(range(6), stamps_ns=stamps))
    assert rows(chosen) == [[1, 0, 2], [4, 3, 5]]
    assert chosen.rejected == {'gap': 2, 'end': 2}


def test_a_bag_that_jumps_back_in_time():
    stamps = np.array([0, 1, 2, 0, 1, 2]) * RATE_NS
    chosen = choose(make_measures(range(6), stamps_ns=stamps))
    assert rows(chosen) == [[1, 0, 2], [4, 3, 5]]


def test_motion_too_fast_and_frames_too_far_apart():
    assert choose(make_measures(np.arange(5) * 20.0)).rejected == {'fast': 3, 'end': 2}
    slow = make_measures(range(5), stamps_ns=np.arange(5) * 1_000_000_000)
    assert choose(slow).rejected == {'gap': 3, 'end': 2}


def test_the_end_in_time_is_held_out_and_nothing_reaches_across():
    # Twenty frames in the first second, then eleven in the next ten: time counts, not frames.
    stamps = np.concatenate([np.arange(20) * 50_000_000, 10**9 + np.arange(11) * 100_000_000])
    chosen = choose(make_measures(range(31), stamps_ns=stamps), TripletSettings(held_out=0.25))
    border_ns = 0.75 * 2_000_000_000
    assert stamps[chosen.triplets].max() <= border_ns
    assert stamps[chosen.held_out].min() > border_ns
    assert Counter(chosen.rejected) == {'end': 2, 'split': 2}
    assert len(chosen.held_out) == 3


def test_too_short_a_tail_is_not_held_out():
    chosen = choose(make_measures(range(6)), TripletSettings(held_out=0.15))
    assert len(chosen.triplets) == 4


@pytest.mark.parametrize('count', [1, 2])
def test_recordings_too_short_for_a_triplet(count):
    chosen = choose(make_measures(range(count)))
    assert chosen.rejected == {'end': count}


def test_listed_targets_take_the_frames_beside_them():
    indices = np.array([10, 11, 12, 13, 15])
    chosen = list_triplets(indices, frozenset({11, 13}), frozenset({12}))
    assert rows(chosen) == [[1, 0, 2]]
    assert chosen.held_out.tolist() == [[2, 1, 3]]
    assert chosen.rejected == {'unlisted': 2, 'end': 1}


@pytest.mark.parametrize(
    ('name', 'now'),
    [
        ('clips.sharpness', 'below 0.1 are never used'),
        ('clips.saturated', 'more than 40 % .* are never used'),
        ('clips.minimum_translation_m', 'less than 1 cm away are never used'),
        ('clips.held_out', 'it is triplets.held_out'),
    ],
)
def test_settings_of_before_say_what_holds_now(name, now):
    with pytest.raises(SettingsError, match=f'{name} is no setting any more; .*{now}'):
        build(DataSettings, {name: 0.2})
