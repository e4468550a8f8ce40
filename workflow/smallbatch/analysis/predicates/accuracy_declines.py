"""How accuracy falls as a batch size grows."""

from collections.abc import Iterator

import numpy as np

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.predicates.helpers import (
    common_sizes,
    decline_of_best,
    has_large_sizes,
    sizes_words,
    small_and_large,
)
from smallbatch.analysis.verdicts import Comparison
from smallbatch.analysis.words import counted


def degrades_before_collapse(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """At rates that train at the smallest m, accuracy falls until the last m at which every seed trains.

    A cell in which a seed has failed is left out: its mean tells how many failed, not how good the others are.
    """
    if not has_large_sizes(t, grid):
        return
    there = ~np.isnan(grid.accuracy[0])
    unbroken = np.logical_and.accumulate((grid.converged[0] == 1) | ~there, axis=0) & there
    last = len(grid) - 1 - unbroken[::-1].argmax(axis=0)  # (rates)
    rates = np.flatnonzero(unbroken[0] & (last > 0))
    if len(rates):
        lost = 100 * (grid.accuracy[:, 0, rates] - grid.accuracy[:, last[rates], rates]).mean(axis=1)
        ends = f"from m = {grid.sizes[0]} to the last m at which all seeds train"
        sentence = f"{ends} accuracy falls by {lost[0]:z.1f} points, over {counted(len(rates), 'rate')}"
        yield Comparison(sentence, lost, at_least=t["margin"])


def falls_from(t: Thresholds, grid: Grid, low: int = 0) -> Iterator[Comparison]:
    """The line fitted to the best accuracies over log2 of the sizes from low up falls from its first to its last."""
    grid = grid.select_sizes(grid.sizes >= low)
    if len(grid) > 1:
        best = 100 * grid.best()
        sentence = f"from {best[0, 0]:.1f} % at m = {grid.sizes[0]} to {best[0, -1]:.1f} % at m = {grid.sizes[-1]}"
        yield Comparison(sentence, decline_of_best(grid), at_least=t["margin"])


def falls_to_large(t: Thresholds, grid: Grid, low: int) -> Iterator[Comparison]:
    """The fall as in `falls_from`, down to large m."""
    if has_large_sizes(t, grid.select_sizes(grid.sizes >= low)):
        yield from falls_from(t, grid, low)


def falls_more(t: Thresholds, first: Grid, second: Grid, low: int) -> Iterator[Comparison]:
    """The fall as in `falls_from` is larger in the second."""
    first, second = common_sizes(first.select_sizes(first.sizes >= low), second.select_sizes(second.sizes >= low))
    if len(second) > 1:
        less, more = decline_of_best(first), decline_of_best(second)
        sentence = f"{sizes_words(second)} lose {more[0]:z.1f} points, {less[0]:z.1f} in {first.where}"
        yield Comparison(sentence, more - less, at_least=t["margin"])


def improves_down_to_two_without_norm(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """Where nothing is normalised, the line through the best accuracies of small m falls from m = 2 on."""
    small, _ = small_and_large(t, grid)
    if grid.setting["norm"] == "none" and len(small) > 1 and small.sizes[0] == 2:
        best = 100 * small.best()
        sentence = f"from {best[0, 0]:.1f} % at m = 2 to {best[0, -1]:.1f} % at m = {small.sizes[-1]}"
        yield Comparison(sentence, decline_of_best(small), at_least=0)
