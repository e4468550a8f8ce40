"""Checks whether a model is reproducible: initial weights, passes in training and in testing, and stored state."""

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from smallbatch import models
from smallbatch.training.own_models import batch_size_check, norm_check
from smallbatch.training.own_models.candidate import Candidate
from smallbatch.training.own_models.comparisons import clone_state, close, identical
from smallbatch.training.own_models.operation_recorder import RandomTensors
from smallbatch.training.own_models.outside_access import call_tracing_paused
from smallbatch.training.own_models.unsaved_state import unsaved_state_digests


def check(candidate: Candidate) -> bool:
    """Make sure that the model can be trained, reproducibly; returns whether it draws random numbers.

    Raises:
        UserError: the model cannot be trained reproducibly.
    """
    model, again = candidate.build(1), candidate.build(1)
    _check_tensors(candidate, model)
    _check_seeds(candidate)
    _check_lazy_tensors(candidate)
    start = clone_state(model)
    if not identical(start.values(), clone_state(again).values()):
        raise candidate.spec.error(
            "its initial weights differ from one time to the next; allowed: torch's random numbers"
        )
    norm_check.check(candidate)
    stochastic = _check_passes(candidate, model, again, start)
    check_evaluation_pass(candidate, model)
    return stochastic


def _check_passes(candidate: Candidate, model: nn.Module, again: nn.Module, start: dict[str, Tensor]) -> bool:
    """Compare the passes of two equal models; returns whether the model draws random numbers in training."""
    images = candidate.images[0]
    first = candidate.run(model, images, training=True)
    if not first.logits.isfinite().all():
        raise candidate.spec.error("its initial weights give logits that are not finite; allowed: finite numbers")
    _check_unsaved_state(candidate, model, images)
    stochastic = candidate.draws(model, images) or batch_size_check.draws_at_large_sizes(candidate)
    model.load_state_dict(start)
    if not identical(first.tensors, candidate.run(model, images, training=True).tensors):
        raise candidate.spec.error(
            "a training pass differs from one time to the next with the same weights, images and random numbers of "
            "torch; allowed: no clock, no other random numbers, and buffers for what it remembers"
        )
    again.load_state_dict(first.state)
    model.load_state_dict(first.state)
    for training in (False, True):
        one, other = (candidate.run(each, images, training=training).tensors for each in (model, again))
        if not identical(one, other):
            raise candidate.spec.error("it remembers what its state_dict does not have; allowed: register_buffer")
    return stochastic


def _check_unsaved_state(candidate: Candidate, model: nn.Module, images: Tensor) -> None:
    """Check that a pass changes only parameters and buffers; the first passes may fill caches for later ones."""
    files, seen = models.files(candidate.spec.entry_point), []
    for _ in range(2):
        for training in (True, False):
            candidate.run(model, images, training=training)
        with call_tracing_paused():
            seen.append(unsaved_state_digests(model, files))
    before, after = seen
    if changed := [name for name, digest in after.items() if before.get(name) != digest]:
        raise candidate.spec.error(
            f"it changes {changed[0]} as it trains, which no checkpoint has; allowed: register_buffer"
        )


def _check_tensors(candidate: Candidate, model: nn.Module) -> None:
    for name, layer in model.named_modules():
        if type(layer).__name__ == "OptimizedModule":  # a class of torch._dynamo, which takes seconds to import
            raise candidate.spec.error(
                f"its layer {name} is compiled by torch.compile; allowed: the layer itself, which is compiled where "
                "lanes and kernels can be had"
            )
    lazy = [name for name, tensor in model.state_dict(keep_vars=True).items() if is_lazy(tensor)]
    if lazy:
        raise candidate.spec.error(_made_late(lazy[0]))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise candidate.spec.error("it has no parameters to train")
    extra = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if extra:
        raise candidate.spec.error(
            f"its state_dict has {extra[0]}, which is no tensor; allowed: parameters and buffers"
        )


def _check_seeds(candidate: Candidate) -> None:
    """Check that random initial weights differ between seeds."""
    with RandomTensors() as drawn:
        one = candidate.build(1)
    states = one.state_dict(), candidate.build(2).state_dict()
    for name, weights in one.named_parameters():
        whole, original, _ = name.partition("original")  # with the buffers that a parametrisation draws in addition
        names = [key for key in states[0] if key.startswith(whole)] if original else [name]
        same = all(key in states[1] and identical([states[0][key]], [states[1][key]]) for key in names)
        if same and weights.requires_grad and weights in drawn and (weights != weights.flatten()[0]).any():
            raise candidate.spec.error(
                f"its initial weights {name} are random, but the same for each seed; allowed: random numbers of "
                "torch's global generator, which is never seeded by a model"
            )


def _check_lazy_tensors(candidate: Candidate) -> None:
    """Check that all parameters and buffers exist before the model runs."""
    model = candidate.build(1)
    before = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    candidate.run(model, candidate.images[0], training=True)
    after = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if others := sorted({name for name, _ in before.items() ^ after.items()}):
        raise candidate.spec.error(_made_late(others[0]))


def _made_late(name: str) -> str:
    return (
        f"it makes {name} as it trains; allowed: parameters and buffers that are there, in their shape, when it is made"
    )


def check_evaluation_pass(candidate: Candidate, model: nn.Module) -> None:
    """Check that testing changes nothing, draws nothing, and treats each image independently."""
    images, before = candidate.images[0], clone_state(model)
    one, other = (candidate.run(model, images, training=False, seed=seed) for seed in (1, 2))
    if not identical(before.values(), other.state.values()):
        raise candidate.spec.error("in testing it changes its buffers; allowed: a model that in eval mode does not")
    if not identical(one.tensors, other.tensors):
        raise candidate.spec.error("in testing it draws random numbers; allowed: a model that in eval mode does not")
    alone = candidate.run(model, images[:1], training=False)
    if not close(alone.logits, one.logits[:1], batch_size_check.TEST_ROUNDING):
        raise candidate.spec.error(
            "in testing an image's logits depend on the images beside it; allowed: a model where they do not"
        )
