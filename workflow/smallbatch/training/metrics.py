"""Metrics of test predictions: sums over images, by folds of the split, of which each metric is a function.

A metric's standard error is the jackknife's over folds (Efron & Tibshirani 1993, chapter 11): how much the value would
differ on another sample of images of this size. For calibration, whose sums of absolute values are not smooth, it is
too large, by up to a half where confidence is near its share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from smallbatch.study.experiments import Setting
from smallbatch.study.metrics import ACCURACY, BINARY, CROSS_ENTROPY, MSE, R2, TOP
from smallbatch.training.losses import binary_cross_entropy, evaluation_loss

FOLDS = 20
"""Parts of a split that are left out in turn."""

BINS = 15
"""Bins of confidence, as in Guo et al. 2017, "On calibration of modern neural networks"."""


class Measured(NamedTuple):
    """The value of a metric on a split, a fraction, and its standard error."""

    value: float
    error: float


class Scores(NamedTuple):
    """Mean loss, primary metric (accuracy of classes) and other metrics of each lane on a split."""

    losses: list[float]
    accuracies: list[float]
    metrics: dict[str, list[Measured]]


@dataclass(frozen=True)
class _Definition:
    """A metric as a function of sums.

    terms: logits [n, classes] float64 and labels [n], or targets [n, classes] -> what each image adds to the sums,
        [n, sums].
    value: sums [..., sums] -> the metric, [...].
    """

    terms: Callable[[Tensor, Tensor], Tensor]
    value: Callable[[Tensor], Tensor]


class MetricSums:
    """Sums over the images of a split, by which it is scored.

    Args:
        setting: whose loss and metrics they are for.
        lanes, classes: their numbers.
        device: of the predictions.
    """

    def __init__(self, setting: Setting, lanes: int, classes: int, device: torch.device) -> None:
        self.loss, self.primary = evaluation_loss(setting), setting.primary_metric
        none = torch.zeros(0, classes, dtype=torch.float64, device=device)
        labels = none.long().sum(1) if setting.loss == CROSS_ENTROPY else none
        self.definitions = {name: _DEFINITIONS[setting.loss][name] for name in setting.metrics}
        widths = {name: definition.terms(none, labels).shape[1] for name, definition in self.definitions.items()}
        self.sums = {name: none.new_zeros(FOLDS, lanes, width) for name, width in widths.items()}
        self.loss_sum, self.correct, self.count = none.new_zeros(lanes), none.new_zeros(lanes), none.new_zeros(())

    def add(self, logits: Tensor, labels: Tensor, numbers: Tensor) -> None:
        """Add some images.

        Args:
            logits: [n, lanes, classes].
            labels: [n], or targets [n, classes].
            numbers: index of each image in the split, [n], which decides its fold.
        """
        shape, predictions = logits.shape[:2], logits.flatten(0, 1)
        of_lanes = labels.repeat_interleave(shape[1], dim=0)
        self.loss_sum += self.loss(predictions, of_lanes).double().view(shape).sum(0)
        if self.primary == ACCURACY:
            self.correct += (predictions.argmax(1) == of_lanes).double().view(shape).sum(0)
        self.count += len(labels)
        for name, sums in self.sums.items():
            terms = self.definitions[name].terms(predictions.double(), of_lanes).unflatten(0, shape)
            sums.index_add_(0, _folds(numbers.to(terms.device)), terms)

    def scores(self, total: Callable[[Tensor], Tensor]) -> Scores:
        """The scores of each lane.

        Args:
            total: adds up the sums of all processes that share the split.
        """
        loss_sum, correct, count = map(total, (self.loss_sum, self.correct, self.count))
        metrics = {name: _measured(self.definitions[name].value, total(sums)) for name, sums in self.sums.items()}
        others = [measured.value for measured in metrics[self.primary]] if self.primary != ACCURACY else []
        return Scores((loss_sum / count).tolist(), others or (correct / count).tolist(), metrics)


def _folds(numbers: Tensor) -> Tensor:
    """The fold of each image, by a hash of its index: classes may come in turn, and each fold needs some of all."""
    for _ in range(2):
        numbers = (numbers ^ numbers >> 16) * 0x45D9F3B & 0xFFFFFFFF
    return (numbers ^ numbers >> 16) % FOLDS


def _measured(value: Callable[[Tensor], Tensor], sums: Tensor) -> list[Measured]:
    """The metric of each lane and its error, from sums [folds, lanes, sums]."""
    whole = sums.sum(0)
    without = value(whole - sums[sums.abs().sum((1, 2)) > 0])
    folds = len(without)
    errors = ((folds - 1) / max(1, folds) * (without - without.mean(0)).square().sum(0)).sqrt()
    return [Measured(*pair) for pair in zip(value(whole).tolist(), errors.tolist(), strict=True)]


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """The ratio; 0 where the whole is nothing."""
    return torch.where(whole > 0, part / whole.clamp(min=1e-300), 0)


def _correct_in_top(logits: Tensor, labels: Tensor) -> Tensor:
    best = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
    return torch.stack([(best == labels[:, None]).any(1), torch.ones_like(labels)], 1).double()


def _mean(sums: Tensor) -> Tensor:
    return _ratio(sums[..., 0], sums[..., 1])


def _by_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Right predictions, predictions and images of each class."""
    classes = logits.shape[1]
    predictions = logits.argmax(1)
    correct = F.one_hot(labels, classes) * (predictions == labels)[:, None]
    return torch.cat([correct, F.one_hot(predictions, classes), F.one_hot(labels, classes)], 1).double()


