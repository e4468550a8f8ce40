"""Checks whether lanes of a model are equal to the models alone, so that it can be trained in lanes."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from smallbatch.core.errors import UserError
from smallbatch.training import lane_layers
from smallbatch.training.own_models import batch_size_check
from smallbatch.training.own_models.candidate import EXAMPLES, MINI_BATCHES, Candidate
from smallbatch.training.own_models.comparisons import all_close, close, gradients_close
from smallbatch.training.own_models.operation_recorder import value_reads_refused, weight_changes_refused

LANES = MINI_BATCHES
"""Number of lanes that are compared with models alone; a single lane is compared too."""

SCALES = 1.0, 100.0, 0.01
"""Scales of each lane's images and weights, so that code which depends on their size behaves differently per lane."""

MANY_LANES = 100
"""Number of lanes that must behave like few lanes: code may depend on the number of channels."""

DIVERGED = math.nan, math.inf, 1e30, 1e300
"""Values in the images or weights of a lane that diverges; they must not affect the other lanes."""

PASSES = 24
"""Cost of one comparison, in forward passes: four forward and backward passes, of lanes and of each model alone."""

MAX_OPERATIONS = 2e11
"""Maximum number of multiplications and additions for one comparison: some twenty seconds."""

MAX_COMPARED = 6e12
"""The same for a comparison that decides about lanes at all, one of some ten: two and a half times that of a ResNet-50
of 224 pixels, whose check takes more than 200 s. With a larger model the check would reach its limit of time."""


class Precision(NamedTuple):
    """Number type and tolerance of a comparison; rounding: the tolerance, relative to the largest value."""

    dtype: torch.dtype
    rounding: float


DOUBLE = Precision(torch.float64, 1e-7)
SINGLE_TOLERANCE = 1e-2
"""A loose tolerance: single precision is checked only for code that behaves differently in it."""

MIXED = "a layer mixes lanes"


def why_not_in_lanes(candidate: Candidate) -> str:
    """The reason why a model cannot be trained in lanes, as text; empty if lanes are equal to the models alone.

    Raises:
        UserError: lanes differ at a batch size of this study, which jobs, checking only the usual sizes, would miss.
    """
    if _cost(candidate, EXAMPLES) > MAX_COMPARED:
        return "it is too large to be compared in lanes"
    if any(tensor.is_complex() for tensor in candidate.build(1).state_dict().values()):
        return "it has complex numbers"  # of which a comparison in double precision would leave the real parts
    try:
        return _why_not_in_lanes(candidate)
    except lane_layers.NoLaneForm as reason:
        return str(reason)
    except UserError:
        raise
    except Exception as error:  # a model's code may raise any exception in lanes
        return f"lanes break it ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


def _why_not_in_lanes(candidate: Candidate) -> str:
    with _default(DOUBLE.dtype):
        equal = all(
            _lanes_equal(candidate, EXAMPLES, count, layout)
            for count, layout in ((1, torch.contiguous_format), (LANES, torch.channels_last))
        )
        equal = equal and _lanes_equal(candidate, EXAMPLES, LANES, torch.contiguous_format, scales=SCALES)
        if not equal or any(_reaches_others(candidate, value) for value in DIVERGED):
            return MIXED
        if _many_do_otherwise(candidate):
            return f"{MANY_LANES} lanes compute otherwise than {LANES}"
        if reason := _difference_at_other_sizes(candidate):
            return reason
    single = Precision(torch.get_default_dtype(), SINGLE_TOLERANCE)
    return "" if _lanes_equal(candidate, EXAMPLES, LANES, torch.contiguous_format, single) else MIXED


@contextlib.contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _difference_at_other_sizes(candidate: Candidate) -> str:
    """The reason against lanes at mini-batches that the model computes otherwise than those of `EXAMPLES`."""
    for examples in batch_size_check.kinds(candidate):
        if examples == EXAMPLES:
            continue
        affordable = _cost(candidate, examples) < MAX_OPERATIONS
        if affordable and _lanes_equal(candidate, examples, LANES, torch.contiguous_format):
            continue
        reason = f"at m = {examples} it computes otherwise than at m = {EXAMPLES}"
        if examples not in batch_size_check.USUAL_SIZES:  # one of the study's sizes
            raise candidate.spec.error(f"{reason}, and not in lanes; allowed: the same at each m")
        return reason
    return ""


def _cost(candidate: Candidate, examples: int) -> float:
    """Number of multiplications and additions of one comparison."""
    return PASSES * LANES * candidate.flops_per_image * examples


