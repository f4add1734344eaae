"""Means, ratios and their intervals, by hand."""

import math

import numpy as np
import pytest

from tools.statistics import (
    bootstrap_gain,
    draw_blocks,
    Estimate,
    estimate_geometric_mean,
    estimate_mean,
    estimate_ratio,
    PairedErrors,
)

NAN = math.nan


def test_the_interval_of_a_gain_is_over_seeds_and_frames():
    rng = np.random.default_rng(0)
    frames = rng.uniform(0.1, 0.9, (3, 1, 200))  # hard and easy frames: paired, they cancel
    gain, interval = bootstrap_gain(0.8 * frames, frames, 200)
    assert (gain, *interval) == pytest.approx((0.2, 0.2, 0.2))
    noise = rng.normal(0.0, 0.2, frames.shape)
    gain, (low, high) = bootstrap_gain(frames + noise, frames, 200)
    assert low < 0.0 < high
    frames[0, 0, :10] = np.nan  # such as frames without moving things
    assert bootstrap_gain(0.5 * frames, frames, 20)[0] == pytest.approx(0.5)


def test_the_interval_of_a_mean_is_that_of_a_normal_sample():
    values = np.random.default_rng(1).normal(5.0, 2.0, 400)
    found = estimate_mean(values)
    error = 1.96 * values.std() / 20.0
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx(
        (found.value - error, found.value + error), abs=0.02
    )


def test_frames_without_a_figure_do_not_count():
    assert estimate_mean(np.array([0.1, NAN, 0.3])).value == pytest.approx(0.2)
    # of the frames that have both: (0.1 + 0.2) / (0.2 + 0.4)
    pair = PairedErrors(np.array([0.1, 0.2, 9.0]), np.array([0.2, 0.4, NAN]))
    assert estimate_ratio(pair).value == pytest.approx(0.5)
    assert math.isnan(estimate_mean(np.array([NAN, NAN])).value)
    assert estimate_mean(np.array([-0.1, -0.3])).value == pytest.approx(-0.2)  # such as AURG


def test_hard_and_easy_frames_cancel_in_a_paired_ratio():
    old = np.random.default_rng(0).uniform(0.1, 0.9, 50)
    found = estimate_ratio(PairedErrors(0.8 * old, old))
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8))


def test_a_geometric_mean_gives_every_set_the_same_weight():
    many, few = np.ones(100), np.ones(2)
    sets = [PairedErrors(0.5 * many, many), PairedErrors(2.0 * few, few)]
    assert estimate_geometric_mean(sets).value == pytest.approx(1.0)  # sqrt(0.5 * 2)
    sets = [PairedErrors(4.0 * many, many), PairedErrors(9.0 * few, few)]
    assert estimate_geometric_mean(sets).value == pytest.approx(6.0)
    assert math.isnan(estimate_geometric_mean([]).value)


def test_one_image_has_no_interval():
    one = PairedErrors(np.array([0.2]), np.array([0.4]))
    assert str(estimate_ratio(one)) == '0.500'
    noisy = PairedErrors(np.array([0.2, 0.6, 0.1]), np.array([0.4, 0.4, 0.4]))
    alone, together = estimate_ratio(noisy), estimate_geometric_mean([noisy, one])
    # ln of the ratios is halved: the interval of both is the root of that of the noisy one
    assert together.high / together.low == pytest.approx((alone.high / alone.low) ** 0.5)


def test_blocks_follow_each_other_and_fill_a_resample():
    drawn = draw_blocks(10, 5, np.random.default_rng(0), 50)
    assert drawn.shape == (50, 10)
    assert (drawn.sum(axis=1) == 10).all()
    assert (drawn.sum(axis=0) > 0).all()
    ends = np.abs(np.diff(drawn, axis=1, append=drawn[:, :1])) > 0
    assert (ends.sum(axis=1) <= 4).all()  # two blocks have at most two beginnings and two ends
    assert (draw_blocks(7, 3, np.random.default_rng(0), 20).sum(axis=1) == 7).all()


def test_frames_that_resemble_their_neighbours_make_the_interval_wider():
    values = np.repeat(np.random.default_rng(2).uniform(0.1, 0.9, 6), 10)
    alone, blocks = estimate_mean(values), estimate_mean(values, block=10)
    assert blocks.value == alone.value
    assert blocks.high - blocks.low > 2.0 * (alone.high - alone.low)


def test_an_estimate_as_text():
    assert str(Estimate(0.1234, 0.1, 0.2)) == '0.123 (0.100 to 0.200)'
    assert str(Estimate(NAN)) == '-'
