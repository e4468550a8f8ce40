"""Whether a model is the same at each batch size: of a study's mini-batches, and of test images at once."""

import contextlib
import math

import torch

from smallbatch.core.errors import UserError
from smallbatch.training.engines.updates import BLOCK_IMAGES, BLOCK_VALUES
from smallbatch.training.own_models import normalisation
from smallbatch.training.own_models.candidate import EXAMPLES, SUB_BATCH, Candidate, pass_name
from smallbatch.training.own_models.comparisons import close
from smallbatch.training.own_models.outside_access import call_tracing_paused
from smallbatch.training.own_models.recording import Recorder

MAX_IMAGES = 1 << 16
"""Of the largest mini-batch of which only the shapes are computed."""

USUAL_SIZES = tuple(2**power for power in range(12))
"""Mini-batches that are looked at whatever the study has: up to 2048, as in the paper."""

TEST_OPERATIONS = 1e11
"""Multiplications and additions of the largest test batch that is computed."""

TEST_ROUNDING = 1e-3
"""Of the largest logit: what the logits of an image may differ in with the number of images beside it."""


def check(candidate: Candidate, *, stochastic: bool) -> None:
    """Make sure that it takes the study's batch sizes and many test images, and is the same model at each.

    Raises:
        UserError: it is not.
    """
    sizes = candidate.spec.batch_sizes
    if not sizes:
        return
    usual = candidate.record_many(EXAMPLES, training=True)
    records: dict[int, Recorder | None] = {}
    for count in sizes:
        # What the smallest size is, is found by `smallest`.
        with contextlib.suppress(UserError) if count < EXAMPLES else contextlib.nullcontext():
            records[count] = candidate.record_many(count, training=True)
    for count, record in records.items():
        if record and usual:
            _check_size(candidate, count, record, usual, stochastic=stochastic)
    _check_test_sizes(candidate)


def smallest(candidate: Candidate) -> int:
    """The fewest examples of a mini-batch that the model trains on."""
    for examples in (1, SUB_BATCH):
        with contextlib.suppress(UserError):
            if examples >= candidate.sub_batch:
                candidate.run(candidate.build(1), candidate.images[0, :examples], training=True)
                return examples
    return EXAMPLES


def kinds(candidate: Candidate) -> list[int]:
    """One mini-batch, the smallest, of each kind that the model computes otherwise in training than the others.

    Of all of `USUAL_SIZES` and the study's batch sizes; the first is `EXAMPLES`.
    """
    smallest: dict[tuple[str, ...], int] = {}
    for count in dict.fromkeys((EXAMPLES, *USUAL_SIZES, *candidate.spec.batch_sizes)):
        with contextlib.suppress(UserError):  # too small a size for it, or one that `check` refuses
            record = candidate.record_many(count, training=True)
            # Where it takes too long to find out, it may be another kind.
            smallest.setdefault(tuple(record.operations) if record else (str(count),), count)
    return list(smallest.values())


def draws_at_large_sizes(candidate: Candidate) -> bool:
    """Whether a pass of a large mini-batch draws random numbers; of one that fails that is not known."""
    for count in (candidate.computed, MAX_IMAGES):
        with contextlib.suppress(UserError):
            record = candidate.record_many(count, training=True)
            if record is not None and record.drew:
                return True
    return False


def _check_size(candidate: Candidate, count: int, record: Recorder, usual: Recorder, *, stochastic: bool) -> None:
    if record.drew and not stochastic:
        raise candidate.spec.error(
            f"it draws random numbers at m = {count}, but not at all; allowed: the same at each m"
        )
    normalisation.check_norms_used(candidate, record, pass_name(count, training=True))
    others = record.called ^ usual.called | record.normalised ^ usual.normalised
    if others and (candidate.runs_on_shapes or not stochastic):  # what it draws may choose its layers
        raise candidate.spec.error(
            f"at m = {count} it calls other layers than at m = {EXAMPLES} ({min(others)}); allowed: the same at each m"
        )


def _check_test_sizes(candidate: Candidate) -> None:
    """An image's logits are the same however many are tested at once."""
    most = min(BLOCK_IMAGES, BLOCK_VALUES // math.prod(candidate.spec.shape))
    usual = candidate.record_many(EXAMPLES, training=False)
    for count in sorted({most, *(2**power for power in range(3, most.bit_length(), 2))}):
        with call_tracing_paused():
            record = candidate.record_many(count, training=False)
        if count == most or record is None or usual is None or record.operations != usual.operations:
            _check_test_size(candidate, count)


def _check_test_size(candidate: Candidate, count: int) -> None:
    """Compare the logits of so many images at once with those of few; if that does not take long."""
    model, images = candidate.build(1).eval(), candidate.many_images(count)
    few = min(candidate.computed, count)
    with torch.no_grad(), candidate.guarded("test pass"):
        parts = [model(part.clone()) for part in images[:few].split(EXAMPLES)]
    sizes = (few, count) if 2 * candidate.flops_per_image * count < TEST_OPERATIONS else (few,)
    for size in sizes:
        with torch.no_grad(), candidate.guarded(pass_name(size, training=False)):
            logits = model(images[:size].clone())
            parts = parts if size == few else [model(part.clone()) for part in images.split(few)]
        if not close(logits, torch.cat(parts), TEST_ROUNDING):
            raise candidate.spec.error(
                f"in testing an image's logits depend on how many are beside it ({size}); allowed: a model where "
                "they do not"
            )
