"""Best test accuracy over all base learning rates against the batch size, a line for each experiment (Figure 15)."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.metric_as_accuracy import metric_label
from smallbatch.analysis.words import experiment_labels
from smallbatch.figures import style
from smallbatch.figures.accuracy_lines import best_cells, lines_over_seeds, percent_axis, percent_limits, trained_floor


def best_lines(runs: pd.DataFrame, axes: Axes, generator: np.random.Generator, looks: style.Looks) -> Axes:
    """Draw, for each experiment and m, the rate with the highest mean selection accuracy over seeds."""
    labels = experiment_labels(runs)
    cells = best_cells(runs, ["experiment", "batch_size"], generator)
    limits = percent_limits(cells, floor=trained_floor(runs, of_bests=True))
    lines = [(label, cells[cells["experiment"] == name], looks[name]) for name, label in labels.items()]
    lines_over_seeds(axes, lines, "batch_size", limits)
    style.batch_axis(axes.xaxis, runs["batch_size"], "batch size m")
    percent_axis(axes, limits, f"best test {metric_label(runs)}")
    return axes
