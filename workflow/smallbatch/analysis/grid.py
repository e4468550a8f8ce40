"""An experiment's results as arrays over bootstrap samples, sizes and rates: what predicates are written over."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from smallbatch.analysis.statistics import SAMPLES, resampled_means
from smallbatch.figures.words import counted, rate_words

NUMBERS = ("batch_size", "bn_batch_size", "base_lr", "test_images", "accuracy", "selection_accuracy")
"""Columns of the table of runs that are read as numbers."""


@dataclass(frozen=True)
class Grid:
    """The cells of one experiment that have results. Sample 0 is the data, samples 1 ... are drawn from it.

    where: which figure's, to name it in a sentence.
    symbol: what the sizes are: m, the SGD batch, or b, the batch of BN.
    sizes: (sizes), rising.
    base_lrs: (rates), rising.
    accuracy, selection: (1 + SAMPLES, sizes, rates), means over seeds, fractions; NaN where a cell has no result.
    converged: the same shape, the share of seeds that converged.
    seeds: (sizes, rates), how many have a result.
    setting: columns of the table, as the first run has them.
    """

    where: str
    symbol: str
    sizes: np.ndarray
    base_lrs: np.ndarray
    accuracy: np.ndarray
    selection: np.ndarray
    converged: np.ndarray
    seeds: np.ndarray
    setting: Mapping[str, Any]

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
            seeds=self.seeds[mask],
        )

    def split(self, inside: np.ndarray) -> tuple["Grid", "Grid"]:
        """The rows that a mask has, and the others."""
        return self.having(inside), self.having(~inside)

    def best(self) -> np.ndarray:
        """(samples, sizes): accuracy at the rate that `selection` is highest for."""
        return _chosen(self.selection, self.accuracy)

    def peak(self) -> np.ndarray:
        """(samples): accuracy of the cell that `selection` is highest for."""
        return _chosen(_flat(self.selection), _flat(self.accuracy))

    def best_rate(self) -> np.ndarray:
        """(samples): place of the rate of the cell that `selection` is highest for, the overall best rate."""
        return _highest(_flat(self.selection)) % len(self.base_lrs)

    def at(self, values: np.ndarray, rate: np.ndarray) -> np.ndarray:
        """(samples, sizes): `values` of this grid at a rate's place for each sample."""
        return np.take_along_axis(values, rate[:, None, None], axis=2)[..., 0]

    def told(self) -> str:
        """The best cell of the data: `m = 8 at 2⁻⁸ (97.5 %)`."""
        size, rate = divmod(int(_highest(_flat(self.selection[:1]))[0]), len(self.base_lrs))
        accuracy = 100 * self.accuracy[0, size, rate]
        return f"{self.symbol} = {self.sizes[size]} at {rate_words(self.base_lrs[rate])} ({accuracy:.1f} %)"

    def seeds_told(self, size: int, rate: int) -> str:
        """How many seeds of a cell converged: `2 of 3 seeds`."""
        seeds = int(self.seeds[size, rate])
        converged = round(np.nan_to_num(self.converged[0, size, rate]) * seeds)
        return f"{converged} of {counted(seeds, 'seed')}"


def _flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def _highest(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -np.inf, values).argmax(axis=-1)


