"""Marks the layers made by `norms`, so that an examination can distinguish them from a model's own layers."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from torch import nn

from smallbatch.models import normalisation
from smallbatch.models.normalisation import Norm, Norms

_MARK = "_made_by_norms"


@contextlib.contextmanager
def marking_norms() -> Iterator[None]:
    """Context in which layers made by `norms`, and their copies, are marked."""
    make = normalisation.norms

    def marked(maker: Norm) -> Norm:
        def made(channels: int) -> nn.Module:
            layer = maker(channels)
            vars(layer)[_MARK] = not isinstance(layer, nn.Identity)
            return layer

        return made

    def marking(name: str, layers: str, sub_batch: int) -> Norms:
        return Norms(*map(marked, make(name, layers, sub_batch)))

    with mock.patch.object(normalisation, "norms", marking):
        yield


def made_by_norms(layer: nn.Module) -> bool:
    """Whether a layer normalises and was made by `norms`."""
    return bool(vars(layer).get(_MARK))
