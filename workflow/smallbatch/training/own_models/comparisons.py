"""Compares tensors, exactly or up to rounding."""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn


def identical(ours: Iterable[Tensor], theirs: Iterable[Tensor]) -> bool:
    """Whether tensors have the same values; NaN equals only NaN."""
    return all(_identical(a, b) for a, b in zip(ours, theirs, strict=True))


def _identical(ours: Tensor, theirs: Tensor) -> bool:
    if not torch.equal(ours.isnan(), theirs.isnan()):  # also false if the shapes differ
        return False
    a, b = (values.nan_to_num(posinf=math.inf, neginf=-math.inf) for values in (ours, theirs))
    return torch.equal(a, b)


def close(ours: Tensor, theirs: Tensor, rounding: float) -> bool:
    """Whether tensors differ by at most `rounding` times the largest value; NaN is close to nothing."""
    ours, theirs = ours.detach(), theirs.detach()
    if not theirs.is_floating_point():
        return torch.equal(ours, theirs)
    largest = theirs.abs().max().item() if theirs.numel() else 0.0
    if not math.isfinite(largest):
        return False
    return ours.shape == theirs.shape and torch.allclose(ours, theirs, rtol=0.0, atol=rounding * largest + 1e-12)


def all_close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rounding: float) -> bool:
    """Whether each of `theirs` is close to the tensor of the same name in `ours`."""
    return all(close(ours[name], tensor, rounding) for name, tensor in theirs.items())


def gradients_close(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None], rounding: float) -> bool:
    """Whether gradients differ by at most `rounding` times the largest of all: some consist only of rounding errors."""
    if any((a is None) != (b is None) for a, b in zip(ours, theirs, strict=True)):
        return False
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    largest = max((b.abs().max().item() for _, b in pairs), default=0.0)
    return all(torch.allclose(a, b, rtol=0.0, atol=rounding * largest) for a, b in pairs)


def clone_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's state_dict."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
