"""Grids: an experiment's results over sizes and rates, and what they may be."""

import numpy as np
import pandas as pd
import pytest
from helpers.claims import DEAD, RATE, seeds, table
from scipy import stats

from smallbatch.analysis.grid import SAMPLES, build_grid
from smallbatch.analysis.noise import Noise, completed_runs


def grid_of(runs: pd.DataFrame):
    return build_grid(completed_runs(runs), np.random.default_rng(0))


def test_a_grid_has_means_over_seeds_and_nan_where_nothing_is():
    cells = {(2, 2, 0.5): [0.8, 0.6], (2, 2, 0.25): [np.nan, np.nan], (8, 8, 0.25): [0.7, np.nan], (8, 8, 0.5): [0.1]}
    grid = grid_of(table(cells))
    assert list(grid.sizes) == [2, 8] and list(grid.base_lrs) == [0.25, 0.5]
    np.testing.assert_allclose(grid.accuracy[0], [[np.nan, 0.7], [0.7, 0.1]])
    np.testing.assert_allclose(grid.converged[0], [[np.nan, 1], [1, 0]])
    np.testing.assert_array_equal(grid.seeds, [[0, 2], [1, 1]])
    assert grid.accuracy.shape == (1 + SAMPLES, 2, 2)
    assert np.isnan(grid.accuracy[:, 0, 0]).all() and not np.isnan(grid.accuracy[:, :, 0]).all()
    np.testing.assert_allclose(grid.best()[0], [0.7, 0.7])
    assert grid.best_words() == "m = 2 at 2⁻¹ (70.0 %)"


def test_a_slope_is_of_the_samples_and_with_one_seed_of_the_residuals_from_the_line():
    several = grid_of(table({(2, 2, RATE): [0.8, 0.81], (8, 8, RATE): [0.76, 0.75], (32, 32, RATE): [0.7, 0.71]}))
    np.testing.assert_allclose(several.slope(), (several.best()[:, 2] - several.best()[:, 0]) / 4)
    # Over log2 m = 1, 3, 5: slope -0.02, residuals 0.01 / 3, -0.02 / 3, 0.01 / 3, one degree of freedom, t = 12.71.
    one = grid_of(table({(2, 2, RATE): [0.80], (8, 8, RATE): [0.75], (32, 32, RATE): [0.72]}))
    error = (6 * 0.0001 / 9 / 1 / 8) ** 0.5
    found = one.slope()
    assert found[0] == pytest.approx(-0.02)
    assert np.percentile(found[1:], [2.5, 97.5]) == pytest.approx(-0.02 + 12.71 * error * np.array([-1, 1]), rel=0.05)
    best = [0.80, 0.75, 0.72, 0.71, 0.66]
    line = stats.linregress(np.arange(1, 6), best)
    found = grid_of(table({(2**k, 2**k, RATE): [accuracy] for k, accuracy in enumerate(best, start=1)})).slope()
    ends = line.slope + line.stderr * stats.t.ppf([0.025, 0.25, 0.75, 0.975], 3)
    assert found[0] == pytest.approx(line.slope)
    assert np.percentile(found[1:], [2.5, 25, 75, 97.5]) == pytest.approx(ends, rel=0.03)
    assert np.isnan(grid_of(table({(2, 2, RATE): [0.8], (8, 8, RATE): [0.7]})).slope()[1:]).all()  # two make any line


def test_luck_raises_two_bests_alike_in_a_sample_and_cancels_in_their_difference():
    cells = {(m, m, RATE): seeds(0.8, 0.01) for m in (2, 4, 8, 32, 64, 128)}
    both = completed_runs(pd.concat([table(cells), table(cells, experiment="other")], ignore_index=True))
    noise = Noise(both, np.random.default_rng(0))
    one, other = (
        build_grid(runs, np.random.default_rng(0), noise=noise) for _, runs in both.groupby("experiment", sort=False)
    )
    for first, second in (one.split(one.sizes <= 8), (one, other)):
        first, second = first.peak()[1:], second.peak()[1:]
        luck, luck_apart = (np.subtract(*(half.mean() for half in np.split(of, 2))) for of in (first, first - second))
        assert luck > 0.001 and abs(luck_apart) < luck / 4


