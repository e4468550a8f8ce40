"""Models by name. One of your own is a file beside this and a line in `MODELS`; see the README."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MODELS = {
    "alexnet": "smallbatch.models.alexnet:alexnet",
    "resnet8": "smallbatch.models.resnet:resnet8",
    "resnet20": "smallbatch.models.resnet:resnet20",
    "resnet32": "smallbatch.models.resnet:resnet32",
    "resnet50": "smallbatch.models.resnet50:resnet50",
}
"""Where each model's maker stands, as text: studies are checked without importing torch."""


def build(
    model: str,
    shape: tuple[int, int, int],
    classes: int,
    *,
    norm: str = "none",
    norm_layers: str = "all",
    bn_batch_size: int = 1,
    seed: int = 0,
) -> "nn.Module":
    """Make a model with the initial weights of `seed`.

    Args:
        model: a key of `MODELS`.
        shape: channels, height, width of an image.
        classes: number of classes.
        norm: none, batch or group.
        norm_layers: all, or conv for the convolutions only.
        bn_batch_size: b, the examples that batch statistics are taken over.
        seed: of the initial weights.
    """
    from smallbatch.models.initialisation import initialised
    from smallbatch.models.normalisation import norms

    module, name = MODELS[model].split(":")
    maker = getattr(importlib.import_module(module), name)
    return initialised(lambda: maker(shape, classes, norms(norm, norm_layers, bn_batch_size)), seed)
