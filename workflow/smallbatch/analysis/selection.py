"""The base learning rate that was best for each batch size, on the split that the experiment selects on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from smallbatch.study.experiments import Chosen, Study
from smallbatch.study.rates import BaseLr

if TYPE_CHECKING:
    import pandas as pd


def best_rates(tables: Sequence["pd.DataFrame"]) -> Chosen:
    """For each m the rate with the highest mean `selection_accuracy` over seeds; of equal ones the smallest.

    Args:
        tables: runs of experiments; where several have an m, the last of them decides.

    Returns:
        No rate for an m of which no run has a result.
    """
    chosen: dict[int, BaseLr] = {}
    for runs in tables:
        means = runs.groupby(["batch_size", "base_lr"])["selection_accuracy"].mean().dropna().reset_index()
        best = means.loc[means.groupby("batch_size")["selection_accuracy"].idxmax()]
        chosen |= {int(m): BaseLr(float(rate)) for m, rate in zip(best["batch_size"], best["base_lr"], strict=True)}
    return chosen


def at_best_rates(runs: "pd.DataFrame") -> "pd.DataFrame":
    """Of one experiment's runs those at the rate that is best for their m, over all BN batch sizes."""
    chosen = best_rates([runs])
    return runs[runs["base_lr"] == runs["batch_size"].map(chosen)] if chosen else runs


def rates_so_far(study: Study, runs: "pd.DataFrame") -> dict[str, Chosen]:
    """The rates of each experiment that takes the best of others, from the runs of those that exist.

    Args:
        study: whose experiments.
        runs: the table of its planned runs.
    """
    by_name = dict(list(runs.groupby("experiment")))
    dependent = [e for e in study.experiments.values() if e.best_of]
    return {e.name: best_rates([by_name[base] for base in e.best_of]) for e in dependent}
