"""What experiments found, in plain words: the best batch size and rate, and what other batch sizes cost."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from smallbatch.analysis.grid import Grid, build_grid
from smallbatch.analysis.noise import argmax, observed_or_corrected, with_results
from smallbatch.analysis.verdicts import Comparison, decide
from smallbatch.analysis.words import experiment_labels, listed, rate_symbol, rate_words

ROUNDING = 1e-9
"""Of points."""


def findings(runs: pd.DataFrame, near: float, seed: int) -> dict[str, list[str]]:
    """Sentences on each experiment; those in which nothing has converged are left out.

    Experiments with several BN batch sizes for one batch size are left out, too: it would be unclear which is meant.

    Args:
        runs: the tidy table of runs; runs may be missing.
        near: points within which two accuracies are near each other, `claims.near` of the configuration.
        seed: of the samples of each experiment; the same as for its row in the table of results gives its numbers.

    Returns:
        Experiment in words -> sentences.
    """
    known = with_results(runs)
    shown = {name: known[known["experiment"] == name] for name in experiment_labels(known)}
    return {
        label: [*_sentences(build_grid(own, np.random.default_rng(seed)), rate_symbol(own), near)]
        for label, own in zip(experiment_labels(known).values(), shown.values(), strict=True)
        if own["converged"].any() and own.groupby("batch_size")["bn_batch_size"].nunique().max() == 1
    }


def _sentences(grid: Grid, symbol: str, near: float) -> Iterator[str]:
    size, rate = divmod(int(argmax(grid.selection[:1].reshape(1, -1))[0]), len(grid.base_lrs))
    where = f"m = {grid.sizes[size]} and {symbol} = {rate_words(grid.base_lrs[rate])}"
    mean, low, high = observed_or_corrected(100 * grid.peak())
    yield f"Best at {where}: {mean:.1f} %{_brackets(low, high)}."
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
    return _brackets(*comparison.interval)


def _brackets(low: float, high: float) -> str:
    return "" if np.isnan(low) else f" ({low:.1f} to {high:.1f})"
