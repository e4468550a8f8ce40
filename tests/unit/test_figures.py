"""Figures: what they draw, what they say, and that the same table gives the same bytes."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers import PAPERS_RECIPE

import smallbatch
from smallbatch import figures
from smallbatch.analysis.metric_columns import with_metric_as_accuracy
from smallbatch.analysis.words import experiment_labels, rate_words
from smallbatch.core.errors import UserError
from smallbatch.figures import ALL_KINDS, style
from smallbatch.figures.cells import best_cells, percent_axis, trained_floor
from smallbatch.figures.ranges import cell_edges

NO_EPOCHS = pd.DataFrame(columns=["run", "epoch", "learning_rate", "train_loss", "test_loss", "test_accuracy"])
NO_VARIANCE = pd.DataFrame(columns=["run", "epoch", "batch_size", "trace", "draws"])


def draw(spec: dict, runs: pd.DataFrame, epochs: pd.DataFrame, variance: pd.DataFrame = NO_VARIANCE):
    return figures.draw(spec, runs, epochs, variance)


def caption(name: str, spec: dict, runs: pd.DataFrame, variance: pd.DataFrame = NO_VARIANCE) -> str:
    return figures.caption(name, spec, runs, variance)


def planned(accuracies: dict, **settings) -> pd.DataFrame:
    """Runs from {(m, b, base_lr): [accuracy for each seed]}: a number finished, "diverged" or "missing"."""
    common = {
        "experiment": "alex", "data": "digits", "classes": 10, "train_images": 1437, "model": "alexnet", "norm": "none",
        "norm_layers": "all", "weight_decay": 5e-4, "epochs": 4, **PAPERS_RECIPE, "augment": "none",
        "seconds": 30.0, "images_per_second": 100.0, "peak_memory_mb": 300.0, "test_images": 360, "momentum": 0.0,
        "momentum_scaled": False, "lr_scaling": "linear", "precision": "float32", "selection": "test", "bar": 0.8,
    } | settings  # fmt: skip
    rows = []
    for (m, b, base_lr), seeds in accuracies.items():
        for seed, result in enumerate(seeds):
            status = result if isinstance(result, str) else "finished"
            accuracy = {"diverged": common["chance"], "missing": np.nan}.get(status, result)
            rows.append(common | {
                "run": f"{common['experiment']}-m{m}-b{b}-{base_lr}-s{seed}", "batch_size": m, "bn_batch_size": b,
                "base_lr": base_lr, "seed": seed, "status": status, "accuracy": accuracy,
                "selection_accuracy": accuracy,
                "converged": status == "finished" and accuracy > 0.5,
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"accuracy": float})


def grid() -> pd.DataFrame:
    """Two batch sizes, three rates, two seeds; one cell missing whole, one in part, two diverged in part or whole."""
    return planned({
        (2, 2, 2**-8): [0.80, 0.90], (2, 2, 2**-7): ["missing", "missing"], (2, 2, 2**-6): [0.70, "diverged"],
        (8, 8, 2**-8): [0.60, "missing"], (8, 8, 2**-7): [0.95, 0.85], (8, 8, 2**-6): ["diverged", "diverged"],
    })  # fmt: skip


def spec(kind: str, *experiments: str, **more) -> dict:
    return {"kind": kind, "experiments": list(experiments or ["alex"]), "title": "A title"} | more


def draw_grid(kind: str = "accuracy"):
    return draw(spec(kind, base_lr=2**-8), grid(), NO_EPOCHS)


def lines(axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Label -> x and y of each line that a legend names."""
    handles, labels = axes.get_legend_handles_labels()
    return {label: handle.get_data() for handle, label in zip(handles, labels, strict=True)}


def corners(collection) -> np.ndarray:
    return np.vstack([np.empty((0, 2)), *(path.vertices for path in collection.get_paths())])


def holds(points: np.ndarray, x: float, y: float) -> bool:
    return bool(np.isclose(points, [x, y]).all(axis=1).any())


def said(figure) -> str:
    """The note below the plot, on one line."""
    return " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_accuracy_draws_the_mean_of_the_seeds_and_leaves_a_gap() -> None:
    (axes,) = draw_grid().axes
    drawn = lines(axes)
    assert list(drawn) == ["2", "8"]
    np.testing.assert_allclose(drawn["2"], [[2**-8, 2**-7, 2**-6], [85, np.nan, 40]])
    np.testing.assert_allclose(drawn["8"], [[2**-8, 2**-7, 2**-6], [60, 90, 10]])