def test_samples_of_shares():
    cells = {(2, 2, 0.25): [0.9] * 5, (2, 2, 0.5): [0.9, DEAD], (8, 8, 0.25): [0.9], (8, 8, 0.5): [DEAD]}
    shares = grid_of(table(cells)).converged[1:]
    # Mid-P: of 5 of 5 seeds an end at 0.05^(1/5); of 1 of 2 ends where (1 - p)^2 and then 2 p (1 - p) / 2 make 2.5 %.
    assert np.percentile(shares[:, 0, 0], 2.5) == pytest.approx(0.05 ** (1 / 5), abs=0.05)
    assert np.percentile(shares[:, 0, 1], 2.5) == pytest.approx(1 - 0.975, abs=0.02)
    assert (shares[:, 0, 0] == 1).mean() == pytest.approx(0.5, abs=0.06)
    assert shares[:, 1, 0].mean() == pytest.approx(0.75, abs=0.03) == 1 - shares[:, 1, 1].mean()


def test_samples_of_a_share_judged_by_itself_are_low_in_one_half_and_high_in_the_other():
    cells = {(2, 2, 0.25): [0.9] * 5, (2, 2, 0.5): [0.9, 0.9, 0.9, DEAD, DEAD], (8, 8, 0.25): [DEAD] * 5}
    grid = grid_of(table(cells))
    low, high = np.split(grid.exact[1:], 2)
    # Of five seeds at a share of a half: all converge in 1 of 32 studies, three or more in 16, three or fewer in 26.
    assert [(low[:, 0, rate] <= 0.5).mean() for rate in (0, 1)] == pytest.approx([1 / 32, 16 / 32], abs=0.002)
    assert [(high[:, 0, rate] >= 0.5).mean() for rate in (0, 1)] == pytest.approx([1, 26 / 32], abs=0.002)
    assert (high[:, 1, 0] >= 0.5).mean() == pytest.approx(1 / 32, abs=0.002) and (low[:, 1, 0] == 0).all()
    np.testing.assert_array_equal(np.sort(grid.exact, axis=0), np.sort(grid.converged, axis=0))
    assert abs(np.corrcoef(low[:, 0, 0], low[:, 0, 1])[0, 1]) < 0.15  # each in an order of its own
    np.testing.assert_array_equal(grid.select_sizes(np.array([8])).exact, grid.exact[:, 1:])


def flips_of(rows: list[tuple[int, int]], sizes: str, accuracies: tuple) -> list[list[bool]]:
    """Whether the samples of each (m, b) and rate say that it converges, and that it does not."""
    runs = completed_runs(table({(m, b, 2.0**k): [a] for m, b in rows for k, a in enumerate(accuracies)}))
    grid = build_grid(runs, np.random.default_rng(0), sizes)
    np.testing.assert_array_equal(np.isnan(grid.converged).any(axis=0), np.isnan(grid.accuracy[0]))
    return [list(row.std(axis=0) > 0) for row in grid.converged[1:].transpose(1, 0, 2)]


def test_a_border_lies_beside_the_next_rate_that_has_a_result_and_beside_the_ends_of_the_grid():
    def flips(*accuracies: float) -> list[bool]:
        rows = {"batch_size": [(2, 2), (8, 8)], "bn_batch_size": [(8, 2), (8, 8)]}
        first, *others = (row for sizes, mb in rows.items() for row in flips_of(mb, sizes, accuracies))
        assert all(row == first for row in others)  # the grid ends at its highest rate for each m and b
        return first

    assert flips(DEAD, DEAD, np.nan, 0.9, 0.9, 0.9, DEAD) == [True, True, True, False, True, True]
    assert flips(0.9, 0.9, 0.9) == [True, False, True]  # beyond the grid training may fail
    assert flips(DEAD, DEAD, DEAD) == [True, False, False]  # and what is below it may train
    assert flips(0.9) == flips(DEAD) == [True]