def _many_do_otherwise(candidate: Candidate) -> bool:
    """Whether the operations or constants depend on the number of lanes, judged by shapes alone."""
    for training in (True, False):
        few, many = (candidate.record_lanes(count, training=training) for count in (LANES, MANY_LANES))
        if few and (not many or (few.operations, few.constants) != (many.operations, many.constants)):
            return True
    return False


def _lanes_equal(
    candidate: Candidate,
    examples: int,
    count: int,
    layout: torch.memory_format,
    precision: Precision = DOUBLE,
    scales: Sequence[float] = (1.0,) * LANES,
) -> bool:
    """Whether lanes with different weights and images are equal to the models alone, in training and in testing.

    Args:
        candidate: the model.
        examples: number of examples of each lane.
        count: number of lanes.
        layout: memory format of the images.
        precision: number type and tolerance.
        scales: scales of the weights of each lane.
    """
    alone = _models_alone(candidate, count, examples, precision)
    with torch.no_grad():
        for model, scale in zip(alone, scales, strict=False):
            for parameter in model.parameters():
                parameter.mul_(scale)
    stacked, images = lane_layers.stack(alone), candidate.mini_batches(examples)[:count].to(precision.dtype)
    scaled = images * torch.tensor(SCALES[:count], dtype=images.dtype)[:, None, None, None, None]
    # The second pass uses the buffers left by the first.
    return all(
        _pass_equal(candidate, stacked, alone, each, layout=layout, training=training, rounding=precision.rounding)
        for training, each in ((True, images), (True, scaled), (False, scaled), (False, images))
    ) and _tests_equal(stacked, alone, images, precision.rounding)


def _tests_equal(stacked: nn.Module, alone: Sequence[nn.Module], images: Tensor, rounding: float) -> bool:
    """Whether lanes and models alone are equal under `no_grad`, as in tests, which a layer can detect."""
    with torch.no_grad():
        with value_reads_refused(), weight_changes_refused(stacked):
            logits = stacked.eval()(images.transpose(0, 1).flatten(1, 2)).unflatten(1, (len(alone), -1))
        return all(
            close(logits[:, lane], model.eval()(images[lane].clone()), rounding) for lane, model in enumerate(alone)
        )


def _reaches_others(candidate: Candidate, value: float) -> bool:
    """Whether a first lane whose images and weights all have this value changes the other lanes in training."""
    alone = _models_alone(candidate, LANES, EXAMPLES, DOUBLE)
    stacked, images = lane_layers.stack(alone), candidate.images.double().clone()
    images[0] = value
    with torch.no_grad():
        for parameter in stacked.parameters():
            parameter[0] = value
    return not _pass_equal(candidate, stacked, alone, images, layout=torch.contiguous_format, training=True, first=1)


def _models_alone(candidate: Candidate, count: int, examples: int, precision: Precision) -> list[nn.Module]:
    return [
        lane_layers.perturbed(candidate.build_for(examples, seed).to(precision.dtype), seed) for seed in range(count)
    ]


def _pass_equal(
    candidate: Candidate,
    stacked: nn.Module,
    alone: Sequence[nn.Module],
    images: Tensor,
    *,
    layout: torch.memory_format,
    training: bool,
    rounding: float = DOUBLE.rounding,
    first: int = 0,
) -> bool:
    """Whether a pass of lanes, with images [lanes, examples, ...], equals the models alone from lane `first` on."""
    stacked.train(training).zero_grad()
    with value_reads_refused(), weight_changes_refused(stacked):
        logits = stacked(images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=layout))
    if logits.shape != (images.shape[1], len(alone) * candidate.spec.classes):
        return False
    logits = logits.unflatten(1, (len(alone), -1))
    # Each example and class has a different weight.
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    with value_reads_refused():
        (logits * weights).sum().backward()
    for lane in range(first, len(alone)):
        model = alone[lane].train(training)
        model.zero_grad()
        expected = model(images[lane].clone())
        (expected * weights[:, lane]).sum().backward()
        if not (close(logits[:, lane], expected, rounding) and _lane_equal(stacked, lane, model, rounding)):
            return False
    return True


def _lane_equal(stacked: nn.Module, lane: int, model: nn.Module, rounding: float) -> bool:
    """Whether a lane's gradients and tensors are equal to its model's."""
    ours = {name: None if p.grad is None else p.grad[lane] for name, p in stacked.named_parameters()}
    theirs = {name: p.grad for name, p in model.named_parameters()}
    states = {name: tensor[lane] for name, tensor in stacked.state_dict().items()}, model.state_dict()
    return (
        ours.keys() == theirs.keys()
        and states[0].keys() == states[1].keys()
        and gradients_close([ours[name] for name in theirs], list(theirs.values()), rounding)
        and all_close(*states, rounding)
    )
