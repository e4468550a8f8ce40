"""The numbers that runs are judged by."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

if TYPE_CHECKING:
    from smallbatch.store import Epoch

LAST_EPOCHS = 5
"""The paper reports the median over the last five epochs (Masters & Luschi 2018, section 3.1)."""

SAMPLES = 1000
"""Enough for the 2.5 and 97.5 percentiles (Efron & Tibshirani 1993, section 13.3)."""


def final_accuracy(epochs: Sequence["Epoch"], split: str = "test") -> float:
    """Median accuracy on a split over the last five epochs, as a fraction; fewer where the run is shorter."""
    return statistics.median(getattr(epoch, f"{split}_accuracy") for epoch in epochs[-LAST_EPOCHS:])


def convergence_bar(best: float, classes: int, threshold: float, test_images: int) -> float:
    """The accuracy from which a run counts as converged: chance + threshold * (best - chance).

    Infinite where nothing has trained: where even the best is within three binomial standard errors of chance, what
    stands out among the runs is luck. NaN where nothing is there.

    Args:
        best: the best accuracy of any run of the experiment, a fraction.
        classes: number of classes; chance is 1 / classes.
        threshold: the share of the way from chance to best.
        test_images: images that accuracies were measured on.
    """
    chance = 1 / classes
    if best <= chance + 3 * math.sqrt(chance * (1 - chance) / test_images):
        return math.inf
    return chance + threshold * (best - chance)


def percentile_interval(samples: np.ndarray) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of what is not NaN; NaN where nothing is."""
    there = samples[~np.isnan(samples)]
    if not len(there):
        return math.nan, math.nan
    low, high = np.percentile(there, [2.5, 97.5])
    return float(low), float(high)


class Moderation(NamedTuple):
    """What the cells of an experiment tell of the variance of each.

    prior: degrees of freedom that they are worth beside the cell's own; may be infinite.
    pooled: degrees of freedom of all of them together, the most that a variance can have.
    typical: the variance that they centre on.
    shared: the part of it that all cells have in common by their seeds, of 0 to 1.
    """

    prior: float
    pooled: float
    typical: float
    shared: float


def moderation(residuals: np.ndarray, variances: np.ndarray, freedom: np.ndarray) -> Moderation:
    """Estimate the distribution of cells' variances by the moments of their logarithms (Smyth 2004, section 6.2).

    Each cell's variance is then moderated to (prior * typical + freedom * variance) / (prior + freedom), with as many
    degrees of freedom as the denominator has.

    Args:
        residuals: (cells, seeds), of the mean of each cell; 0 where there is no result.
        variances: (cells), above 0, of one seed.
        freedom: (cells), above 0, the number of seeds less one.
    """
    if not len(variances):
        return Moderation(0, 0, 0, 0)
    half, cells = freedom / 2, len(variances)
    logs = np.log(variances) - digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - polygamma(1, half).mean() if cells > 1 else 0
    prior = 2 * _trigamma_inverse(excess) if excess > 0 else math.inf
    typical = np.exp(logs.mean() + (digamma(prior / 2) - np.log(prior / 2) if excess > 0 else 0))
    alike = _likeness(residuals)
    pooled = freedom.sum() / (1 + (cells - 1) * alike**2)  # cells that move together tell less
    few = freedom.mean()
    return Moderation(prior, pooled, float(typical), alike * few / (few + 2))


def _trigamma_inverse(value: float) -> float:
    return math.exp(brentq(lambda log: polygamma(1, math.exp(log)) - value, -10, 20)) if value > 1e-8 else math.inf


def _likeness(residuals: np.ndarray) -> float:
    """The mean correlation of cells over seeds, 0 to 0.95."""
    cells, own = len(residuals), (residuals**2).sum()
    products = (residuals.sum(axis=0) ** 2).sum() - own
    return float(np.clip(products / max((cells - 1) * own, 1e-30), 0, 0.95)) if cells > 1 else 0.0


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
    return (weights * from_mean * y).sum(axis=-1) / np.where(spread > 1e-9, spread, np.nan)


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean along an axis of what is not NaN; NaN, without a warning, where nothing is."""
    there = ~np.isnan(values)
    count = there.sum(axis=axis)
    return np.where(there, values, 0).sum(axis=axis) / np.where(count, count, np.nan)
