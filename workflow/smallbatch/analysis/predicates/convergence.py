"""Which seeds converge: shares of seeds at one rate, and at which batch sizes most of them do."""

from collections.abc import Iterator

import numpy as np

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.predicates.helpers import (
    best_rate_words,
    has_large_sizes,
    observed_best_rate_index,
    small_and_large,
)
from smallbatch.analysis.verdicts import Comparison
from smallbatch.analysis.words import rate_words


def best_rate_fails_at_largest(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """At the overall best rate the largest m does not train."""
    if has_large_sizes(t, grid):
        rate = observed_best_rate_index(grid)
        seeds = grid.converged_words(-1, rate[0])
        sentence = f"at the best rate {best_rate_words(grid)} {seeds} converged at m = {grid.sizes[-1]}"
        failed = 1 - grid.take_rate(grid.exact, rate)[:, -1]
        yield Comparison(sentence, 100 * failed, at_least=100 * t["converged_share"], unit="% of seeds")


def collapses(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """Rates that train at the smallest m fail at the largest that they have."""
    rates = np.flatnonzero(grid.converged[0, 0] > t["converged_share"])
    if not has_large_sizes(t, grid) or not len(rates):
        return
    there = ~np.isnan(grid.accuracy[0])
    largest = len(grid) - 1 - there[::-1].argmax(axis=0)  # (rates)
    failed = 100 * (1 - grid.exact[:, largest[rates], rates]).mean(axis=1)
    sentence = f"of the rates that train at m = {grid.sizes[0]}, {failed[0]:.0f} % fail at the largest m"
    yield Comparison(sentence, failed, at_least=100 * t["converged_share"], unit="% of seeds")


def _trains_up_to(
    t: Thresholds, grid: Grid, bound: int, shares: np.ndarray, at: str, rates: np.ndarray
) -> Iterator[Comparison]:
    """Of each size the share of seeds on the claim's side: that converge up to the bound, that fail beyond it.

    shares: (samples, sizes), of seeds that converge at a rate. at: that rate in words. rates: its indices in the data.
    """
    small = grid.sizes <= bound
    if small.any() and has_large_sizes(t, grid):
        for index, inside in enumerate(small):
            share = shares[:, index] if inside else 1 - shares[:, index]
            sentence = f"{at}, m = {grid.sizes[index]}: {grid.converged_words(index, rates[index])} converged"
            yield Comparison(sentence, 100 * share, at_least=100 * t["converged_share"], unit="% of seeds")


def trains_only_up_to(t: Thresholds, grid: Grid, bound: int) -> Iterator[Comparison]:
    """Some rate trains every m up to the bound, and none any larger m."""
    shares = np.fmax.reduce(grid.exact, axis=2)
    best = np.nan_to_num(grid.converged[0], nan=-1).argmax(axis=1)
    yield from _trains_up_to(t, grid, bound, shares, "at the rate where most do", best)


def best_rate_usable_up_to(t: Thresholds, grid: Grid, bound: int) -> Iterator[Comparison]:
    """The overall best rate trains every m up to the bound, and no larger m."""
    rate = observed_best_rate_index(grid)
    shares, everywhere = grid.take_rate(grid.exact, rate), np.full(len(grid), rate[0])
    yield from _trains_up_to(t, grid, bound, shares, f"at the best rate {best_rate_words(grid)}", everywhere)


def small_are_stable(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """Small m train at every rate at which any m trains."""
    small, large = small_and_large(t, grid)
    if len(small) and len(large):
        in_range = np.fmax.reduce(grid.converged[0], axis=0) > t["converged_share"]
        for size, rate in np.argwhere(in_range & (small.seeds > 0)):
            cell = f"m = {small.sizes[size]} at {rate_words(small.base_lrs[rate])}"
            sentence = f"{cell}: {small.converged_words(size, rate)} converged"
            share = 100 * small.exact[:, size, rate]
            yield Comparison(sentence, share, at_least=100 * t["converged_share"], unit="% of seeds")
