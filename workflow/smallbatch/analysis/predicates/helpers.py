"""What several predicates take from a grid."""

import numpy as np

from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.words import rate_words


def percent_words(accuracy: float) -> str:
    """`93.1 %`, of a fraction."""
    return f"{100 * accuracy:.1f} %"


def sizes_words(grid: Grid) -> str:
    """`m = 8`, `m = 2 ... 32`."""
    ends = dict.fromkeys([grid.sizes[0], grid.sizes[-1]])
    return f"{grid.symbol} = {' ... '.join(map(str, ends))}"


def common_sizes(first: Grid, second: Grid) -> tuple[Grid, Grid]:
    """Both, with the sizes that both have."""
    return first.select_sizes(second.sizes), second.select_sizes(first.sizes)


def small_and_large(t: Thresholds, grid: Grid) -> tuple[Grid, Grid]:
    """Its sizes up to `small_batch`, and those above."""
    return grid.split(grid.sizes <= t["small_batch"])


def has_large_sizes(t: Thresholds, grid: Grid) -> bool:
    """Whether a grid of three sizes or more has one of `large_batch`: else it tells nothing of large m."""
    return len(grid) > 2 and grid.sizes[-1] >= t["large_batch"]


def observed_best_rate_index(grid: Grid) -> np.ndarray:
    """(samples): index of the overall best rate as observed; with one seed, of each sample's own best rate."""
    rate = grid.overall_best_rate_index()
    return rate if grid.seeds.max() == 1 else np.full_like(rate, rate[0])


def best_rate_words(grid: Grid) -> str:
    """The rate that is best in the study, `2⁻⁸`."""
    return rate_words(grid.base_lrs[grid.overall_best_rate_index()[0]])


def fitted_decline(grid: Grid, slopes: np.ndarray) -> np.ndarray:
    """(samples): by how much lines over log2 of the sizes fall from the first to the last; slopes: (samples)."""
    falls: np.ndarray = -slopes * np.log2(grid.sizes[-1] / grid.sizes[0])
    return falls


def decline_of_best(grid: Grid) -> np.ndarray:
    """(samples): points by which the line through the best accuracies falls."""
    return 100 * fitted_decline(grid, grid.slope())
