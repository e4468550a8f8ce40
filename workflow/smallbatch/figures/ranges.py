"""The base learning rates that train reliably: for each batch size, one bar per experiment (Figure 16)."""

from collections.abc import Iterator

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.markers import CARETDOWNBASE, CARETUPBASE

from smallbatch.analysis.words import experiment_labels, rate_symbol
from smallbatch.figures import style

_FILLED = 0.84  # the share of a batch size's place that its bars take
_ARROW: style.Look = {"markersize": 3.5, "linestyle": "none", "clip_on": False, "zorder": 3}
_LIGHT, _LIGHT_EDGE = 0.35, 0.5  # the share of its colour that a lighter bar keeps, filled or as an edge alone


def cell_edges(base_lrs: np.ndarray) -> np.ndarray:
    """The n + 1 borders between the cells of n sorted rates: half a grid step, in log2, on each side of each rate."""
    positions = np.log2(base_lrs)
    steps = np.diff(positions) if len(positions) > 1 else np.array([1.0])
    middles = positions[:-1] + steps / 2 if len(positions) > 1 else positions[:0]
    edges: np.ndarray = np.exp2(
        np.concatenate([[positions[0] - steps[0] / 2], middles, [positions[-1] + steps[-1] / 2]])
    )
    return edges


def unbroken_ranges(reached: pd.Series) -> Iterator[tuple[float, float]]:
    """Lower and upper border of each unbroken range of rates (the index of `reached`) at which `reached` is true."""
    edges = cell_edges(reached.index.to_numpy())
    padded = np.concatenate([[0], reached.to_numpy().astype(int), [0]])
    starts, ends = np.flatnonzero(np.diff(padded) == 1), np.flatnonzero(np.diff(padded) == -1)
    yield from zip(edges[starts], edges[ends], strict=True)


def grid_ends(reached: pd.Series) -> Iterator[tuple[float, int]]:
    """Of the two ends of a grid of rates (the index of `reached`) those that are reached: border, and arrow beyond."""
    edges = cell_edges(reached.index.to_numpy())
    if reached.iloc[0]:
        yield edges[0], CARETDOWNBASE
    if reached.iloc[-1]:
        yield edges[-1], CARETUPBASE


def any_range_cut_off(runs: pd.DataFrame) -> bool:
    """Whether a range of `runs` ends where its grid of rates does."""
    rated = runs[runs["base_lr"] > 0]
    shares = [of.groupby("base_lr")["converged"].mean() for _, of in rated.groupby(["experiment", "batch_size"])]
    return any(share.iloc[0] > 0 or share.iloc[-1] > 0 for share in shares)


def some_are_empty(runs: pd.DataFrame) -> bool:
    """Whether at one m an experiment has converged at no rate, with any seed."""
    return not runs.groupby(["experiment", "batch_size"])["converged"].any().all()


def range_bars(runs: pd.DataFrame, axes: Axes, generator: np.random.Generator, looks: style.Looks) -> Axes:
    """Draw a group of bars per batch size: rates at which all seeds converged, lighter where only some did.

    A missing run counts as not converged. Where the grid of rates ends and they still converge, an arrow points on.
    """
    labels = experiment_labels(runs)
    sizes = sorted(runs["batch_size"].unique())
    width = _FILLED / len(labels)
    rated = runs[runs["base_lr"] > 0]  # 0 stands for a rate still to be chosen
    lowest, highest = cell_edges(np.unique(rated["base_lr"]))[[0, -1]] if len(rated) else (0, 1)
    for _, cells in rated.groupby(["experiment", "batch_size"]):
        name, size = cells["experiment"].iloc[0], cells["batch_size"].iloc[0]
        middle = sizes.index(size) + (list(labels).index(name) + 0.5) * width - _FILLED / 2
        _draw_ranges(axes, cells, middle, 0.86 * width, looks[name], (lowest, highest))
    for position in range(0, len(sizes), 2):
        axes.axvspan(position - 0.5, position + 0.5, color="0.95", linewidth=0, zorder=0)
    style.ticks(axes.xaxis, range(len(sizes)), map(str, sizes), style.labels_across(axes))
    axes.set_xlim(-0.5, len(sizes) - 0.5)
    axes.set_xlabel("batch size m")
    axes.grid(visible=False, axis="x")
    style.rate_axis(axes.yaxis, runs["base_lr"], rate_symbol(runs))
    if len(rated):
        axes.set_ylim(lowest, highest)
    for name, label in labels.items():
        axes.fill_between([], [], label=label, **_bar_look(looks[name]))  # a legend entry even if no bar is drawn
    return axes


def _draw_ranges(
    axes: Axes, cells: pd.DataFrame, middle: float, width: float, look: style.Look, limits: tuple[float, float]
) -> None:
    """Draw the bars of one experiment and m, and arrows where they reach an end of the grid of rates.

    `limits`: of the axis, beyond which the last border of a grid that is coarser than another may lie.
    """
    share = cells.groupby("base_lr")["converged"].mean()
    for reached, light in (((share > 0) & (share < 1), True), (share == 1, False)):
        bar = _bar_look(look, light)
        for low, high in unbroken_ranges(reached):
            axes.bar(middle, high - low, width, bottom=low, **bar)
        for edge, marker in grid_ends(reached):
            axes.plot(middle, np.clip(edge, *limits), marker=marker, color=bar["edgecolor"], **_ARROW)


def _bar_look(look: style.Look, light: bool = False) -> style.Look:
    """The look of a bar: filled for solid lines; white with a coloured edge for dashed ones."""
    filled = look["linestyle"] == "-"
    kept = (_LIGHT if filled else _LIGHT_EDGE) if light else 1
    red, green, blue = (1 - kept * (1 - part) for part in matplotlib.colors.to_rgb(look["color"]))
    color = matplotlib.colors.to_hex((red, green, blue))
    return {"facecolor": color if filled else "white", "edgecolor": color, "linewidth": 0.6}
