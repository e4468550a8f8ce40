"""Watches what a model of the user's own does while it runs: torch's operations, and the layers that are called."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_layer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smallbatch.models import normalisation
from smallbatch.models.normalisation import Norm, Norms
from smallbatch.training.lanes import NoLaneForm

ASKS = "it asks a tensor for its values"

NORMALISE = "batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"
"""Ends of the names of functions and operations of torch that do, but for what `_SUFFIXES` has."""

_SUFFIXES = "_legit", "_functional", "_no_training", "_no_update", "_with_update", "_elemt", "_update_stats"
_READ_VALUES = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default


Arguments = Sequence[Any]
Options = Mapping[str, Any]


class _Operations(TorchDispatchMode):
    """Calls a function with each operation of torch before it runs, and another one with what came out."""

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
    """Calls a function with each of torch's that is about to run."""

    def __init__(self, before: Callable[[Any], None]) -> None:
        super().__init__()
        self.before = before

    def __torch_function__(
        self, function: Any, types: Any, arguments: Arguments = (), options: Options | None = None
    ) -> Any:
        self.before(function)
        return function(*arguments, **(options or {}))


@contextlib.contextmanager
def no_values() -> Iterator[None]:
    """While it lasts, asking a tensor for its value ends in `NoLaneForm`: the answer would be one for all lanes."""

    def refuse(function: Any, *_: object) -> None:
        if function in (*_READ_VALUES, Tensor.numpy, Tensor.tolist, Tensor.__array__):
            raise NoLaneForm(ASKS)

    with _Operations(refuse), _Functions(refuse):
        yield


class Watch(contextlib.ExitStack):
    """Notes, while it lasts, what a model does.

    Args:
        model: whose.

    Attributes:
        operations: names, in their order; those of scripted code, too.
        drew: whether one of them drew random numbers.
        called: names of the layers that were.
        normed: names of those that `norms` made and that normalised something.
        strange: (layer, function) of what else did.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(layer): name for name, layer in model.named_modules()}
        self._inside: list[nn.Module] = []
        self.operations: list[str] = []
        self.drew = False
        self.called: set[str] = set()
        self.normed: set[str] = set()
        self.strange: list[tuple[str, str]] = []

    def __enter__(self) -> Self:
        super().__enter__()
        self.callback(every_layer.register_module_forward_pre_hook(self._enter).remove)
        self.callback(every_layer.register_module_forward_hook(self._leave, always_call=True).remove)
        self.enter_context(_Functions(lambda function: self._note_norm(getattr(function, "__name__", ""))))
        self.enter_context(_Operations(self._note))
        return self

    def _enter(self, layer: nn.Module, _: object) -> None:
        self._inside.append(layer)
        self.called.add(self._names.get(id(layer), type(layer).__name__))

    def _leave(self, *_: object) -> None:
        self._inside.pop()

    def _note(self, operation: Any, arguments: Arguments, options: Options) -> None:
        self.operations.append(str(operation))
        self.drew |= _draws(operation, arguments, options)
        self._note_norm(operation.overloadpacket.__name__)

    def _note_norm(self, name: str) -> None:
        if not _normalises(name):
            return
        made = [layer for layer in self._inside if made_by_norms(layer)]
        self.normed |= {self._names.get(id(layer), type(layer).__name__) for layer in made}
        if not made:
            self.strange.append((type(self._inside[-1]).__name__ if self._inside else "code", name))


def _draws(operation: Any, arguments: Arguments, options: Options) -> bool:
    """Whether an operation draws; those of attention with dropout, which is there and zero, do not."""
    named = dict(zip((one.name for one in operation._schema.arguments), arguments, strict=False)) | dict(options)
    if "scaled_dot_product" in str(operation) and not named.get("dropout_p"):
        return False
    # Asking for a value is marked so, too.
    return torch.Tag.nondeterministic_seeded in operation.tags and operation not in _READ_VALUES


def _normalises(name: str) -> bool:
    """Whether a function or operation of torch of this name does."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.endswith(NORMALISE)


class Drawn(contextlib.ExitStack):
    """Notes, while it lasts, in which memory random numbers are, and what was computed from them."""

    def __init__(self) -> None:
        super().__init__()
        self._memory: dict[int, Tensor] = {}  # keeps it, so that nothing else comes to lie there

    def __enter__(self) -> Self:
        super().__enter__()
        self.enter_context(_Operations(after=self._note))
        return self

    def _note(self, operation: Any, arguments: Arguments, options: Options, result: Any) -> None:
        given = tree_leaves([arguments, options])
        if _draws(operation, arguments, options) or any(self.has(one) for one in given if isinstance(one, Tensor)):
            for one in tree_leaves(result):
                if isinstance(one, Tensor):
                    self._memory[_place(one)] = one

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor is of them."""
        return _place(tensor) in self._memory


def _place(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


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


def settings() -> dict[str, object]:
    """What torch is set to, for all of the process."""
    mkldnn: Any = torch.backends.mkldnn
    return {
        "number of threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "anomaly detection": torch.is_anomaly_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "oneDNN": mkldnn.enabled,
        "cuDNN": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "small numbers": bool(torch.tensor(1e-40) / 2),
    }


def made_by_norms(layer: nn.Module) -> bool:
    """Whether a layer normalises and is one that `norms` made."""
    return bool(vars(layer).get(_MARK))
