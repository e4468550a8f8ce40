"""Models of installed packages by their names there: `torchvision:NAME` and, if timm is installed, `timm:NAME`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from smallbatch.study.yaml_validation import suggestion

if TYPE_CHECKING:
    from torch import nn

    from smallbatch.models.normalisation import Norms


def __getattr__(attribute: str) -> "Callable[..., nn.Module]":
    """The function that makes the model of an attribute PACKAGE.NAME."""
    package, _, name = attribute.partition(".")
    if not name or package not in _MAKERS:
        raise AttributeError(attribute)
    return partial(_MAKERS[package], name)


WITH_AUXILIARY = ("googlenet", "inception_v3")
"""Models of torchvision that by default also return logits of auxiliary classifiers."""


def _torchvision(name: str, shape: tuple[int, int, int], classes: int, norms: "Norms", **arguments: Any) -> "nn.Module":
    from torchvision import models

    _check_known(name, models.list_models(module=models))  # other models are not classifiers and load pretrained parts
    if shape[0] != 3:
        raise ValueError(f"models of torchvision take images of 3 channels, and these have {shape[0]}")
    more = {"aux_logits": False, "init_weights": True} if name in WITH_AUXILIARY else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **more, **arguments)
    return model


def _check_known(name: str, known: Sequence[str]) -> None:
    """Refuse aliases, so that a model has one name: packages also accept capitals, tags of weights and addresses."""
    if name not in known:
        raise ValueError(f"there is no classifier of this name{suggestion(name, list(known))}")


def _timm(name: str, shape: tuple[int, int, int], classes: int, norms: "Norms", **arguments: Any) -> "nn.Module":
    from timm import create_model, list_models

    _check_known(name, list_models())
    model: nn.Module = create_model(name, pretrained=False, num_classes=classes, in_chans=shape[0], **arguments)
    return model


_MAKERS: "dict[str, Callable[..., nn.Module]]" = {"torchvision": _torchvision, "timm": _timm}
