"""Checks whether a mini-batch in micro-batches gives the same losses, gradients and buffers as in one pass."""

from torch import Tensor

from smallbatch.training.network import Network
from smallbatch.training.own_models.candidate import EXAMPLES, SUB_BATCH, Candidate
from smallbatch.training.own_models.comparisons import all_close, close, gradients_close

TOLERANCE = 1e-3
"""Tolerance for a mini-batch in micro-batches in single precision, relative to the largest value."""


def micro_batches_equal_whole(candidate: Candidate) -> bool:
    """Whether results are equal for few images and for the largest number that is computed."""
    many = max(SUB_BATCH, candidate.computed // 4 // SUB_BATCH * SUB_BATCH)
    return _equal(candidate, EXAMPLES, candidate.sub_batch) and _equal(candidate, candidate.computed, many)


def _equal(candidate: Candidate, count: int, micro_batch: int) -> bool:
    """As `micro_batches_equal_whole`, for `count` images; true for many that the model does not accept at all."""
    images, labels = candidate.many_images(count), candidate.many_labels(count)[:, None]
    try:
        whole = candidate.network(splittable=False, batch_size=count)
        losses = whole.gradients(images, labels)
    except Exception:  # a model's code may raise any exception for this number of images
        return count > EXAMPLES
    split = candidate.network(splittable=True, batch_size=count, images_at_once=micro_batch)
    try:
        same = close(split.gradients(images, labels), losses, TOLERANCE)
    except Exception:  # or for the number in a micro-batch
        return False
    return (
        same
        and gradients_close(_gradients(split), _gradients(whole), TOLERANCE)
        and all_close(split.model.state_dict(), whole.model.state_dict(), TOLERANCE)
    )


def _gradients(network: Network) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters]
