"""The numbers that runs are judged by."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from smallbatch.runs.records import Epoch

LAST_EPOCHS = 5
"""The paper reports the median over the last five epochs (Masters & Luschi 2018, section 3.1)."""

SAMPLES = 1000
"""Enough for the 2.5 and 97.5 percentiles (Efron & Tibshirani 1993, section 13.3)."""


def even_quantiles(count: int) -> np.ndarray:
    """So many numbers evenly between 0 and 1, rising."""
    return (np.arange(count) + 0.5) / count


def shuffled_halves(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Rows that rise evenly, in random order, every second one in the first half and the others in the second.

    Samples are of two scenarios, a half of them each (see `verdicts`), and chance must not decide what either shows.
    """
    return np.concatenate([generator.permuted(values[first::2], axis=0) for first in (0, 1)])


def final_accuracy(epochs: Sequence["Epoch"], split: str = "test") -> float:
    """Median accuracy on a split over the last five epochs, as a fraction; fewer where the run is shorter."""
    return final_median([getattr(epoch, f"{split}_accuracy") for epoch in epochs])


def final_median(by_epoch: Sequence[float]) -> float:
    """Median over the last five epochs; fewer where the run is shorter."""
    return statistics.median(by_epoch[-LAST_EPOCHS:])


def convergence_bar(best: float, chance: float, threshold: float, error: float) -> float:
    """The accuracy from which a run counts as converged: chance + threshold * (best - chance).

    Infinite where nothing has trained: where even the best is within three standard errors of chance, what
    stands out among the runs is luck. NaN where nothing is there.

    Args:
        best: the best accuracy of any run of the experiment, a fraction.
        chance: the accuracy of guessing, a fraction.
        threshold: the share of the way from chance to best.
        error: standard error that the test images give an accuracy near chance.
    """
    if best <= chance + 3 * error:
        return math.inf
    return chance + threshold * (best - chance)


def percentile_interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of what is not NaN; NaN where nothing is."""
    known = samples[~np.isnan(samples)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
    """Slope of the weighted least-squares line through each row of points; NaN where all weight is on one x.

    Args:
        x: (points).
        y: (..., points).
        weights: (..., points), or one for all.

    Returns:
        (...).
    """
    weights = np.broadcast_to(weights, np.broadcast_shapes(np.shape(y), np.shape(weights))).astype(float)
    total = weights.sum(axis=-1, keepdims=True)
    from_mean = x - (weights * x).sum(axis=-1, keepdims=True) / total
    spread = (weights * from_mean**2).sum(axis=-1)
    slopes: np.ndarray = (weights * from_mean * y).sum(axis=-1) / np.where(spread > 1e-9, spread, np.nan)
    return slopes


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean along an axis of what is not NaN; NaN, without a warning, where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    means: np.ndarray = np.where(known, values, 0).sum(axis=axis) / np.where(count, count, np.nan)
    return means