def test_an_interval_that_reaches_below_the_axis_is_a_line_of_its_own() -> None:
    runs = planned(level(0.9, 0.91) | {(2, 2, 2**-6): [0.89, 0.1], (2, 2, 2**-5): [0.1, 0.1]})
    axes = draw(spec("accuracy"), runs, NO_EPOCHS).axes[0]
    band, whiskers = (corners(collection) for collection in axes.collections)
    assert {*band[:, 0]} == {2**-8, 2**-7} and {*whiskers[:, 0]} == {2**-6, 2**-5}


def level(*accuracies: float) -> dict[tuple[int, int, float], list[float]]:
    """m = 2 at rates from 2^-8 on, two seeds each, 0.002 apart."""
    return {(2, 2, 2.0 ** (place - 8)): [a - 0.001, a + 0.001] for place, a in enumerate(accuracies)}


def test_accuracy_band_is_the_interval_of_the_mean() -> None:
    runs = planned(level(0.9, 0.91, 0.905))
    cells = best_cells(runs, ["batch_size", "base_lr"], np.random.default_rng(0)).set_index("base_lr")
    (axes,) = draw(spec("accuracy"), runs, NO_EPOCHS).axes
    band, whiskers = (corners(collection) for collection in axes.collections)
    for rate, low, high in cells[["low", "high"]].itertuples():
        assert 80 < low < high and holds(band, rate, low) and holds(band, rate, high) and not len(whiskers)
    color = next(line.get_color() for line in axes.get_lines() if line.get_label() == "2")
    assert matplotlib.colors.same_color(axes.collections[0].get_facecolor()[0, :3], color)


def test_an_interval_whose_neighbours_have_none_is_a_line_of_its_own() -> None:
    # Two cells of two seeds tell the variance, 0.005 each, in the binomial scale of 85 and of 90 %: 0.1275 and 0.09.
    cells = best_cells(grid(), ["batch_size", "base_lr"], np.random.default_rng(0)).set_index(["batch_size", "base_lr"])
    low, high = cells.loc[(8, 2**-7), ["low", "high"]]
    assert low < 85 and high == 100  # of a t with two degrees of freedom, and never above 100 %
    axes = draw_grid().axes[0]  # from 40 % on: 10, 40, 60, 85 and 90 are there
    band, whiskers = (corners(collection) for collection in axes.collections[2:])
    assert not holds(band, 2**-7, high) and holds(whiskers, 2**-7, low) and holds(whiskers, 2**-7, high)


