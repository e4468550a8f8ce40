"""The numbers that runs are judged by."""

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smallbatch.store import Epoch

LAST_EPOCHS = 5
"""The paper reports the median over the last five epochs (Masters & Luschi 2018, section 3.1)."""


def final_accuracy(epochs: Sequence["Epoch"]) -> float:
    """Median test accuracy over the last five epochs, as a fraction; fewer where the run is shorter."""
    return statistics.median(epoch.test_accuracy for epoch in epochs[-LAST_EPOCHS:])


def convergence_bar(best: float, classes: int, threshold: float) -> float:
    """The accuracy from which a run counts as converged: chance + threshold * (best - chance).

    Args:
        best: the best accuracy of any run of the experiment, a fraction.
        classes: number of classes; chance is 1 / classes.
        threshold: the share of the way from chance to best.
    """
    chance = 1 / classes
    return chance + threshold * (best - chance)
