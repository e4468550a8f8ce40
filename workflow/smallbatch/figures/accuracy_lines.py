"""Cells of runs for figures: means with their intervals, and the lines through them."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from smallbatch.analysis.metric_as_accuracy import is_accuracy
from smallbatch.analysis.noise import (
    CELL_COLUMNS,
    Noise,
    argmax,
    best_accuracy_samples,
    completed_runs,
    observed_or_corrected,
)
from smallbatch.figures import style

STEP = 5
"""Axes of accuracy end at multiples of this many percent."""

Line = tuple[str, pd.DataFrame, style.Look]
"""Label, cells and look of a line."""

Limits = tuple[float, float]
"""The lower and the upper end of an axis."""

EVERYWHERE: Limits = (-np.inf, np.inf)

APART = 2.0
"""Points between lines that are drawn side by side, if there is room."""

_ROOM = 80.0  # points that all lines together may take at all places of an axis: half of the narrowest plot


def best_cells(runs: pd.DataFrame, by: list[str], generator: np.random.Generator) -> pd.DataFrame:
    """For each value of `by`, the cell (one m, b and rate, over its seeds) with the highest mean selection accuracy.

    Ties go to the smallest rate. A cell without results has NaN, and is chosen only if there is no other.

    Args:
        runs: the runs, one per row.
        by: the columns to group by.
        generator: the random generator for the samples of intervals.

    Returns:
        One row per value of `by`, sorted by it: `batch_size`, `bn_batch_size`, `base_lr`; `mean` test accuracy, `low`
        and `high` of its 95 % interval, in percent; and the number of `seeds` with a result. If several cells could
        have been best, `mean` is corrected for the luck of being the best of many (`best_accuracy_samples`). The
        interval is NaN if the variation of a cell between seeds is unknown.
    """
    keys = list(dict.fromkeys([*by, *CELL_COLUMNS]))
    cells = runs.groupby(keys)["selection_accuracy"].mean().reset_index()
    cells = cells.sort_values("selection_accuracy", ascending=False, kind="stable")
    best = cells.drop_duplicates(by).sort_values(by, ignore_index=True)
    tidy = completed_runs(runs)
    noise, indices = Noise(tidy, generator), tidy.groupby(by).indices
    groups = best[by].itertuples(index=False, name=None)
    bests = [_best_of(noise, tidy.iloc[indices.get(group if len(by) > 1 else group[0], [])]) for group in groups]
    return best.join(pd.DataFrame(bests, columns=["mean", "low", "high", "seeds"]))


def _best_of(noise: Noise, runs: pd.DataFrame) -> tuple[float, float, float, int]:
    """`mean`, `low`, `high` and `seeds` of `best_cells` for runs of one experiment that have results."""
    if runs.empty:
        return np.nan, np.nan, np.nan, 0
    cells = noise.cells(runs)
    samples = 100 * best_accuracy_samples(cells.selection, cells.accuracy, cells.converged)
    return *observed_or_corrected(samples), cells.seeds[argmax(cells.selection[0])]


def by_batch_size(cells: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Each batch size m with its rows, in ascending order."""
    for _, rows in cells.groupby("batch_size"):
        yield int(rows["batch_size"].iloc[0]), rows


def shown_means(runs: pd.DataFrame, of_bests: bool) -> pd.Series:
    """Mean accuracy of each cell in percent, or of the best one of each experiment and m."""
    means = 100 * runs.groupby(["experiment", *CELL_COLUMNS])["accuracy"].mean()
    return means.groupby(["experiment", "batch_size"]).max() if of_bests else means


def batch_lines(cells: pd.DataFrame) -> list[Line]:
    """A line for each batch size m."""
    return [(str(size), line, style.batch_look(size)) for size, line in by_batch_size(cells)]


def trained_floor(runs: pd.DataFrame, of_bests: bool = False) -> float | None:
    """The start of an accuracy axis that shows the cells that have trained: a multiple of five percent.

    It lies in the widest gap between neighbouring means up to the lowest converged one, for most cells below have
    collapsed; but not below `training_floor`, for accuracy may also fall little by little. A few percent above it are
    left for intervals. None if no cell has trained, or if it would lie at chance.

    Args:
        runs: the runs of all experiments on the axis.
        of_bests: whether it shows the best cell of each m alone.
    """
    means = np.sort(shown_means(runs, of_bests).dropna())
    trained = np.searchsorted(means, 100 * runs["bar"].min())  # index of the first mean that has trained
    if trained == len(means):
        return None
    gaps = np.diff(means[: trained + 1], prepend=-np.inf)
    widest = gaps[1:].argmax() + 1 if trained else 0
    return _floor(runs, max(means[widest] - min(gaps[widest] / 2, STEP), _as_far_below_the_bar(runs)))


def training_floor(runs: pd.DataFrame) -> float | None:
    """The start of an accuracy axis that shows how runs train: a multiple of five percent.

    It lies as far below the bar of convergence as the best mean lies above. None if no cell has trained, or if it would
    lie at chance.
    """
    trained = shown_means(runs, of_bests=True).max() >= 100 * runs["bar"].min()
    return _floor(runs, _as_far_below_the_bar(runs)) if trained else None


def _as_far_below_the_bar(runs: pd.DataFrame) -> float:
    return float(200 * runs["bar"].min() - shown_means(runs, of_bests=True).max())


