"""Whether a mini-batch in micro-batches gives the losses, gradients and buffers that it gives at once."""

from torch import Tensor

from smallbatch.training.network import Network
from smallbatch.training.own_models.candidate import EXAMPLES, SUB_BATCH, Candidate
from smallbatch.training.own_models.comparisons import all_close, close, gradients_close

ROUNDING = 1e-3
"""Of the largest value: what a mini-batch in micro-batches may differ in, in single precision."""


def equal_whole(candidate: Candidate) -> bool:
    """Whether it does: of few images, and of as many as are computed."""
    many = max(SUB_BATCH, candidate.computed // 4 // SUB_BATCH * SUB_BATCH)
    return _equal(candidate, EXAMPLES, candidate.sub_batch) and _equal(candidate, candidate.computed, many)


def _equal(candidate: Candidate, count: int, micro_batch: int) -> bool:
    """As `equal_whole`, of so many images; of as many as the model does not take at all nothing is known."""
    images, labels = candidate.many_images(count), candidate.many_labels(count)[:, None]
    try:
        whole = candidate.network(splittable=False, batch_size=count)
        losses = whole.gradients(images, labels)
    except Exception:  # whatever a model's code raises at so many
        return count > EXAMPLES
    split = candidate.network(splittable=True, batch_size=count, images_at_once=micro_batch)
    try:
        same = close(split.gradients(images, labels), losses, ROUNDING)
    except Exception:  # at so few
        return False
    return (
        same
        and gradients_close(_gradients(split), _gradients(whole), ROUNDING)
        and all_close(split.model.state_dict(), whole.model.state_dict(), ROUNDING)
    )


def _gradients(network: Network) -> list[Tensor | None]:
    return [parameter.grad for parameter in network.parameters]
