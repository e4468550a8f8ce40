"""What experiments found, in plain words: the best batch size and rate, and what other batch sizes cost."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from smallbatch.analysis.claims.figure_grids import FigureGrids
from smallbatch.analysis.grid import Grid
from smallbatch.analysis.noise import argmax, with_results
from smallbatch.analysis.verdicts import Comparison, decide
from smallbatch.analysis.words import experiment_labels, listed, rate_symbol, rate_words

ROUNDING = 1e-9
"""Of points."""


def findings(runs: pd.DataFrame, near: float, generator: np.random.Generator) -> dict[str, list[str]]:
    """Experiment in words -> sentences on it; without those in which nothing has converged.

    Of experiments with several BN batches for a batch size none is spoken of: which of these is meant would be unclear.

    Args:
        runs: the tidy table of runs, however much of it is there.
        near: points within which two accuracies are near each other, `claims.near` of the configuration.
        generator: where samples are drawn from.
    """
    known = with_results(runs)
    labels = experiment_labels(known)
    figures: Mapping[str, Mapping[str, list[str]]] = {name: {"experiments": [name]} for name in labels}
    grids = FigureGrids(figures, known, pd.DataFrame(), generator)
    shown = {name: known[known["experiment"] == name] for name in labels}
    return {
        labels[name]: [*_sentences(grid, rate_symbol(shown[name]), near)]
        for name in labels
        if shown[name].groupby("batch_size")["bn_batch_size"].nunique().max() == 1
        for grid in grids.of(name, None)
    }


def _sentences(grid: Grid, symbol: str, near: float) -> Iterator[str]:
    size, rate = divmod(int(argmax(grid.selection[:1].reshape(1, -1))[0]), len(grid.base_lrs))
    peak, best = Comparison("", 100 * grid.peak()), f"m = {grid.sizes[size]}"
    yield f"Best at {best} and {symbol} = {rate_words(grid.base_lrs[rate])}: {peak.effect[0]:.1f} %{_interval(peak)}."
    if len(grid) > 1:
        above = [_rest_above(grid, place) for place in range(len(grid))]
        equal = [m for m, one in zip(grid.sizes, above, strict=True) if not _is_above(one)]
        others = [m for m in equal if m != grid.sizes[size]]
        yield f"Not told apart from it: m = {listed(others)}." if others else "All other batch sizes are worse."
        if size < len(grid) - 1:
            yield _largest(grid.sizes[-1], above[-1])
        if not np.isnan(grid.accuracy[0, :, rate]).any():
            yield _carried(grid, rate, near)


def _is_above(rest: Comparison) -> bool:
    """Whether a size is told apart, by the test and by the interval that a reader sees."""
    return decide([rest]) == ["supported"] and rest.interval[0] > 0


def _largest(m: int, rest: Comparison) -> str:
    """What the largest size costs; where rates are chosen on other images it may turn out better in the test."""
    if rest.effect[0] < 0:
        gain = replace(rest, effect=-rest.effect)
        return f"m = {m} gains {gain.effect[0]:.1f} points{_interval(gain)} on the test images."
    return f"m = {m} costs {rest.effect[0]:.1f} points{_interval(rest)}."


def _rest_above(grid: Grid, place: int) -> Comparison:
    """By how much the best of all other sizes is above that of one."""
    one, rest = grid.split(np.arange(len(grid)) == place)
    return Comparison("", 100 * rest.peak_difference(one), at_least=0)


def _carried(grid: Grid, rate: int, near: float) -> str:
    lost = 100 * (grid.best()[0] - grid.accuracy[0, :, rate])
    trains = (grid.converged[0] > 0).any(axis=1)  # where nothing does, all rates are as bad
    sizes = grid.sizes[trains & (lost <= near + ROUNDING)]
    return f"As measured, its rate comes within {near:g} points of each one's own best for m = {listed(sizes)}."


def _interval(comparison: Comparison) -> str:
    low, high = comparison.interval
    return "" if np.isnan(low) else f" ({low:.1f} to {high:.1f})"
