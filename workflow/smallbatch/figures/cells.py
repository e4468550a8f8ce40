"""From runs to what is drawn: mean and interval over seeds, and the lines through them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from smallbatch.analysis.statistics import bootstrap_interval
from smallbatch.figures import style


def best_cells(runs: pd.DataFrame, by: list[str], generator: np.random.Generator) -> pd.DataFrame:
    """For each value of `by` the cell (one m, b and rate, over its seeds) with the highest mean selection accuracy.

    Of equal ones the smallest rate. A cell none of whose runs has a result has NaN, and is chosen only where there is
    no other.

    Args:
        runs: a row each.
        by: columns.
        generator: of the bootstrap.

    Returns:
        A row a value of `by`, sorted by it: `batch_size`, `bn_batch_size`, `base_lr`; `mean` test accuracy, `low` and
        `high` of its 95 % interval over seeds, in percent; and the number of `seeds` that have a result.
    """
    keys = list(dict.fromkeys([*by, "batch_size", "bn_batch_size", "base_lr"]))
    cells = runs.groupby(keys)["selection_accuracy"].mean().reset_index()
    cells = cells.sort_values("selection_accuracy", ascending=False, kind="stable")
    best = cells.drop_duplicates(by).sort_values(by, ignore_index=True)
    accuracies = {key: group.to_numpy() for key, group in runs.groupby(keys)["accuracy"]}
    rows = [_over_seeds(100 * accuracies[key], generator) for key in best[keys].itertuples(index=False, name=None)]
    return best.join(pd.DataFrame(rows, columns=["mean", "low", "high", "seeds"]))


def _over_seeds(values: np.ndarray, generator: np.random.Generator) -> tuple[float, float, float, int]:
    known = values[np.isfinite(values)]
    mean = known.mean() if len(known) else np.nan
    return mean, *bootstrap_interval(known, generator), len(known)


def line_over_seeds(axes: Axes, cells: pd.DataFrame, x: str, label: str, look: dict) -> None:
    """Draw mean accuracy over column `x` as a line, broken where NaN, in a band, the 95 % interval over seeds."""
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
    values = cells[["low", "high"]].to_numpy()
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 100.0])
    step = 10 if from_zero else 5
    bottom = 0 if from_zero else step * np.floor(values.min() / step)
    top = min(max(step * np.ceil(values.max() / step), bottom + 10), 100)
    room = 0.02 * (top - bottom)  # so that a marker on the border is whole
    axes.set_ylim(0 if from_zero else bottom - room, top + room)
    axes.yaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))
    axes.set_ylabel("test accuracy (%)")
