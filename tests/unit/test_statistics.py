"""The numbers that runs are judged by, at values checked by hand."""

import math

import numpy as np
import pytest

from smallbatch.analysis.moderation import moderation
from smallbatch.analysis.statistics import (
    convergence_bar,
    nan_mean,
    percentile_interval,
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


def test_percentiles_leave_out_what_is_not_there():
    low, high = percentile_interval(np.array([*range(101), math.nan]))
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert np.isnan(percentile_interval(np.array([math.nan]))).all()


def test_cells_of_one_variance_are_worth_all_of_them():
    # Variances 1 and 1 of three seeds: ln 1 - digamma(1) + ln 1 = 0.5772 each, e^0.5772 = 1.781, and nothing beyond.
    residuals = np.array([[-1.0, 0.0, 1.0], [0.5, -1.0, 0.5]])
    found = moderation(residuals, np.ones(2), np.array([2, 2]))
    assert (found.prior, found.typical) == (math.inf, pytest.approx(1.781, abs=0.001))
    # Their correlation is (-0.5 + 0.5) / ... = 0: no seed moves both.
    assert (found.pooled, found.shared) == (4, 0)


def test_cells_of_unlike_variances_are_worth_what_their_spread_leaves():
    # trigamma(1) is 1.645, and logarithms of variances whose own variance is 1.645 + 1.645 leave trigamma(prior / 2).
    apart = math.sqrt(2 * 1.6449340668)
    variances = np.exp([apart / 2 * 2**0.5, -apart / 2 * 2**0.5])
    found = moderation(np.zeros((2, 3)), variances, np.array([2, 2]))
    assert found.prior == pytest.approx(2) and found.typical == pytest.approx(1)


@pytest.mark.parametrize("unit", [1, 0.001])
def test_cells_that_move_together_are_worth_as_much_as_one(unit: float):
    steps = unit * np.array([-1.0, 0.0, 1.0])
    found = moderation(np.stack([steps, steps, steps]), np.full(3, unit**2), np.full(3, 2))
    assert found.pooled == pytest.approx(6 / (1 + 2 * 0.95**2))
    assert found.shared == pytest.approx(0.95 * 2 / 4)  # of few seeds the likeness is half believed


def test_nothing_is_learnt_where_no_cell_has_several_seeds():
    assert moderation(np.zeros((0, 1)), np.zeros(0), np.zeros(0)) == (0, 0, 0, 0)


def test_a_slope_is_that_of_the_weighted_least_squares_line():
    x = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(slope(x, np.array([[1.0, 3.0, 5.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])), [2, 0, 1.5])
    np.testing.assert_allclose(slope(x, np.array([0.0, 1.0, 9.0]), np.array([[1, 2, 0], [0, 3, 3]])), [1, 8])
    assert np.isnan(slope(x, x, np.array([0, 3, 0])))


def test_a_mean_leaves_out_what_is_not_there():
    np.testing.assert_allclose(nan_mean(np.array([[1, math.nan, 3], [math.nan] * 3]), axis=1), [2, math.nan])
