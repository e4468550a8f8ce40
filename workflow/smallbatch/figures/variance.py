"""The variance of updates and its origin (claim C26; not in the paper).

`variance_lines` draws the variance of an update against its batch size at fixed weights, log-log; `example_lines` the
variance of an example's gradient over training.
"""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.update_variance import at_own_batch, mean_interval, slopes
from smallbatch.analysis.words import counted
from smallbatch.figures import style
from smallbatch.figures.accuracy_lines import batch_lines, lines_over_seeds

_SHADES = matplotlib.colormaps["cividis"]


def variance_lines(measured: pd.DataFrame, axes: Axes, generator: np.random.Generator) -> Axes:
    """Draw the variances measured in the runs of one experiment as geometric means, a line for each point of training.

    Args:
        measured: the table returned by `update_variance.measured`.
        axes: the axes to draw on.
        generator: not used: nothing is drawn at random.
    """
    epochs = sorted(measured["epoch"].unique())
    for index, epoch in enumerate(epochs):
        rows = measured[measured["epoch"] == epoch]
        line = np.exp2(np.log2(rows["trace"]).groupby(rows["batch_size"]).mean())
        color = matplotlib.colors.to_hex(_SHADES(0.85 * index / max(1, len(epochs) - 1)))
        label = f"{_when(epoch)}: {slope_words(rows)}"
        axes.plot(line.index, line, label=label, color=color, marker=style.MARKERS[index % len(style.MARKERS)])
        axes.plot(line.index, line.iloc[0] * line.index / line.index[0], **style.CHANCE)
    style.batch_axis(axes.xaxis, measured["batch_size"], "batch size m of the update")
    axes.set_ylabel("trace of the update's covariance")
    if epochs:
        axes.set_yscale("log")
        axes.legend(loc="upper left", title="after training for")
        low, high = axes.get_ylim()
        legend = (len(epochs) + 1) * style.TEXT_LINE / style.HEIGHT  # room above the lines, as a fraction of a plot
        axes.set_ylim(low, high * (high / low) ** (legend / (0.8 - legend)))
    else:
        style.ticks(axes.yaxis, [], [])
    return axes


def _when(epoch: int) -> str:
    return counted(epoch, "epoch")


def slope_words(rows: pd.DataFrame) -> str:
    """The slope of the traces in `rows` as `slope 0.99 (0.97 to 1.01)`; no interval with one seed."""
    fitted = slopes(rows)
    if not len(fitted):
        return "no slope"
    mean, low, high = (round(value, 2) + 0.0 for value in (fitted.mean(), *mean_interval(fitted)))  # no -0.00
    words = f"slope {mean:.2f}" + ("" if np.isnan(low) else f" ({low:.2f} to {high:.2f})")
    return words.replace("-", "\N{MINUS SIGN}")


def example_lines(measured: pd.DataFrame, axes: Axes, generator: np.random.Generator) -> Axes:
    """Draw the variance of an example's gradient over training, a line for each batch size of training.

    Args:
        measured: the table returned by `update_variance.measured`, of one experiment.
        axes: the axes to draw on.
        generator: not used: nothing is drawn at random.
    """
    lines_over_seeds(axes, batch_lines(at_own_batch(measured)), "epoch", apart=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("variance of an example's gradient")
    if len(measured):
        axes.set_yscale("log")
    else:
        style.ticks(axes.yaxis, [], [])
    return axes