def _mean_recall(sums: Tensor) -> Tensor:
    """The mean over classes that have images of the share of correct predictions."""
    correct, _, images = sums.unflatten(-1, (3, -1)).unbind(-2)
    return _ratio(_ratio(correct, images).sum(-1), (images > 0).sum(-1))


def _mean_f1(sums: Tensor) -> Tensor:
    """The mean of F1 over classes that have images or predictions."""
    correct, predictions, images = sums.unflatten(-1, (3, -1)).unbind(-2)
    return _ratio(_ratio(2 * correct, predictions + images).sum(-1), (predictions + images > 0).sum(-1))


def _by_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Confidence and correct predictions in each bin, and images."""
    confidence, predictions = logits.softmax(1).nan_to_num().max(1)
    of_bin = F.one_hot((confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1), BINS)
    correct = (predictions == labels)[:, None]
    return torch.cat([of_bin * confidence[:, None], of_bin * correct, torch.ones_like(correct)], 1).double()


def _one_minus_ece(sums: Tensor) -> Tensor:
    """1 minus the expected calibration error: the mean over images of how far a bin's confidence is from its share."""
    confidence, correct = sums[..., :-1].unflatten(-1, (2, -1)).unbind(-2)
    return 1 - _ratio((confidence - correct).abs().sum(-1), sums[..., -1])


def _log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([-F.cross_entropy(logits, labels, reduction="none"), torch.ones_like(logits[:, 0])], 1)


def _geometric_mean(sums: Tensor) -> Tensor:
    return _mean(sums).exp()


def _by_output(logits: Tensor, targets: Tensor) -> Tensor:
    """As `_by_class`, of outputs that are true."""
    predictions, true = logits > 0, targets > 0
    return torch.cat([predictions & true, predictions, true], 1).double()


def _by_output_and_value(logits: Tensor, targets: Tensor) -> Tensor:
    """As `_by_class`, of outputs that are true, and of those that are not."""
    predictions, true = logits > 0, targets > 0
    both = torch.cat([predictions, ~predictions], 1), torch.cat([true, ~true], 1)
    return torch.cat([both[0] & both[1], *both], 1).double()


def _correct_outputs(logits: Tensor, targets: Tensor) -> Tensor:
    correct = ((logits > 0) == (targets > 0)).double().mean(1)
    return torch.stack([correct, torch.ones_like(correct)], 1)


def _binary_log_likelihood(logits: Tensor, targets: Tensor) -> Tensor:
    return torch.stack([-binary_cross_entropy(logits, targets), torch.ones_like(logits[:, 0])], 1)


def _moments(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared errors, targets and their squares of each output, and images."""
    targets = targets.double()
    return torch.cat([(logits - targets).square(), targets, targets.square(), torch.ones_like(targets[:, :1])], 1)


def _r2(sums: Tensor) -> Tensor:
    """The mean over outputs of the share of variance that is r2, R², which counts as 0 where it is below."""
    errors, targets, squares = sums[..., :-1].unflatten(-1, (3, -1)).unbind(-2)
    spread = squares - targets.square() / sums[..., -1:]
    # NaN, as of a lane that has diverged, counts as an R2 of 0.
    r2: Tensor = (1 - errors / spread.clamp(min=1e-300)).mean(-1).nan_to_num(nan=0.0).clamp(min=0)
    return r2


_DEFINITIONS = {
    CROSS_ENTROPY: {
        "top5": _Definition(_correct_in_top, _mean),
        "balanced_accuracy": _Definition(_by_class, _mean_recall),
        "f1": _Definition(_by_class, _mean_f1),
        "calibration": _Definition(_by_confidence, _one_minus_ece),
        "likelihood": _Definition(_log_likelihood, _geometric_mean),
    },
    BINARY: {
        "balanced_accuracy": _Definition(_by_output_and_value, _mean_recall),
        "hamming": _Definition(_correct_outputs, _mean),
        "f1": _Definition(_by_output, _mean_f1),
        "likelihood": _Definition(_binary_log_likelihood, _geometric_mean),
    },
    MSE: {R2: _Definition(_moments, _r2)},
}
"""Loss -> metric."""
