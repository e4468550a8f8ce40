"""Checks whether a model normalises as its study says; a normalisation computed by hand is not detected."""

from collections.abc import Mapping

import torch
from torch import Tensor

from smallbatch.training.own_models.candidate import EXAMPLES, Candidate, Pass, pass_name
from smallbatch.training.own_models.comparisons import clone_state
from smallbatch.training.own_models.norm_layer_tags import made_by_norms
from smallbatch.training.own_models.operation_recorder import Recorder

NORMS = "batch", "group"
"""Normalisations for which `norms` makes layers."""


def check(candidate: Candidate) -> None:
    """Make sure that the layers that normalise in a pass have the study's norm, and that they are trained.

    Raises:
        UserError: the layers do not, or are not.
    """
    model, norm = candidate.build(1), candidate.spec.norm
    if norm in NORMS and not any(map(made_by_norms, model.modules())):
        raise candidate.spec.error(
            f"it has no layer that came from `norms`, so norm: {norm} would change nothing; allowed: norm: none or own"
        )
    for training in (True, False):
        start = clone_state(model)
        with Recorder(model) as record:
            result = candidate.run(model, candidate.images[0], training=training)
        check_norms_used(candidate, record, pass_name(EXAMPLES, training=training))
        if training and norm in NORMS:
            _check_trained(candidate, record, start, result)


def check_norms_used(candidate: Candidate, record: Recorder, what: str) -> None:
    """Make sure that the layers that normalised in a recorded pass are those of the study's norm.

    Args:
        candidate: the model.
        record: record of the pass.
        what: the pass, for the error.

    Raises:
        UserError: the normalisation is not what the study says.
    """
    norm = candidate.spec.norm
    if record.foreign_norms and norm != "own":
        layer, function = record.foreign_norms[0]
        raise candidate.spec.error(
            f"its {layer} normalises ({function}), and norm: {norm} says otherwise; allowed: layers that `norms` "
            "makes, or norm: own for a model that brings its own"
        )
    if norm in NORMS and not record.normalised:
        raise candidate.spec.error(
            f"its {what} calls no layer that came from `norms`, so norm: {norm} would change nothing; allowed: norm: "
            "none or own"
        )


def _check_trained(candidate: Candidate, record: Recorder, start: Mapping[str, Tensor], result: Pass) -> None:
    """Check that layers of `norms` use the statistics of this mini-batch, and that their weights are trained."""
    for layer in sorted(record.normalised):
        mean = f"{layer}.running_mean"
        if mean in start and torch.equal(start[mean], result.state[mean]):
            raise candidate.spec.error(
                f"its layer {layer} takes no statistics of the mini-batch; allowed: layers of `norms` in the mode, "
                "train or eval, of the model"
            )
    names = [f"{layer}.{weight}" for layer in record.normalised for weight in ("weight", "bias")]
    if not any(name in result.gradients and result.gradients[name].any() for name in names):
        raise candidate.spec.error(
            f"no layer of `norms` has a gradient, so norm: {candidate.spec.norm} would change nothing; allowed: norm: "
            "none or own"
        )
