"""Checks whether a model behaves the same at each batch size: of a study's mini-batches, and of test images."""

import contextlib
import math

import torch

from smallbatch.core.errors import UserError
from smallbatch.training.engines.engine import BLOCK_IMAGES, BLOCK_VALUES
from smallbatch.training.own_models import norm_check
from smallbatch.training.own_models.candidate import EXAMPLES, SUB_BATCH, Candidate, pass_name
from smallbatch.training.own_models.comparisons import close
from smallbatch.training.own_models.operation_recorder import Recorder
from smallbatch.training.own_models.outside_access import call_tracing_paused

MAX_IMAGES = 1 << 16
"""Number of images of the largest mini-batch for which only shapes are computed."""

USUAL_SIZES = tuple(2**power for power in range(12))
"""Sizes of mini-batches that are always checked, whatever the study's: up to 2048, as in the paper."""

TEST_OPERATIONS = 1e11
"""Maximum number of multiplications and additions for a test batch that is computed."""

TEST_ROUNDING = 1e-3
"""Tolerance, relative to the largest logit, between an image's logits in test batches of different size."""


def check(candidate: Candidate, *, stochastic: bool) -> None:
    """Make sure that the model accepts the study's batch sizes and many test images, and behaves the same at each.

    Raises:
        UserError: the model does not.
    """
    sizes = candidate.spec.batch_sizes
    if not sizes:
        return
    usual = candidate.record_many(EXAMPLES, training=True)
    records: dict[int, Recorder | None] = {}
    for count in sizes:
        # The smallest possible size is determined by `smallest`.
        with contextlib.suppress(UserError) if count < EXAMPLES else contextlib.nullcontext():
            records[count] = candidate.record_many(count, training=True)
    for count, record in records.items():
        if record and usual:
            _check_size(candidate, count, record, usual, stochastic=stochastic)
    _check_test_sizes(candidate)


def smallest(candidate: Candidate) -> int:
    """The minimum number of examples in a mini-batch that the model trains on."""
    for examples in (1, SUB_BATCH):
        with contextlib.suppress(UserError):
            if examples >= candidate.sub_batch:
                candidate.run(candidate.build(1), candidate.images[0, :examples], training=True)
                return examples
    return EXAMPLES


def kinds(candidate: Candidate) -> list[int]:
    """The smallest mini-batch of each kind, where sizes are of one kind if a training pass uses the same operations.

    The sizes are `EXAMPLES`, which comes first, all of `USUAL_SIZES`, and the study's batch sizes.
    """
    smallest: dict[tuple[str, ...], int] = {}
    for count in dict.fromkeys((EXAMPLES, *USUAL_SIZES, *candidate.spec.batch_sizes)):
        with contextlib.suppress(UserError):  # the model does not accept such a small size, or `check` refuses it
            record = candidate.record_many(count, training=True)
            # If recording would take too long, the size may be another kind.
            smallest.setdefault(tuple(record.operations) if record else (str(count),), count)
    return list(smallest.values())


def draws_at_large_sizes(candidate: Candidate) -> bool:
    """Whether a pass of a large mini-batch draws random numbers; false if the pass fails."""
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
    norm_check.check_norms_used(candidate, record, pass_name(count, training=True))
    others = record.called ^ usual.called | record.normalised ^ usual.normalised
    if others and (candidate.runs_on_shapes or not stochastic):  # random numbers may choose its layers
        raise candidate.spec.error(
            f"at m = {count} it calls other layers than at m = {EXAMPLES} ({min(others)}); allowed: the same at each m"
        )


def _check_test_sizes(candidate: Candidate) -> None:
    """Check that an image's logits are the same in test batches of any size."""
    most = min(BLOCK_IMAGES, BLOCK_VALUES // math.prod(candidate.spec.shape))
    usual = candidate.record_many(EXAMPLES, training=False)
    for count in sorted({most, *(2**power for power in range(3, most.bit_length(), 2))}):
        with call_tracing_paused():
            record = candidate.record_many(count, training=False)
        if count == most or record is None or usual is None or record.operations != usual.operations:
            _check_test_size(candidate, count)


def _check_test_size(candidate: Candidate, count: int) -> None:
    """Compare the logits in a test batch of `count` images with those in a small one, unless this takes too long."""
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
