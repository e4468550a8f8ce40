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
    """The cells of one experiment that have results. Sample 0 is the data, the others may be true, see `Cells`.

    where: which figure's, to name it in a sentence.
    symbol: what the sizes are: m, the SGD batch, or b, the batch of BN.
    sizes: (sizes), rising.
    base_lrs: (rates), rising.
    accuracy, selection: (1 + SAMPLES, sizes, rates), means over seeds, fractions; NaN where a cell has no result.
    converged: the same shape, the share of seeds that converge.
    exact: the same, where one share is judged by itself: see `Cells`.
    seeds: (sizes, rates), how many have a result.
    setting: columns of the table, as the first run has them.
    even: (SAMPLES), evenly between 0 and 1 in random order, of this grid alone: quantiles of what has no samples.
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

    def having(self, sizes: np.ndarray) -> "Grid":
        """The rows whose size is in `sizes`, or where `sizes` is a mask, those that it has."""
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
        """The rows that a mask has, and the others."""
        return self.having(inside), self.having(~inside)

    def best(self) -> np.ndarray:
        """(samples, sizes): accuracy at the rate that `selection` is highest for, as `best_accuracy_samples` has it."""
        return best_accuracy_samples(self.selection, self.accuracy, self.converged)

    def peak(self, ties_in_first_half: bool = False) -> np.ndarray:
        """(samples): accuracy of the cell that `selection` is highest for, as `best_accuracy_samples` has it."""
        return best_accuracy_samples(
            _flat(self.selection), _flat(self.accuracy), _flat(self.converged), ties_in_first_half
        )

    def peak_difference(self, other: "Grid") -> np.ndarray:
        """(samples): by how much the peak is above that of another grid.

        Luck raises the peak that more cells come near, and which that is the data do not tell. So in the first half of
        the samples the difference is as low as it may be: this grid's best ties with all near it, the other's is alone.
        In the second half it is as high. The first tests "above" with no best of the other grid to correct: were that
        false, one cell there would be as good as all of this grid's, whichever it is, and a test that rejects for each
        is one for all (intersection-union: Berger 1982). "Below" is the same in the second half.
        """
        difference: np.ndarray = self.peak(ties_in_first_half=True) - other.peak()
        return difference

    def slope(self) -> np.ndarray:
        """(samples): slope of the line through `best` over log2 of the sizes.

        With one seed it varies as residuals from the line say, a t with two degrees less than there are sizes: where
        the points curve, that counts as noise.
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
        """(samples): index of the rate of the cell that `selection` is highest for, the overall best rate."""
        return argmax(_flat(self.selection)) % len(self.base_lrs)

    def take_rate(self, values: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """(samples, sizes): `values` of this grid at the index of a rate for each sample."""
        return np.take_along_axis(values, rate[:, None, None], axis=2)[..., 0]

    def best_words(self) -> str:
        """The best cell of the data: `m = 8 at 2⁻⁸ (97.5 %)`."""
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
    """Put the runs of one experiment on their grid, with samples of what may be true.

    Args:
        runs: one or more, as `with_results` gives them.
        generator: where the draws come from; those of cells from that of noise, where it is given.
        sizes: the column of sizes, `batch_size` or `bn_batch_size`.
        noise: of the study that the runs are part of; of these runs alone unless given.
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
