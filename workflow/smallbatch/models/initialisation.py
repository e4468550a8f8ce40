"""Initial weights, which depend only on a run's seed."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from smallbatch.core.seeds import stream_seed


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch's random numbers are those for a run's initial weights; afterwards they are as before."""
    with torch.random.fork_rng(devices=[]):
        seed_generators(stream_seed(seed, "initialisation"))
        yield


def seed_generators(seed: int) -> None:
    """Seed torch's global generators of all devices.

    As `torch.manual_seed`, which takes thirty times as long where there is no GPU: it notes where it was called, for a
    GPU to come.
    """
    (torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed)(seed)


def initialise_as_in_paper(model: nn.Module) -> nn.Module:
    """Initialise convolutions and linear layers as He et al. 2015b: normal, fan-in, ReLU gain; biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