def _chosen(selection: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    return np.take_along_axis(accuracy, _highest(selection)[..., None], axis=-1)[..., 0]


def with_results(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that have a result, their numbers as numbers; a column that the table lacks is empty."""
    columns = dict.fromkeys([*runs.columns, *NUMBERS, "experiment", "norm", "converged"])
    tidy = runs.reindex(columns=list(columns))
    tidy[list(NUMBERS)] = tidy[list(NUMBERS)].apply(pd.to_numeric, errors="coerce").astype(float)
    tidy["converged"] = tidy["converged"].eq(True).astype(float)
    needed = [name for name in NUMBERS if name != "test_images"]
    return tidy[np.isfinite(tidy[needed]).all(axis=1)].reset_index(drop=True)


def read_grid(runs: pd.DataFrame, generator: np.random.Generator, sizes: str = "batch_size") -> Grid:
    """Put the runs of one experiment on their grid and draw its samples.

    Where a cell has several seeds, a sample draws as many of them with replacement. Where it has one, its accuracy gets
    the binomial noise of the test set instead; and whether it converged is a toss of a coin where it is the outermost
    converging cell of a stretch of rates or the first beyond it, for such cells flip with the seed.

    Args:
        runs: one or more, as `with_results` gives them.
        generator: where the draws come from.
        sizes: the column of sizes, `batch_size` or `bn_batch_size`.
    """
    rows, row = np.unique(runs[sizes].to_numpy(dtype=int), return_inverse=True)
    rates, rate = np.unique(runs["base_lr"].to_numpy(), return_inverse=True)
    cell = row * len(rates) + rate
    counts = np.bincount(cell, minlength=len(rows) * len(rates))
    results = runs[["accuracy", "selection_accuracy", "converged"]].to_numpy()
    seeds = np.split(results[np.argsort(cell, kind="stable")], counts.cumsum()[:-1])

    drawn = np.full((3, 1 + SAMPLES, len(counts)), np.nan)
    for count in np.unique(counts[counts > 0]):
        cells = np.flatnonzero(counts == count)
        values = np.moveaxis(np.array([seeds[cell] for cell in cells]), 2, 0)  # (3, cells, count)
        drawn[:, 0, cells] = values.mean(axis=2)
        drawn[:, 1:, cells] = _seeds_drawn(values, generator) if count > 1 else _one_seed(values, runs, generator)
    accuracy, selection, converged = drawn.reshape(3, 1 + SAMPLES, len(rows), len(rates))
    counts = counts.reshape(len(rows), len(rates))
    tossed = (counts == 1) & _border(converged[0])
    converged[1:, tossed] = generator.integers(2, size=(SAMPLES, tossed.sum()))
    symbol = "m" if sizes == "batch_size" else "b"
    return Grid("", symbol, rows, rates, accuracy, selection, converged, counts, runs.iloc[0].to_dict())


def _seeds_drawn(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(3, SAMPLES, cells) from (3, cells, seeds); a seed's three results are drawn together."""
    _, cells, count = values.shape
    draws = generator.integers(count, size=(SAMPLES, cells, count))
    accuracy, selection = (resampled_means(one, draws) for one in values[:2])
    return np.stack([accuracy, selection, np.take_along_axis(values[2][None], draws, axis=2).mean(axis=2)])


def _one_seed(values: np.ndarray, runs: pd.DataFrame, generator: np.random.Generator) -> np.ndarray:
    """(3, SAMPLES, cells) from (3, cells, 1). What is selected by the test accuracy has the same noise as it."""
    accuracy, selection, converged = values[..., 0]
    noise = generator.standard_normal((2, SAMPLES, len(accuracy)))
    if np.array_equal(accuracy, selection):
        noise[1] = noise[0]
    shares = np.clip([accuracy, selection], 0, 1)
    spread = np.nan_to_num(np.sqrt(shares * (1 - shares) / runs["test_images"].iloc[0]))
    noisy = values[:2, None, :, 0] + noise * spread[:, None]
    return np.concatenate([noisy, np.broadcast_to(converged, (1, SAMPLES, len(accuracy)))])


def _border(converged: np.ndarray) -> np.ndarray:
    """(sizes, rates): whether of the two cells next to this one, in the direction of the rates, one differs."""
    border = np.zeros(converged.shape, dtype=bool)
    for row, line in enumerate(converged):
        there = np.flatnonzero(~np.isnan(line))
        step = np.flatnonzero(np.diff(line[there] > 0.5))
        border[row, there[step]] = border[row, there[step + 1]] = True
    return border
