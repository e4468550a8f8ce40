"""Initial weights: He et al. 2015b, normal, fan-in, gain of the rectifier; biases zero."""

from collections.abc import Callable

import torch
from torch import nn

from smallbatch.core.seeds import stream_seed


def initialised(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Make a model whose initial weights depend on `seed` alone; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "initialisation"))
        model = make()
        if not isinstance(model, nn.Module):
            raise TypeError(f"a {type(model).__name__} was made, not a torch.nn.Module")
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return model
