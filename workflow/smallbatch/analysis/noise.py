"""Uncertainty of a study's results as estimates of the mean accuracy over all seeds and the whole image population.

A mean accuracy over seeds has two sources of error. Training is random: the spread over seeds shows this. As two or
three seeds alone say little about the spread, each cell's is shrunk towards those of the other cells of its experiment
(empirical Bayes: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression"). And
the test images are a sample, the same for all runs: the spread over seeds does not show this, so it is added.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy.special import betaincinv, gammaincinv

from smallbatch.analysis.empirical_bayes_variance import variance_prior
from smallbatch.analysis.statistics import SAMPLES, even_quantiles, nan_mean, percentile_interval, shuffled_halves
from smallbatch.study.experiments import VALIDATION_FRACTION

CELL_COLUMNS = ["batch_size", "bn_batch_size", "base_lr"]
"""Columns that identify a cell of an experiment (all runs that differ only in seed)."""

SHARED_VARIANCE_FRACTION = 0.5
"""The fraction of the binomial variance p (1 - p) / N of an accuracy p on N images that all cells share: some images
are hard for every model. docs/statistics.md says how the two numbers were measured."""

CELL_VARIANCE_FRACTION = 0.15
"""The fraction that the seeds of one cell share with each other only. The rest differs from seed to seed."""

NUMBER_COLUMNS = ("batch_size", "bn_batch_size", "base_lr", "seed", "test_images", "accuracy", "selection_accuracy")
"""Columns of the table of runs that hold numbers."""


ERROR_COLUMNS = ("accuracy_error", "selection_accuracy_error")
"""Columns with standard errors that the images give, where another measure stands in place of accuracy."""


def completed_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Complete runs only; number columns become floats, missing columns are filled with NaN."""
    columns = dict.fromkeys([*runs.columns, *NUMBER_COLUMNS, "experiment", "norm", "converged", "train_images"])
    tidy = runs.reindex(columns=list(columns))
    tidy[list(NUMBER_COLUMNS)] = tidy[list(NUMBER_COLUMNS)].apply(pd.to_numeric, errors="coerce").astype(float)
    tidy["converged"] = tidy["converged"].eq(True).astype(float)
    needed = [name for name in NUMBER_COLUMNS if name != "test_images"]
    complete = np.all(np.isfinite(tidy[needed].to_numpy()), axis=1)
    return tidy.loc[complete].reset_index(drop=True)


@dataclass(frozen=True)
class Cells:
    """The cells of one experiment that have results.

    Sample 0 is the observed value; the others are plausible true values.

    runs: (cells), the settings of one run per cell, ordered by `CELL_COLUMNS`.
    accuracy, selection: (1 + SAMPLES, cells), means over seeds, as fractions. Samples of accuracy are NaN if its
        variation from seed to seed is unknown.
    converged: (1 + SAMPLES, cells), the share of seeds that converge.
    exact: as `converged`, for testing a single share: the first half has lower-limit (Clopper-Pearson) draws, the
        second upper-limit ones.
    seeds: (cells), the number of seeds with a result.
    """

    runs: pd.DataFrame
    accuracy: np.ndarray
    selection: np.ndarray
    converged: np.ndarray
    exact: np.ndarray
    seeds: np.ndarray


