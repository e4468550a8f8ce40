"""A short training of a model of the user's own, which must give the same result in two processes.

One of them is in another environment (see `other_environment`), iterates over sets in reverse (see `sorted_sets`), and
has not made or trained a model before.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from smallbatch.models.initialisation import seed_generators
from smallbatch.training.losses import default_loss

STEPS, LEARNING_RATE, SEED = 4, 0.01, 40
"""Number of updates, their learning rate, and the seed of the random numbers drawn in the first one."""


def short_training(
    make: Callable[[int], nn.Module], images: Tensor, labels: Tensor, *, resumed: bool
) -> dict[str, str]:
    """Digests of the initial weights, of the state after each update, and of the logits in testing.

    Args:
        make: makes the model from a seed.
        images: mini-batches [n, m, c, h, w], used by the updates in turn.
        labels: their labels, [n, m], or numbers, [n, m, 1].
        resumed: make each update with a new model that loads the state_dict of the one before.
    """
    model, other = make(1), make(2)
    digests = {"initial weights": _digest(model.state_dict()), "initial weights of seed 2": _digest(other.state_dict())}
    for step in range(STEPS):
        if resumed:
            state, model = model.state_dict(), make(1)
            model.load_state_dict(state)
        batch = step % len(images)
        digests[f"weights after update {step + 1}"] = _update(model.train(), images[batch], labels[batch], SEED + step)
    with torch.no_grad():
        digests["logits in testing"] = _digest({"logits": model.eval()(images[0].clone())})
    return digests


def _update(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> str:
    model.zero_grad()
    seed_generators(seed)
    logits = model(images.clone())
    default_loss(logits, labels).mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(LEARNING_RATE * parameter.grad)
    return _digest({"logits": logits, **model.state_dict()})


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().contiguous().view(-1).view(torch.uint8)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
