"""Figures: what each kind draws, and where it draws nothing."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from helpers.figures import (
    NO_EPOCHS,
    brightness,
    caption,
    corners,
    draw,
    draw_grid,
    grid,
    holds,
    level,
    lines,
    measured,
    note_of,
    planned,
    spec,
    with_f1,
)
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE

from smallbatch.core.errors import UserError
from smallbatch.figures import ALL_KINDS, convergence, style
from smallbatch.figures.accuracy_lines import best_cells
from smallbatch.figures.ranges import cell_edges


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


def test_an_interval_alone_at_an_end_of_a_line_is_a_line_of_its_own_in_the_same_colour() -> None:
    runs = planned({(2, 2, 2**-8): [0.9, 0.902], (2, 2, 2**-7): [0.89, 0.1], (2, 2, 2**-6): [0.9, 0.902]})
    axes = draw(spec("accuracy"), runs, NO_EPOCHS).axes[0]
    band, whiskers = (corners(collection) for collection in axes.collections)
    assert not len(band) and {*whiskers[:, 0]} == {2**-8, 2**-7, 2**-6}
    assert matplotlib.colors.same_color(axes.collections[1].get_color()[0, :3], axes.get_lines()[0].get_color())


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


def test_no_band_is_drawn_where_nothing_tells_how_much_a_cell_varies() -> None:
    runs = planned({(2, 2, 2**-8): [0.8], (2, 2, 2**-7): [0.7]})
    cells = best_cells(runs, ["batch_size", "base_lr"], np.random.default_rng(0))
    assert cells["low"].isna().all() and cells["high"].isna().all() and list(cells["mean"]) == [80, 70]


def test_chance_is_a_line() -> None:
    runs = planned({(2, 2, 0.5): [0.5], (2, 2, 0.25): [0.6]}, chance=0.01, bar=np.inf)
    (axes,) = draw(spec("accuracy"), runs, NO_EPOCHS).axes
    assert [line.get_ydata() for line in axes.get_lines() if line.get_linestyle() == "--"] == [[1, 1]]


@pytest.mark.parametrize(("bar", "drawn"), [(0.8, [10, 80]), (np.inf, [10])])
def test_the_bar_of_convergence_is_a_broken_line_beside_that_of_chance_where_anything_has_trained(
    bar: float, drawn: list
) -> None:
    axes = draw(spec("accuracy"), grid().assign(bar=bar), NO_EPOCHS).axes[0]
    assert [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() == "--"] == drawn


def test_variance_draws_a_line_for_each_point_of_training_with_its_slope() -> None:
    runs, variance = measured(1.5)
    (axes,) = draw(spec("variance"), runs, NO_EPOCHS, variance).axes
    assert "in brackets: 95 % intervals of means over seeds" in note_of(axes.figure)
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


def test_a_slope_below_zero_has_a_minus_sign() -> None:
    runs, variance = measured(-0.5)
    (axes,) = draw(spec("variance"), runs, NO_EPOCHS, variance).axes
    label = "0 epochs: slope -0.50 (-0.50 to -0.50)".replace("-", "\N{MINUS SIGN}")
    assert next(iter(lines(axes))) == label


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
        ["20", "40", "60", "80"], ["1.0", "1.5", "2.0", "2.5", "3.0"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "numbers"),
    [
        (17, 1250, [20, 50, 100, 200, 500, 1000]),
        (3400, 18_000, [5000, 10_000, 15_000]),
        (0.52, 0.73, [0.55, 0.6, 0.65, 0.7]),
        (9, 1100, [10, 100, 1000]),
        (90, 111, [90, 95, 100, 105, 110]),
        (0.2, 0.9, [0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_ticks_of_speed_and_memory_are_round_numbers(low: float, high: float, numbers: list[float]) -> None:
    assert style.round_numbers(low, high) == pytest.approx(numbers)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([0.55, 0.6, 0.65], ["0.55", "0.60", "0.65"]), ([0.5, 1, 2, 5], ["0.5", "1", "2", "5"]),
        ([5000, 10_000, 15_000], ["5,000", "10,000", "15,000"]), ([0.1, 1, 10], ["0.1", "1", "10"]),
    ],
)  # fmt: skip
def test_evenly_spaced_ticks_have_as_many_decimals(numbers: list[float], words: list[str]) -> None:
    assert style.number_words(numbers) == words


def test_three_plots_in_a_row_have_fewer_labels_of_batch_sizes_than_one() -> None:
    runs = planned({(2**s, 2**s, 2.0**-8): [0.9] for s in range(1, 12)})
    for kind, labels in (("best", ["2", "8", "32", "128", "512", "2048"]), ("cost", ["2", "16", "128", "1024"])):
        for axes in draw(spec(kind), runs, NO_EPOCHS).axes:
            assert [text.get_text() for text in axes.get_xticklabels()] == labels


@pytest.mark.parametrize("unknown", [np.nan, None])
def test_cost_says_what_was_not_recorded_and_names_the_devices(unknown: object, tmp_path: Path) -> None:
    runs = planned({(2, 2, 2**-8): [0.5], (8, 8, 2**-8): ["missing"]})
    runs["peak_memory_mb"], runs["device"] = [unknown, unknown], ["Some GPU", None]
    figure = draw(spec("cost"), runs, NO_EPOCHS)
    style.save(figure, [tmp_path / "cost.png"])
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], [], ["not recorded"]]
    assert note_of(figure).endswith("Some GPU; 1 of 2 runs so far")


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
    assert "4 of 5 runs so far" in note_of(figure)


def test_an_axis_over_the_epochs_begins_where_runs_train_and_marks_those_that_end_below() -> None:
    ends = {2: 0.9, 4: 0.88, 8: 0.1, 16: 0.1}
    runs = planned({(m, m, 2**-8): [end] for m, end in ends.items()})
    epochs = pd.concat([epochs_of(f"alex-m{m}-b{m}-0.00390625-s0", [0.2, 0.6, end, end]) for m, end in ends.items()])
    figure = draw(spec("convergence", base_lr=2**-8), runs, epochs)
    (axes,) = figure.axes
    assert axes.get_ylim()[0] == pytest.approx(69.6) and "hollow: below the axis" in note_of(figure), "80 - (90 - 80) %"
    hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[3], [4]], "lines that coincide have markers of their own"
    assert "chance" not in note_of(figure)
    figure = draw(spec("convergence", base_lr=2**-8), runs.assign(accuracy=0.2), epochs)
    assert figure.axes[0].get_ylim()[0] == 0 and "hollow" not in note_of(figure) and "chance" in note_of(figure)


def test_lines_over_many_epochs_have_markers_at_epochs_of_their_own() -> None:
    for lines_, epochs in ((11, 82), (5, 10), (3, 4), (1, 1)):
        marks = [convergence.marks(number, lines_, epochs) for number in range(lines_)]
        places = [place for start, step in marks for place in range(epochs)[start::step]]
        assert len(places) == len(set(places)) and all(start < epochs for start, _ in marks)


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


def arrows(axes) -> list[tuple[int, float, int]]:
    """Place, height in log2 and marker of each arrow at the end of a bar."""
    marks = [line for line in axes.get_lines() if line.get_marker() in (CARETUPBASE, CARETDOWNBASE)]
    return [(round(*line.get_xdata()), float(np.log2(*line.get_ydata())), line.get_marker()) for line in marks]


def test_ranges_that_end_where_the_grid_ends_say_so() -> None:
    yes, one, no = [0.9, 0.9], [0.9, 0.2], [0.2, 0.2]
    cells = {
        **dict(zip([(2, 2, 2.0**k) for k in (-9, -8, -7)], [yes, yes, no], strict=True)),
        **dict(zip([(4, 4, 2.0**k) for k in (-9, -8, -7)], [no, yes, one], strict=True)),
        **dict(zip([(8, 8, 2.0**k) for k in (-9, -8, -7)], [no, yes, no], strict=True)),
    }
    wide = planned({(8, 8, 2.0**k): yes for k in (-10, -6)}, experiment="bn", norm="batch")
    figure = draw(spec("range", "alex", "bn"), pd.concat([planned(cells), wide]), NO_EPOCHS)
    down, up = CARETDOWNBASE, CARETUPBASE
    assert sorted(arrows(figure.axes[0])) == [(0, -9.5, down), (1, -6.5, up), (2, -10.5, down), (2, -5.5, up)]
    assert "arrow: the grid ends there" in note_of(figure)
    assert "Arrow: the grid of rates ends there" in caption("fig16", spec("range"), planned(cells))
    inside = planned({cell: seeds for cell, seeds in cells.items() if cell[0] == 8})
    figure = draw(spec("range"), inside, NO_EPOCHS)
    assert arrows(figure.axes[0]) == [] and "arrow" not in note_of(figure)
    assert "Arrow" not in caption("fig16", spec("range"), inside)


def test_range_puts_experiments_side_by_side_in_the_order_asked_for() -> None:
    both = pd.concat([
        planned({(2, 2, 0.5): [0.9], (8, 8, 0.5): [0.9]}), planned({(8, 8, 0.5): [0.9]}, experiment="gn", norm="group")
    ])  # fmt: skip
    figure = draw(spec("range", "gn", "alex"), both, NO_EPOCHS)
    places = [round(x, 2) for x, _, _ in spans(figure.axes[0])]
    assert sorted(places) == [0.21, 0.79, 1.21], "two bars of 0.42 about each tick"
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == ["reduced AlexNet, GN on conv + FC", "reduced AlexNet, no BN"]


@pytest.mark.parametrize(("rates", "edges"), [([-8, -6, -3], [-9, -7, -4.5, -1.5]), ([-8], [-8.5, -7.5])])
def test_cells_reach_half_a_step_to_each_side(rates: list, edges: list) -> None:
    np.testing.assert_allclose(np.log2(cell_edges(np.exp2(rates))), edges)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_draws_before_any_run_is_there(kind: str, tmp_path: Path) -> None:
    nothing = planned({(2, 2, 2**-8): ["missing"], (4, 4, 2**-8): ["missing"]})
    figure = draw(spec(kind, base_lr=2**-8), nothing, NO_EPOCHS)
    style.save(figure, [tmp_path / "nothing.png"])
    assert "0 of 2 runs so far" in note_of(figure)
    assert "so far" not in note_of(
        draw(spec(kind, base_lr=2**-8), planned({(2, 2, 2**-8): [0.5]}), epochs_of("x", [0.1]))
    )


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


@pytest.mark.parametrize(("kind", "label"), [("accuracy", "test F1 (%)"), ("best", "best test F1 (%)")])
def test_another_metric_in_place_of_accuracy(kind: str, label: str) -> None:
    axes = draw(spec(kind, metric="f1"), with_f1(), NO_EPOCHS).axes[0]
    assert axes.get_ylabel() == label
    shown = lines(axes)
    if kind == "accuracy":
        assert shown["2"][1] == pytest.approx([8.5, np.nan, 4.5], nan_ok=True)  # the mean of 7 and 2 %
        levels = [line.get_ydata()[0] for line in axes.get_lines() if line.get_linestyle() in ("--", ":")]
        assert levels == [], "no chance and no bar, which are accuracies"
