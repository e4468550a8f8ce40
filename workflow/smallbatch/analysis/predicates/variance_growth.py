"""How the variance of weight updates grows with the batch size."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.statistics import shuffled_halves
from smallbatch.analysis.update_variance import mean_samples, slopes
from smallbatch.analysis.verdicts import Comparison
from smallbatch.analysis.words import counted


def grows_linearly(t: Thresholds, measured: pd.DataFrame, generator: np.random.Generator) -> Iterator[Comparison]:
    """At each epoch measured, the trace of the update's covariance has slope one over m, on logarithmic axes.

    Not where batch statistics are over all of a mini-batch: section 2 of the paper takes examples that know nothing of
    each other. Sub-batches of one size do not.

    Args:
        t: thresholds.
        measured: as `update_variance.measured` gives it.
        generator: puts what is possible in an order of its own for each comparison.
    """
    apart = (measured["norm"] != "batch") | (measured["bn_batch_size"] < measured["trained_batch_size"])
    for (experiment, epoch), rows in measured[apart].groupby(["experiment", "epoch"]):
        of_seeds = slopes(rows)
        if rows["batch_size"].nunique() > 2 and len(of_seeds):
            effect = mean_samples(of_seeds)
            effect[1:] = shuffled_halves(effect[1:], generator)
            ends = f"m = {rows['batch_size'].min():.0f} ... {rows['batch_size'].max():.0f}"
            sentence = (
                f"{experiment}, epoch {epoch:.0f}: slope {effect[0]:.2f} over {ends}, {counted(len(of_seeds), 'seed')}"
            )
            low, high = 1 - t["slope_tolerance"], 1 + t["slope_tolerance"]
            yield Comparison(sentence, effect, at_least=low, at_most=high, unit="slope", seeds=len(of_seeds))
