"""The numbers that runs are judged by, at values checked by hand."""

import math

import numpy as np
import pytest

from smallbatch.analysis.empirical_bayes_variance import variance_prior
from smallbatch.analysis.statistics import (
    convergence_bar,
    nan_mean,
    percentile_interval,
    slope,
)


def test_the_bar_is_a_share_of_the_way_from_chance_to_the_best():
    assert convergence_bar(0.9, 0.1, 0.75, 0.003) == pytest.approx(0.7)
    assert convergence_bar(0.5, 0.5, 1, 0.05) == math.inf
    assert math.isnan(convergence_bar(math.nan, 0.1, 0.8, 0.003))


@pytest.mark.parametrize(("best", "trained"), [(0.18, False), (0.19, False), (0.1901, True)])
def test_nothing_has_converged_within_three_standard_errors_of_chance(best: float, trained: bool):
    # of 100 images at chance 0.1: sqrt(0.1 * 0.9 / 100) = 0.03
    assert math.isfinite(convergence_bar(best, 0.1, 0.8, math.sqrt(0.1 * 0.9 / 100))) == trained


def test_percentiles_leave_out_what_is_not_there():
    low, high = percentile_interval(np.array([*range(101), math.nan]))
    assert (low, high) == pytest.approx((2.5, 97.5))
    assert np.isnan(percentile_interval(np.array([math.nan]))).all()


def test_cells_of_one_variance_are_worth_all_of_them():
    # Variances 1 and 1 of three seeds: ln 1 - digamma(1) + ln 1 = 0.5772 each, e^0.5772 = 1.781, and nothing beyond.
    residuals = np.array([[-1.0, 0.0, 1.0], [0.5, -1.0, 0.5]])
    found = variance_prior(residuals, np.ones(2), np.array([2, 2]))
    assert (found.prior, found.typical) == (math.inf, pytest.approx(1.781, abs=0.001))
    # Their correlation is (-0.5 + 0.5) / ... = 0: no seed moves both.
    assert (found.pooled, found.shared) == (4, 0)


@pytest.mark.parametrize(
    ("dof", "typical"),
    # digamma(1) is -0.5772, digamma(2) 0.4228: e^0.5772, and e^(-0.4228 + ln 2).
    [(2, 1.7811), (4, 1.3104)],
)
def test_a_cell_alone_is_worth_itself(dof: int, typical: float):
    steps = np.linspace(-1, 1, dof + 1)[None]
    found = variance_prior(steps, np.ones(1), np.array([dof]))
    assert found == (math.inf, dof, pytest.approx(typical, abs=1e-4), 0)


@pytest.mark.parametrize(
    ("prior", "left", "typical"),
    # trigamma(1) is 1.645 and trigamma(2) 0.645, of half the degrees of freedom that the others are worth; and with
    # digamma(1) and digamma(2) as above e^(0.5772 - 0.5772) and e^(0.5772 + 0.4228 - ln 2).
    [(2, 1.6449340668, 1), (4, 0.6449340668, 1.3591)],
)
def test_cells_of_unlike_variances_are_worth_what_their_spread_leaves(prior: float, left: float, typical: float):
    # Logarithms of variances of two degrees of freedom vary by trigamma(1); what is beyond is the cells' own.
    apart = math.sqrt(2 * (1.6449340668 + left))
    found = variance_prior(np.zeros((2, 3)), np.exp([apart / 2, -apart / 2]), np.array([2, 2]))
    assert found.prior == pytest.approx(prior) and found.typical == pytest.approx(typical, abs=1e-4)


@pytest.mark.parametrize(
    ("cells", "alike"),
    [
        ([[-1, 0, 1]], 0),
        ([[-1, 0, 1], [1, 0, -1]], 0),  # one against the other tells nothing in common
        ([[-1, 0, 1], [-1, 0, 1]], 0.95),
        ([[-1, 0, 1], [-1, 0, 1], [0, 0, 0]], 0.5),  # products of 2 * 2 among two pairs, of squares of 4
    ],
)
def test_how_alike_cells_are_is_what_their_seeds_have_in_common(cells: list, alike: float):
    count = len(cells)
    found = variance_prior(np.array(cells, float), np.ones(count), np.full(count, 2))
    assert found.pooled == pytest.approx(2 * count / (1 + (count - 1) * alike**2))
    assert found.shared == pytest.approx(alike * 2 / 4)  # of few seeds the likeness is half believed


@pytest.mark.parametrize("unit", [1, 0.001])
def test_cells_that_move_together_are_worth_as_much_as_one(unit: float):
    steps = unit * np.array([-1.0, 0.0, 1.0])
    found = variance_prior(np.stack([steps, steps, steps]), np.full(3, unit**2), np.full(3, 2))
    assert found.pooled == pytest.approx(6 / (1 + 2 * 0.95**2))
    assert found.shared == pytest.approx(0.95 * 2 / 4)  # of few seeds the likeness is half believed


def test_nothing_is_learnt_where_no_cell_has_several_seeds():
    assert variance_prior(np.zeros((0, 1)), np.zeros(0), np.zeros(0)) == (0, 0, 0, 0)


def test_a_slope_is_that_of_the_weighted_least_squares_line():
    x = np.array([0.0, 1.0, 2.0])
    np.testing.assert_allclose(slope(x, np.array([[1.0, 3.0, 5.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])), [2, 0, 1.5])
    np.testing.assert_allclose(slope(x, np.array([0.0, 1.0, 9.0]), np.array([[1, 2, 0], [0, 3, 3]])), [1, 8])
    assert np.isnan(slope(x, x, np.array([0, 3, 0])))


def test_a_mean_leaves_out_what_is_not_there():
    values = np.array([[1, math.nan, 3], [math.nan] * 3, [4, 6, 8]])
    np.testing.assert_allclose(nan_mean(values, axis=1), [2, math.nan, 6])
