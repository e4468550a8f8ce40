"""Test accuracy over the base learning rate, a line for each batch size (Figures 1-3, 5-12, 17, 18)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.metric_as_accuracy import metric_label
from smallbatch.analysis.words import rate_symbol
from smallbatch.figures import style
from smallbatch.figures.accuracy_lines import (
    batch_lines,
    best_cells,
    chance_line,
    lines_over_seeds,
    percent_axis,
    percent_limits,
    threshold_line,
    trained_floor,
)


def accuracy_lines(runs: pd.DataFrame, axes: Axes, generator: np.random.Generator) -> Axes:
    """Draw the runs of one experiment; a cell without a result is a gap in its line.

    If some cells have trained, the axis begins at their accuracies, where curves differ by a few percent.
    """
    floor = trained_floor(runs)
    cells = best_cells(runs, ["batch_size", "base_lr"], generator)
    rated = cells[cells["base_lr"] > 0]  # 0 stands for a rate still to be chosen
    limits = percent_limits(cells, from_zero=floor is None, floor=floor)
    lines_over_seeds(axes, batch_lines(rated), "base_lr", limits)
    chance_line(axes, runs)
    threshold_line(axes, runs)
    style.rate_axis(axes.xaxis, runs["base_lr"], rate_symbol(runs))
    percent_axis(axes, limits, f"test {metric_label(runs)}")
    return axes
