"""The cells that figures show: which is the best, and where an axis begins and ends."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers.figures import NO_EPOCHS, caption, corners, draw, level, lines, note_of, planned, spec

from smallbatch.analysis.metric_as_accuracy import with_metric_as_accuracy
from smallbatch.figures.accuracy_lines import best_cells, percent_axis, percent_limits, trained_floor, training_floor


@pytest.mark.parametrize(
    ("accuracies", "bar", "floor"),
    [
        ((0.9, 0.92, 0.1), 0.8, 85),  # 5 below 90
        ((0.9, 0.52, 0.44, 0.1), 0.8, 85),  # 44 to 10 is narrower than 90 to 52
        ((0.9, 0.62, 0.44, 0.1), 0.8, 70),  # 39 lies further below 80 than 90 above it
        ((0.9, 0.7, 0.62, 0.44, 0.3, 0.1), 0.8, 70),  # no wide gap
        ((0.9, 0.62, 0.44, 0.1), 0.6, 35),  # 39
        ((0.94, 0.82, 0.74, 0.7), 0.8, 75),  # 78, half of 74 to 82; for 82 to 94 lies above the bar
        ((0.94, 0.822, 0.782, 0.76), 0.8, 80),  # 80.2, half of 78.2 to 82.2
        ((0.899, 0.1), 0.8, 80),  # 84.9
        ((0.99, 0.8, 0.72), 0.7999, 75),  # 76: 80 is above the bar, so 80 to 99 is no gap below it
        ((0.94, 0.829, 0.749, 0.72), 0.8, 75),  # 78.9; a third of the gap would leave 80.2
        ((0.9, 0.85), 0.8, 80),  # all have trained
        ((0.14, 0.13), 0.12, None),  # 8, where networks guess
        ((0.1, 0.12), np.inf, None),
    ],
)
def test_an_axis_of_accuracy_begins_above_the_widest_gap_below_the_bar(accuracies, bar, floor) -> None:
    assert trained_floor(planned(level(*accuracies), bar=bar)) == floor


def test_points_below_the_axis_are_hollow_at_its_edge() -> None:
    axes = draw(spec("accuracy"), planned(level(0.9, 0.92, 0.1)), NO_EPOCHS).axes[0]
    hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in hollow] == [([2**-6], [axes.get_ylim()[0]])]
    assert hollow[0].get_marker() == axes.get_lines()[0].get_marker() and not hollow[0].get_clip_on()
    lower = level(0.9, 0.92) | {(8, 8, 2**-8): [0.9, 0.9], (8, 8, 2**-7): [0.1, 0.1]}  # of the second line alone
    above, second = (draw(spec("accuracy"), planned(cells), NO_EPOCHS) for cells in (level(0.9, 0.92), lower))
    for figure, marked in ((above, False), (axes.figure, True), (second, True)):
        assert ("hollow: below the axis" in note_of(figure)) is marked
        assert any(line.get_markerfacecolor() == "white" for line in figure.axes[0].get_lines()) is marked


def test_a_point_just_below_the_start_of_the_axis_is_hollow_alone() -> None:
    axes = draw(spec("accuracy"), planned(level(0.9, 0.92, 0.8495, 0.84), bar=0.88), NO_EPOCHS).axes[0]
    assert axes.get_ylim()[0] < 84.95 < 85  # so it has a place on the axis, and its marker would be cut in half
    line, *_, hollow = [line for line in axes.get_lines() if line.get_marker() != "None"]
    assert list(hollow.get_xdata()) == [2**-6, 2**-5] and line.get_markevery() == [True, True, False, False]


def test_plots_side_by_side_mark_what_lies_below_the_lowest_of_their_starts() -> None:
    low = planned(level(0.7, 0.72, 0.1), bar=0.6)
    high = planned(level(0.9, 0.92, 0.68), experiment="bn", norm="batch")
    figure = draw(spec("accuracy", "alex", "bn"), pd.concat([low, high]), NO_EPOCHS)
    marked = [[line for line in axes.get_lines() if line.get_markerfacecolor() == "white"] for axes in figure.axes]
    assert list(map(len, marked)) == [1, 0] and "hollow" in note_of(figure), "68 % is on the axis, which begins at 65"


def test_the_axis_of_bests_begins_where_the_best_cells_train() -> None:
    runs = pd.concat([
        planned({(2, 2, 2**-8): [0.9, 0.9], (8, 8, 2**-8): [0.85, 0.85], (8, 8, 2**-7): [0.4, 0.4]}),
        planned({(2, 2, 2**-8): [0.1, 0.1]}, experiment="bn", norm="batch"),
    ])  # fmt: skip
    assert trained_floor(runs) == 80 and trained_floor(runs, of_bests=True) == 80
    lower = pd.concat([runs, planned({(8, 8, 2**-8): [0.6, 0.6], (8, 8, 2**-7): [0.11, 0.11]}, experiment="last")])
    lower = lower.assign(bar=0.5)
    assert trained_floor(lower) == 35, "29 points between 11 and 40 %"
    assert trained_floor(lower, of_bests=True) == 55, "50 between 10 and 60 %"
    axes = draw(spec("best", "alex", "bn", "last"), lower, NO_EPOCHS).axes[0]
    assert 50 < axes.get_ylim()[0] < 55


@pytest.mark.parametrize(
    ("best", "bar", "floor"), [(0.92, 0.76, 60), (0.9, 0.8, 70), (0.7, 0.4, None), (0.7, np.inf, None)]
)
def test_an_axis_of_training_begins_as_far_below_the_bar_as_the_best_is_above(best, bar, floor) -> None:
    assert training_floor(planned(level(best, 0.3, 0.1), bar=bar)) == floor


def test_an_axis_of_training_begins_at_zero_where_no_cell_but_only_a_seed_has_trained() -> None:
    assert training_floor(planned({(2, 2, 2**-8): [0.9, 0.1]}, bar=0.8)) is None


def test_bn_batches_that_have_collapsed_are_below_the_axis() -> None:
    cells = {(8, 2, 2**-8): [0.1, 0.1], (8, 4, 2**-8): [0.9, 0.9], (8, 8, 2**-8): [0.91, 0.91]}
    lower = {(8, b, 2**-9): [0.3, 0.3] for b in (2, 4, 8)}  # a rate that is not shown
    figure = draw(spec("bn-batch"), planned(cells | lower), NO_EPOCHS)
    hollow = [line for line in figure.axes[0].get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[2]]
    assert figure.axes[0].get_ylim()[0] > 80 and "hollow" in note_of(figure)
    trained = {cell: seeds for cell, seeds in cells.items() if cell[1] > 2}
    assert "hollow" not in note_of(draw(spec("bn-batch"), planned(trained | lower), NO_EPOCHS))


def test_of_the_best_only_the_best_are_below_the_axis() -> None:
    runs = planned(level(0.9, 0.1) | {(8, 8, 2**-8): [0.1, 0.1]})
    figure = draw(spec("best"), runs, NO_EPOCHS)
    assert "hollow" in note_of(figure)
    assert "hollow" not in note_of(draw(spec("best"), runs[runs["batch_size"] == 2], NO_EPOCHS))


def cells_at(means: list[float], low: list[float] | float = np.nan, high: list[float] | float = np.nan) -> pd.DataFrame:
    return pd.DataFrame({"mean": means, "low": low, "high": high}).astype(float)


@pytest.mark.parametrize(
    ("means", "from_zero", "ends"),
    [
        ([43, 61], True, (0, 70)), ([43, 61], False, (40, 65)), ([91, 92], False, (90, 95)),
        ([97, 99], False, (95, 100)), ([4, 7], True, (0, 10)), ([np.nan], False, (0, 100)),
        ([np.nan, 97], True, (0, 100)), ([100, 100], False, (95, 100)),
    ],
)  # fmt: skip
def test_axes_of_percent_end_at_tens_from_zero_and_else_at_fives(means, from_zero, ends) -> None:
    assert percent_limits(cells_at(means), from_zero=from_zero) == ends


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [(83, 97, (80, 100)), (82.9, 97, (85, 95)), (83, 97.1, (85, 95))],  # five points, and more
)
def test_axes_of_percent_show_intervals_that_reach_little_beyond_the_means(low, high, ends) -> None:
    cells = cells_at([88, 92], low, high)
    assert percent_limits(cells) == percent_limits(cells, floor=88) == ends


@pytest.mark.parametrize(("low", "ends"), [(85, (85, 100)), (84.9, (85, 95))])
def test_an_interval_that_reaches_below_the_floor_of_an_axis_counts_at_neither_end(low, ends) -> None:
    assert percent_limits(cells_at([84, 92], low, 96), floor=85) == ends


def test_an_axis_of_percent_has_room_for_markers_on_its_ends() -> None:
    axes = matplotlib.figure.Figure().subplots()
    percent_axis(axes, (85, 95), "test accuracy")
    assert axes.get_ylim() == pytest.approx((84.8, 95.2)) and axes.get_ylabel() == "test accuracy (%)"
    percent_axis(axes, (0, 100), "test accuracy")
    assert axes.get_ylim() == pytest.approx((0, 102))


def test_an_interval_that_reaches_beyond_the_axis_is_a_line_of_its_own() -> None:
    widely = {(8, 8, 2**-8): [0.9, 0.9], (8, 4, 2**-8): [0.8, 1.0], (8, 2, 2**-8): [0.9, 0.9]}
    axes = draw(spec("bn-batch"), planned(widely), NO_EPOCHS).axes[0]
    band, whiskers = (corners(collection) for collection in axes.collections)
    assert axes.get_ylim()[0] > 80 and 4 in whiskers[:, 0] and 4 not in band[:, 0]


def test_rates_are_chosen_by_selection_accuracy_and_shown_by_accuracy() -> None:
    runs = planned({(2, 2, 2**-8): [0.7], (2, 2, 2**-7): [0.9]})
    assert lines(draw(spec("best"), runs, NO_EPOCHS).axes[0])["reduced AlexNet, no BN"][1] == [90]
    runs["selection_accuracy"] = [0.8, 0.6]
    chosen = runs.assign(selection="validation")
    label = "reduced AlexNet, no BN, rate chosen on validation images"
    assert lines(draw(spec("best"), chosen, NO_EPOCHS).axes[0])[label][1] == [70]


def test_of_equal_rates_the_smallest_is_chosen_as_for_training() -> None:
    runs = planned({(2, 2, 2**-8): [0.7], (2, 2, 2**-7): [0.9], (2, 2, 2**-6): [0.6]})
    runs["selection_accuracy"] = 0.5
    assert lines(draw(spec("best"), runs, NO_EPOCHS).axes[0])["reduced AlexNet, no BN"][1] == [70]


def test_the_seeds_of_the_best_cell_are_counted() -> None:
    runs = planned({(2, 2, 2**-8): [0.89, 0.9, 0.91, 0.9], (8, 8, 2**-8): [0.885, 0.89, 0.915]})
    found = [best_cells(runs, ["experiment"], np.random.default_rng(seed)).iloc[0] for seed in range(8)]
    assert [(best["batch_size"], best["seeds"]) for best in found] == [(2, 4)] * 8


def test_of_many_equal_cells_the_first_is_the_best() -> None:
    cells = [(m, m, 2.0**step) for m in (2, 4, 8) for step in range(-100, 0)]
    runs = planned({cell: [0.5 + place % 3 / 10] for place, cell in enumerate(cells)})
    (best,) = best_cells(runs, ["experiment"], np.random.default_rng(0)).itertuples()
    assert (best.batch_size, best.base_lr) == (2, 2.0**-98), "the third is the first at 70 %"


def test_each_sgd_batch_has_one_rate_over_all_bn_batches() -> None:
    # Means over b: 0.65 at 2^-8 against 0.6 at 2^-7, though the single best cell has 2^-7.
    runs = planned({(4, 2, 2**-8): [0.6], (4, 4, 2**-8): [0.7], (4, 2, 2**-7): [0.4], (4, 4, 2**-7): [0.8]})
    np.testing.assert_allclose(lines(draw(spec("bn-batch"), runs, NO_EPOCHS).axes[0])["4"], [[2, 4], [60, 70]])
    assert "at base learning rate η/m = 2⁻⁸ (m = 4)." in caption("fig13", spec("bn-batch"), runs)
    larger = planned({(8, 2, 2**-8): [0.6], (16, 2, 2**-10): [0.6]})
    text = caption("fig13", spec("bn-batch"), pd.concat([runs, larger]))
    assert "at base learning rate η/m = 2⁻⁸ (m = 4, 8), 2⁻¹⁰ (m = 16)." in text


def test_best_is_the_highest_mean_and_not_the_luckiest_seed() -> None:
    runs = pd.concat([
        planned({(2, 2, 2**-8): [0.70, 0.80], (2, 2, 2**-7): [0.95, "diverged"], (4, 4, 2**-8): ["missing"] * 2}),
        planned({(2, 2, 2**-8): [0.60, 0.62]}, experiment="bn", norm="batch"),
    ])  # fmt: skip
    drawn = lines(draw(spec("best", "alex", "bn"), runs, NO_EPOCHS).axes[0])
    np.testing.assert_allclose(drawn["reduced AlexNet, no BN"], [[2, 4], [75, np.nan]])
    np.testing.assert_allclose(drawn["reduced AlexNet, BN on conv + FC"], [[2], [61]])


def test_the_error_that_images_give_another_metric_is_its_own() -> None:
    """With two seeds that agree the interval is what the images give: 1.96 times the error, of which 65 % is common."""
    runs = planned({(m, m, 2**-8): [0.8, 0.8] for m in (2, 8)}).assign(f1=0.6, selection_f1=0.6)
    halves = []
    for error in (0.01, 0.03):
        of = runs.assign(f1_error=error, selection_f1_error=error)
        band = best_cells(with_metric_as_accuracy(of, "f1"), ["batch_size"], np.random.default_rng(0)).iloc[0]
        halves.append((band["high"] - band["low"]) / 2)
        assert band["mean"] == pytest.approx(60, abs=0.1)
    assert halves[1] / halves[0] == pytest.approx(3, rel=0.1)
    assert halves[1] == pytest.approx(1.96 * 3 * np.sqrt(0.65), rel=0.15)
