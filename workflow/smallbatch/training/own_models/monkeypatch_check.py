"""Detects changes that a model's code makes to other code, which other models and the engine use."""

import builtins
import contextlib
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from smallbatch.core.errors import UserError
from smallbatch.models import file_of

_MODULES = (builtins, math, torch, nn, nn.functional, nn.init)
_ABSENT = object()


@contextlib.contextmanager
def monkeypatching_refused(files: Collection[Path], name: str) -> Iterator[None]:
    """Context that refuses a model that replaces or adds attributes of other code; such changes are undone.

    Args:
        files: files of the model.
        name: name of the model, for the error.

    Raises:
        UserError: names the attribute that it replaces.
    """
    owners = _owners(files)
    before = {owner: _attributes(values) for owner, (_, values) in owners.items()}
    try:
        yield
    finally:
        changed = [
            (owner, attribute, before[owner].get(attribute, _ABSENT))
            for owner, (_, values) in owners.items()
            for attribute in before[owner] | _attributes(values)
            if values.get(attribute, _ABSENT) is not before[owner].get(attribute, _ABSENT)
        ]
        for owner, attribute, value in changed:
            _put(owners[owner][0], attribute, value)
    if changed:
        owner, attribute, _ = changed[0]
        raise UserError(
            f"{name}: it replaces {owner}.{attribute}, which others compute with, too; allowed: functions, classes and "
            "attributes of its own"
        )


def _owners(files: Collection[Path]) -> dict[str, tuple[Any, Mapping[str, object]]]:
    """Name -> module or class of torch and of the project, without the model's files, and its attributes."""
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("smallbatch.")]
    modules = [*_MODULES, *(module for module in ours if file_of(module) not in files)]
    classes = [torch.Tensor, *(kind for kind in vars(nn).values() if isinstance(kind, type))]
    owners: dict[str, tuple[Any, Mapping[str, object]]] = {one.__name__: (one, vars(one)) for one in modules}
    return owners | {f"{kind.__module__}.{kind.__name__}": (kind, vars(kind)) for kind in classes}


def _attributes(values: Mapping[str, object]) -> dict[str, object]:
    """The functions, classes, numbers and texts among an owner's attributes.

    Without modules, which imports add, and annotations, which torch.jit.script adds.
    """
    watched = vars(nn.Module).keys() - {"__annotations__"}
    return {
        name: value
        for name, value in values.items()
        if not isinstance(value, ModuleType) and (name in watched or not name.startswith("__"))
    }


def _put(owner: Any, attribute: str, value: object) -> None:
    with contextlib.suppress(AttributeError, TypeError):
        if value is _ABSENT:
            delattr(owner, attribute)
        else:
            setattr(owner, attribute, value)
