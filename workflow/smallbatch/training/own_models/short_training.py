"""A short training of a model of the user's own, to be the same in two processes, of which one is in another place.

There the hash seed, arguments, folder, names of host and user, number of processors, time zone and clock are others
(see `ELSEWHERE`, too), sets are walked through the other way around (see `set_order`), and no model was
made or trained before.
"""

import contextlib
import hashlib
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS, RATE, SEED = 4, 0.01, 40
"""Updates of the training, their rate, and the first seed of what is drawn in them."""

COUNT = 63
"""Of processors and threads, elsewhere."""


def short_training(
    make: Callable[[int], nn.Module], images: Tensor, labels: Tensor, *, resumed: bool
) -> dict[str, str]:
    """Digests of the initial weights, of what each update leaves, and of a test's logits.

    Args:
        make: a model from its seed.
        images: [steps, m, c, h, w], taken by the updates in turn.
        labels: [steps, m].
        resumed: make each update with a new model, given what the one before had.
    """
    model, other = make(1), make(2)
    digests = {"initial weights": _digest(model.state_dict()), "initial weights of seed 2": _digest(other.state_dict())}
    for step in range(STEPS):
        if resumed:
            state, model = model.state_dict(), make(1)
            model.load_state_dict(state)
        place = step % len(images)
        digests[f"weights after update {step + 1}"] = _update(model.train(), images[place], labels[place], SEED + step)
    with torch.no_grad():
        digests["logits in testing"] = _digest({"logits": model.eval()(images[0].clone())})
    return digests


def _update(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> str:
    model.zero_grad()
    torch.manual_seed(seed)
    logits = model(images.clone())
    F.cross_entropy(logits, labels).backward()
    with torch.no_grad():
        for own in model.parameters():
            if own.grad is not None:
                own.sub_(RATE * own.grad)
    return _digest({"logits": logits, **model.state_dict()})


def _digest(tensors: dict[str, Tensor]) -> str:
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().contiguous().view(-1).view(torch.uint8)
        whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        whole.update(values.numpy().tobytes())
    return whole.hexdigest()


@contextlib.contextmanager
def another_place() -> Iterator[None]:
    """While it lasts, what Python says of the place is another; what C code asks by itself is as it was."""
    system = os.uname()
    with contextlib.ExitStack() as patches:
        for owner, name, value in (
            (sys, "argv", ["elsewhere", "--verbose", "7"]),
            (os, "uname", lambda: os.uname_result((system[0], "elsewhere", "0.0", "#0", "elsewhere"))),
            (os, "cpu_count", lambda: COUNT),
            (torch, "get_num_threads", lambda: COUNT),
            (socket, "gethostname", lambda: "elsewhere"),
            (platform, "_uname_cache", None),
            (np, "datetime64", _later),
        ):
            patches.enter_context(mock.patch.object(owner, name, value))
        yield


_DATETIME = np.datetime64


def _later(*arguments: Any) -> Any:
    """`numpy.datetime64`, 400 days and some hours later where it is asked for the time."""
    found = _DATETIME(*arguments)
    return found + np.timedelta64(400 * 24 + 5, "h") if arguments and arguments[0] in ("now", "today") else found
