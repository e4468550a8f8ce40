"""Test accuracy over the epochs at one base learning rate, a line for each batch size (Figure 4)."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.metric_columns import metric_label
from smallbatch.figures import style
from smallbatch.figures.cells import bar_line, best_cells, by_batch_size, chance_line, percent_axis


def accuracy_by_epoch(runs: pd.DataFrame, epochs: pd.DataFrame) -> pd.DataFrame:
    """`runs` joined with the accuracy of each after every epoch.

    A diverged run stays at chance for its remaining epochs, so that its absence does not raise a mean over seeds; a
    missing run has NaN.

    Returns:
        The columns of `runs` with `epoch` and `percent`, one row per run and epoch.
    """
    planned = runs.assign(epoch=runs["epochs"].map(lambda count: range(1, count + 1))).explode("epoch")
    joined = planned.astype({"epoch": "int64"}).merge(
        epochs[["run", "epoch", "test_accuracy"]], on=["run", "epoch"], how="left"
    )
    chance = joined["chance"].where(joined["status"] == "diverged")
    accuracy = joined["test_accuracy"].astype(float).fillna(chance).where(joined["status"] != "missing")
    return joined.assign(percent=100 * accuracy)


def convergence_lines(data: pd.DataFrame, axes: Axes, generator: np.random.Generator) -> Axes:
    """Draw `accuracy_by_epoch` of one experiment at one base learning rate; bands are 95 % intervals of means."""
    import seaborn as sns  # takes a second, and is not needed by other kinds of figures

    # Each epoch is treated as an experiment: its cells show how much accuracies vary at that time.
    reached = data["percent"] / 100
    then = data.assign(experiment=data["epoch"], accuracy=reached, selection_accuracy=reached)
    cells = best_cells(then, ["experiment", "batch_size"], generator).rename(columns={"experiment": "epoch"})
    for batch_size, line in by_batch_size(cells):
        look = style.batch_look(batch_size) | {"linewidth": 0.8, "markevery": _marks(batch_size, line["epoch"].max())}
        ends = line.melt("epoch", ["low", "mean", "high"], value_name="percent")
        sns.lineplot(
            ends, x="epoch", y="percent", estimator="median", errorbar=("pi", 100), err_kws=style.BAND,
            label=str(batch_size), legend=False, ax=axes, **look,
        )  # fmt: skip
    chance_line(axes, data)
    bar_line(axes, data)
    axes.set_xlim(0, 1.02 * data["epoch"].max())
    axes.set_xlabel("epoch")
    percent_axis(axes, cells, f"test {metric_label(data)}", from_zero=True)
    return axes


def _marks(batch_size: int, epochs: int) -> tuple[int, int]:
    """First epoch and step of a line's markers: about five per line, shifted by m so that they do not overlap."""
    step = max(1, epochs // 5)
    return round(step * math.log2(batch_size) / 11) % step, step
