"""Traces an ordinary torch model into the operations for which backends have kernels, as applied to one image."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smallbatch.models.normalisation import BatchNorm
from smallbatch.models.resnet import Shortcut


class Unsupported(Exception):
    """The model does something that a backend does not support; the message says what."""


class Kind(IntEnum):
    """Kinds of operations, with the same numbers as in native/kernels.cpp."""

    CONV, BATCH_NORM, MAX_POOL, MEAN_POOL, SHORTCUT = range(5)


@dataclass(eq=False)
class Value:
    """The result of an operation on an image: channels x height x width.

    users: operations that use it, as input or residual, in order.
    """

    channels: int
    height: int
    width: int
    maker: "Step | None" = None
    users: list["Step"] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width


@dataclass(eq=False)
class Step:
    """One operation. `weight` to `var` are names of the model's tensors, or empty."""

    kind: Kind
    input: Value
    output: Value
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    pad: int = 0
    residual: Value | None = None
    relu: bool = False
    weight: str = ""
    bias: str = ""
    mean: str = ""
    var: str = ""
    eps: float = 0.0


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return isinstance(m, BatchNorm | Shortcut) or super().is_leaf_module(m, qualified_name)


class _NoWeightsOutsideLayers(TorchDispatchMode):
    """Raises `Unsupported` if a model computes with its weights outside layers: a trace would do so only once."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages = {tensor.untyped_storage()._cdata for tensor in model.state_dict(keep_vars=True).values()}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [one for one in tree_leaves([arguments, options]) if isinstance(one, torch.Tensor)]
        if any(tensor.untyped_storage()._cdata in self.storages for tensor in tensors):
            raise Unsupported(f"it computes with its weights outside its layers, by {function}")
        return function(*arguments, **(options or {}))


def _traced_nodes(model: nn.Module) -> list[fx.Node]:
    """The operations of a model as traced nodes, which must be the same in training and in testing."""
    was, traces = model.training, []
    try:
        for training in (True, False):
            model.train(training)
            with _NoWeightsOutsideLayers(model):
                traces.append(list(_Tracer().trace(model).nodes))
    except Exception as error:  # a model whose operations depend on its input fails to be traced in many ways
        raise Unsupported(f"it cannot be traced ({error})") from error
    finally:
        model.train(was)
    if len({str([(n.op, n.target, n.args, n.kwargs) for n in nodes]) for nodes in traces}) > 1:
        raise Unsupported("it does another thing in testing than in training")
    return traces[0]


class Graph:
    """The operations of a model, in order.

    Args:
        model: a model alone, not of lanes.
        shape: channels, height, width of an image.

    Raises:
        Unsupported: there is no kind for an operation, or for a sequence of two operations.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int]) -> None:
        self.model = model
        self.steps: list[Step] = []
        self.input = Value(*shape)
        self.values: dict[fx.Node, Value] = {}
        for node in _traced_nodes(model):
            self._add_node(node)
        self._check()

    def completes(self, step: Step, value: Value) -> bool:
        """Whether a step adds the last part of a rectified value's gradient: backwards, its first user does."""
        first = min(value.users, key=self.steps.index)
        return step is first and value.maker is not None and value.maker.relu

    def _check(self) -> None:
        """Make sure that all operations contribute to the logits, and that these are the result of a layer."""
        last, names = self.logits.maker, [step.weight for step in self.steps if step.weight]
        if last is None or last.relu or self.logits.users or (self.logits.height, self.logits.width) != (1, 1):
            raise Unsupported("its logits are not the plain result of a layer")
        if any(not step.output.users for step in self.steps if step is not last):
            raise Unsupported("it makes what it does not use")
        if len(names) != len(set(names)):
            raise Unsupported("it passes a layer twice")
        used = {name for step in self.steps for name in (step.weight, step.bias)}
        if idle := [name for name, _ in self.model.named_parameters() if name not in used]:
            raise Unsupported(f"it does not use {idle[0]}")

    def _add_node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.values:
                raise Unsupported("it takes more than images")
            self.values[node] = self.input
        elif node.op == "output":
            self.logits = self._value(node.args[0])
        elif node.op == "call_module":
            module = self.model.get_submodule(str(node.target))
            self._apply(node, type(module), module)
        elif node.op in ("call_function", "call_method"):
            self._apply(node, node.target, None)
        else:
            raise Unsupported(f"it has {node.op} {node.target}")

    def _apply(self, node: fx.Node, target: object, module: nn.Module | None) -> None:
        makers: dict[object, Callable[[fx.Node, Any], Value]] = {  # each with its type of module
            nn.Conv2d: self._convolution,
            nn.Linear: self._linear,
            BatchNorm: self._batch_norm,
            nn.MaxPool2d: self._max_pool,
            nn.AdaptiveAvgPool2d: self._mean_pool,
            Shortcut: self._shortcut,
            **dict.fromkeys((nn.ReLU, F.relu, torch.relu, "relu", "relu_"), self._relu),
            **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), self._sum),
            **dict.fromkeys((nn.Identity,), lambda node, module: self._value(node.args[0])),
            **dict.fromkeys((nn.Flatten, torch.flatten, "flatten"), self._flatten),
        }
        if target not in makers or not node.args:
            raise Unsupported(f"it has {getattr(target, '__name__', target)}")
        self.values[node] = makers[target](node, module)

    def _value(self, node: object) -> Value:
        if not isinstance(node, fx.Node):
            raise Unsupported(f"it takes {node!r} for an activation")
        return self.values[node]

    def _add(self, step: Step) -> Value:
        # The number of channels of the input is not padded, see kernels.cpp.
        if step.input is self.input and step.kind != Kind.CONV:
            raise Unsupported("it begins with something else than a convolution or a linear layer")
        step.output.maker = step
        step.input.users.append(step)
        self.steps.append(step)
        return step.output

    def _convolution(self, node: fx.Node, conv: nn.Conv2d) -> Value:
        x = self._value(node.args[0])
        (kh, kw), (stride, other), pad = conv.kernel_size, conv.stride, conv.padding
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if not plain or stride != other or isinstance(pad, str) or pad[0] != pad[1]:
            raise Unsupported(f"it has a convolution {conv}")
        height, width = ((size + 2 * pad[0] - k) // stride + 1 for size, k in ((x.height, kh), (x.width, kw)))
        y = Value(conv.out_channels, height, width)
        bias = f"{node.target}.bias" if conv.bias is not None else ""
        weight = f"{node.target}.weight"
        return self._add(Step(Kind.CONV, x, y, (kh, kw), stride, pad[0], weight=weight, bias=bias))

    def _linear(self, node: fx.Node, linear: nn.Linear) -> Value:
        """A convolution whose kernel covers the whole image."""
        x = self._value(node.args[0])
        if linear.in_features != x.channels * x.height * x.width:
            raise Unsupported("it has a linear layer on parts of an image")
        y = Value(linear.out_features, 1, 1)
        bias = f"{node.target}.bias" if linear.bias is not None else ""
        return self._add(Step(Kind.CONV, x, y, (x.height, x.width), weight=f"{node.target}.weight", bias=bias))

    def _batch_norm(self, node: fx.Node, norm: BatchNorm) -> Value:
        x = self._value(node.args[0])
        if len(norm.weight) != x.channels or norm.sub_batch * x.height * x.width < 2:
            raise Unsupported("it normalises flattened channels, or single numbers")
        weight, bias, mean, var = (
            f"{node.target}.{name}" for name in ("weight", "bias", "running_mean", "running_var")
        )
        y = Value(*x.shape)
        return self._add(Step(Kind.BATCH_NORM, x, y, weight=weight, bias=bias, mean=mean, var=var, eps=norm.eps))

    def _max_pool(self, node: fx.Node, pool: nn.MaxPool2d) -> Value:
        k, stride, pad = pool.kernel_size, pool.stride, pool.padding
        plain = pool.dilation == 1 and not pool.ceil_mode
        if not (plain and isinstance(k, int) and isinstance(stride, int) and isinstance(pad, int)):
            raise Unsupported(f"it has {pool}")
        x = self._value(node.args[0])
        height, width = ((size + 2 * pad - k) // stride + 1 for size in (x.height, x.width))
        return self._add(Step(Kind.MAX_POOL, x, Value(x.channels, height, width), (k, k), stride, pad))

    def _mean_pool(self, node: fx.Node, pool: nn.AdaptiveAvgPool2d) -> Value:
        x = self._value(node.args[0])
        size = pool.output_size
        height, width = size if isinstance(size, tuple) else (size, size)
        if not height or not width or x.height % height or x.width % width:
            raise Unsupported(f"it has {pool} of {x.height}x{x.width}")
        window = x.height // height, x.width // width
        return self._add(Step(Kind.MEAN_POOL, x, Value(x.channels, height, width), window))

    def _shortcut(self, node: fx.Node, shortcut: Shortcut) -> Value:
        x = self._value(node.args[0])
        y = Value(x.channels + shortcut.new_channels, (x.height + 1) // 2, (x.width + 1) // 2)
        return self._add(Step(Kind.SHORTCUT, x, y, stride=2))

    def _flatten(self, node: fx.Node, flatten: nn.Flatten | None) -> Value:
        given: dict[str, object] = {**dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)), **node.kwargs}
        if flatten:
            given = {"start_dim": flatten.start_dim, "end_dim": flatten.end_dim}
        start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        if start != 1 or end not in (-1, 3):
            raise Unsupported("it flattens other than all of an image")
        return self._value(node.args[0])

    def _relu(self, node: fx.Node, module: nn.Module | None) -> Value:
        x = self._value(node.args[0])
        step = self._layer_of(x)
        if step is None or step.relu:
            raise Unsupported("it rectifies what no convolution or normalisation made")
        step.relu = True
        return x

    def _sum(self, node: fx.Node, module: nn.Module | None) -> Value:
        """The later of two operations adds the other's result to its own."""
        if len(node.args) != 2 or node.kwargs:
            raise Unsupported("it scales a sum")
        a, b = (self._value(argument) for argument in node.args)
        for later, other in ((a, b), (b, a)):
            step = self._layer_of(later)
            if (
                step
                and not step.relu
                and step.residual is None
                and later.shape == other.shape
                and other not in (later, self.input)
            ):
                step.residual = other
                other.users.append(step)
                # After the operation that makes the residual; nothing in between needs its result.
                self.steps.remove(step)
                self.steps.append(step)
                return later
        raise Unsupported("it adds what no convolution or normalisation made")

    def _layer_of(self, value: Value) -> Step | None:
        """The convolution or normalisation that makes a value, if nothing else uses the value."""
        step = value.maker
        # A value may have several nodes: each operation that passes it on unchanged has one.
        alone = not value.users and all(len(n.users) == 1 for n, v in self.values.items() if v is value)
        return step if step and alone and step.kind in (Kind.CONV, Kind.BATCH_NORM) else None
