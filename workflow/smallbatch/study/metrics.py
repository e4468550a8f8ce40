"""Losses, and the measures of a run's answers that experiments record and figures show, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

CROSS_ENTROPY, BINARY, MSE = LOSSES = ("cross_entropy", "binary", "mse")
"""Losses: of one class of several, of outputs that are true or not each, and of outputs that are numbers."""

TARGETS = {CROSS_ENTROPY: None, BINARY: "binary", MSE: "numbers"}
"""Loss -> the `Meta.targets` of the data that it is for."""

ACCURACY, R2 = "accuracy", "r2"

SCORES = {CROSS_ENTROPY: ACCURACY, BINARY: ACCURACY, MSE: R2}
"""Loss -> the measure that stands for accuracy: by which rates are chosen and runs have converged."""


@dataclass(frozen=True)
class Metric:
    """A measure from 0 to 1, of which more is better.

    label: its name in figures.
    meaning: what it is, as a sentence of a caption; empty if its name says that.
    chance: loss that it can be recorded with -> number of classes or outputs -> the value that runs which diverged
        count with.
    """

    label: str
    meaning: str
    chance: Mapping[str, Callable[[int], float]]


METRICS = {
    "top5": Metric("top-5 accuracy", "", {CROSS_ENTROPY: lambda classes: min(1.0, 5 / classes)}),
    "balanced_accuracy": Metric(
        "balanced accuracy",
        "It is the mean over classes, or over outputs and their two values, of the share of right answers.",
        {CROSS_ENTROPY: lambda classes: 1 / classes, BINARY: lambda _: 0.5},
    ),
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
        "It is exp(-loss), the geometric mean of the probabilities of right answers.",
        {CROSS_ENTROPY: lambda classes: 1 / classes, BINARY: lambda _: 0.5},
    ),
    R2: Metric("R²", "It is the mean over outputs, and 0 where it is below.", {MSE: lambda _: 0.0}),
}
"""How each is computed, `smallbatch.training.metrics` says."""

LABELS = {ACCURACY: ACCURACY} | {name: metric.label for name, metric in METRICS.items()}
"""Measure -> its name in figures."""
