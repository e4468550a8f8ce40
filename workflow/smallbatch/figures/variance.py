"""Variance of the weight update against its batch size at fixed weights, log-log (claim C26; not in the paper)."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from smallbatch.analysis.statistics import SAMPLES, percentile_interval, slope
from smallbatch.figures import style
from smallbatch.figures.words import counted

_SHADES = matplotlib.colormaps["cividis"]


def variance_lines(measured: pd.DataFrame, axes: Axes, generator: np.random.Generator) -> Axes:
    """Draw what was measured in the runs of one experiment, a line for each point of training.

    Args:
        measured: `epoch`, `batch_size` and `trace`, a row a run, epoch and batch size.
        axes: to draw on.
        generator: of the bootstrap.
    """
    measured = measured[measured["trace"] > 0]
    epochs = sorted(measured["epoch"].unique())
    for place, epoch in enumerate(epochs):
        rows = measured[measured["epoch"] == epoch]
        line = rows.groupby("batch_size")["trace"].mean()
        color = matplotlib.colors.to_hex(_SHADES(0.85 * place / max(1, len(epochs) - 1)))
        label = f"{_when(epoch)}: {slope_words(rows, generator)}"
        axes.plot(line.index, line, label=label, color=color, marker=style.MARKERS[place % len(style.MARKERS)])
        axes.plot(line.index, line.iloc[0] * line.index / line.index[0], **style.CHANCE)
    style.batch_axis(axes.xaxis, measured["batch_size"], "batch size m of the update")
    axes.set_ylabel("trace of the update's covariance")
    if epochs:
        axes.set_yscale("log")
        axes.legend(loc="upper left", title="after training for")
        low, high = axes.get_ylim()
        legend = (len(epochs) + 1) * style.TEXT_LINE / style.HEIGHT  # room for it above the lines: its share of a plot
        axes.set_ylim(low, high * (high / low) ** (legend / (0.8 - legend)))
    else:
        style.ticks(axes.yaxis, [], [])
    return axes


def _when(epoch: int) -> str:
    return counted(epoch, "epoch")


def slope_words(rows: pd.DataFrame, generator: np.random.Generator) -> str:
    """`slope 0.99 (0.97 to 1.01)` of the traces in `rows`."""
    sizes, traces = (np.log2(rows[column].to_numpy(float)) for column in ("batch_size", "trace"))
    if len(np.unique(sizes)) < 2:
        return "no slope"
    # Points are drawn with replacement: how often each is drawn is its weight.
    weights = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), SAMPLES)
    low, high = percentile_interval(slope(sizes, traces, weights))
    return f"slope {slope(sizes, traces):.2f} ({low:.2f} to {high:.2f})"
