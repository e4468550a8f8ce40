"""Another measure in place of accuracy: what figures and claims are about where they say so."""

import pandas as pd

from smallbatch.study.metrics import ACCURACY, LABELS, SCORES

MEASURE = "measure"
"""The column that says which measure the columns of accuracy hold, if that is not accuracy."""


def in_place_of_accuracy(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs with a metric in the columns of accuracy, for which there is no bar of convergence then.

    Which runs have converged is decided by accuracy all the same.

    Args:
        runs: the tidy table of runs, which all record the metric.
        metric: one of `study.metrics`.
    """
    if metric == ACCURACY:
        return runs
    names = {f"{of}accuracy{what}": f"{of}{metric}{what}" for of in ("", "selection_") for what in ("", "_error")}
    columns = {name: runs[column] for name, column in names.items()}
    lowest = runs.loc[runs["converged"].eq(True), metric].min()
    return runs.assign(**columns, bar=lowest, **{MEASURE: metric})


def score_in_place_of_accuracy(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, of losses for one kind of labels, with what stands for accuracy in its columns."""
    return in_place_of_accuracy(runs, SCORES[str(runs["loss"].iloc[0])]) if "loss" in runs else runs


def measure_of(runs: pd.DataFrame) -> str:
    """The measure that the columns of accuracy hold."""
    return str(runs[MEASURE].iloc[0]) if MEASURE in runs else ACCURACY


def is_accuracy(runs: pd.DataFrame) -> bool:
    """Whether they hold accuracy, which has a bar of convergence and a chance."""
    return measure_of(runs) == ACCURACY


def measure_words(runs: pd.DataFrame) -> str:
    """Its name in figures: `accuracy`, `F1`."""
    return LABELS[measure_of(runs)]
