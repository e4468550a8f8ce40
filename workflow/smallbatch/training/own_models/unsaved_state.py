"""Digests of the state that a model of the user's own keeps outside its state_dict, to detect changes.

Digested are numbers, texts, arrays, tensors and generators that can be reached from attributes of layers and of their
classes and from globals of the model's files, also through collections, closures, default arguments, attributes of
functions, caches and iterators.
"""

import gc
import hashlib
import itertools
import random
import sys
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from smallbatch.models import file_of

_OF_EACH_LAYER = {name for name in vars(nn.Module()) if not name.endswith("_hooks")}

_ITERABLES: tuple[Iterable[object], ...] = ([], (), {}, "", b"", range(1), range(1 << 99))
_ITERATORS = (
    *(kind for kind in vars(itertools).values() if isinstance(kind, type)),
    *(type(iter(values)) for values in _ITERABLES),
    *(enumerate, zip, map, filter, reversed, range),
)
"""Iterators whose `__reduce__` gives their position."""

MAX_OBJECTS = 100_000
"""Maximum number of objects examined for one attribute or global."""


def unsaved_state_digests(model: nn.Module, files: Collection[Path]) -> dict[str, str]:
    """Name -> digest of everything that a model and its files hold beside the model's parameters and buffers."""
    saved = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    return {
        f"{owner}.{name}".lstrip("."): _Digester(files, saved).digest_of(value)
        for owner, values in _owners(model, files).items()
        for name, value in values.items()
        if not (name.startswith("__") and name.endswith("__"))
    }


def _owners(model: nn.Module, files: Collection[Path]) -> dict[str, Mapping[str, object]]:
    """Owners of values by name (layers, parameters, modules and classes), with their attributes."""
    owners: dict[str, Mapping[str, object]] = {}
    for layer_name, layer in model.named_modules():
        unsaved = {name: layer._buffers[name] for name in layer._non_persistent_buffers_set}
        owners[layer_name] = _attributes(layer) | unsaved
        owners |= {f"{layer_name}.{name}": vars(p) for name, p in layer._parameters.items() if p is not None}
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and file_of(module) in files:
            owners[module.__name__] = vars(module)
            kinds = {name: kind for name, kind in vars(module).items() if _is_class_of(kind, module)}
            owners |= {f"{module.__name__}.{name}": vars(kind) for name, kind in kinds.items()}
            others = [other for other in vars(module).values() if isinstance(other, ModuleType)]
            owners |= {other.__name__: _plain(other) for other in others if file_of(other) not in files}
    return owners


def _attributes(layer: nn.Module) -> dict[str, object]:
    """Attributes of a layer that not every `nn.Module` has, and its hooks."""
    return {name: value for name, value in vars(layer).items() if name not in _OF_EACH_LAYER}


def _plain(module: ModuleType) -> dict[str, object]:
    """Numbers and texts of a module other than the model's, in which its code could store values."""
    return {name: value for name, value in list(vars(module).items()) if isinstance(value, int | float | str | bytes)}


def _is_class_of(kind: object, module: ModuleType) -> bool:
    return isinstance(kind, type) and kind.__module__ == module.__name__


class _Digester:
    """Walks over all objects that a value refers to, each once.

    Args:
        files: files of the model, whose functions and classes are examined; those of other files are not.
        saved: ids of the tensors in the state_dict.
    """

    def __init__(self, files: Collection[Path], saved: Collection[int]) -> None:
        self.files = {str(file) for file in files}
        self.saved, self.digest = saved, hashlib.sha256()
        self.seen: dict[int, int] = {}
        self.kept: list[object] = []  # so that the id of a visited object is not reused

    def digest_of(self, value: object) -> str:
        """The digest of a value."""
        pending = [value]
        while pending and len(self.seen) < MAX_OBJECTS:
            value = pending.pop()
            if id(value) in self.seen:
                self._add(f"again {self.seen[id(value)]}")
                continue
            self.seen[id(value)] = len(self.seen)
            self.kept.append(value)
            pending += reversed(list(self._referenced(value)))
        return self.digest.hexdigest()

    def _add(self, *what: object) -> None:
        self.digest.update(repr(what).encode("utf-8", "backslashreplace"))

    def _referenced(self, value: Any) -> Iterator[object]:
        """Add a value's own content; yields the objects that it refers to."""
        self._add(type(value).__qualname__)
        if value is None or isinstance(value, bool | int | float | complex | str | bytes | bytearray):
            self._add(value)
        elif isinstance(value, Tensor | np.ndarray):
            self._add_array(value)
        elif isinstance(value, torch.Generator | random.Random | np.random.Generator | np.random.RandomState):
            yield _state_of(value)
        elif isinstance(value, nn.Module):
            yield from (_attributes(value), value._parameters, value._buffers, value._modules)
        elif isinstance(value, Mapping):
            yield from itertools.chain.from_iterable(list(value.items()))
        elif isinstance(value, set | frozenset):
            yield from sorted(value, key=repr)
        elif isinstance(value, types.GeneratorType):
            self._add(value.gi_frame and value.gi_frame.f_lasti)
            yield dict(value.gi_frame.f_locals) if value.gi_frame else None
        elif isinstance(value, _ITERATORS):
            yield value.__reduce__()
        elif isinstance(value, type | ModuleType | types.FunctionType | types.CodeType | types.FrameType):
            yield from self._behind_code(value)
        elif self._is_looked_into(value):
            yield from gc.get_referents(value)

    def _behind_code(self, value: Any) -> Iterator[object]:
        """Yield the values held by a function of the model's files; add only the name of other code."""
        self._add(getattr(value, "__qualname__", ""))
        if isinstance(value, types.FunctionType) and value.__code__.co_filename in self.files:
            yield from (value.__defaults__, value.__kwdefaults__, vars(value))
            yield from (_content(cell) for cell in value.__closure__ or ())

    def _add_array(self, value: Tensor | np.ndarray) -> None:
        if id(value) in self.saved:
            return
        array = value.detach().cpu().contiguous() if isinstance(value, Tensor) else np.ascontiguousarray(value)
        data = array.view(torch.uint8).numpy() if isinstance(array, Tensor) and array.dim() else np.asarray(array)
        self._add(tuple(value.shape), hashlib.sha256(data.tobytes()).hexdigest())

    def _is_looked_into(self, value: object) -> bool:
        """Whether a value is a collection, cache, method, or object of the model's own classes."""
        kind = type(value)
        if kind.__module__ in ("builtins", "collections", "functools", "types", "weakref", "_thread"):
            return True
        module = sys.modules.get(kind.__module__)
        return module is not None and str(file_of(module)) in self.files


def _state_of(generator: Any) -> object:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.get_state()


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None
