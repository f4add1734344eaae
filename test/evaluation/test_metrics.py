import numpy as np
import pytest

from psd_depth_ros.evaluation.metrics import average, measure, median_scale

INF, NAN = float('inf'), float('nan')


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float32)


def test_values_worked_out_by_hand():
    found = measure(row(1.0, 3.0), row(2.0, 2.0), median_scaled=False)
    assert found is not None
    assert found.abs_rel == pytest.approx(0.5)
    assert found.sq_rel == pytest.approx(0.5)
    assert found.rmse == pytest.approx(1.0)
    logs = np.log([0.5, 1.5])
    assert found.rmse_log == pytest.approx(float(np.sqrt(np.mean(logs**2))))
    # ratios 2 and 1.5 against 1.25, 1.5625 and 1.953125
    assert (found.a1, found.a2, found.a3) == (0.0, 0.5, 0.5)
    assert (found.scale, found.coverage) == (1.0, 1.0)


def test_perfect_depth_has_no_error():
    truth = np.linspace(1, 70, 50, dtype=np.float32).reshape(5, 10)
    found = measure(truth, truth, median_scaled=False)
    assert found is not None
    assert (found.abs_rel, found.rmse, found.a1) == (0.0, 0.0, 1.0)


def test_median_scaling_undoes_one_factor_and_unscaled_reports_it():
    truth = np.linspace(2, 40, 100, dtype=np.float64).reshape(10, 10)
    scaled = measure(truth / 4, truth, median_scaled=True)
    raw = measure(truth / 4, truth, median_scaled=False)
    assert scaled is not None
    assert raw is not None
    assert scaled.abs_rel == pytest.approx(0.0, abs=1e-12)
    assert scaled.scale == pytest.approx(4.0)
    assert raw.abs_rel == pytest.approx(0.75)


def test_scale_comes_before_the_clamp():
    # Scaled by 10, 9 m becomes 90 m and is clamped to 80 m; clamped first it would stay 9 m.
    found = measure(row(1.0, 2.0, 9.0), row(10.0, 20.0, 79.0), median_scaled=True)
    assert found is not None
    assert found.abs_rel == pytest.approx(1 / 79 / 3)


def test_truth_outside_the_range_and_predictions_that_are_nan_are_left_out():
    truth = row(10.0, 10.0, 90.0, 0.0, NAN, INF)
    depth = row(10.0, NAN, 1.0, 1.0, 1.0, 1.0)
    found = measure(depth, truth, median_scaled=False)
    assert found is not None
    assert found.abs_rel == 0.0
    assert found.coverage == 0.5


def test_beyond_and_nearer_than_range_count_as_the_ends_of_the_range():
    found = measure(
        row(INF, -INF), row(40.0, 2.0), median_scaled=False, minimum_m=1.0, maximum_m=80.0
    )
    assert found is not None
    assert found.abs_rel == pytest.approx((1.0 + 0.5) / 2)


@pytest.mark.parametrize('median_scaled', [True, False])
def test_nothing_in_common_gives_nothing(median_scaled):
    assert measure(row(NAN), row(5.0), median_scaled=median_scaled) is None
    assert measure(row(5.0), row(NAN), median_scaled=median_scaled) is None


def test_a_prediction_without_a_median_cannot_be_scaled():
    assert np.isnan(median_scale(np.array([INF]), np.array([1.0])))
    assert measure(row(INF, INF), row(5.0, 5.0), median_scaled=True) is None


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r'\(1, 2\).*\(1, 3\)'):
        measure(row(1, 2), row(1, 2, 3), median_scaled=False)


def test_average_counts_each_image_the_same():
    one = measure(row(1.0), row(2.0), median_scaled=False)
    other = measure(row(*[2.0] * 9), row(*[2.0] * 9), median_scaled=False)
    assert one is not None
    assert other is not None
    assert average([one, other]).abs_rel == pytest.approx(0.25)
    with pytest.raises(ValueError, match='no image'):
        average([])


def test_silog_is_blind_to_one_factor_and_log10_is_not():
    truth = row(1.0, 10.0, 50.0)
    found = measure(truth * 1.2, truth, median_scaled=False)
    assert found is not None
    assert found.silog == pytest.approx(0.0, abs=1e-6)
    assert found.log10 == pytest.approx(np.log10(1.2), abs=1e-6)
    # ln ratios ln 2 and -ln 2: mean 0, so SILog is ln 2
    other = measure(row(4.0, 2.0), row(2.0, 4.0), median_scaled=False)
    assert other is not None
    assert other.silog == pytest.approx(np.log(2.0))
    assert other.log10 == pytest.approx(np.log10(2.0))


def test_truth_may_end_elsewhere_than_predictions_are_clamped():
    found = measure(
        row(200.0), row(85.0), median_scaled=False, maximum_m=80.0, truth_maximum_m=INF
    )
    assert found is not None
    assert found.abs_rel == pytest.approx(5 / 85)
