"""Figures from tables of runs: one function per kind of figure, which takes data and axes and returns axes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smallbatch.analysis.metric_as_accuracy import with_metric_as_accuracy
from smallbatch.analysis.update_variance import measured
from smallbatch.analysis.words import experiment_labels, listed, rate_words
from smallbatch.core.errors import UserError
from smallbatch.figures import captions, sheet, style
from smallbatch.figures.accuracy import accuracy_lines
from smallbatch.figures.accuracy_lines import mark_below
from smallbatch.figures.best import best_lines
from smallbatch.figures.bn_batch import bn_batch_lines
from smallbatch.figures.convergence import accuracy_by_epoch, convergence_lines
from smallbatch.figures.cost import cost_lines
from smallbatch.figures.ranges import range_bars
from smallbatch.figures.variance import example_lines, variance_lines
from smallbatch.study.experiments import COMPARING
from smallbatch.study.metrics import ACCURACY
from smallbatch.study.rates import parse_base_lr

PANELS: dict[str, Callable[[pd.DataFrame, Axes, np.random.Generator], Axes]] = {
    "accuracy": accuracy_lines,
    "convergence": convergence_lines,
    "bn-batch": bn_batch_lines,
    "variance": variance_lines,
    "example-variance": example_lines,
}
"""Kinds that give each experiment a plot of its own."""

COMPARISONS: dict[str, Callable[[pd.DataFrame, Axes, np.random.Generator, style.Looks], Axes]] = {
    "best": best_lines,
    "range": range_bars,
}
"""Kinds with one plot for all experiments; `cost` has three."""

ALL_KINDS = (*PANELS, *COMPARING)
_MEASURED = ("variance", "example-variance")  # variances of updates; they differ by orders of magnitude between norms
_BARS_IN_A_COLUMN = 3  # more experiments than this make bars too thin for one column of a paper
_TITLE = 2.85  # inches above one of two plots in a row


def draw(
    spec: dict[str, Any],
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    variance: pd.DataFrame,
    compared: Sequence[str],
    bare: bool = False,
) -> Figure:
    """Draw one figure of a study from its tables of runs, epochs and variances.

    `compared`: the experiments that the study's figures compare (`Study.compared`), each with one look in all of them.
    `bare`: without title and note, for a paper that has a caption of its own.

    Raises:
        UserError: the kind is unknown, or the tables lack an experiment or base learning rate of the figure.
    """
    chosen, kind = select(spec, runs), spec["kind"]
    words = ("", "") if bare else (spec["title"], captions.note(kind, chosen))
    generator = np.random.default_rng(0)  # for intervals; a fixed seed, so that pictures are reproducible
    with style.context():
        if kind == "cost":
            return _cost(words, chosen, generator, style.experiment_looks(compared))
        if kind in COMPARISONS:
            return _compare(kind, words, chosen, generator, style.experiment_looks(compared))
        return _panels(kind, words, chosen, _drawn_from(kind, chosen, epochs, variance), generator)


def caption(name: str, spec: dict[str, Any], runs: pd.DataFrame, variance: pd.DataFrame) -> str:
    """The caption of figure `name`: content, data, seeds, incidents, and its figure in the paper.

    Raises:
        UserError: as documented in `draw`.
    """
    chosen = select(spec, runs)
    return captions.caption(name, spec, chosen, variance[variance["run"].isin(chosen["run"])])


def select(spec: dict[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that a figure shows: those of its experiments; for `convergence`, only at its base learning rate.

    Raises:
        UserError: the kind is unknown, or there are no such runs.
    """
    where = f"figure {spec['title']!r}"
    if spec["kind"] not in ALL_KINDS:
        raise UserError(f"{where}: kind: {spec['kind']!r} is not allowed; allowed: {', '.join(ALL_KINDS)}")
    for name in spec["experiments"]:
        if name not in set(runs["experiment"]):
            known = ", ".join(runs["experiment"].unique()) or "none"
            raise UserError(f"{where}: experiment {name!r} has no runs in the table; it has: {known}")
    order = {name: index for index, name in enumerate(spec["experiments"])}
    chosen = runs[runs["experiment"].isin(order)].sort_values(
        "experiment", kind="stable", key=lambda names: names.map(order)
    )
    measured_by = with_metric_as_accuracy(chosen, spec.get("metric", ACCURACY))
    return _at_rate(spec, measured_by, where) if spec["kind"] == "convergence" else measured_by


