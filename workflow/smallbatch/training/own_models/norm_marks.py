"""Marks the layers that `norms` makes, so that an examination knows them from layers that a model brings itself."""

import contextlib
from collections.abc import Iterator
from unittest import mock

from torch import nn

from smallbatch.models import normalisation
from smallbatch.models.normalisation import Norm, Norms

_MARK = "_made_by_norms"


@contextlib.contextmanager
def marking_norms() -> Iterator[None]:
    """While it lasts, layers that `norms` makes are marked, and with them their copies."""
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
    """Whether a layer normalises and is one that `norms` made."""
    return bool(vars(layer).get(_MARK))
