"""Test accuracy over the batch size b of batch normalisation, a line for each SGD batch size m (Figures 13, 14)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.metric_as_accuracy import metric_label
from smallbatch.analysis.selection import at_best_rates
from smallbatch.figures import style
from smallbatch.figures.accuracy_lines import (
    batch_lines,
    best_cells,
    lines_over_seeds,
    percent_axis,
    percent_limits,
    trained_floor,
)


def bn_batch_lines(runs: pd.DataFrame, axes: Axes, generator: np.random.Generator) -> Axes:
    """Draw the runs of one experiment, each m at its best base learning rate."""
    shown = at_best_rates(runs)
    cells = best_cells(shown, ["batch_size", "bn_batch_size"], generator)
    limits = percent_limits(cells, floor=trained_floor(shown))
    lines_over_seeds(axes, batch_lines(cells), "bn_batch_size", limits)
    style.batch_axis(axes.xaxis, runs["bn_batch_size"], "BN batch size b")
    percent_axis(axes, limits, f"test {metric_label(runs)}")
    return axes
