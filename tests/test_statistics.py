"""The numbers that runs are judged by, at values checked by hand."""

import math

import numpy as np
import pytest

from smallbatch.analysis.statistics import (
    bootstrap_interval,
    convergence_bar,
    nan_mean,
    percentile_interval,
    resampled_means,
    slope,
)


def test_the_bar_is_a_share_of_the_way_from_chance_to_the_best():
    assert convergence_bar(0.9, 10, 0.75, 10_000) == pytest.approx(0.7)
    assert convergence_bar(0.5, 2, 1, 100) == math.inf
    assert math.isnan(convergence_bar(math.nan, 10, 0.8, 10_000))


@pytest.mark.parametrize(("best", "trained"), [(0.18, False), (0.19, False), (0.1901, True)])
def test_nothing_has_converged_within_three_standard_errors_of_chance(best: float, trained: bool):
    # of 100 images at chance 0.1: sqrt(0.1 * 0.9 / 100) = 0.03
    assert math.isfinite(convergence_bar(best, 10, 0.8, 100)) == trained


def test_resampled_means_are_widened_to_the_spread_of_means_of_so_many():
    values, draws = np.array([[0.0, 1.0]]), np.array([[[0, 0]], [[0, 1]], [[1, 1]]])
    np.testing.assert_allclose(resampled_means(values, draws)[:, 0], [0.5 - 0.5**0.5, 0.5, 0.5 + 0.5**0.5])
    draws = np.random.default_rng(0).integers(3, size=(20_000, 1, 3))
    # of 3 values with variance 1 the mean has variance 1 / 3
    assert resampled_means(np.array([[-1.0, 0.0, 1.0]]), draws).var() == pytest.approx(1 / 3, rel=0.03)


def test_percentiles_leave_out_what_is_not_there():
    low, high = percentile_interval(np.array([*range(101), math.nan]))
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert np.isnan(percentile_interval(np.array([math.nan]))).all()


def test_an_interval_over_seeds():
    def interval(*values: float) -> tuple[float, float]:
        return bootstrap_interval(values, np.random.default_rng(1))

    assert np.isnan(interval()).all()
    assert interval(0.7) == interval(math.nan, 0.7) == (0.7, 0.7)
    assert interval(0.7, 0.7, 0.7) == pytest.approx((0.7, 0.7))
    assert interval(0.0, 1.0) == pytest.approx((0.5 - 0.5**0.5, 0.5 + 0.5**0.5))
    assert interval(0.1, 0.3, 0.2) == interval(0.1, 0.3, 0.2)
    low, high = interval(0.1, 0.3, 0.2)
    assert 0.05 < low < 0.15 and 0.25 < high < 0.35


def test_a_slope_is_that_of_the_weighted_least_squares_line():
    x = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(slope(x, np.array([[1.0, 3.0, 5.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])), [2, 0, 1.5])
    np.testing.assert_allclose(slope(x, np.array([0.0, 1.0, 9.0]), np.array([[1, 2, 0], [0, 3, 3]])), [1, 8])
    assert np.isnan(slope(x, x, np.array([0, 3, 0])))


def test_a_mean_leaves_out_what_is_not_there():
    np.testing.assert_allclose(nan_mean(np.array([[1, math.nan, 3], [math.nan] * 3]), axis=1), [2, math.nan])
