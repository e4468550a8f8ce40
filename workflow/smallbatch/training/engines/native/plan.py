"""Turns an ordinary torch model into a program for the kernels, by following one image's way through it."""

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import fx, nn
from torch.nn import functional as F

from smallbatch.models.normalisation import BatchNorm
from smallbatch.models.resnet import Shortcut
from smallbatch.training.engines.native import library

CHANNELS_MOST = 4096
"""As in kernels.cpp."""


class Unsupported(Exception):
    """The model does something that the kernels do not know; its text says what."""


class Kind(IntEnum):
    """Of operations, as in kernels.cpp."""

    CONV, BATCH_NORM, MAX_POOL, MEAN_POOL, SHORTCUT = range(5)


@dataclass(eq=False)
class Value:
    """What an operation makes of an image: channels x height x width.

    users: operations that take it, in order; as residual or as input.
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
    """One operation. `weight` and the others are names of the model's tensors."""

    kind: Kind
    input: Value
    output: Value
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    pad: int = 0
    residual: Value | None = None
    relu: bool = False
    weight: str | None = None
    bias: str | None = None
    mean: str | None = None
    var: str | None = None
    eps: float = 0.0


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, qualified_name: str) -> bool:
        return isinstance(m, BatchNorm | Shortcut) or super().is_leaf_module(m, qualified_name)


def _way(model: nn.Module) -> list[fx.Node]:
    """What a model does, node by node, which has to be the same in training and in testing."""
    was, ways = model.training, []
    try:
        for training in (True, False):
            model.train(training)
            ways.append(list(_Tracer().trace(model).nodes))
    except Exception as error:  # a model whose way depends on its input cannot be traced, in many ways
        raise Unsupported(f"its way cannot be followed ({error})") from error
    finally:
        model.train(was)
    if len({str([(n.op, n.target, n.args, n.kwargs) for n in way]) for way in ways}) > 1:
        raise Unsupported("it does another thing in testing than in training")
    return ways[0]