class Noise:
    """The samples of all cells of a study.

    Effects of a seed and of the test images of a data set are drawn once and shared, so differences between cells are
    paired by seed: runs with the same seed begin alike.
    """

    def __init__(self, runs: pd.DataFrame, generator: np.random.Generator) -> None:
        """Draw what all cells share.

        Args:
            runs: the runs of one or more experiments, as `completed_runs` returns them.
            generator: the source of the draws.
        """
        self._generator = generator
        self._runs = dict(iter(runs.groupby("experiment", dropna=False, sort=False)))
        self._cell = runs.groupby(["experiment", *CELL_COLUMNS], dropna=False).ngroup()
        self._seeds = {seed: self._normal() for seed in np.unique(runs["seed"])}
        names = sorted(set(_data_of(runs)))
        sources = [generator, *generator.spawn(len(names))]  # the first data set has the draws that it has alone
        self._images = {
            (name, split): _normal(source)
            for name, source in zip(names, sources, strict=False)
            for split in ("accuracy", "selection_accuracy")
        }
        self._order = _mirrored(shuffled_halves(even_quantiles(SAMPLES // 2), generator))
        self._cells: dict[Hashable, Cells] = {}

    def cells(self, runs: pd.DataFrame) -> Cells:
        """The cells of the given runs (rows of the constructor's table, all of one experiment).

        Repeated calls return the same draws.
        """
        experiment = runs["experiment"].iloc[0]
        if experiment not in self._cells:
            self._cells[experiment] = self._draw(self._runs[experiment])
        cells = self._cells[experiment]
        shown = np.isin(self._cell[cells.runs.index], self._cell[runs.index])
        accuracy, selection, converged, exact = (
            values[:, shown] for values in (cells.accuracy, cells.selection, cells.converged, cells.exact)
        )
        return Cells(cells.runs[shown], accuracy, selection, converged, exact, cells.seeds[shown])

    def _normal(self, *shape: int) -> np.ndarray:
        return _normal(self._generator, *shape)

    def _draw(self, runs: pd.DataFrame) -> Cells:
        first, index = np.unique(self._cell[runs.index], return_index=True, return_inverse=True)[1:]
        cells = runs.iloc[first]  # by rising m, b and rate
        seeds, seed = np.unique(runs["seed"], return_inverse=True)
        table = np.full((3, len(cells), len(seeds)), np.nan)
        table[:, index, seed] = runs[["accuracy", "selection_accuracy", "converged"]].to_numpy(dtype=float).T
        accuracies, selections, converged = table
        count, share = (~np.isnan(accuracies)).sum(axis=1), nan_mean(converged, axis=1)

        images = cells["test_images"].to_numpy()
        errors = {column: _mean_square(runs, column, index, len(cells)) for column in ERROR_COLUMNS}
        data = _data_of(runs).iloc[0]
        accuracy = self._means((data, "accuracy"), accuracies, share, seeds, images, errors["accuracy_error"])
        if np.array_equal(accuracies, selections, equal_nan=True):
            selection = accuracy
        else:
            train_images = pd.to_numeric(cells["train_images"]).to_numpy(dtype=float)
            held_out = np.fmax(train_images / (1 / VALIDATION_FRACTION), 1)  # times 0.1 would be rounded otherwise
            error = errors["selection_accuracy_error"]
            selection = self._means((data, "selection_accuracy"), selections, share, seeds, held_out, error)
        # If the variation between seeds is unknown, each cell that trains may be the best.
        unknown = np.isnan(selection) & ~np.isnan(selection[0])
        anything = selection[0] + (share > 0) * self._normal(len(cells))
        selection = np.where(unknown, np.concatenate([selection[:1], anything]), selection)
        return Cells(cells, accuracy, selection, *self._shares(cells, share, count), count)

    def _means(
        self,
        split: tuple[str, str],
        values: np.ndarray,
        share: np.ndarray,
        seeds: np.ndarray,
        images: np.ndarray,
        known: np.ndarray,
    ) -> np.ndarray:
        """(1 + SAMPLES, cells) from (cells, seeds).

        split: the data set, and which of its splits; known: (cells), the images' variance where that is not binomial.
        """
        count, mean = (~np.isnan(values)).sum(axis=1), nan_mean(values, axis=1)
        binomial = np.where(images > 0, mean * (1 - mean) / images, 0)
        of_images = np.where(np.isnan(known), binomial, known)
        training = self._training(np.nan_to_num(values - mean[:, None]), mean, count, share == 1, seeds, images)
        ever = (share > 0) | (np.nanmax(values, axis=1) > np.nanmin(values, axis=1))  # what diverged has no accuracy
        shared = math.sqrt(SHARED_VARIANCE_FRACTION) * self._images[split][:, None]
        of_each = math.sqrt(CELL_VARIANCE_FRACTION) * self._normal(len(mean))
        noise = training + np.sqrt(of_images * ever) * (shared + of_each)
        return np.concatenate([mean[None], np.clip(mean + noise, 0, 1)])

    def _training(
        self,
        residuals: np.ndarray,
        mean: np.ndarray,
        count: np.ndarray,
        steady: np.ndarray,
        seeds: np.ndarray,
        images: np.ndarray,
    ) -> np.ndarray:
        """(SAMPLES, cells), errors of means over seeds: Student's t, with degrees of freedom of cell and experiment.

        The variance is weighted: d0 degrees of freedom for the experiment's prior, n - 1 for the cell. The cell's part
        is correlated between cells that share seeds as their residuals are, so the error of any contrast of cells is a
        t of the contrast's values by seed.

        Args:
            residuals: (cells, seeds), deviations from the cell's mean; 0 where a seed has no result.
            mean: (cells), the mean over seeds.
            count: (cells), the number of seeds with a result.
            steady: (cells), whether all seeds converged: only then is a cell like the others.
            seeds: the seeds' numbers.
            images: (cells), the number of images that accuracies were measured on.
        """
        images = np.nan_to_num(images, nan=1e9)
        rounded = (mean * images + 0.5) / (images + 1)
        scale = np.sqrt(rounded * (1 - rounded))  # what varies less where accuracy is high
        relative = residuals / scale[:, None]
        dof = count - 1
        variance = np.fmax((relative**2).sum(axis=1) / np.fmax(dof, 1), 1 / (12 * images**2 * scale**2))  # rounding
        estimated = steady & (dof > 0)
        others = variance_prior(relative[estimated], variance[estimated], dof[estimated])
        prior = np.where(steady, np.fmax(np.fmin(others.prior, others.pooled - dof), 0), 0)
        total = prior + dof
        together = math.sqrt(others.shared) * self._normal(1) + math.sqrt(1 - others.shared) * self._normal(len(mean))
        of_seeds = np.stack([self._seeds[seed] for seed in seeds], axis=1) @ relative.T
        dof, index = np.unique(total, return_inverse=True)
        spread = np.sqrt(2 * gammaincinv(dof / 2, self._order[:, None]))[:, index] * np.sqrt(count)
        known = np.where(total > 0, scale, np.nan)
        errors: np.ndarray = known * (np.sqrt(prior * others.typical) * together + of_seeds)
        return errors / np.where(spread > 0, spread, 1)

    def _shares(self, cells: pd.DataFrame, share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`converged` and `exact` of `Cells`: (1 + SAMPLES, cells) each.

        The share of a cell is certain if its seeds agree with each other and with those of the next lower and higher
        rates: the rates that train form one interval.
        """
        ones = np.rint(share * count).astype(int)
        few, many = np.stack([_quantiles_of_share(*one) for one in zip(ones, count, strict=True)], axis=2)
        order = shuffled_halves(np.tile(np.arange(SAMPLES)[:, None], len(share)), self._generator)
        certain = _certain(cells, share)

        def drawn(even: np.ndarray) -> np.ndarray:
            samples = np.where(certain, share, np.take_along_axis(even, order, axis=0))
            return np.concatenate([share[None], samples])

        in_turn = np.stack([few, many], axis=1).reshape(SAMPLES, -1)  # every second one is dealt to the first half
        return drawn(np.concatenate([few, many])), drawn(in_turn)


def _normal(generator: np.random.Generator, *shape: int) -> np.ndarray:
    """(SAMPLES, *shape), standard normal; in each half every draw has its negative, so its mean is exactly 0."""
    return _mirrored(generator.standard_normal((SAMPLES // 2, *shape)), sign=-1)


def _data_of(runs: pd.DataFrame) -> "pd.Series[str]":
    """The data set of each run, whose test images its accuracy shares with others."""
    return runs.reindex(columns=["data"])["data"].astype(str)


def _mean_square(runs: pd.DataFrame, column: str, index: np.ndarray, cells: int) -> np.ndarray:
    """(cells): the mean square of a column of errors over a cell's runs; NaN where there is none."""
    if column not in runs:
        return np.full(cells, np.nan)
    means = (pd.to_numeric(runs[column]) ** 2).groupby(index).mean()
    return means.reindex(range(cells)).to_numpy(dtype=float)


@cache
def _quantiles_of_share(ones: int, count: int) -> np.ndarray:
    """(2, SAMPLES / 2): lower and upper draws of the true convergence share, given that `ones` of `count` converged.

    For k of n seeds the lower draws are from Beta(k, n - k + 1) and the upper ones from Beta(k + 1, n - k). The
    percentiles of both together are the mid-P interval (Lancaster 1961; Berry & Armitage 1995). What holds in each of
    the two is significant in an exact test (Clopper & Pearson 1934), which mid-P is not where several coarse shares are
    compared. The draws are evenly spaced quantiles: the result of five seeds that agree must not depend on chance.
    """
    even = even_quantiles(SAMPLES // 2)
    few = betaincinv(ones, count - ones + 1, even) if ones else np.zeros(len(even))
    many = betaincinv(ones + 1, count - ones, even) if ones < count else np.ones(len(even))
    return np.stack([few, many])


def _mirrored(values: np.ndarray, sign: int = 1) -> np.ndarray:
    """Twice as many rows: each half is followed by itself, times the sign."""
    first, second = np.split(values, 2)
    return np.concatenate([first, sign * first, second, sign * second])


def _certain(cells: pd.DataFrame, share: np.ndarray) -> np.ndarray:
    """(cells): whether a cell's share is 0 or 1, and the shares at the next lower and higher rates are the same.

    Above the grid nothing trains; below it the share is unknown.
    """
    m, b, _ = cells[CELL_COLUMNS].to_numpy().T  # of one m and b, rates rise
    same = (m[1:] == m[:-1]) & (b[1:] == b[:-1])
    lower = np.concatenate([[math.nan], np.where(same, share[:-1], math.nan)])
    higher = np.concatenate([np.where(same, share[1:], 0), [0]])
    certain: np.ndarray = np.isin(share, (0, 1)) & (share == lower) & (share == higher)
    return certain


NEAR = 2.5
"""A cell may be as good as the best if their difference is at most this many of its standard deviations."""


def best_accuracy_samples(
    selection: np.ndarray, accuracy: np.ndarray, converged: np.ndarray, ties_in_first_half: bool = False
) -> np.ndarray:
    """Accuracy of the best of some cells, the one with the highest `selection`, corrected for the winner's curse.

    The maximum of several means is biased upwards, more so the more cells are tied: by nothing if the best is alone, by
    the highest of k errors if k cells tie. The number of ties is unknown, so one half of the samples assumes none and
    the other that all near-best cells tie; the interval covers both. In a sum of several bests, which are biased in the
    same direction, a sample assumes the same for all; for the difference of two bests see `Grid.peak_difference`.

    Args:
        selection: (1 + SAMPLES, ..., cells), the value that decides which cell is best; sample 0 is observed.
        accuracy: as `selection`, the accuracy that is returned for the best cell.
        converged: as `selection`, the share of seeds that converge.
        ties_in_first_half: whether the samples that assume ties are the first half; else they are the second.

    Returns:
        (1 + SAMPLES, ...).
    """
    chosen = argmax(selection[:1])[..., None]
    errors = selection[:1] - selection[1:]
    gap = np.take_along_axis(selection[:1], chosen, axis=-1) - selection[:1]
    apart = errors - np.take_along_axis(errors, chosen, axis=-1)
    deviation = np.median(np.abs(apart), axis=0) / 0.6745  # of a normal; its median is not moved by long tails
    alone = np.arange(gap.shape[-1]) == chosen
    # A cell in which some seeds fail varies widely, but that does not make it a candidate for the best.
    near = alone | (converged[:1] == 1) & (gap <= NEAR * deviation)
    as_good = (near, alone) if ties_in_first_half else (alone, near)
    halves = zip(as_good, np.split(errors, 2), strict=True)
    candidates = np.concatenate([np.where(those, half, -np.inf) for those, half in halves])
    luckiest = argmax(candidates)[..., None]
    moved = np.take_along_axis(accuracy[1:] - accuracy[:1], luckiest, axis=-1)[..., 0]
    observed = np.take_along_axis(accuracy[:1], chosen, axis=-1)[..., 0]
    return np.concatenate([observed, np.clip(observed + moved, 0, 1)])


def observed_or_corrected(samples: np.ndarray) -> tuple[float, float, float]:
    """What is shown of a best accuracy: its mean, corrected for the luck of being the best, and its 95 % interval.

    Args:
        samples: as `best_accuracy_samples` returns them; with unknown noise the observed mean is shown alone.
    """
    middle = np.median(samples[1:])
    low, high = percentile_interval(samples[1:])
    return float(samples[0] if np.isnan(middle) else middle), low, high


def argmax(values: np.ndarray) -> np.ndarray:
    """The index of the maximum along the last axis, that of a NaN only if all are NaN."""
    indices: np.ndarray = np.where(np.isnan(values), -np.inf, values).argmax(axis=-1)
    return indices
