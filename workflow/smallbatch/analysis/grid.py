"""An experiment's results as arrays over samples, sizes and rates: what predicates are written over."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from smallbatch.analysis.noise import Noise, argmax, best_accuracy_samples
from smallbatch.analysis.statistics import SAMPLES, even_quantiles, shuffled_halves, slope
from smallbatch.analysis.words import counted, rate_words


@dataclass(frozen=True)
class Grid:
    """The cells of one experiment that have results. Sample 0 is the observed value, the others as in `Cells`.

    where: the figure that the grid belongs to, as sentences name it.
    symbol: what the sizes are: m, the SGD batch, or b, the BN batch.
    sizes: (sizes), ascending.
    base_lrs: (rates), ascending.
    accuracy, selection: (1 + SAMPLES, sizes, rates), means over seeds, as fractions; NaN if a cell has no result.
    converged: (1 + SAMPLES, sizes, rates), the share of seeds that converge.
    exact: as `converged`, for a test of a single share; see `Cells.exact`.
    seeds: (sizes, rates), the number of seeds with a result.
    setting: columns of the table of runs, with the values of the first run.
    even: (SAMPLES), evenly spaced quantiles in (0, 1), shuffled; used where there are no samples (slope with one seed).
    """

    where: str
    symbol: str
    sizes: np.ndarray
    base_lrs: np.ndarray
    accuracy: np.ndarray
    selection: np.ndarray
    converged: np.ndarray
    exact: np.ndarray
    seeds: np.ndarray
    setting: Mapping[str, Any]
    even: np.ndarray

    def __len__(self) -> int:
        """The number of sizes."""
        return len(self.sizes)

    def select_sizes(self, sizes: np.ndarray) -> "Grid":
        """The rows whose size is in `sizes`; if `sizes` is a mask, the rows where it is true."""
        mask = sizes if sizes.dtype == bool else np.isin(self.sizes, sizes)
        return replace(
            self,
            sizes=self.sizes[mask],
            accuracy=self.accuracy[:, mask],
            selection=self.selection[:, mask],
            converged=self.converged[:, mask],
            exact=self.exact[:, mask],
            seeds=self.seeds[mask],
        )

    def split(self, inside: np.ndarray) -> tuple["Grid", "Grid"]:
        """The rows where a mask is true, and the others."""
        return self.select_sizes(inside), self.select_sizes(~inside)

    def best(self) -> np.ndarray:
        """(samples, sizes): `best_accuracy_samples` over the rates of each size."""
        return best_accuracy_samples(self.selection, self.accuracy, self.converged)

    def peak(self, ties_in_first_half: bool = False) -> np.ndarray:
        """(samples): `best_accuracy_samples` over all cells."""
        return best_accuracy_samples(
            _flat(self.selection), _flat(self.accuracy), _flat(self.converged), ties_in_first_half
        )

    def peak_difference(self, other: "Grid") -> np.ndarray:
        """(samples): this grid's peak minus that of another grid.

        The maximum with more near-ties is biased upwards, and which grid that is is unknown. So the first half of the
        samples takes the smallest plausible difference: this grid's best ties with all near it, the other's is alone.
        The second half takes the largest. "Above" is tested in the first half, which does not correct the other grid's
        best: if "above" were false, some cell of the other grid would be as good as all of this one's. Rejecting that
        for each cell is an intersection-union test (Berger 1982). "Below" is tested likewise in the second half.
        """
        difference: np.ndarray = self.peak(ties_in_first_half=True) - other.peak()
        return difference

    def slope(self) -> np.ndarray:
        """(samples): slope of the line through `best` over log2 of the sizes.

        With one seed its error is estimated from the residuals of the line, a t with two degrees of freedom fewer than
        there are sizes: if the points follow a curve, that counts as noise.
        """
        doublings, best = np.log2(self.sizes), self.best()
        slopes, dof = slope(doublings, best), len(self) - 2
        if np.isnan(best[1:]).all() and dof > 0:
            from_mean = doublings - doublings.mean()
            residuals = best[0] - best[0].mean() - slopes[0] * from_mean
            error = np.sqrt((residuals**2).sum() / dof / (from_mean**2).sum())
            slopes[1:] = slopes[0] + error * stdtrit(dof, self.even)
        return slopes

    def overall_best_rate_index(self) -> np.ndarray:
        """(samples): index of the overall best rate, that of the cell with the highest `selection`."""
        return argmax(_flat(self.selection)) % len(self.base_lrs)

    def take_rate(self, values: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """(samples, sizes): `values` of this grid at one rate per sample; rate: (samples), its index."""
        return np.take_along_axis(values, rate[:, None, None], axis=2)[..., 0]

    def best_words(self) -> str:
        """The best observed cell: `m = 8 at 2⁻⁸ (97.5 %)`."""
        size, rate = divmod(int(argmax(_flat(self.selection[:1]))[0]), len(self.base_lrs))
        accuracy = 100 * self.accuracy[0, size, rate]
        return f"{self.symbol} = {self.sizes[size]} at {rate_words(self.base_lrs[rate])} ({accuracy:.1f} %)"

    def converged_words(self, size: int, rate: int) -> str:
        """How many seeds of a cell converged: `2 of 3 seeds`."""
        seeds = int(self.seeds[size, rate])
        converged = round(np.nan_to_num(self.converged[0, size, rate]) * seeds)
        return f"{converged} of {counted(seeds, 'seed')}"


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def build_grid(
    runs: pd.DataFrame, generator: np.random.Generator, sizes: str = "batch_size", noise: Noise | None = None
) -> Grid:
    """Put the runs of one experiment on their grid, with samples of plausible true values.

    Args:
        runs: one or more runs, as `completed_runs` returns them.
        generator: the source of the draws; if noise is given, its own generator draws those of cells.
        sizes: the column of sizes, `batch_size` or `bn_batch_size`.
        noise: the noise of the study that the runs are part of; None: that of these runs alone.
    """
    cells = (noise or Noise(runs, generator)).cells(runs)
    rows, row = np.unique(cells.runs[sizes].to_numpy(dtype=int), return_inverse=True)
    rates, rate = np.unique(cells.runs["base_lr"].to_numpy(), return_inverse=True)
    placed = np.full((4, 1 + SAMPLES, len(rows), len(rates)), np.nan)
    placed[:, :, row, rate] = [cells.accuracy, cells.selection, cells.converged, cells.exact]
    seeds = np.zeros((len(rows), len(rates)), dtype=int)
    seeds[row, rate] = cells.seeds
    symbol = "m" if sizes == "batch_size" else "b"
    setting = {str(column): value for column, value in runs.iloc[0].items()}
    order = shuffled_halves(even_quantiles(SAMPLES), generator)
    accuracy, selection, converged, exact = placed
    return Grid("", symbol, rows, rates, accuracy, selection, converged, exact, seeds, setting, order)