class Graph:
    """The operations of a model, in order.

    Args:
        model: alone, not of lanes.
        shape: channels, height, width of an image.

    Raises:
        Unsupported: the kernels do not know an operation, or how two of them follow each other.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int]) -> None:
        self.model, self.steps = model, []
        self.input = Value(*shape)
        self.values: dict[fx.Node, Value] = {}
        for node in _way(model):
            self._take(node)
        self._check()

    def _check(self) -> None:
        """Make sure that all there is leads to the logits, and that these are logits."""
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

    def _take(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.values:
                raise Unsupported("it takes more than images")
            self.values[node] = self.input
        elif node.op == "output":
            self.logits = self._value(node.args[0])
        elif node.op == "call_module":
            module = self.model.get_submodule(node.target)
            self._apply(node, type(module), module)
        elif node.op in ("call_function", "call_method"):
            self._apply(node, node.target, None)
        else:
            raise Unsupported(f"it has {node.op} {node.target}")

    def _apply(self, node: fx.Node, target: object, module: nn.Module | None) -> None:
        makers: dict[object, Callable[[fx.Node, nn.Module | None], Value]] = {
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
        # The input's channels are as many as they are, see kernels.cpp.
        if step.input is self.input and step.kind != Kind.CONV:
            raise Unsupported("it begins with something else than a convolution or a linear layer")
        step.output.maker = step
        step.input.users.append(step)
        self.steps.append(step)
        return step.output

    def _convolution(self, node: fx.Node, conv: nn.Module) -> Value:
        x = self._value(node.args[0])
        (kh, kw), (stride, other), pad = conv.kernel_size, conv.stride, conv.padding
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if not plain or stride != other or isinstance(pad, str) or pad[0] != pad[1]:
            raise Unsupported(f"it has a convolution {conv}")
        height, width = ((size + 2 * pad[0] - k) // stride + 1 for size, k in ((x.height, kh), (x.width, kw)))
        y = Value(conv.out_channels, height, width)
        bias = f"{node.target}.bias" if conv.bias is not None else None
        weight = f"{node.target}.weight"
        return self._add(Step(Kind.CONV, x, y, (kh, kw), stride, pad[0], weight=weight, bias=bias))

    def _linear(self, node: fx.Node, linear: nn.Module) -> Value:
        """A convolution whose kernel covers all of the image."""
        x = self._value(node.args[0])
        if linear.in_features != x.channels * x.height * x.width:
            raise Unsupported("it has a linear layer on parts of an image")
        y = Value(linear.out_features, 1, 1)
        bias = f"{node.target}.bias" if linear.bias is not None else None
        return self._add(Step(Kind.CONV, x, y, (x.height, x.width), weight=f"{node.target}.weight", bias=bias))

    def _batch_norm(self, node: fx.Node, norm: nn.Module) -> Value:
        x = self._value(node.args[0])
        if len(norm.weight) != x.channels or norm.sub_batch * x.height * x.width < 2:
            raise Unsupported("it normalises flattened channels, or single numbers")
        names = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
        tensors = {role: f"{node.target}.{name}" for role, name in names.items()}
        return self._add(Step(Kind.BATCH_NORM, x, Value(*x.shape), eps=norm.eps, **tensors))

    def _max_pool(self, node: fx.Node, pool: nn.Module) -> Value:
        k, stride, pad = pool.kernel_size, pool.stride, pool.padding
        if not all(isinstance(value, int) for value in (k, stride, pad)) or pool.dilation != 1 or pool.ceil_mode:
            raise Unsupported(f"it has {pool}")
        x = self._value(node.args[0])
        height, width = ((size + 2 * pad - k) // stride + 1 for size in (x.height, x.width))
        return self._add(Step(Kind.MAX_POOL, x, Value(x.channels, height, width), (k, k), stride, pad))

    def _mean_pool(self, node: fx.Node, pool: nn.Module) -> Value:
        x = self._value(node.args[0])
        size = pool.output_size
        height, width = size if isinstance(size, tuple) else (size, size)
        if not height or not width or x.height % height or x.width % width:
            raise Unsupported(f"it has {pool} of {x.height}x{x.width}")
        window = x.height // height, x.width // width
        return self._add(Step(Kind.MEAN_POOL, x, Value(x.channels, height, width), window))

    def _shortcut(self, node: fx.Node, shortcut: nn.Module) -> Value:
        x = self._value(node.args[0])
        y = Value(x.channels + shortcut.new_channels, (x.height + 1) // 2, (x.width + 1) // 2)
        return self._add(Step(Kind.SHORTCUT, x, y, stride=2))

    def _flatten(self, node: fx.Node, flatten: nn.Module | None) -> Value:
        if flatten:
            start, end = flatten.start_dim, flatten.end_dim
        else:
            given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
            start, end = given.get("start_dim", 0), given.get("end_dim", -1)
        if start != 1 or end not in (-1, 3):
            raise Unsupported("it flattens other than all of an image")
        return self._value(node.args[0])

    def _relu(self, node: fx.Node, module: nn.Module | None) -> Value:
        x = self._value(node.args[0])
        step = self._last(x)
        if step is None or step.relu:
            raise Unsupported("it rectifies what no convolution or normalisation made")
        step.relu = True
        return x

    def _sum(self, node: fx.Node, module: nn.Module | None) -> Value:
        """The later of two operations adds the other's result to its own."""
        if len(node.args) != 2 or node.kwargs:
            raise Unsupported("it scales a sum")
        a, b = (self._value(argument) for argument in node.args)
        for own, other in ((a, b), (b, a)):
            step = self._last(own)
            if (
                step
                and not step.relu
                and step.residual is None
                and own.shape == other.shape
                and other not in (own, self.input)
            ):
                step.residual = other
                other.users.append(step)
                # After what makes the residual; nothing between needs its result.
                self.steps.remove(step)
                self.steps.append(step)
                return own
        raise Unsupported("it adds what no convolution or normalisation made")

    def _last(self, value: Value) -> Step | None:
        """The convolution or normalisation that makes a value, if nothing else has taken it yet or will."""
        step = value.maker
        # One value may go by several names: what passes it on unchanged has a node of its own.
        alone = not value.users and all(len(n.users) == 1 for n, v in self.values.items() if v is value)
        return step if step and alone and step.kind in (Kind.CONV, Kind.BATCH_NORM) else None


