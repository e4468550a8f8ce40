"""From runs to what is drawn: mean and span over seeds, and the lines through them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.figures import style


def best_cells(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """For each value of `by` the cell (one m, b and rate, over its seeds) with the highest mean accuracy.

    A cell none of whose runs has a result has NaN, and is chosen only where there is no other.

    Returns:
        A row a value of `by`, sorted by it: `batch_size`, `bn_batch_size`, `base_lr`; `mean`, `lowest` and `highest`
        in percent; and the number of `seeds` that have a result.
    """
    keys = list(dict.fromkeys([*by, "batch_size", "bn_batch_size", "base_lr"]))
    seeds = runs.groupby(keys)["accuracy"]
    cells = (100 * seeds.agg(mean="mean", lowest="min", highest="max")).assign(seeds=seeds.count())
    best = cells.reset_index().sort_values("mean", na_position="first", kind="stable")
    return best.drop_duplicates(by, keep="last").sort_values(by, ignore_index=True)


def line_over_seeds(axes: Axes, cells: pd.DataFrame, x: str, label: str, look: dict) -> None:
    """Draw mean accuracy over column `x` as a line, broken where NaN, in a band from the lowest to the highest seed."""
    axes.plot(cells[x], cells["mean"], label=label, **look)
    axes.fill_between(cells[x], cells["lowest"], cells["highest"], color=look["color"], **style.BAND)


def chance_line(axes: Axes, runs: pd.DataFrame) -> None:
    """A thin dashed line at the accuracy of guessing, 100 / classes percent."""
    axes.axhline(100 / runs["classes"].iloc[0], **style.CHANCE)


def percent_axis(axes: Axes, cells: pd.DataFrame, from_zero: bool) -> None:
    """Percent from 0, or from the ten below the lowest value, to the ten above the highest."""
    values = cells[["lowest", "highest"]].to_numpy()
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.array([0.0, 100.0])
    bottom = 0 if from_zero else 10 * np.floor(values.min() / 10)
    top = max(10 * np.ceil(values.max() / 10), bottom + 10)
    room = 0.02 * (top - bottom)  # so that a marker on the border is whole
    axes.set_ylim(0 if from_zero else bottom - room, top + room)
    axes.set_ylabel("test accuracy (%)")
