"""Records the torch operations and the layers that a model of the user's own runs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_layer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smallbatch.training.lane_layers import NoLaneForm
from smallbatch.training.own_models.norm_layer_tags import made_by_norms
from smallbatch.training.own_models.outside_access import call_tracing_paused

VALUE_READ_MESSAGE = "it asks a tensor for its values"
WEIGHT_CHANGE_MESSAGE = "it changes its weights in its passes"

_NORMALISING = "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"
"""Final parts of the names of normalising functions and operations of torch, after removal of `_SUFFIXES`."""

_SUFFIXES = "_legit", "_functional", "_no_training", "_no_update", "_with_update", "_elemt", "_update_stats"
_RANGES = torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step
"""Operations whose arguments are positions, not constants of the model."""

VALUE_READING_OPERATIONS = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default
"""Operations that give the host a tensor's value."""


Arguments = Sequence[Any]
Options = Mapping[str, Any]


class Operations(TorchDispatchMode):
    """Context that calls one function before each torch operation, and another one with its result."""

    def __init__(
        self,
        before: Callable[[Any, Arguments, Options], None] = lambda *_: None,
        after: Callable[[Any, Arguments, Options, Any], None] = lambda *_: None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before, self.after = before, after

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Arguments = (), options: Options | None = None
    ) -> Any:
        self.before(function, arguments, options or {})
        result = function(*arguments, **(options or {}))
        self.after(function, arguments, options or {}, result)
        return result


class _Functions(TorchFunctionMode):
    """Context that calls a function before each torch function."""

    def __init__(self, before: Callable[[Any], None]) -> None:
        super().__init__()
        self.before = before

    def __torch_function__(
        self, function: Any, types: Any, arguments: Arguments = (), options: Options | None = None
    ) -> Any:
        self.before(function)
        with call_tracing_paused():  # torch's own code, with hundreds of calls
            return function(*arguments, **(options or {}))


@contextlib.contextmanager
def value_reads_refused() -> Iterator[None]:
    """Context in which reading a tensor's value raises `NoLaneForm`: the value would be the same for all lanes."""

    def refuse(function: Any, *_: object) -> None:
        if function in (*VALUE_READING_OPERATIONS, Tensor.numpy, Tensor.tolist, Tensor.__array__):
            raise NoLaneForm(VALUE_READ_MESSAGE)

    with Operations(refuse), _Functions(refuse):
        yield


@contextlib.contextmanager
def weight_changes_refused(model: nn.Module) -> Iterator[None]:
    """Context in which changing the model's weights in place raises `NoLaneForm`.

    Max-norm clipping is an example: it leaves small weights alone, so lanes would differ only after some updates.
    """
    weights = {_storage(parameter) for parameter in model.parameters()}

    def refuse(operation: Any, arguments: Arguments, options: Options) -> None:
        given = _by_name(operation, arguments, options)
        aliased = [one for one in operation._schema.arguments if one.alias_info]
        changed = tree_leaves([given.get(one.name) for one in aliased if one.alias_info.is_write])
        if any(_storage(one) in weights for one in changed if isinstance(one, Tensor)):
            raise NoLaneForm(WEIGHT_CHANGE_MESSAGE)

    with Operations(refuse):
        yield


class Recorder(contextlib.ExitStack):
    """Context that records what a model does.

    Args:
        model: the model.

    Attributes:
        operations: names of operations, in order, including those of scripted code.
        constants: numbers used by the operations, in order, without sizes and positions in tensors.
        drew: whether an operation drew random numbers.
        called: names of the layers that were called.
        normalised: names of the layers made by `norms` that normalised something.
        foreign_norms: (layer, function) of every other normalisation.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(layer): name for name, layer in model.named_modules()}
        self._inside: list[nn.Module] = []
        self.operations: list[str] = []
        self.constants: list[float] = []
        self.drew = False
        self.called: set[str] = set()
        self.normalised: set[str] = set()
        self.foreign_norms: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self.callback(every_layer.register_module_forward_pre_hook(self._enter).remove)
        self.callback(every_layer.register_module_forward_hook(self._leave, always_call=True).remove)
        self.enter_context(_Functions(lambda function: self._note_norm(getattr(function, "__name__", ""))))
        self.enter_context(Operations(self._note))
        return self

    def _enter(self, layer: nn.Module, _: object) -> None:
        self._inside.append(layer)
        self.called.add(self._names.get(id(layer), type(layer).__name__))

    def _leave(self, *_: object) -> None:
        self._inside.pop()

    def _note(self, operation: Any, arguments: Arguments, options: Options) -> None:
        self.operations.append(str(operation))
        self.constants += _constants(operation, arguments, options)
        self.drew |= _draws(operation, arguments, options)
        self._note_norm(operation.overloadpacket.__name__)

    def _note_norm(self, name: str) -> None:
        if not _normalises(name):
            return
        made = [layer for layer in self._inside if made_by_norms(layer)]
        self.normalised |= {self._names.get(id(layer), type(layer).__name__) for layer in made}
        if not made:
            self.foreign_norms.append((type(self._inside[-1]).__name__ if self._inside else "code", name))


def _draws(operation: Any, arguments: Arguments, options: Options) -> bool:
    """Whether an operation draws random numbers; attention with dropout 0 does not."""
    if "scaled_dot_product" in str(operation) and not _by_name(operation, arguments, options).get("dropout_p"):
        return False
    # Operations that read a value have this tag, too.
    return torch.Tag.nondeterministic_seeded in operation.tags and operation not in VALUE_READING_OPERATIONS


def _constants(operation: Any, arguments: Arguments, options: Options) -> list[float]:
    """Numbers passed for a tensor, a scalar or a float argument; integer arguments are sizes and positions."""
    types = {one.name: str(one.type).removeprefix("Optional[") for one in operation._schema.arguments}
    given = _by_name(operation, arguments, options).items()
    numbers = tree_leaves([value for name, value in given if types[name].startswith(("Tensor", "number", "float"))])
    return [float(value) for value in numbers if isinstance(value, int | float) and operation not in _RANGES]


def _by_name(operation: Any, arguments: Arguments, options: Options) -> dict[str, Any]:
    return dict(zip((one.name for one in operation._schema.arguments), arguments, strict=False)) | dict(options)


def _normalises(name: str) -> bool:
    """Whether a function or operation of torch with this name normalises."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(_NORMALISING)


class RandomTensors(contextlib.ExitStack):
    """Context that collects tensors drawn at random or computed from such; ask by `tensor in random_tensors`."""

    def __init__(self) -> None:
        super().__init__()
        self._by_storage: dict[int, Tensor] = {}  # kept, so that their memory is not reused

    def __enter__(self) -> Self:
        super().__enter__()
        self.enter_context(Operations(after=self._note))
        return self

    def _note(self, operation: Any, arguments: Arguments, options: Options, result: Any) -> None:
        given = tree_leaves([arguments, options])
        if _draws(operation, arguments, options) or any(one in self for one in given if isinstance(one, Tensor)):
            for one in tree_leaves(result):
                if isinstance(one, Tensor):
                    self._by_storage[_storage(one)] = one

    def __contains__(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._by_storage


def _storage(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