def _vectors(channels: int) -> int:
    """Channels in memory: whole vectors of them."""
    vector = library.vector()
    return -(-channels // vector) * vector


def _aligned(floats: int) -> int:
    return -(-floats // 16) * 16


class Layout:
    """Where everything lies: a program for the kernels, made of a graph.

    Attributes:
        program: what the kernels get; it refers to arrays that this object keeps.
        slots: names of the tensors that the kernels read and write, in order.
        values_floats: of an image's values alone, without gradients: they come first.
    """

    def __init__(self, graph: Graph, slots: Iterable[str]) -> None:
        self.graph, self.slots = graph, tuple(slots)
        self.views: list[library.View] = []
        self.at = self.packed = self.turned = self.statistics = 0
        self.pads = self._pads()
        self.places = {value: self._view(value) for value in self._values()}
        self.extra = {step: self._extra(step) for step in graph.steps}
        self.values_floats = self.at
        self.ops = {step: self._op(step) for step in graph.steps}
        self._gradients()
        self.program = self._program()

    def _values(self) -> list[Value]:
        return [self.graph.input, *(step.output for step in self.graph.steps)]

    def _channels(self, value: Value) -> int:
        return value.channels if value is self.graph.input else _vectors(value.channels)

    def _pads(self) -> dict[tuple[int, int, int], int]:
        """The border of each shape: what convolutions need that take such values or, backwards, such gradients."""
        pads: dict[tuple[int, int, int], int] = {}
        for step in self.graph.steps:
            if step.kind == Kind.CONV:
                for value, needed in ((step.input, step.pad), (step.output, _border_of_gradient(step))):
                    pads[value.shape] = max(pads.get(value.shape, 0), needed)
        return pads

    def _view(self, value: Value) -> int:
        """A new place for a value or its gradient."""
        channels, pad = self._channels(value), self.pads.get(value.shape, 0)
        size = _aligned((value.height + 2 * pad) * (value.width + 2 * pad) * channels)
        self.views.append(library.View(self.at, size, value.height, value.width, channels, pad))
        self.at += size
        return len(self.views) - 1

    def _extra(self, step: Step) -> int:
        if step.kind == Kind.BATCH_NORM:
            at = self.statistics
            self.statistics += _aligned(9 * _vectors(step.input.channels))
            return at
        at = self.at
        if step.kind == Kind.MAX_POOL:
            self.at += _aligned(step.output.height * step.output.width * self._channels(step.output))
        return at

    def _op(self, step: Step) -> library.Op:
        op = library.Op(
            kind=step.kind,
            input=self.places[step.input],
            output=self.places[step.output],
            residual=-1 if step.residual is None else self.places[step.residual],
            d_input=-1,
            d_output=-1,
            d_residual=-1,
            relu=step.relu,
            in_channels=step.input.channels,
            out_channels=step.output.channels,
            kernel_h=step.kernel[0],
            kernel_w=step.kernel[1],
            stride=step.stride,
            pad=step.pad,
            extra_at=self.extra[step],
            eps=step.eps,
        )
        for role in ("weight", "bias", "mean", "var"):
            name = getattr(step, role)
            setattr(op, role, -1 if name is None else self.slots.index(name))
        if step.weight:
            self._place_weights(step, op)
        return op

    def _place_weights(self, step: Step, op: library.Op) -> None:
        outputs = _vectors(step.output.channels)
        inputs = self._channels(step.input) * step.kernel[0] * step.kernel[1] if step.kind == Kind.CONV else 1
        op.weight_at, self.packed = self.packed, self.packed + inputs * outputs
        if step.bias:
            op.bias_at, self.packed = self.packed, self.packed + outputs
        if step.kind == Kind.CONV:
            op.turned_at, self.turned = self.turned, self.turned + inputs * outputs

    def _gradients(self) -> None:
        """Go backwards: where each gradient lies, who writes it first and who completes it."""
        free: dict[tuple[int, int, int], list[int]] = {}
        gradient: dict[Value, int] = {}
        self.d_logits = gradient[self.graph.logits] = self._view(self.graph.logits)
        for step in reversed(self.graph.steps):
            op = self.ops[step]
            place = op.d_output = gradient.pop(step.output)
            shared = False
            if step.residual is not None and step.residual is not self.graph.input:
                shared = self._pass_on(step, op, gradient, free)
            if step.input is not self.graph.input:
                fresh = step.input not in gradient
                if fresh and step.kind == Kind.BATCH_NORM and not shared:
                    gradient[step.input], shared = place, True  # in place
                elif fresh:
                    gradient[step.input] = self._taken(step.input, free)
                op.d_input, op.accumulate = gradient[step.input], not fresh
                op.mask = self._completes(step, step.input)
            if not shared:
                free.setdefault(step.output.shape, []).append(place)

    def _pass_on(self, step: Step, op: library.Op, gradient: dict, free: dict) -> bool:
        """The gradient of a residual; returns whether it is the sum's own, in the same place."""
        value = step.residual
        if self._completes(step, value) and value is not step.input:
            raise Unsupported("it takes a rectified value as a residual first")
        if value not in gradient and value is not step.input:
            gradient[value] = op.d_output
            return True
        op.accumulate_residual = value in gradient
        if not op.accumulate_residual:
            gradient[value] = self._taken(value, free)
        op.d_residual = gradient[value]
        return False

    def _completes(self, step: Step, value: Value) -> bool:
        """Whether this is the last part of a rectified value's gradient: backwards, that of its first user."""
        first = min(value.users, key=self.graph.steps.index)
        return step is first and value.maker is not None and value.maker.relu

    def _taken(self, value: Value, free: dict[tuple[int, int, int], list[int]]) -> int:
        places = free.get(value.shape)
        return places.pop() if places else self._view(value)

    def _program(self) -> library.Program:
        if max(view.c for view in self.views) > CHANNELS_MOST:
            raise Unsupported(f"it has more than {CHANNELS_MOST} channels")
        self.op_array = (library.Op * len(self.ops))(*self.ops.values())
        self.view_array = (library.View * len(self.views))(*self.views)
        image = self.graph.input
        return library.Program(
            ops=self.op_array,
            views=self.view_array,
            count=len(self.ops),
            input=self.places[image],
            logits=self.places[self.graph.logits],
            d_logits=self.d_logits,
            classes=self.graph.logits.channels,
            image_floats=image.channels * image.height * image.width,
            arena_floats=self.at,
            statistics_floats=_aligned(self.statistics),
            packed_floats=_aligned(self.packed),
            turned_floats=_aligned(self.turned),
        )


def _border_of_gradient(step: Step) -> int:
    """Zeros around the output's gradient that the backward pass of a convolution reads."""
    if step.kernel == (step.input.height, step.input.width) and not step.pad:
        return 0  # as a fully connected layer
    borders = [0]
    for kernel, size, out in (
        (step.kernel[0], step.input.height, step.output.height),
        (step.kernel[1], step.input.width, step.output.width),
    ):
        for phase in range(step.stride):
            taps = len(range(phase, kernel, step.stride))
            first = (phase - step.pad) % step.stride
            count = len(range(first, size, step.stride))
            begin = (first + step.pad) // step.stride
            borders += [taps - 1 - begin, begin + count - 1 - (out - 1)]
    return max(borders)
