"""Test accuracy over the base learning rate, a line for each batch size (Figures 1-3, 5-12, 17, 18)."""

import pandas as pd
from matplotlib.axes import Axes

from smallbatch.figures import style
from smallbatch.figures.cells import best_cells, chance_line, line_over_seeds, percent_axis


def accuracy_lines(runs: pd.DataFrame, axes: Axes) -> Axes:
    """Draw the runs of one experiment; a cell without a result is a gap in its line."""
    cells = best_cells(runs, ["batch_size", "base_lr"])
    for batch_size, line in cells.groupby("batch_size"):
        line_over_seeds(axes, line, "base_lr", str(batch_size), style.batch_look(batch_size))
    chance_line(axes, runs)
    style.rate_axis(axes.xaxis, runs["base_lr"])
    percent_axis(axes, cells, from_zero=True)
    return axes
