"""What experiments found, as a sentence and a row of a table: the best batch size and rate, and what others cost."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from smallbatch.analysis.grid import Grid, build_grid
from smallbatch.analysis.metric_as_accuracy import is_accuracy, metric_label, with_primary_metric
from smallbatch.analysis.noise import argmax, completed_runs, observed_or_corrected
from smallbatch.analysis.verdicts import Comparison, decide
from smallbatch.analysis.words import NOTHING, experiment_labels, listed, rate_symbol, rate_words

SEED = 0
"""Of samples: where a number is shown twice, in the report or by `compare`, it is the same number."""

ROUNDING = 1e-9
"""Of points."""


@dataclass(frozen=True)
class Finding:
    """What one experiment found.

    lead: one sentence.
    row: column -> text, the same columns for each experiment.
    """

    lead: str
    row: dict[str, str]


def findings(runs: pd.DataFrame, near: float, seed: int) -> dict[str, Finding]:
    """What each experiment found; those in which nothing has converged are left out.

    Experiments with several BN batch sizes for one batch size are left out, too: it would be unclear which is meant.

    Args:
        runs: the tidy table of runs; runs may be missing.
        near: points within which two accuracies are near each other, `claims.near` of the configuration.
        seed: of the samples of each experiment; the same as for its row in the table of results gives its numbers.

    Returns:
        Experiment in words -> what it found.
    """
    known = completed_runs(runs)
    shown = {name: known[known["experiment"] == name] for name in experiment_labels(known)}
    return {
        label: finding(with_primary_metric(own), near, seed)
        for label, own in zip(experiment_labels(known).values(), shown.values(), strict=True)
        if own["converged"].any() and own.groupby("batch_size")["bn_batch_size"].nunique().max() == 1
    }


def finding(runs: pd.DataFrame, near: float, seed: int) -> Finding:
    """What one experiment found; see `findings`.

    Args:
        runs: its complete runs, as `completed_runs` returns them.
        near: points within which two accuracies are near each other.
        seed: of its samples.
    """
    grid, symbol = build_grid(runs, np.random.default_rng(seed)), rate_symbol(runs)
    by = "" if is_accuracy(runs) else f" {metric_label(runs)}"
    size, rate = divmod(int(argmax(grid.selection[:1].reshape(1, -1))[0]), len(grid.base_lrs))
    mean, low, high = observed_or_corrected(100 * grid.peak())
    best = f"Best at m = {grid.sizes[size]}: {mean:.1f} %{by}"
    above = [_gain_of_others(grid, index) for index in range(len(grid))] if len(grid) > 1 else []
    others = [grid.sizes[index] for index, one in enumerate(above) if index != size and not _is_above(one)]
    if others:
        lead = f"{best}; not told apart from it: m = {listed(others)}."
    else:
        lead = f"{best}; all other batch sizes are worse." if above else f"{best}, the only batch size."
    near_words = f"{near:g} point{'s' if near != 1 else ''}"
    row = {
        "best m": str(grid.sizes[size]),
        "m not told apart from it": listed(others) or NOTHING,
        "best rate": f"{symbol} = {rate_words(grid.base_lrs[rate])}",
        "accuracy (%)": f"{mean:.1f}{brackets(low, high)}{by}",
        "cost of the largest m (points)": _cost_of_largest(grid.sizes[-1], above[-1])
        if size < len(grid) - 1
        else NOTHING,
        f"m where its rate is within {near_words}": _sizes_near_best(grid, rate, near),
    }
    return Finding(lead, row)


def _is_above(rest: Comparison) -> bool:
    """Whether a size is told apart, by the test and by the interval that a reader sees."""
    return decide([rest]) == ["supported"] and rest.interval[0] > 0


def _cost_of_largest(m: int, rest: Comparison) -> str:
    """What the largest size costs; below zero where rates are chosen on other images and it is better in the test."""
    return f"m = {m}: {rest.effect[0]:.1f}{brackets(*rest.interval)}"


def _gain_of_others(grid: Grid, index: int) -> Comparison:
    """By how much the best of all other sizes is above that of one."""
    one, rest = grid.split(np.arange(len(grid)) == index)
    return Comparison("", 100 * rest.peak_difference(one), at_least=0)


def _sizes_near_best(grid: Grid, rate: int, near: float) -> str:
    """The sizes at which one rate is near each one's own best, as measured; unknown if not all have that rate."""
    if len(grid) == 1 or np.isnan(grid.accuracy[0, :, rate]).any():
        return NOTHING
    lost = 100 * (grid.best()[0] - grid.accuracy[0, :, rate])
    trains = (grid.converged[0] > 0).any(axis=1)  # where nothing does, all rates are as bad
    return listed(grid.sizes[trains & (lost <= near + ROUNDING)])


def brackets(low: float, high: float, signed: bool = False) -> str:
    """` (0.4 to 2.0)`, an interval to stand behind its number, or ` (+0.4 to +2.0)`; empty where it is unknown."""
    sign = "+" if signed else "-"
    return "" if np.isnan(low) else f" ({low:{sign}.1f} to {high:{sign}.1f})"
