"""From runs to what is drawn: means with their intervals, and the lines through them."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from smallbatch.analysis.noise import CELL, Noise, best_of, highest, with_results
from smallbatch.analysis.statistics import percentile_interval
from smallbatch.figures import style


def best_cells(runs: pd.DataFrame, by: list[str], generator: np.random.Generator) -> pd.DataFrame:
    """For each value of `by` the cell (one m, b and rate, over its seeds) with the highest mean selection accuracy.

    Of equal ones the smallest rate. A cell none of whose runs has a result has NaN, and is chosen only where there is
    no other.

    Args:
        runs: a row each.
        by: columns.
        generator: of the samples that intervals are of.

    Returns:
        A row a value of `by`, sorted by it: `batch_size`, `bn_batch_size`, `base_lr`; `mean` test accuracy, `low` and
        `high` of its 95 % interval, in percent; and the number of `seeds` that have a result. Where several cells had
        a chance, `mean` is that of the data less what the best of so many owes to luck (`best_of`); the interval is
        NaN where nothing tells how much a cell varies from seed to seed.
    """
    keys = list(dict.fromkeys([*by, *CELL]))
    cells = runs.groupby(keys)["selection_accuracy"].mean().reset_index()
    cells = cells.sort_values("selection_accuracy", ascending=False, kind="stable")
    best = cells.drop_duplicates(by).sort_values(by, ignore_index=True)
    tidy = with_results(runs)
    noise, there = Noise(tidy, generator), tidy.groupby(by).indices
    groups = best[by].itertuples(index=False, name=None)
    bests = [_best_of(noise, tidy.iloc[there.get(group if len(by) > 1 else group[0], [])]) for group in groups]
    return best.join(pd.DataFrame(bests, columns=["mean", "low", "high", "seeds"]))


def _best_of(noise: Noise, runs: pd.DataFrame) -> tuple[float, float, float, int]:
    """mean, low, high and seeds of `best_cells` for runs of one experiment that have results."""
    if runs.empty:
        return np.nan, np.nan, np.nan, 0
    cells = noise.cells(runs)
    samples = 100 * best_of(cells.selection, cells.accuracy, cells.converged)
    middle = np.median(samples[1:])
    mean = samples[0] if np.isnan(middle) else middle
    return mean, *percentile_interval(samples[1:]), cells.seeds[highest(cells.selection[0])]


def by_batch_size(cells: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Each batch size m with its rows, rising."""
    for _, rows in cells.groupby("batch_size"):
        yield int(rows["batch_size"].iloc[0]), rows


def line_over_seeds(axes: Axes, cells: pd.DataFrame, x: str, label: str, look: style.Look) -> None:
    """Draw mean accuracy over column `x` as a line, broken where NaN, in a band, its 95 % interval."""
    axes.plot(cells[x], cells["mean"], label=label, **look)
    axes.fill_between(cells[x], cells["low"], cells["high"], color=look["color"], **style.BAND)


def chance_line(axes: Axes, runs: pd.DataFrame) -> None:
    """A thin dashed line at the accuracy of guessing, 100 / classes percent."""
    axes.axhline(100 / runs["classes"].iloc[0], **style.CHANCE)


def bar_line(axes: Axes, runs: pd.DataFrame) -> None:
    """A thin dotted line at the accuracy from which runs have converged; none where nothing has trained."""
    bar = runs["bar"].iloc[0]
    if np.isfinite(bar):
        axes.axhline(100 * bar, **style.BAR)


def percent_axis(axes: Axes, cells: pd.DataFrame, from_zero: bool) -> None:
    """Percent from 0 to the ten above the highest value, or from the five below the lowest to the five above."""
    values = cells[["mean", "low", "high"]].to_numpy()
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 100.0])
    step = 10 if from_zero else 5
    bottom = 0 if from_zero else step * np.floor(values.min() / step)
    top = min(max(step * np.ceil(values.max() / step), bottom + 10), 100)
    room = 0.02 * (top - bottom)  # so that a marker on the border is whole
    axes.set_ylim(0 if from_zero else bottom - room, top + room)
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.set_ylabel("test accuracy (%)")
