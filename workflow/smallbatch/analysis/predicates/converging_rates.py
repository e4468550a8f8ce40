"""How many rates converge at each batch size."""

from collections.abc import Iterator

import numpy as np

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.predicates.helpers import fitted_decline, has_large_sizes
from smallbatch.analysis.statistics import slope
from smallbatch.analysis.verdicts import Comparison


def _widths(grid: Grid) -> np.ndarray:
    """(samples, sizes): rates that converge, a seed's as its share, among those that all sizes have results at."""
    full = ~np.isnan(grid.accuracy[0]).any(axis=0)
    return grid.converged[:, :, full].sum(axis=2) if full.any() else np.full(grid.converged.shape[:2], np.nan)


_UNSHARED = "there is no rate that all batch sizes have results at"


def smallest_have_widest_range(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """On average over the smallest m more rates converge than at each larger m."""
    small = grid.sizes <= t["smallest_batch"]
    if small.any() and not small.all():
        widths = _widths(grid)
        among_small = widths[:, small].mean(axis=1)
        for index in np.flatnonzero(~small):
            sentence = f"{among_small[0]:.1f} rates converged on average over m ≤ {t['smallest_batch']}"
            sentence = f"{sentence}, {widths[0, index]:.1f} at m = {grid.sizes[index]}"
            yield Comparison(
                _UNSHARED if np.isnan(among_small[0]) else sentence,
                among_small - widths[:, index],
                at_least=0,
                unit="rates",
            )


def range_shrinks(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """The line through the numbers of converging rates over log2 m falls.

    With BN it starts among the smallest m with the largest: that BN over a few examples suffers is another claim.
    """
    if grid.setting["norm"] == "batch":
        grid = grid.select_sizes(grid.sizes >= t["smallest_batch"])
    if has_large_sizes(t, grid):
        yield from range_shrinks_over_all(t, grid)


def range_shrinks_over_all(t: Thresholds, grid: Grid) -> Iterator[Comparison]:
    """The line through the numbers of converging rates over log2 of all sizes falls."""
    if len(grid) > 1:
        widths = _widths(grid)
        ends = f"at m = {grid.sizes[0]}, {widths[0, -1]:.1f} at m = {grid.sizes[-1]}"
        fall = fitted_decline(grid, slope(np.log2(grid.sizes), widths))
        sentence = _UNSHARED if np.isnan(fall[0]) else f"{widths[0, 0]:.1f} rates converged {ends}"
        yield Comparison(sentence, fall, at_least=0, unit="rates")
