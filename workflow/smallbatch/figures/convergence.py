"""Test accuracy over the epochs at one base learning rate, a line for each batch size (Figure 4)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.metric_as_accuracy import metric_label
from smallbatch.figures import style
from smallbatch.figures.accuracy_lines import (
    best_cells,
    by_batch_size,
    chance_line,
    percent_axis,
    percent_limits,
    threshold_line,
    training_floor,
)


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
    last, lines = data["epoch"].max(), dict(by_batch_size(cells))
    for number, (batch_size, line) in enumerate(lines.items()):
        look = style.batch_look(batch_size) | {"linewidth": 0.8, "markevery": marks(number, len(lines), last)}
        ends = line.melt("epoch", ["low", "mean", "high"], value_name="percent")
        sns.lineplot(
            ends, x="epoch", y="percent", estimator="median", errorbar=("pi", 100), err_kws=style.BAND,
            label=str(batch_size), legend=False, ax=axes, **look,
        )  # fmt: skip
    chance_line(axes, data)
    threshold_line(axes, data)
    axes.set_xlim(0, 1.02 * last)
    axes.set_xlabel("epoch")
    floor = training_floor(data.drop_duplicates("run"))
    ends = cells.assign(**{end: cells[end].where(cells["epoch"] == last) for end in ("low", "high")})
    percent_axis(axes, percent_limits(ends, from_zero=floor is None, floor=floor), f"test {metric_label(data)}")
    return axes


def marks(number: int, lines: int, epochs: int) -> tuple[int, int]:
    """Index of the first and step of the markers of one of several lines, about five each, at epochs of its own.

    So lines that coincide are all seen, unless there are fewer epochs than lines.
    """
    step = min(max(lines, epochs // 5), epochs)
    return number * step // lines, step