@pytest.mark.parametrize(
    ("accuracies", "bar", "floor"),
    [
        ((0.9, 0.92, 0.1), 0.8, 85),  # 5 below 90
        ((0.9, 0.52, 0.44, 0.1), 0.8, 85),  # 44 to 10 is narrower than 90 to 52
        ((0.9, 0.62, 0.44, 0.1), 0.8, 35),  # 39
        ((0.94, 0.82, 0.74, 0.7), 0.8, 75),  # 78, half of 74 to 82; for 82 to 94 lies above the bar
        ((0.94, 0.822, 0.782, 0.76), 0.8, 80),  # 80.2, half of 78.2 to 82.2
        ((0.899, 0.1), 0.8, 80),  # 84.9
        ((0.99, 0.8, 0.72), 0.7999, 75),  # 76: 80 is above the bar, so 80 to 99 is no gap below it
        ((0.94, 0.829, 0.749, 0.72), 0.8, 75),  # 78.9; a third of the gap would leave 80.2
        ((0.9, 0.85), 0.8, None),
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
    for figure, marked in ((draw(spec("accuracy"), planned(level(0.9, 0.92)), NO_EPOCHS), False), (axes.figure, True)):
        assert ("hollow: below the axis" in said(figure)) is marked
        assert any(line.get_markerfacecolor() == "white" for line in figure.axes[0].get_lines()) is marked


def test_of_the_best_only_the_best_are_below_the_axis() -> None:
    runs = planned(level(0.9, 0.1) | {(8, 8, 2**-8): [0.1, 0.1]})
    figure = draw(spec("best"), runs, NO_EPOCHS)
    assert "hollow" in said(figure)
    assert "hollow" not in said(draw(spec("best"), runs[runs["batch_size"] == 2], NO_EPOCHS))


def test_no_band_is_drawn_where_nothing_tells_how_much_a_cell_varies() -> None:
    runs = planned({(2, 2, 2**-8): [0.8], (2, 2, 2**-7): [0.7]})
    cells = best_cells(runs, ["batch_size", "base_lr"], np.random.default_rng(0))
    assert cells["low"].isna().all() and cells["high"].isna().all() and list(cells["mean"]) == [80, 70]


def test_chance_is_a_line() -> None:
    runs = planned({(2, 2, 0.5): [0.5], (2, 2, 0.25): [0.6]}, chance=0.01, bar=np.inf)
    (axes,) = draw(spec("accuracy"), runs, NO_EPOCHS).axes
    assert [line.get_ydata() for line in axes.get_lines() if line.get_linestyle() == "--"] == [[1, 1]]


def test_the_bar_of_convergence_is_a_line_where_anything_has_trained() -> None:
    at_eighty, none = grid(), grid().assign(bar=np.inf)
    levels = [line.get_ydata()[0] for line in draw(spec("accuracy"), at_eighty, NO_EPOCHS).axes[0].get_lines()]
    assert 80 in levels
    levels = [line.get_ydata()[0] for line in draw(spec("accuracy"), none, NO_EPOCHS).axes[0].get_lines()]
    assert 80 not in levels and np.isfinite(levels[-1])


@pytest.mark.parametrize(
    ("values", "from_zero", "ends"),
    [
        ([43, 61], True, (0, 70 + 0.02 * 70)), ([43, 61], False, (40 - 0.02 * 25, 65 + 0.02 * 25)),
        ([91, 92], False, (90 - 0.02 * 10, 100 + 0.02 * 10)), ([97, 99], False, (95 - 0.02 * 5, 100 + 0.02 * 5)),
        ([4, 7], True, (0, 10 + 0.02 * 10)), ([np.nan], False, (-2, 102)), ([np.nan, 97], True, (0, 102)),
        ([100, 100], False, (95 - 0.02 * 5, 100 + 0.02 * 5)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["mean", "low", "high"])
def test_axes_of_percent_end_at_tens_from_zero_and_else_at_fives(values, from_zero, ends, column) -> None:
    cells = pd.DataFrame({name: values if name == column else np.nan for name in ("mean", "low", "high")})
    axes = matplotlib.figure.Figure().subplots()
    percent_axis(axes, cells.astype(float), "test accuracy", from_zero=from_zero)
    assert axes.get_ylim() == pytest.approx(ends) and axes.get_ylabel() == "test accuracy (%)"


def test_an_interval_that_ends_at_the_floor_of_an_axis_is_on_it() -> None:
    axes = matplotlib.figure.Figure().subplots()
    percent_axis(axes, pd.DataFrame({"mean": [88.0], "low": [80.0], "high": [91.0]}), "test accuracy", floor=80)
    assert axes.get_ylim() == pytest.approx((80 - 0.02 * 15, 95 + 0.02 * 15))


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


def test_captions_say_where_rates_were_chosen() -> None:
    runs, held_out = grid(), grid().assign(experiment="held-out", selection="validation")
    paper = "The rate is chosen on the test set, as in the paper"
    assert f"{paper}. " in caption("fig15", spec("best"), runs)
    both = caption("fig15", spec("best", "alex", "held-out"), pd.concat([runs, held_out]))
    assert f"{paper}, but where its label says otherwise. " in both
    own = caption("fig15", spec("best", "held-out"), held_out)
    assert paper not in own and "rate chosen on validation images, on digits" in own
    assert "chosen" not in caption("fig01", spec("accuracy"), runs)


def test_captions_name_lines_only_where_they_are_drawn() -> None:
    assert "Dotted" not in caption("fig01", spec("accuracy"), grid().assign(bar=np.nan))
    assert "Lighter" in caption("fig16", spec("range"), grid())
    assert "Lighter" not in caption("fig16", spec("range"), planned({(2, 2, 0.5): [0.5]}))
    text = caption("sqrt", spec("accuracy"), grid().assign(lr_scaling="sqrt"))
    assert "over the base learning rate η/√m," in text


def test_seeds_and_epochs_that_differ_are_all_named() -> None:
    long = planned({(2, 2, 0.5): [0.6]}, experiment="long", data="cifar100", epochs=8)
    runs = pd.concat([planned({(2, 2, 0.5): [0.5, 0.7]}), long])
    assert "digits (4 epochs), cifar100 (8 epochs), 1 or 2 seeds" in said(
        draw(spec("best", "alex", "long"), runs, NO_EPOCHS)
    )
    text = caption("fig15", spec("best", "alex", "long"), runs)
    assert "On digits (1,437 training images), 4 epochs; cifar100 (1,437 training images), 8 epochs. " in text
    assert "Line: mean of 1 or 2 seeds, less what the best of several rates owes to luck; band" in text


def measured(slope: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = planned({(8, 8, 2**-8): [0.9, 0.8]})
    rows = [(run, epoch, m, 3.0 * m**slope, 32) for run in runs["run"] for epoch in (0, 4) for m in (2, 8, 32)]
    return runs, pd.DataFrame(rows, columns=NO_VARIANCE.columns)


def test_variance_draws_a_line_for_each_point_of_training_with_its_slope() -> None:
    runs, variance = measured(1.5)
    (axes,) = draw(spec("variance"), runs, NO_EPOCHS, variance).axes
    assert "in brackets: 95 % intervals of means over seeds" in said(axes.figure)
    drawn = lines(axes)
    assert list(drawn) == ["0 epochs: slope 1.50 (1.50 to 1.50)", "4 epochs: slope 1.50 (1.50 to 1.50)"]
    np.testing.assert_allclose(
        drawn["4 epochs: slope 1.50 (1.50 to 1.50)"], [[2, 8, 32], 3 * np.array([2, 8, 32]) ** 1.5]
    )
    reference = [line.get_ydata() for line in axes.get_lines() if line.get_linestyle() == "--"]
    np.testing.assert_allclose(reference[0], reference[0][0] * np.array([1, 4, 16]))
    assert axes.get_xscale() == axes.get_yscale() == "log"
    text = caption("variance", spec("variance"), runs, variance)
    assert "estimated from 32 or more mini-batches" in text and "(Student's t)" in text


def test_example_variance_draws_a_line_for_each_batch_size_trained_with() -> None:
    runs, variance = measured(1.0)
    (axes,) = draw(spec("example-variance"), runs, NO_EPOCHS, variance).axes
    # 3 m / (2^-8 m)^2 * m
    np.testing.assert_allclose(lines(axes)["8"], [[0, 4], [3 * 2**16] * 2])
    assert axes.get_yscale() == "log"
    text = caption("example-variance", spec("example-variance"), runs, variance)
    assert "a line for each batch size m that is trained with" in text and "The paper has no such figure." in text


def test_cost_draws_accuracy_speed_and_memory() -> None:
    runs = planned({(2, 2, 2**-8): [0.5, 0.7], (8, 8, 2**-8): [0.8, 0.8]})
    runs["images_per_second"], runs["peak_memory_mb"] = [10, 30, 80, 80], [1024, 1024, 2048, 4096]
    accuracy, speed, memory = draw(spec("cost"), runs, NO_EPOCHS).axes
    assert [lines(accuracy)["reduced AlexNet, no BN"][1].tolist()] == [[60, 80]]
    assert [axes.get_lines()[0].get_ydata().tolist() for axes in (speed, memory)] == [[20, 80], [1, 3]]
    assert [[text.get_text() for text in axes.get_yticklabels()] for axes in (speed, memory)] == [
        ["16", "32", "64", "128"], ["1", "2", "4"],
    ]  # fmt: skip


@pytest.mark.parametrize("unknown", [np.nan, None])
def test_cost_says_what_was_not_recorded_and_names_the_devices(unknown: object, tmp_path: Path) -> None:
    runs = planned({(2, 2, 2**-8): [0.5], (8, 8, 2**-8): ["missing"]})
    runs["peak_memory_mb"], runs["device"] = [unknown, unknown], ["Some GPU", None]
    figure = draw(spec("cost"), runs, NO_EPOCHS)
    style.save(figure, [tmp_path / "cost.png"])
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], [], ["not recorded"]]
    assert said(figure).endswith("Some GPU; 1 of 2 runs so far")


def test_rates_that_scale_with_the_root_are_named_so() -> None:
    root = grid().assign(lr_scaling="sqrt")
    assert draw(spec("accuracy"), root, NO_EPOCHS).axes[0].get_xlabel() == "base learning rate  η / √m"


def test_rates_are_written_as_powers_of_two_and_others_plainly() -> None:
    ticks = [text.get_text() for text in draw_grid().axes[0].get_xticklabels()]
    assert ticks == ["2⁻⁸", "2⁻⁷", "2⁻⁶"]
    odd = draw(spec("accuracy"), planned({(2, 2, 0.01): [0.5], (2, 2, 0.1): [0.6]}), NO_EPOCHS)
    odd.draw_without_rendering()
    assert "10^{-2}" in " ".join(text.get_text() for text in odd.axes[0].get_xticklabels())
    assert [rate_words(rate) for rate in (2**-12, 1, 0.003)] == ["2⁻¹²", "2⁰", "0.003"]


def test_many_rates_are_all_ticked_but_not_all_labelled() -> None:
    runs = planned({(2, 2, 2.0**k): [0.5] for k in range(-12, 1)})
    axis = draw(spec("accuracy"), runs, NO_EPOCHS).axes[0].xaxis
    assert [text.get_text() for text in axis.get_ticklabels()] == ["2⁻¹²", "2⁻¹⁰", "2⁻⁸", "2⁻⁶", "2⁻⁴", "2⁻²", "2⁰"]
    assert len(set(axis.get_majorticklocs()) | set(axis.get_minorticklocs())) == 13


def epochs_of(run: str, accuracies: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"run": run, "epoch": range(1, len(accuracies) + 1), "test_accuracy": accuracies})


def test_convergence_keeps_a_diverged_run_at_chance_and_leaves_out_a_missing_one() -> None:
    runs = planned(
        {
            (2, 2, 2**-8): [0.8, "diverged"],
            (4, 4, 2**-8): [0.6, "missing"],
            (2, 2, 2**-7): [0.9, 0.9],
            (8, 8, 2**-8): [0.7],
        }
    )
    epochs = pd.concat([
        epochs_of("alex-m2-b2-0.00390625-s0", [0.2, 0.4, 0.6, 0.8]), epochs_of("alex-m2-b2-0.00390625-s1", [0.3]),
        epochs_of("alex-m4-b4-0.00390625-s0", [0.1, 0.2, 0.5, 0.6]), epochs_of("alex-m4-b4-0.00390625-s1", [0.9]),
        epochs_of("alex-m8-b8-0.00390625-s0", [0.4, 0.5, 0.7]), epochs_of("alex-m2-b2-0.0078125-s0", [0.9] * 4),
    ])  # fmt: skip
    figure = draw(spec("convergence", base_lr=2**-8), runs, epochs)
    drawn = lines(figure.axes[0])
    np.testing.assert_allclose(drawn["2"], [[1, 2, 3, 4], [25, 25, 35, 45]])
    np.testing.assert_allclose(drawn["4"], [[1, 2, 3, 4], [10, 20, 50, 60]])
    np.testing.assert_allclose(drawn["8"], [[1, 2, 3], [40, 50, 70]])  # nothing is made up
    assert "4 of 5 runs so far" in said(figure)


def test_convergence_at_a_rate_without_runs_is_refused() -> None:
    with pytest.raises(UserError, match=r"'A title': base_lr: 'alex' has no run at 2⁻⁵; it has: 2⁻⁸, 2⁻⁷, 2⁻⁶$"):
        draw(spec("convergence", base_lr=2**-5), grid(), NO_EPOCHS)


def test_bn_batch_draws_a_line_for_each_sgd_batch() -> None:
    runs = planned({
        (4, 2, 2**-8): [0.5, 0.7], (4, 4, 2**-8): [0.8, 0.8],
        (8, 2, 2**-7): [0.4, 0.4], (8, 4, 2**-7): ["missing", 0.5], (8, 8, 2**-7): ["missing", "missing"],
    })  # fmt: skip
    drawn = lines(draw(spec("bn-batch"), runs, NO_EPOCHS).axes[0])
    np.testing.assert_allclose(drawn["4"], [[2, 4], [60, 80]])
    np.testing.assert_allclose(drawn["8"], [[2, 4, 8], [40, 50, np.nan]])


def test_each_experiment_has_its_own_plot_of_lines_of_batch_sizes() -> None:
    both = pd.concat([grid(), planned({(16, 16, 2**-8): [0.3]}, experiment="res", model="resnet8")])
    figure = draw(spec("accuracy", "res", "alex"), both, NO_EPOCHS)
    assert [list(lines(axes)) for axes in figure.axes] == [["16"], ["2", "8"]]
    assert [axes.get_title() for axes in figure.axes] == ["ResNet-8, no BN", "reduced AlexNet, no BN"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["2", "8", "16"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_best_is_the_highest_mean_and_not_the_luckiest_seed() -> None:
    runs = pd.concat([
        planned({(2, 2, 2**-8): [0.70, 0.80], (2, 2, 2**-7): [0.95, "diverged"], (4, 4, 2**-8): ["missing"] * 2}),
        planned({(2, 2, 2**-8): [0.60, 0.62]}, experiment="bn", norm="batch"),
    ])  # fmt: skip
    drawn = lines(draw(spec("best", "alex", "bn"), runs, NO_EPOCHS).axes[0])
    np.testing.assert_allclose(drawn["reduced AlexNet, no BN"], [[2, 4], [75, np.nan]])
    np.testing.assert_allclose(drawn["reduced AlexNet, BN on conv + FC"], [[2], [61]])


def spans(axes) -> list[tuple[float, float, float]]:
    """Middle, lower and upper end of each bar; ends in log2."""
    bars = [bar for container in axes.containers for bar in container]
    ends = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars]
    middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
    return [(x, float(np.log2(low)), float(np.log2(high))) for x, (low, high) in zip(middles, ends, strict=True)]


def test_range_draws_each_stretch_at_which_all_seeds_converged_and_lighter_where_some_did() -> None:
    yes, one, none = [0.9, 0.9], [0.9, 0.2], ["diverged", "missing"]
    of_two = dict(zip([(2, 2, 2.0**k) for k in range(-9, -3)], [yes, yes, one, yes, none, one], strict=True))
    of_four = {(4, 4, 2.0**k): none for k in range(-9, -3)}
    (axes,) = draw(spec("range"), planned(of_two | of_four), NO_EPOCHS).axes
    light, full = spans(axes)[:2], spans(axes)[2:]
    np.testing.assert_allclose([span[1:] for span in light], [(-7.5, -6.5), (-4.5, -3.5)])
    np.testing.assert_allclose([span[1:] for span in full], [(-9.5, -7.5), (-6.5, -5.5)])
    assert [round(span[0]) for span in spans(axes)] == [0] * 4
    colors = [brightness(bar.get_facecolor()) for container in axes.containers for bar in container]
    assert max(colors[2:]) < min(colors[:2]) < 1
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "4"]
    np.testing.assert_allclose(np.log2(axes.get_ylim()), [-9.5, -3.5])


def test_range_puts_experiments_side_by_side_in_the_order_asked_for() -> None:
    both = pd.concat([
        planned({(2, 2, 0.5): [0.9], (8, 8, 0.5): [0.9]}), planned({(8, 8, 0.5): [0.9]}, experiment="gn", norm="group")
    ])  # fmt: skip
    figure = draw(spec("range", "gn", "alex"), both, NO_EPOCHS)
    places = [round(x, 2) for x, _, _ in spans(figure.axes[0])]
    assert sorted(places) == [0.18, 0.76, 1.18]
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["reduced AlexNet, GN on conv + FC", "reduced AlexNet, no BN"]


@pytest.mark.parametrize(("rates", "edges"), [([-8, -6, -3], [-9, -7, -4.5, -1.5]), ([-8], [-8.5, -7.5])])
def test_cells_reach_half_a_step_to_each_side(rates: list, edges: list) -> None:
    np.testing.assert_allclose(np.log2(cell_edges(np.exp2(rates))), edges)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_says_what_it_shows_and_what_is_missing(kind: str) -> None:
    figure = draw_grid(kind)
    there, planned_runs = (3, 4) if kind == "convergence" else (9, 12)
    assert "digits, reduced AlexNet, no BN, 4 epochs, 2 seeds" in said(figure)
    assert f"{there} of {planned_runs} runs so far" in said(figure)
    assert figure.get_suptitle() == "A title"


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_draws_before_any_run_is_there(kind: str, tmp_path: Path) -> None:
    nothing = planned({(2, 2, 2**-8): ["missing"], (4, 4, 2**-8): ["missing"]})
    figure = draw(spec(kind, base_lr=2**-8), nothing, NO_EPOCHS)
    style.save(figure, [tmp_path / "nothing.png"])
    assert "0 of 2 runs so far" in said(figure)
    assert "so far" not in said(draw(spec(kind, base_lr=2**-8), planned({(2, 2, 2**-8): [0.5]}), epochs_of("x", [0.1])))


def test_a_run_that_experiments_share_counts_once() -> None:
    shared = planned({(2, 2, 2**-8): ["missing"], (4, 4, 2**-8): [0.5]})
    figure = draw(spec("best", "alex", "twin"), pd.concat([shared, shared.assign(experiment="twin")]), NO_EPOCHS)
    assert "1 of 2 runs so far" in said(figure)


def both_axes(runs: pd.DataFrame, kind: str) -> list:
    """All axes, x and y, of the plots of `runs`."""
    return [axis for axes in draw(spec(kind), runs, NO_EPOCHS).axes for axis in (axes.xaxis, axes.yaxis)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_rates_that_are_still_to_be_chosen_are_no_rates(kind: str, tmp_path: Path) -> None:
    later = planned({(2, 2, 0.0): ["missing"], (4, 4, 0.0): ["missing"]})
    if kind == "convergence":
        with pytest.raises(UserError, match=r"no run at 2⁻⁸; it has: none yet$"):
            draw(spec(kind, base_lr=2**-8), later, NO_EPOCHS)
        return
    both = pd.concat([planned({(2, 2, 2**-8): [0.9]}), later.assign(experiment="later", norm="batch")])
    for runs, names in ((later, ["alex"]), (both, ["alex", "later"])):
        style.save(draw(spec(kind, *names), runs, NO_EPOCHS), [tmp_path / "later.png"])
    assert not any("rate" in axis.get_label_text() for axis in both_axes(later, kind) if axis.get_ticklocs().size)
    assert "= 0" not in caption("fig13", spec(kind), later)


def test_unknown_kind_and_experiment_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"'A title': kind: 'pie' is not allowed; allowed: accuracy, convergence"):
        draw(spec("pie"), grid(), NO_EPOCHS)
    with pytest.raises(UserError, match=r"'A title': experiment 'alec' has no runs in the table; it has: alex"):
        draw(spec("best", "alex", "alec"), grid(), NO_EPOCHS)


def test_caption_stands_alone() -> None:
    text = caption("figure_01", spec("accuracy"), grid())
    for part in (
        "over the base learning rate η/m", "Reduced AlexNet, no BN, on digits (1,437 training images), 4 epochs.",
        "mean of 2 seeds; band or vertical line: its 95 % interval, over seeds and test images.",
        "from here on a run has converged", "Hollow: below the axis.",
        "3 of 9 runs diverged and count at chance level", "Drawn from 9 of 12 runs so far.",
        "Corresponds to Figure 1 of the paper.",
    ):  # fmt: skip
        assert part in text
    one_seed = caption("digits_best", spec("best"), planned({(2, 2, 2**-8): [0.5]}))
    assert "1 seed a cell, so no intervals: it does not tell how much another would differ." in one_seed
    assert "band" not in one_seed
    assert "0 of 1 run diverged. Drawn in the manner of Figure 15 of the paper." in one_seed
    assert "at base learning rate η/m = 2⁻⁸" in caption("fig04", spec("convergence", base_lr=2**-8), grid())
    assert "Figure 13a of" in caption("figure13a", spec("bn-batch"), grid())


def test_labels_tell_experiments_apart_by_data_epochs_or_name() -> None:
    one = planned({(2, 2, 0.5): [0.5]})
    longer = one.assign(experiment="longer", epochs=8)
    other = one.assign(experiment="other", data="cifar10")
    twin = one.assign(experiment="twin")
    plain = "reduced AlexNet, no BN"
    assert list(experiment_labels(pd.concat([one, longer])).values()) == [f"{plain}, 4 epochs", f"{plain}, 8 epochs"]
    assert list(experiment_labels(pd.concat([one, other])).values()) == [f"digits: {plain}", f"cifar10: {plain}"]
    assert list(experiment_labels(pd.concat([one, twin])).values()) == [f"{plain} (alex)", f"{plain} (twin)"]


def brightness(color: str) -> float:
    return float(np.dot(matplotlib.colors.to_rgb(color), [0.299, 0.587, 0.114]))


def test_batch_sizes_have_ordered_colours_that_show_on_white_and_markers_of_their_own() -> None:
    looks = [style.batch_look(2**k) for k in range(1, 12)]
    light = [brightness(look["color"]) for look in looks]
    assert light == sorted(light)
    assert light[-1] < 0.75
    assert len({look["marker"] for look in looks}) == 11
    assert style.batch_look(1)["color"] == looks[0]["color"]
    assert style.batch_look(8192)["color"] == looks[-1]["color"]


def test_experiments_never_look_alike() -> None:
    looks = style.experiment_looks(map(str, range(14))).values()
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 14


def test_text_can_be_read_in_print() -> None:
    figure = draw_grid()
    with style.context():
        figure.draw_without_rendering()
        sizes = [text.get_fontsize() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]
    assert min(sizes) >= 7
    assert figure.get_figwidth() == 3.4


@pytest.mark.slow
@pytest.mark.parametrize("experiments", [["alex"], ["alex", "long-name", "other"]])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_nothing_is_cut_off_or_covered(kind: str, experiments: list[str]) -> None:
    settings = {"norm": "batch", "augment": "flip", "warmup": True, "momentum": 0.9, "momentum_scaled": True}
    long = grid().assign(experiment="long-name", data="cifar100", selection="validation", **settings)
    tables = [grid(), long, grid().assign(experiment="other", norm="group")]
    figure = draw(spec(kind, *experiments, base_lr=2**-8), pd.concat(tables), NO_EPOCHS)
    with style.context():
        figure.draw_without_rendering()
        legends = [legend.get_window_extent() for legend in figure.legends]  # kind variance has its own in the plot
        whole, note, plot = figure.bbox, figure.texts[-1].get_window_extent(), figure.axes[0].get_tightbbox()
        titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert len(legends) == (kind != "variance")
    assert not note.overlaps(plot)
    assert not any(legend.overlaps(plot) or legend.overlaps(note) for legend in legends)
    assert not any(left.overlaps(right) for left, right in itertools.combinations([*legends, *titles], 2))
    for box in (*legends, *titles, plot, note):
        assert box.x0 >= 0
        assert box.x1 <= whole.x1
        assert box.y0 >= 0
        assert box.y1 <= whole.y1


_ELSEWHERE = """
import sys; sys.path[:0] = sys.argv[2:]
import test_figures as t
for kind in t.ALL_KINDS:
    t.style.save(t.draw_grid(kind), [f"{sys.argv[1]}/{kind}.{end}" for end in ("pdf", "svg", "png")])
"""


def save_elsewhere(folder: Path, hash_seed: str) -> dict[str, bytes]:
    """Save every kind from another process, whose hashes are seeded differently."""
    here = Path(__file__).parent
    imported = [Path(smallbatch.__file__).parents[1], here, here.parent]
    settings = os.environ | {"PYTHONHASHSEED": hash_seed, "MPLCONFIGDIR": str(folder / "cache"), "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-c", _ELSEWHERE, *map(str, [folder, *imported])]
    subprocess.run(command, check=True, env=settings)
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.slow
def test_files_are_the_same_bytes_twice_and_in_another_process(tmp_path: Path) -> None:
    for kind in ALL_KINDS:
        for folder in ("one", "two"):
            style.save(draw_grid(kind), [tmp_path / folder / f"{kind}.{end}" for end in ("pdf", "svg", "png")])
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    (tmp_path / "three").mkdir()
    assert len(first) == 3 * len(ALL_KINDS)
    assert first == second
    assert first == save_elsewhere(tmp_path / "three", hash_seed="7")
    assert not any(b"atplotlib v" in content or b"CreationDate" in content for content in first.values())


def test_the_users_own_settings_neither_change_a_figure_nor_are_changed(tmp_path: Path) -> None:
    style.save(draw_grid(), [tmp_path / "plain.svg"])
    with matplotlib.rc_context({"lines.linewidth": 9, "font.family": "monospace", "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        style.save(draw_grid(), [tmp_path / "own.svg"])
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "own.svg").read_bytes()


@pytest.mark.parametrize("title", ["From $5 to $10", r"Sweep of $\lambda_{x$", r"$\frac$ and 100 % of \$"])
def test_a_title_is_drawn_as_it_stands(title: str, tmp_path: Path) -> None:
    figure = draw(spec("accuracy", title=title), grid(), NO_EPOCHS)
    [text] = [text for text in figure.texts if text.get_text() == title]
    assert not text.get_parse_math()
    style.save(figure, [tmp_path / f"f.{form}" for form in ("pdf", "svg", "png")])


def test_a_character_that_the_font_lacks_is_said_in_the_log(tmp_path: Path, caplog) -> None:
    style.save(draw(spec("accuracy", title="小"), grid(), NO_EPOCHS), [tmp_path / "f.png"])
    (said,) = caplog.messages
    assert "Glyph 23567" in said and "missing from font" in said


@pytest.mark.slow
def test_figures_need_no_torch() -> None:
    library = Path(smallbatch.__file__).parent.parent
    code = "import sys; import smallbatch.figures, smallbatch.publish.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(library)}).returncode == 0


def with_f1() -> pd.DataFrame:
    """The runs of `grid`, which record an F1 of a tenth of their accuracy; those that diverged have 0.02."""
    runs = grid()
    f1 = runs["accuracy"].div(10).where(runs["status"] != "diverged", 0.02)
    return runs.assign(f1=f1, selection_f1=f1, f1_error=0.001, selection_f1_error=0.001)


@pytest.mark.parametrize(("kind", "label"), [("accuracy", "test F1 (%)"), ("best", "best test F1 (%)")])
def test_another_metric_in_place_of_accuracy(kind: str, label: str) -> None:
    axes = draw(spec(kind, metric="f1"), with_f1(), NO_EPOCHS).axes[0]
    assert axes.get_ylabel() == label
    shown = lines(axes)
    if kind == "accuracy":
        assert shown["2"][1] == pytest.approx([8.5, np.nan, 4.5], nan_ok=True)  # the mean of 7 and 2 %
        levels = [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() in ("--", ":")]
        assert levels == [], "no chance and no bar, which are accuracies"


def test_a_caption_says_what_a_metric_is() -> None:
    words = caption("mine", spec("accuracy", metric="f1"), with_f1())
    assert words.startswith("Test F1 over the base learning rate η/m, a line for each batch size m. ")
    assert "F1 is the median over all epochs. It is the mean over classes, or over outputs." in words
    assert "Dotted" not in words and "Dashed" not in words


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