def _at_rate(spec: dict[str, Any], runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """Those of `runs` that have the figure's `base_lr`."""
    base_lr = parse_base_lr(spec["base_lr"])
    at_rate = runs[np.isclose(runs["base_lr"], base_lr, rtol=1e-9, atol=0)]
    for name in spec["experiments"]:
        if name not in set(at_rate["experiment"]):
            rates = sorted(runs.loc[runs["experiment"] == name, "base_lr"])
            known = listed(rate_words(rate) for rate in rates if rate > 0) or "none yet"
            raise UserError(f"{where}: base_lr: {name!r} has no run at {rate_words(base_lr)}; it has: {known}")
    return at_rate


def _drawn_from(kind: str, runs: pd.DataFrame, epochs: pd.DataFrame, variance: pd.DataFrame) -> pd.DataFrame:
    """The data that plots of a kind are drawn from: runs, or runs joined with measurements during their training."""
    if kind == "convergence":
        return accuracy_by_epoch(runs, epochs)
    if kind in _MEASURED:
        return measured(runs, variance)
    return runs


def _cost(words: sheet.Words, runs: pd.DataFrame, generator: np.random.Generator, looks: style.Looks) -> Figure:
    """Three plots of the same experiments side by side, with a legend below."""
    rows = sheet.legend_rows(experiment_labels(runs).values(), 2)
    figure, plots = sheet.blank(words, 3, page_wide=True, legend_rows=rows, columns=3)
    cost_lines(runs, plots, generator, looks)
    _mark_below("cost", runs, plots[:1])
    sheet.experiment_legend(figure, plots[0], 2)
    return figure


def _compare(
    kind: str, words: sheet.Words, runs: pd.DataFrame, generator: np.random.Generator, looks: style.Looks
) -> Figure:
    """All experiments in one plot, with a legend below."""
    labels = experiment_labels(runs)
    page_wide = kind == "range" and len(labels) > _BARS_IN_A_COLUMN
    columns = 2 if page_wide else 1
    rows = sheet.legend_rows(labels.values(), columns)
    figure, (axes,) = sheet.blank(words, 1, page_wide, rows)
    COMPARISONS[kind](runs, axes, generator, looks)
    _mark_below(kind, runs, [axes])
    sheet.experiment_legend(figure, axes, columns)
    return figure


def _panels(
    kind: str, words: sheet.Words, runs: pd.DataFrame, data: pd.DataFrame, generator: np.random.Generator
) -> Figure:
    """A plot for each experiment, and one legend of batch sizes if each has a line."""
    labels = experiment_labels(runs)
    figure, plots = sheet.blank(words, len(labels))
    for axes, (name, label) in zip(plots, labels.items(), strict=True):
        PANELS[kind](data[data["experiment"] == name], axes, generator)
        if len(labels) > 1:
            axes.set_title("\n".join(sheet.wrapped(label, _TITLE)))
    if kind not in _MEASURED:
        sheet.same_scale(plots)
        _mark_below(kind, runs, plots)
    if kind != "variance":
        sheet.batch_legend(figure, plots)
    return figure


def _mark_below(kind: str, runs: pd.DataFrame, plots: list[Axes]) -> None:
    """Mark what lies below the axes of accuracy, if they begin at cells that have trained."""
    floor = captions.axis_floor(kind, runs)
    if floor is not None:
        for axes in plots:
            mark_below(axes, floor, at_end=kind == "convergence")
