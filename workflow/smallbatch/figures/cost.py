"""Best accuracy, speed and memory against the batch size: quantities that the paper discusses but does not plot."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.figures import style
from smallbatch.figures.accuracy_lines import side_by_side
from smallbatch.figures.best import best_lines


def cost_lines(runs: pd.DataFrame, plots: list[Axes], generator: np.random.Generator, looks: style.Looks) -> None:
    """Draw best accuracy, images/s and peak memory into three plots, a line for each experiment.

    Speed and memory are those of all lanes that were trained together, as medians over the runs of one m.
    """
    accuracy, speed, memory = plots
    best_lines(runs, accuracy, generator, looks)
    _medians(runs, speed, pd.to_numeric(runs["images_per_second"]), "training images/s", looks)
    _medians(runs, memory, pd.to_numeric(runs["peak_memory_mb"]) / 1024, "peak memory (GiB)", looks)


def _medians(runs: pd.DataFrame, axes: Axes, values: pd.Series, label: str, looks: style.Looks) -> None:
    medians = values.groupby([runs["experiment"], runs["batch_size"]]).median()
    names = runs["experiment"].unique()
    for name, moved in zip(names, side_by_side(axes, len(names), runs["batch_size"].nunique()), strict=True):
        line = medians[name]
        axes.plot(line.index, line, **moved, **looks[name])
    style.batch_axis(axes.xaxis, runs["batch_size"], "batch size m")
    style.magnitude_axis(axes.yaxis, medians, label)
