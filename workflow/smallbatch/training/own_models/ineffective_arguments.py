"""Checks that each argument of a package's model takes effect.

The functions of torchvision accept any argument, and ignore those that they do not know.
"""

from typing import Any

import torch
from torch import nn

from smallbatch import models
from smallbatch.core.errors import UserError
from smallbatch.training.own_models.candidate import Candidate

SETTING_TYPES = (bool, int, float, str, tuple)
"""Types of attributes that hold a layer's settings."""


def check(candidate: Candidate) -> None:
    """Make sure that the model is another one without any of its arguments.

    Raises:
        UserError: an argument changes nothing.
    """
    spec = candidate.spec
    name, values = models.base_name(spec.model), models.arguments(spec.model)
    if ":" not in name:
        return  # Python refuses arguments that a function of one's own does not have
    for argument in values:
        rest = models.with_arguments(name, {key: value for key, value in values.items() if key != argument})
        try:
            without = candidate.build(1, model=rest)
        except UserError:  # the argument is required
            continue
        if _same(candidate.build(1), without):
            raise spec.error(
                f"argument {argument}={values[argument]!r} changes nothing: it is unknown to the package, or the "
                f"default; allowed: {rest}"
            )


def _same(model: nn.Module, other: nn.Module) -> bool:
    """Whether two models have the same layers with the same settings and the same initial weights."""
    state, other_state = model.state_dict(), other.state_dict()
    return (
        _settings(model) == _settings(other)
        and state.keys() == other_state.keys()
        and all(torch.equal(state[key], other_state[key]) for key in state)
    )


def _settings(model: nn.Module) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, class and plain attributes of each layer."""
    return [
        (
            name,
            type(layer).__qualname__,
            {key: value for key, value in vars(layer).items() if isinstance(value, SETTING_TYPES)},
        )
        for name, layer in model.named_modules()
    ]
