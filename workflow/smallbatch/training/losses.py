"""Losses of logits, each example by itself: cross-entropy, of binary targets, of numbers, and of the user's own."""

import runpy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from smallbatch.core.errors import UserError
from smallbatch.core.files import files_digest
from smallbatch.study.experiments import Setting
from smallbatch.study.metrics import BINARY, CROSS_ENTROPY, MSE

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits [n, outputs] and labels [n], or targets [n, outputs] -> losses [n]."""

EXAMPLES = 6
"""Number of predictions that a loss of the user's own is tried on."""

MANY = 600
"""Number of predictions that it is tried on, too, with and without gradients; a multiple of `EXAMPLES`."""


def loss_of(setting: Setting) -> Loss:
    """The loss of a setting in training.

    Raises:
        UserError: it is the user's own, and its file fails or is not the one that the setting names by its content.
    """
    if setting.loss_function:
        return _own(setting.loss_function, setting.loss_content)
    smoothed = cross_entropy(setting.label_smoothing)
    return {CROSS_ENTROPY: smoothed, BINARY: binary_cross_entropy, MSE: squared_error}[setting.loss]


def evaluation_loss(setting: Setting) -> Loss:
    """The loss of a setting in tests, which is without label smoothing."""
    return cross_entropy() if setting.loss == CROSS_ENTROPY and not setting.loss_function else loss_of(setting)


def cross_entropy(smoothing: float = 0.0) -> Loss:
    """Cross-entropy; of targets that mix two labels it is the same mixture of the two cross-entropies.

    Args:
        smoothing: the part of each training target that is spread over all classes (Szegedy et al. 2016).
    """

    def losses(logits: Tensor, labels: Tensor) -> Tensor:
        targets = labels.to(logits.dtype) if labels.is_floating_point() else labels
        return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)

    return losses


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each output with its target, the mean over outputs."""
    targets = targets.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def squared_error(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error, the mean over outputs."""
    return (logits - targets).square().mean(1)


def default_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The losses by what labels are, [n]: cross-entropy of classes, squared errors of targets."""
    return squared_error(logits, labels) if labels.is_floating_point() else cross_entropy()(logits, labels)


@cache
def _own(function: str, content: str | None) -> Loss:
    file, _, name = function.rpartition(":")
    if files_digest(Path(file)) != content:
        raise UserError(f"{file}: is not the file that the run was planned with; allowed: that, of content {content}")
    try:
        own: Loss = runpy.run_path(str(Path(file).resolve()))[name]
    except Exception as error:
        raise _failing(function, error) from error
    return own


def check_own(setting: Setting, outputs: int) -> None:
    """Try a loss of the user's own on labels as training has them.

    Args:
        setting: whose loss it is.
        outputs: number of classes or outputs.

    Raises:
        UserError: it fails, does not give each example a finite loss of its own that training can follow, or depends on
            what is no part of its runs' identity.
    """
    from smallbatch.training.own_models.outside_access import outside_access_refused  # which imports this module

    assert setting.loss_function, "asked for of the user's own"
    function, file = setting.loss_function, Path(setting.loss_function.rpartition(":")[0]).resolve()
    _own.cache_clear()  # what it reads as it is imported is seen then alone
    with outside_access_refused({file}, f"loss {function}"):
        loss = loss_of(setting)
        for labels in _labels(setting, outputs):
            _try(function, loss, outputs, labels)


def _try(function: str | None, loss: Loss, outputs: int, labels: Tensor) -> None:
    logits = torch.randn(EXAMPLES, outputs, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given = labels.clone()
    try:
        losses, alone = loss(logits, labels), [loss(logits[[one]], labels[[one]]) for one in range(EXAMPLES)]
        again = loss(logits, labels)
    except Exception as error:
        raise _failing(function, error) from error
    if not isinstance(losses, Tensor) or losses.shape != (EXAMPLES,):
        form = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise _refused(function, f"it returns {form} of {EXAMPLES} examples; allowed: [{EXAMPLES}], a loss of each")
    if not torch.equal(labels, given):
        raise _refused(function, "it changes the labels in place, by which metrics are computed; allowed: a copy")
    if not losses.isfinite().all() or not _has_gradients(losses, logits):
        raise _refused(function, "its losses are not finite, or without gradients; allowed: finite ones with gradients")
    if not torch.allclose(losses, torch.cat(alone)):
        raise _refused(function, "the loss of an example depends on the others; allowed: a loss of each by itself")
    if not torch.equal(losses, again):
        raise _refused(function, "it gives the same examples other losses the second time; allowed: the same")
    for with_gradients in (True, False):
        with torch.set_grad_enabled(with_gradients):
            _try_on_many(function, loss, logits.detach(), labels, losses.detach())


def _has_gradients(losses: Tensor, logits: Tensor) -> bool:
    """Whether losses have gradients with respect to logits, which are finite and not all 0."""
    if not losses.requires_grad:
        return False
    [gradient] = torch.autograd.grad(losses.sum(), logits, retain_graph=True, allow_unused=True)
    return gradient is not None and bool(gradient.isfinite().all() and gradient.any())


def _try_on_many(function: str | None, loss: Loss, logits: Tensor, labels: Tensor, losses: Tensor) -> None:
    """Try a loss on many examples, those that have these losses several times."""
    repeats = MANY // EXAMPLES
    many = logits.repeat(repeats, 1).requires_grad_(torch.is_grad_enabled())
    labels_of_many = labels.repeat(repeats, *[1] * (labels.ndim - 1))
    given = many.detach().clone()
    try:
        tested = loss(many, labels_of_many)
    except Exception as error:
        raise _failing(function, error) from error
    if not torch.equal(many, given):
        raise _refused(function, "it changes the logits in place, by which metrics are computed; allowed: a copy")
    if tested.shape != (len(many),) or not torch.allclose(tested, losses.repeat(repeats)):
        how = "with" if torch.is_grad_enabled() else "without"
        what = f"of {len(many)} examples, {how} gradients, each has another loss than of {EXAMPLES}"
        raise _refused(function, f"{what}; allowed: a loss of each by itself")


def _labels(setting: Setting, outputs: int) -> list[Tensor]:
    """Labels of each form that the loss is given: of mixed images classes are targets [n, outputs], too."""
    draws = torch.Generator().manual_seed(1)
    numbers = torch.rand(EXAMPLES, outputs, generator=draws)
    if setting.loss == CROSS_ENTROPY:
        classes = torch.randint(outputs, (EXAMPLES,), generator=draws)
        return [classes, numbers.softmax(1)] if any(setting.mixing.values()) else [classes]
    return [(numbers > 0.5).float() if setting.loss == BINARY else numbers]


def _failing(function: str | None, error: Exception) -> UserError:
    return _refused(function, f"it fails ({type(error).__name__}: {' '.join(str(error).split())[:300]})")


def _refused(function: str | None, text: str) -> UserError:
    return UserError(f"loss {function}: {text}")
