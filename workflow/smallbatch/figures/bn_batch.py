"""Test accuracy over the batch size b of batch normalisation, a line for each SGD batch size m (Figures 13, 14)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.metric_columns import metric_label
from smallbatch.analysis.selection import at_best_rates
from smallbatch.figures import style
from smallbatch.figures.cells import batch_lines, best_cells, lines_over_seeds, percent_axis


def bn_batch_lines(runs: pd.DataFrame, axes: Axes, generator: np.random.Generator) -> Axes:
    """Draw the runs of one experiment, each m at its best base learning rate."""
    cells = best_cells(at_best_rates(runs), ["batch_size", "bn_batch_size"], generator)
    lines_over_seeds(axes, batch_lines(cells), "bn_batch_size")
    style.batch_axis(axes.xaxis, runs["bn_batch_size"], "BN batch size b")
    percent_axis(axes, cells, f"test {metric_label(runs)}")
    return axes
