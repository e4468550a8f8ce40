"""How far large batch sizes stay below small ones."""

from collections.abc import Iterator

import numpy as np

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.predicates.helpers import (
    best_rate_words,
    observed_best_rate_index,
    percent_words,
    sizes_words,
    small_and_large,
)
from smallbatch.analysis.statistics import nan_mean
from smallbatch.analysis.verdicts import Comparison
from smallbatch.analysis.words import rate_words


def large_stay_below(t: Thresholds, grid: Grid, other: Grid | None = None) -> Iterator[Comparison]:
    """The mean over large m of the best accuracies is below that over small m, be it of a grid before it."""
    small, _ = small_and_large(t, grid)
    _, large = small_and_large(t, grid if other is None else other)
    if len(small) and len(large):
        at_small, at_large = small.best().mean(axis=1), large.best().mean(axis=1)
        of_grid = "" if other is None else f" of {grid.where}"
        below = f"{sizes_words(large)} average {percent_words(at_large[0])}"
        sentence = f"{below}, {sizes_words(small)}{of_grid} {percent_words(at_small[0])}"
        yield Comparison(sentence, 100 * (at_small - at_large), at_least=t["margin"])


def large_still_below(t: Thresholds, short: Grid, long: Grid) -> Iterator[Comparison]:
    """After the longer training large m stay below small m."""
    yield from large_stay_below(t, long)


def large_degrade_most_at_best_rate(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """At the overall best rate large m fall further below small m than at each other rate."""
    small, large = small_and_large(t, grid)
    if len(small) and len(large):
        gaps = 100 * (nan_mean(small.accuracy, axis=1) - nan_mean(large.accuracy, axis=1))
        best = observed_best_rate_index(grid)[0]
        for rate in np.flatnonzero(~np.isnan(gaps[0]) & (np.arange(gaps.shape[1]) != best)):
            sentence = f"large m lie {gaps[0, best]:z.1f} points below small at the best rate {best_rate_words(grid)}"
            sentence = f"{sentence}, {gaps[0, rate]:z.1f} at {rate_words(grid.base_lrs[rate])}"
            yield Comparison(sentence, gaps[:, best] - gaps[:, rate], at_least=0)
