"""Figures from tables of runs: one function a kind of figure, which takes data and axes and returns axes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smallbatch.errors import UserError
from smallbatch.figures import captions, sheet, style
from smallbatch.figures.accuracy import accuracy_lines
from smallbatch.figures.best import best_lines
from smallbatch.figures.bn_batch import bn_batch_lines
from smallbatch.figures.convergence import convergence_lines, courses
from smallbatch.figures.ranges import range_bars
from smallbatch.figures.words import experiment_labels, listed, note, rate_words
from smallbatch.rates import parse_base_lr

KINDS: dict[str, Callable[[pd.DataFrame, Axes], Axes]] = {
    "accuracy": accuracy_lines,
    "convergence": convergence_lines,
    "bn-batch": bn_batch_lines,
    "best": best_lines,
    "range": range_bars,
}
_COMPARE = ("best", "range")  # all experiments in one plot; the other kinds give each experiment its own
_BARS_IN_A_COLUMN = 3  # more experiments than this make bars too thin for one column of a paper


def draw(spec: dict[str, Any], runs: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """Draw one figure of a study from its tables of runs and epochs.

    Raises:
        UserError: the kind is unknown, or the tables lack an experiment or base learning rate that is asked for.
    """
    chosen = select(spec, runs)
    with style.context():
        return _compare(spec, chosen) if spec["kind"] in _COMPARE else _panels(spec, chosen, epochs)


def caption(name: str, spec: dict[str, Any], runs: pd.DataFrame) -> str:
    """What figure `name` shows, in plain words: content, data, seeds, incidents, and its figure in the paper.

    Raises:
        UserError: as `draw`.
    """
    return captions.caption(name, spec, select(spec, runs))


def select(spec: dict[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that a figure shows: those of its experiments, for `convergence` at its base learning rate.

    Raises:
        UserError: the kind is unknown, or there are no such runs.
    """
    where = f"figure {spec['title']!r}"
    if spec["kind"] not in KINDS:
        raise UserError(f"{where}: kind: {spec['kind']!r} is not allowed; allowed: {', '.join(KINDS)}")
    for name in spec["experiments"]:
        if name not in set(runs["experiment"]):
            there = ", ".join(runs["experiment"].unique()) or "none"
            raise UserError(f"{where}: experiment {name!r} has no runs in the table; it has: {there}")
    order = {name: place for place, name in enumerate(spec["experiments"])}
    chosen = runs[runs["experiment"].isin(order)].sort_values(
        "experiment", kind="stable", key=lambda names: names.map(order)
    )
    return _at_rate(spec, chosen, where) if spec["kind"] == "convergence" else chosen


def _at_rate(spec: dict[str, Any], runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """Those of `runs` that have the figure's `base_lr`."""
    base_lr = parse_base_lr(spec["base_lr"])
    at_rate = runs[np.isclose(runs["base_lr"], base_lr, rtol=1e-9, atol=0)]
    for name in spec["experiments"]:
        if name not in set(at_rate["experiment"]):
            there = listed(map(rate_words, sorted(runs.loc[runs["experiment"] == name, "base_lr"])))
            raise UserError(f"{where}: base_lr: {name!r} has no run at {rate_words(base_lr)}; it has: {there}")
    return at_rate


def _compare(spec: dict[str, Any], runs: pd.DataFrame) -> Figure:
    """All experiments in one plot, named below it."""
    experiments = runs["experiment"].nunique()
    page_wide = spec["kind"] == "range" and experiments > _BARS_IN_A_COLUMN
    columns = 2 if page_wide else 1
    figure, (axes,) = sheet.blank(spec["title"], note(runs), 1, page_wide, math.ceil(experiments / columns))
    KINDS[spec["kind"]](runs, axes)
    sheet.experiment_legend(figure, axes, columns)
    return figure


def _panels(spec: dict[str, Any], runs: pd.DataFrame, epochs: pd.DataFrame) -> Figure:
    """A plot for each experiment, and one legend of batch sizes."""
    labels = experiment_labels(runs)
    data = courses(runs, epochs) if spec["kind"] == "convergence" else runs
    figure, plots = sheet.blank(spec["title"], note(runs), len(labels))
    for axes, (name, label) in zip(plots, labels.items(), strict=True):
        KINDS[spec["kind"]](data[data["experiment"] == name], axes)
        if len(labels) > 1:
            axes.set_title(label)
    sheet.batch_legend(figure, plots)
    return figure
