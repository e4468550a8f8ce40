"""Samples of what may be true: against intervals worked out by hand, and how often they cover."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import digamma

import intervals
from smallbatch.analysis.grid import Grid
from smallbatch.analysis.noise import SAMPLES, Noise, best_accuracy_samples, completed_runs
from smallbatch.analysis.statistics import percentile_interval
from smallbatch.analysis.verdicts import Comparison, decide

PRECISE = 10**12
"""So many images that they have no noise."""


def cells(accuracies: dict[tuple[int, float], list[float]], images: float | dict = PRECISE, seed: int = 0, **more):
    """Samples of {(m, base_lr): accuracies of the seeds}; above 0.4 a run has converged.

    images: that cells are tested on, or {(m, base_lr): images} where they are not alike.
    """
    tested = images if isinstance(images, dict) else dict.fromkeys(accuracies, images)
    rows = [
        {"experiment": "made", "batch_size": m, "bn_batch_size": m, "base_lr": rate, "seed": number, "accuracy": value,
         "selection_accuracy": value, "converged": value > 0.4, "test_images": tested[m, rate],
         "train_images": 1000} | more
        for (m, rate), values in accuracies.items() for number, value in enumerate(values)
    ]  # fmt: skip
    runs = completed_runs(pd.DataFrame(rows))
    return Noise(runs, np.random.default_rng(seed)).cells(runs)


def t_interval(values: np.ndarray) -> np.ndarray:
    return np.array(stats.ttest_1samp(values, 0).confidence_interval(0.95))


VALUES = np.array([0.71, 0.74, 0.72, 0.70, 0.76])
OTHERS = np.array([0.61, 0.65, 0.61, 0.61, 0.67])


def mean_interval(accuracies: dict[tuple[int, float], list[float]], cell: int = 0, **settings) -> np.ndarray:
    """Of one cell, by rising m and rate, over 20 draws."""
    drawn = [cells(accuracies, seed=seed, **settings).accuracy[1:, cell] for seed in range(20)]
    return np.mean([percentile_interval(samples) for samples in drawn], axis=0)


@pytest.mark.parametrize(("seeds", "error"), [(2, 0.01), (3, 0.003), (5, 0.002)])
def test_a_cell_alone_has_the_interval_of_student(seeds: int, error: float):
    values = VALUES[:seeds]
    np.testing.assert_allclose(mean_interval({(2, 0.5): values}), t_interval(values), atol=error)


def test_samples_lie_as_far_above_the_data_as_below():
    own, *samples = cells({(2, 0.5): VALUES, (8, 0.5): OTHERS}, images=1000).accuracy
    for world in np.split(np.array(samples), 2):
        np.testing.assert_allclose(world.mean(axis=0), own, atol=1e-9)


@pytest.mark.parametrize(
    ("accuracy", "images", "share"),
    [(0.5, PRECISE, 0.5), (0.9, PRECISE, 0.9), (1.0, 100, 100.5 / 101)],  # the last: half an image is not known
)
def test_what_others_tell_of_a_cell_is_less_where_accuracy_is_high(accuracy: float, images: int, share: float):
    # Six cells of three seeds, each order of 0.49, 0.50, 0.51 once, so that seeds have nothing in common: 6 times 2
    # degrees of freedom, and by Smyth's moments of logarithms the variance 0.01^2 exp(log(1) - digamma(1)).
    others = {(2, 2.0**-k): list(order) for k, order in enumerate(permutations([0.49, 0.50, 0.51]), start=1)}
    accuracies = others | {(8, 0.5): [accuracy]}
    spread = 0.01 * np.exp(np.euler_gamma / 2) * (share * (1 - share) / 0.25) ** 0.5
    tested = dict.fromkeys(others, PRECISE) | {(8, 0.5): images}
    low, _ = mean_interval(accuracies, cell=6, images=tested)
    assert accuracy - low == pytest.approx(stats.t.ppf(0.975, 12) * spread, rel=0.03)


def test_what_cells_have_in_common_by_their_seeds_widens_none():
    # Of a likeness of 0.95, the most that is taken, six cells of two degrees of freedom have 12 / (1 + 5 * 0.95^2).
    accuracies = {(2, 2.0**-k): [0.49, 0.50, 0.51] for k in range(6)} | {(8, 0.5): [0.5]}
    low, high = mean_interval(accuracies, cell=6)
    dof, spread = 12 / (1 + 5 * 0.95**2), 0.01 * np.exp(np.euler_gamma / 2)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, dof) * spread, rel=0.05)


def test_cells_whose_seeds_all_agree_vary_as_much_as_rounding_to_an_image_hides():
    # A variance of 1 / 12 of an image's; of six of one degree of freedom times exp(log(1 / 2) - digamma(1 / 2)).
    low, _ = mean_interval({(2, 2.0**-k): [1.0] * (1 if k == 6 else 2) for k in range(7)}, images=100)
    hidden = (np.exp(np.log(0.5) - digamma(0.5)) / 12) ** 0.5 / 100
    assert 1 - low == pytest.approx(stats.t.ppf(0.975, 6) * hidden, rel=0.04)


def test_where_the_number_of_images_is_not_known_they_have_no_noise():
    accuracies = {(2, 0.5): [0.7, 0.72], (8, 0.5): [0.95, 0.96]}
    unknown, many = (cells(accuracies, images=images).accuracy for images in (np.nan, PRECISE))
    np.testing.assert_allclose(unknown, many, atol=1e-4)


def test_a_difference_by_seed_has_the_paired_interval_where_the_rest_is_unlike():
    # A cell in which a seed failed has a variance of its own: nothing moderates it.
    first, second = np.append(VALUES - 0.2, 0.1), np.append(OTHERS - 0.2, 0.1)  # far from 1, where samples end
    drawn = [cells({(2, 0.5): first, (8, 0.5): second}, seed=seed).accuracy for seed in range(20)]
    found = np.mean([percentile_interval(one[1:, 0] - one[1:, 1]) for one in drawn], axis=0)
    np.testing.assert_allclose(found, t_interval(first - second), atol=0.003)


def test_with_few_seeds_the_other_cells_tell_the_variance():
    draws = np.random.default_rng(0)
    many = {(2, 2.0**-k): draws.normal(0.75, 0.01, 2) for k in range(20)}
    samples = cells(many).accuracy[1:]
    widths = np.diff(np.percentile(samples, [2.5, 97.5], axis=0), axis=0)[0]
    # With 20 degrees of freedom 2 * 2.09 * 0.01 / sqrt(2) = 0.0296; alone 2 * 12.7 times each one's own error.
    assert 0.02 < np.median(widths) < 0.045 and widths.max() < 0.1


@pytest.mark.parametrize(("accuracies", "dof"), [([[0.7, 0.8]], 1), ([[0.7, 0.8], [0.7, 0.72, 0.71], [0.7]], 3)])
def test_one_seed_has_the_variance_of_others_or_none(accuracies: list, dof: int):
    found = cells({(2, 2.0**k): values for k, values in enumerate(accuracies)})
    assert np.isfinite(found.accuracy).all()
    alone = cells({(2, 2.0**k): [0.7 + k / 100] for k in range(3)})
    assert np.isnan(alone.accuracy[1:]).all() and np.isfinite(alone.selection).all()
    assert set(alone.selection[1:].argmax(axis=1)) == {0, 1, 2}  # any of those that train may be the best
    failed = cells({(2, 0.5): [0.7], (2, 1.0): [0.1]}).selection
    assert (failed[:, 1] == 0.1).all() and failed[1:, 0].std() == pytest.approx(1, rel=0.1)


def test_images_that_are_few_widen_levels_and_hardly_differences():
    few, many = (
        cells({(2, 0.5): [0.8] * 4, (8, 0.5): [0.8] * 4}, images=images).accuracy[1:] for images in (100, PRECISE)
    )
    assert many.std(axis=0) == pytest.approx(0, abs=1e-6)
    assert few.std(axis=0) == pytest.approx((0.65 * 0.8 * 0.2 / 100) ** 0.5, rel=0.1)
    assert (few[:, 0] - few[:, 1]).std() == pytest.approx((2 * 0.15 * 0.8 * 0.2 / 100) ** 0.5, rel=0.1)


def test_what_diverged_is_at_chance_without_noise_and_nothing_lies_outside_0_and_100_percent():
    found = cells({(2, 0.25): [0.99, 0.999], (2, 0.5): [0.1, 0.1], (2, 1.0): [0.05, 0.05]}, images=100)
    assert (found.accuracy[:, 1] == 0.1).all() and (found.accuracy[:, 2] == 0.05).all()
    assert found.accuracy.min() >= 0 and found.accuracy.max() == 1


def test_the_selection_on_other_images_has_its_own_noise():
    found = cells({(2, 0.5): [0.8] * 4}, images=100, selection_accuracy=0.7)
    # Of 1,000 training images 100 are held out.
    assert found.selection[1:].std() == pytest.approx((0.65 * 0.7 * 0.3 / 100) ** 0.5, rel=0.1)
    assert found.selection[0, 0] == 0.7 and abs(np.corrcoef(found.accuracy[1:, 0], found.selection[1:, 0])[0, 1]) < 0.2


def test_a_selection_by_test_accuracy_has_its_noise_though_cells_lack_seeds():
    found = cells({(2, 0.5): [0.7, 0.72, 0.71], (8, 0.5): [0.6, 0.61]}, images=100)
    np.testing.assert_array_equal(found.selection, found.accuracy)


def best(
    means: list[float], tie: bool, converged: float = 1, ties_in_first_half: bool = False, common: float = 0
) -> np.ndarray:
    """Samples of the best of cells with standard normal errors, of the world in which all or none tie.

    common: standard deviation of a further error, which all cells share.
    """
    draws = np.random.default_rng(0)
    first, second = draws.standard_normal((2, SAMPLES // 4, len(means)))
    first, second = (errors + common * draws.standard_normal((SAMPLES // 4, 1)) for errors in (first, second))
    errors = np.concatenate([first, -first, second, -second])
    values = 0.5 + 0.001 * np.concatenate([[means], means + errors])
    shares = np.full(values.shape, converged)
    shares[:, 0] = 1
    own, *samples = (best_accuracy_samples(values, values, shares, ties_in_first_half) - 0.5) / 0.001
    return np.array([own, *np.split(np.array(samples), 2)[tie != ties_in_first_half]])


def test_the_best_of_cells_that_tie_is_lower_by_the_highest_of_their_errors():
    assert best([3, 3, 3], tie=True)[1:].mean() == pytest.approx(3 - 0.846, abs=0.05)  # the highest of three
    assert best([3, 3, 3], tie=False)[1:].mean() == pytest.approx(3, abs=0.06)
    assert best([3, 3 - 2.4 * 2**0.5, -9], tie=True)[1:].mean() == pytest.approx(3 - 0.564, abs=0.06)  # of two
    assert best([3, 3 - 2.65 * 2**0.5, -9], tie=True)[1:].mean() == pytest.approx(3, abs=0.06)  # too far to tie
    assert best([3, -9, -9], tie=True)[1:].mean() == pytest.approx(3, abs=0.06)
    assert best([3, 3, 3], tie=True, converged=0.8)[1:].mean() == pytest.approx(3, abs=0.06)


def test_cells_tie_by_the_spread_of_their_difference_which_a_common_error_does_not_widen():
    assert best([3, 3 - 2.65 * 2**0.5, -9], tie=True, common=5)[1:].mean() == pytest.approx(3, abs=0.06)
    assert best([3, 3 - 2.4 * 2**0.5, -9], tie=True, common=5)[1:].mean() == pytest.approx(3 - 0.564, abs=0.06)


@pytest.mark.parametrize(("own", "moves", "end"), [(0.999, 0.1, 1), (0.001, -0.1, 0)])
def test_a_best_that_has_the_luck_of_another_cell_lies_within_0_and_100_percent(own: float, moves: float, end: int):
    selection = np.array([[0.5, 0.5]] + [[0.6, 0.4]] * SAMPLES)  # the second cell is the luckier one
    accuracy = np.array([[own, 0.5]] + [[own, 0.5 + moves]] * SAMPLES)
    found = best_accuracy_samples(selection, accuracy, np.ones_like(accuracy))
    assert found.min() >= 0 and found.max() <= 1 and end in found


def test_the_best_of_each_row_of_cells_is_that_of_the_row_alone():
    draws = np.random.default_rng(0)
    means, spreads = np.array([[0.505, 0.51, 0.5], [0.52, 0.519, 0.5], [0.4, 0.5, 0.5]]), np.array([1, 10, 1])
    errors = 0.001 * spreads[:, None] * draws.standard_normal((SAMPLES, 3, 3))
    values = np.concatenate([means[None], means + errors])
    ones = np.ones_like(values)
    rows = [best_accuracy_samples(row, row, np.ones_like(row)) for row in values.transpose(1, 0, 2)]
    np.testing.assert_array_equal(best_accuracy_samples(values, values, ones), np.stack(rows, axis=1))


def test_either_half_of_the_samples_may_be_the_one_in_which_cells_tie():
    for first in (False, True):
        assert best([3, 3, 3], True, ties_in_first_half=first)[1:].mean() == pytest.approx(3 - 0.846, abs=0.05)
        assert best([3, 3, 3], False, ties_in_first_half=first)[1:].mean() == pytest.approx(3, abs=0.06)


def one_rate(means: np.ndarray, draws: np.random.Generator) -> Grid:
    """Sizes at one rate, with errors that are normal to the last with standard deviation 0.001."""
    first, second = 0.001 * draws.standard_normal((2, SAMPLES // 4, len(means)))
    values = np.concatenate([[means], means + np.concatenate([first, -first, second, -second])])[..., None]
    ones, sizes = np.ones(values.shape), 2 ** np.arange(len(means))
    return Grid("", "m", sizes, np.array([0.5]), values, values, ones, ones, ones[0].astype(int), {}, np.zeros(SAMPLES))


def test_of_two_bests_the_difference_is_first_as_low_as_it_may_be_and_then_as_high():
    three, two = (one_rate(np.full(count, 0.5), np.random.default_rng(0)) for count in (3, 2))
    own, *samples = 1000 * three.peak_difference(two)
    low, high = np.split(np.array(samples), 2)
    # The highest of three normal errors is 0.846 on average, of two 0.564.
    assert own == 0 and [low.mean(), high.mean()] == pytest.approx([-0.846, 0.564], abs=0.06)
    # Where cells tie, all lie as much lower than the data say as the luckiest does; both grids have the same draw.
    moved, others_moved = (1000 * (grid.accuracy[1:, :, 0] - 0.5) for grid in (three, two))
    half = SAMPLES // 2
    np.testing.assert_allclose(low, moved[:half].min(axis=1) - others_moved[:half, 0])
    np.testing.assert_allclose(high, moved[half:, 0] - others_moved[half:].min(axis=1))


@pytest.mark.parametrize("wrong", ["supported", "refuted"])
def test_a_best_of_many_that_tie_is_seldom_above_one_that_looks_as_if_it_tied(wrong: str):
    draws = np.random.default_rng(0)
    tie, alone = np.zeros(6), np.array([0, *[-2.5] * 6])  # in standard deviations, above which many look near
    inside, outside = (tie, alone) if wrong == "supported" else (alone, tie)

    def verdict() -> str:
        one, other = (
            one_rate(0.5 + 0.001 * (true + draws.standard_normal(len(true))), draws) for true in (inside, outside)
        )
        [found] = decide([Comparison("told", one.peak_difference(other), at_least=0)])
        return found

    share = np.mean([verdict() == wrong for _ in range(500)])
    assert share < 0.08  # 5 % and three standard errors; some 15 % where both tie or none


@pytest.mark.slow
@pytest.mark.parametrize(("truth", "seeds"), [("three tie", 2), ("a hump", 3), ("all 20 tie", 5), ("a border", 5)])
def test_intervals_cover_what_they_say(truth: str, seeds: int):
    # A short form of benchmarks/intervals.py: 95 % of 40 studies are 38, and 33 or fewer come in one of a hundred.
    for name, (_, covered, _, _) in intervals.coverage(intervals.WORLDS[truth], seeds, 40).items():
        assert covered > 33 / 40, name
