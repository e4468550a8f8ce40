"""Losses, and the metrics that experiments record in tests and figures show, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

CROSS_ENTROPY, BINARY, MSE = ("cross_entropy", "binary", "mse")
"""Losses: of one class out of several, of outputs that are 0 or 1 each, and of outputs that are numbers."""

TARGETS = {CROSS_ENTROPY: (None,), BINARY: ("binary",), MSE: ("numbers", "binary")}
"""Loss -> the `Meta.targets` of the data that it is for."""

TOP = 5
"""Of `top5`."""

ACCURACY, BALANCED, R2 = "accuracy", "balanced_accuracy", "r2"

PRIMARY = {CROSS_ENTROPY: ACCURACY, BINARY: BALANCED, MSE: R2}
"""Loss -> the metric that rates are chosen by and that decides whether a run has converged. Of several outputs not the
share that is right: where most are 0, an answer of 0 for all of them is nearly always right."""


@dataclass(frozen=True)
class Metric:
    """A metric from 0 to 1, of which more is better.

    label: its name in figures.
    meaning: what it is, as a sentence of a caption; empty if its name says that.
    chance: loss that it can be recorded with -> the value given to runs that diverged, by the number of classes or
        outputs.
    """

    label: str
    meaning: str
    chance: Mapping[str, Callable[[int], float]]


METRICS = {
    "top5": Metric("top-5 accuracy", "", {CROSS_ENTROPY: lambda classes: min(1.0, TOP / classes)}),
    BALANCED: Metric(
        "balanced accuracy",
        "It is the mean recall of classes, or of both values of each output.",
        {CROSS_ENTROPY: lambda classes: 1 / classes, BINARY: lambda _: 0.5},
    ),
    "hamming": Metric("Hamming score", "It is the share of outputs that are right.", {BINARY: lambda _: 0.5}),
    "f1": Metric(
        "F1",
        "It is the mean over classes, or over outputs.",
        {CROSS_ENTROPY: lambda classes: 2 / (classes * (classes + 1)), BINARY: lambda _: 0.0},
    ),
    "calibration": Metric(
        "calibration", "It is 1 minus the expected calibration error, of 15 bins.", {CROSS_ENTROPY: lambda _: 0.0}
    ),
    "likelihood": Metric(
        "likelihood",
        "It is exp(-cross-entropy), the geometric mean of the probabilities of right answers.",
        {CROSS_ENTROPY: lambda classes: 1 / classes, BINARY: lambda _: 0.5},
    ),
    R2: Metric("R²", "It is the mean over outputs, and 0 where it is below.", {MSE: lambda _: 0.0}),
}
"""How each is computed, `smallbatch.training.metrics` says."""

LABELS = {ACCURACY: ACCURACY} | {name: metric.label for name, metric in METRICS.items()}
"""Metric -> its name in figures."""
