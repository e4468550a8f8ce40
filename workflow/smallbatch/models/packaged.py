"""Models of installed packages by their names there: `torchvision:NAME`, and `timm:NAME` where timm is installed."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from smallbatch.models.normalisation import Norms


def __getattr__(attribute: str) -> "Callable[..., nn.Module]":
    """What makes a model, as PACKAGE.NAME."""
    package, _, name = attribute.partition(".")
    if not name or package not in _MAKERS:
        raise AttributeError(attribute)
    return partial(_MAKERS[package], name)


def _torchvision(name: str, shape: tuple[int, int, int], classes: int, norms: "Norms") -> "nn.Module":
    from torchvision.models import get_model

    if shape[0] != 3:
        raise ValueError(f"models of torchvision take images of 3 channels, and these have {shape[0]}")
    model: nn.Module = get_model(name, weights=None, num_classes=classes)
    return model


def _timm(name: str, shape: tuple[int, int, int], classes: int, norms: "Norms") -> "nn.Module":
    from timm import create_model

    model: nn.Module = create_model(name, pretrained=False, num_classes=classes, in_chans=shape[0])
    return model


_MAKERS: "dict[str, Callable[..., nn.Module]]" = {"torchvision": _torchvision, "timm": _timm}