def _floor(runs: pd.DataFrame, percent: float) -> float | None:
    floor = STEP * float(np.floor(percent / STEP))
    return floor if floor > 100 * runs["chance"].max() else None


def lines_over_seeds(
    axes: Axes, lines: Sequence[Line], x: str, limits: Limits = EVERYWHERE, apart: float = APART
) -> None:
    """Draw mean accuracy over column `x` as lines, broken at NaN, each within a band of its 95 % interval.

    The lines lie side by side, `apart` points at most, so that those that coincide are all seen. An interval that
    reaches beyond `limits`, for example if only some of the seeds have trained, is a thin vertical line.
    """
    places = len({value for _, cells, _ in lines for value in cells[x]})
    for (label, cells, look), moved in zip(lines, side_by_side(axes, len(lines), places, apart), strict=True):
        _line_over_seeds(axes, cells, x, label, look, limits, moved)


def side_by_side(axes: Axes, lines: int, places: int, apart: float = APART) -> Iterator[style.Look]:
    """For each line over so many places of the x axis what moves it, so that those that coincide are all seen.

    They lie `apart` points from each other, or less if there is no room.
    """
    figure = axes.get_figure(root=True)
    assert figure, "axes to draw on lie in one"
    apart = min(apart, _ROOM / max(1, places * lines))
    for number in range(lines):
        points = apart * (number - (lines - 1) / 2)
        shift = ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)
        yield {"transform": axes.transData + shift} if points else {}


def _line_over_seeds(
    axes: Axes, cells: pd.DataFrame, x: str, label: str, look: style.Look, limits: Limits, moved: style.Look
) -> None:
    """Draw a line of `lines_over_seeds`; `moved`: its place among the others."""
    axes.plot(cells[x], cells["mean"], label=label, **moved, **look)
    inside = ((cells["low"] >= limits[0]) & (cells["high"] <= limits[1])).to_numpy()
    beside = np.append(inside[1:], False) | np.insert(inside[:-1], 0, False)
    banded = inside & beside
    axes.fill_between(cells[x], cells["low"], cells["high"], where=banded, color=look["color"], **moved, **style.BAND)
    alone = cells[~banded]
    axes.vlines(alone[x], alone["low"], alone["high"], color=look["color"], **moved, **style.WHISKER)


def mark_below(axes: Axes, floor: float, at_end: bool = False) -> None:
    """Mark points of lines that lie below `floor`, where the axis begins, by hollow markers at its lower edge alone.

    `at_end`: only those of lines that end there, for all others rise above it.
    """
    edge = axes.get_ylim()[0]
    for line in [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]:
        x, y = (np.asarray(values, float) for values in line.get_data())
        marked, every = np.zeros(len(y), bool), line.get_markevery()
        marked[slice(every[0], None, every[1]) if isinstance(every, tuple) else slice(None)] = True
        below = marked & (y < floor)
        if not below.any() or (at_end and y[-1] >= floor):
            continue
        look: style.Look = {"marker": line.get_marker(), "markeredgecolor": line.get_color()} | style.HOLLOW
        place: style.Look = {"transform": line.get_transform(), "clip_on": False, "zorder": 3}
        axes.plot(x[below], np.full(below.sum(), edge), **place, **look)
        line.set_markevery(list(marked & ~below))


def chance_line(axes: Axes, runs: pd.DataFrame) -> None:
    """Draw a thin dashed line at the accuracy of guessing; none for other measures."""
    if is_accuracy(runs):
        axes.axhline(100 * runs["chance"].iloc[0], **style.CHANCE)


def threshold_line(axes: Axes, runs: pd.DataFrame) -> None:
    """Draw a thin dotted line at the accuracy above which runs have converged; none if nothing has trained."""
    bar = runs["bar"].iloc[0]
    if is_accuracy(runs) and np.isfinite(bar):
        axes.axhline(100 * bar, **style.BAR)


def percent_limits(cells: pd.DataFrame, *, from_zero: bool = False, floor: float | None = None) -> Limits:
    """The ends of an axis of percent: 0 and a multiple of ten, or multiples of five around the values.

    It shows all means, or if some lie below a `floor` those above, and those intervals that reach little beyond them.
    """
    if floor is not None and not (cells["mean"] < floor).any():
        floor = None
    means = cells["mean"].astype(float).clip(lower=floor)
    if means.isna().all():
        return 0, 100
    narrow = (cells["low"] >= max(means.min() - STEP, floor or 0)) & (cells["high"] <= means.max() + STEP)
    low, high = np.nanmin([means, cells["low"].where(narrow)]), np.nanmax([means, cells["high"].where(narrow)])
    step = 2 * STEP if from_zero else STEP
    bottom = 0 if from_zero else min(step * np.floor(low / step), 100 - step)
    return float(bottom), float(min(max(step * np.ceil(high / step), bottom + step), 100))


def percent_axis(axes: Axes, limits: Limits, label: str) -> None:
    """Set an axis of percent, of what `label` says, to `limits`, with room so that a marker on one of them is whole."""
    bottom, top = limits
    room = 0.02 * (top - bottom)
    axes.set_ylim(bottom - room if bottom else 0, top + room)
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.set_ylabel(f"{label} (%)")
