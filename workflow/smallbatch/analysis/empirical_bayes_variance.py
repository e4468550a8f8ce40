"""Variances of cells, each moderated by the others of its experiment: empirical Bayes.

Smyth 2004, "Linear models and empirical Bayes methods for assessing differential expression in microarray experiments",
Statistical Applications in Genetics and Molecular Biology 3(1).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import digamma, polygamma


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


def variance_prior(residuals: np.ndarray, variances: np.ndarray, dof: np.ndarray) -> Moderation:
    """Estimate the distribution of cells' variances by the moments of their logarithms (Smyth 2004, section 6.2).

    Each cell's variance is then moderated to (prior * typical + dof * variance) / (prior + dof), with as many
    degrees of freedom as the denominator has.

    Args:
        residuals: (cells, seeds), of the mean of each cell; 0 where there is no result.
        variances: (cells), above 0, of one seed.
        dof: (cells), above 0, the number of seeds less one.
    """
    if not len(variances):
        return Moderation(0, 0, 0, 0)
    half, cells = dof / 2, len(variances)
    logs = np.log(variances) - digamma(half) + np.log(half)
    excess = logs.var(ddof=1) - polygamma(1, half).mean() if cells > 1 else 0
    prior = 2 * _trigamma_inverse(excess) if excess > 0 else math.inf
    typical = np.exp(logs.mean() + (digamma(prior / 2) - np.log(prior / 2) if excess > 0 else 0))
    alike = _likeness(residuals)
    pooled = dof.sum() / (1 + (cells - 1) * alike**2)  # cells that move together tell less
    few = dof.mean()
    return Moderation(prior, pooled, float(typical), alike * few / (few + 2))


def _trigamma_inverse(value: float) -> float:
    """Where trigamma is a value, by Newton's method on its reciprocal, which is nearly a line (Smyth 2004)."""
    x = 0.5 + 1 / value
    for _ in range(20):
        trigamma = polygamma(1, x)
        x += trigamma * (1 - trigamma / value) / polygamma(2, x)
    return float(x)


def _likeness(residuals: np.ndarray) -> float:
    """The mean correlation of cells over seeds, 0 to 0.95."""
    cells, squares = len(residuals), (residuals**2).sum()
    products = (residuals.sum(axis=0) ** 2).sum() - squares
    return float(np.clip(products / max((cells - 1) * squares, 1e-30), 0, 0.95)) if cells > 1 else 0.0
