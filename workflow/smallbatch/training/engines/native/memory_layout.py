"""Turns a traced model into a program for the kernels, with the memory layout of everything."""

from collections.abc import Iterable

from smallbatch.training.engines.native import library
from smallbatch.training.engines.trace import Graph, Kind, Step, Unsupported, Value


def _vectors(channels: int) -> int:
    """Number of channels in memory: a multiple of the vector width."""
    vector = library.simd_width()
    return -(-channels // vector) * vector


def _aligned(floats: int) -> int:
    return -(-floats // 16) * 16


class MemoryLayout:
    """The memory layout of a graph, as a program for the kernels.

    Attributes:
        program: the program; it refers to arrays that are kept by this object.
        slots: names of the tensors that the kernels read and write, in order.
        values_floats: number of floats of an image's values without gradients, which come first.
    """

    def __init__(self, graph: Graph, slots: Iterable[str]) -> None:
        self.graph, self.slots = graph, tuple(slots)
        self.views: list[library.TensorView] = []
        self.at = self.packed = self.transposed = self.statistics = 0
        self.pads = self._pads()
        self.view_of = {value: self._view(value) for value in self._values()}
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
        """The border of each shape: the maximum that convolutions need of such values or, backwards, gradients."""
        pads: dict[tuple[int, int, int], int] = {}
        for step in self.graph.steps:
            if step.kind == Kind.CONV:
                for value, needed in ((step.input, step.pad), (step.output, _border_of_gradient(step))):
                    pads[value.shape] = max(pads.get(value.shape, 0), needed)
        return pads

    def _view(self, value: Value) -> int:
        """The index of a new view: memory for a value or its gradient."""
        channels, pad = self._channels(value), self.pads.get(value.shape, 0)
        size = _aligned((value.height + 2 * pad) * (value.width + 2 * pad) * channels)
        self.views.append(library.TensorView(self.at, size, value.height, value.width, channels, pad))
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
            input=self.view_of[step.input],
            output=self.view_of[step.output],
            residual=-1 if step.residual is None else self.view_of[step.residual],
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
            setattr(op, role, self.slots.index(name) if name else -1)
        if step.weight:
            self._lay_out_weights(step, op)
        return op

    def _lay_out_weights(self, step: Step, op: library.Op) -> None:
        outputs = _vectors(step.output.channels)
        inputs = self._channels(step.input) * step.kernel[0] * step.kernel[1] if step.kind == Kind.CONV else 1
        op.weight_at, self.packed = self.packed, self.packed + inputs * outputs
        if step.bias:
            op.bias_at, self.packed = self.packed, self.packed + outputs
        if step.kind == Kind.CONV:
            op.transposed_at, self.transposed = self.transposed, self.transposed + inputs * outputs

    def _gradients(self) -> None:
        """Go backwards and determine each gradient's memory, the first operation to write it and the last one."""
        free: dict[tuple[int, int, int], list[int]] = {}
        gradient: dict[Value, int] = {}
        self.d_logits = gradient[self.graph.logits] = self._view(self.graph.logits)
        for step in reversed(self.graph.steps):
            op = self.ops[step]
            view = op.d_output = gradient.pop(step.output)
            shared = False
            if step.residual is not None and step.residual is not self.graph.input:
                shared = self._pass_on(step, step.residual, op, gradient, free)
            if step.input is not self.graph.input:
                fresh = step.input not in gradient
                if fresh and step.kind == Kind.BATCH_NORM and not shared:
                    gradient[step.input], shared = view, True  # in place
                elif fresh:
                    gradient[step.input] = self._free_or_new_view(step.input, free)
                op.d_input, op.accumulate = gradient[step.input], not fresh
                op.mask = self.graph.completes(step, step.input)
            if not shared:
                free.setdefault(step.output.shape, []).append(view)

    def _pass_on(
        self,
        step: Step,
        value: Value,
        op: library.Op,
        gradient: dict[Value, int],
        free: dict[tuple[int, int, int], list[int]],
    ) -> bool:
        """Determine the gradient of a step's residual; returns whether it shares the memory of the sum's gradient."""
        if self.graph.completes(step, value) and value is not step.input:
            raise Unsupported("it takes a rectified value as a residual first")
        if value not in gradient and value is not step.input:
            gradient[value] = op.d_output
            return True
        op.accumulate_residual = value in gradient
        if not op.accumulate_residual:
            gradient[value] = self._free_or_new_view(value, free)
        op.d_residual = gradient[value]
        return False

    def _free_or_new_view(self, value: Value, free: dict[tuple[int, int, int], list[int]]) -> int:
        views = free.get(value.shape)
        return views.pop() if views else self._view(value)

    def _program(self) -> library.Program:
        if max(view.c for view in self.views) > (most := library.max_channels()):
            raise Unsupported(f"it has more than {most} channels")
        self.op_array = (library.Op * len(self.ops))(*self.ops.values())
        self.view_array = (library.TensorView * len(self.views))(*self.views)
        image = self.graph.input
        return library.Program(
            ops=self.op_array,
            views=self.view_array,
            count=len(self.ops),
            input=self.view_of[image],
            logits=self.view_of[self.graph.logits],
            d_logits=self.d_logits,
            classes=self.graph.logits.channels,
            image_floats=image.channels * image.height * image.width,
            arena_floats=self.at,
            statistics_floats=_aligned(self.statistics),
            packed_floats=_aligned(self.packed),
            transposed_floats=_aligned(self.transposed),
        )


def _border_of_gradient(step: Step) -> int:
    """Number of zeros around the output's gradient that the backward pass of a convolution reads."""
    if step.kernel == (step.input.height, step.input.width) and not step.pad:
        return 0  # like a fully connected layer
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
