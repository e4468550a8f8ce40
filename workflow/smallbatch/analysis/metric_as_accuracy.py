"""Another metric in the columns of accuracy: what figures and claims are about where they say so."""

import pandas as pd

from smallbatch.study.metrics import ACCURACY, LABELS, PRIMARY

METRIC = "metric"
"""The column that says which metric the columns of accuracy hold, if that is not accuracy."""


def with_metric_as_accuracy(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The runs with a metric in the columns of accuracy; `bar` becomes the lowest value of a run that has converged.

    Which runs have converged does not change: their primary metric decides that.

    Args:
        runs: the tidy table of runs, which all record the metric.
        metric: one of `study.metrics`.
    """
    if metric == ACCURACY:
        return runs
    names = {
        f"{split}accuracy{what}": f"{split}{metric}{what}" for split in ("", "selection_") for what in ("", "_error")
    }
    columns = {name: runs[column] for name, column in names.items()}
    lowest = runs.loc[runs["converged"].eq(True), metric].min()
    return runs.assign(**columns, bar=lowest, **{METRIC: metric})


def with_primary_metric(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, all of one kind of labels, with the primary metric of their loss in the columns of accuracy."""
    return with_metric_as_accuracy(runs, PRIMARY[str(runs["loss"].iloc[0])]) if "loss" in runs else runs


def metric_of(runs: pd.DataFrame) -> str:
    """The metric that the columns of accuracy hold."""
    return str(runs[METRIC].iloc[0]) if METRIC in runs else ACCURACY


def is_accuracy(runs: pd.DataFrame) -> bool:
    """Whether they hold accuracy, for which figures show chance and the bar of convergence."""
    return metric_of(runs) == ACCURACY


def metric_label(runs: pd.DataFrame) -> str:
    """Its name in figures: `accuracy`, `F1`."""
    return LABELS[metric_of(runs)]
