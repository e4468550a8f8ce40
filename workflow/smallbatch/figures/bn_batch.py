"""Test accuracy over the batch size b of batch normalisation, a line for each SGD batch size m (Figures 13, 14)."""

import pandas as pd
from matplotlib.axes import Axes

from smallbatch.figures import style
from smallbatch.figures.cells import best_cells, line_over_seeds, percent_axis


def bn_batch_lines(runs: pd.DataFrame, axes: Axes) -> Axes:
    """Draw the runs of one experiment; where a pair (m, b) has several base learning rates, the best counts."""
    cells = best_cells(runs, ["batch_size", "bn_batch_size"])
    for batch_size, line in cells.groupby("batch_size"):
        line_over_seeds(axes, line, "bn_batch_size", str(batch_size), style.batch_look(batch_size))
    style.batch_axis(axes.xaxis, runs["bn_batch_size"], "BN batch size b")
    percent_axis(axes, cells, from_zero=False)
    return axes
