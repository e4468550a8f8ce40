"""A forward pass of all lanes as a list of launches, with buffers that last as long as the list."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from smallbatch.training.engines.trace import Graph, Kind, Step, Value
from smallbatch.training.engines.triton_kernels import kernels, layer_layout, tiles
from smallbatch.training.engines.triton_kernels.launches import Launch, StepTensor
from smallbatch.training.engines.triton_kernels.layer_layout import BLOCK, Layer, Packed, blocks

PRODUCTS = {"float32": "tf32x3", "tf32": "tf32", "bf16": "bf16"}
"""Precision -> precision of products. tf32x3 uses three TensorFloat-32 products for one of float32, and is as exact."""


class Forward:
    """Buffers and launches of a forward pass.

    Args:
        graph: graph of the model.
        tensors: parameters and buffers by name, [lanes, ...]; `load` copies those of convolutions.
        count: number of images of each lane.
        precision: as in `Setting`.
        shared: whether all lanes have the same images, as in testing.
    """

    def __init__(
        self, graph: Graph, tensors: Mapping[str, Tensor], count: int, precision: str, *, shared: bool
    ) -> None:
        self.graph, self.tensors, self.count, self.shared = graph, tensors, count, shared
        self.product = PRODUCTS[precision]
        first = next(iter(tensors.values()))
        self.lanes, self.device = len(first), first.device
        self.values = {value: self._buffer(value) for value in layer_layout.values(graph)}
        self.layers = {
            step: Layer.of(step, layer_layout.channels_of(graph, step.input))
            for step in graph.steps
            if step.kind == Kind.CONV
        }
        self.packed = {step: self._packed(step, tensors) for step in self.layers}
        self.extra: dict[Step, Any] = {}

    def _buffer(self, value: Value) -> Tensor:
        lanes = 1 if self.shared and value is self.graph.input else self.lanes
        shape = value.height, value.width, layer_layout.channels_of(self.graph, value)
        return torch.empty(lanes, self.count, *shape, device=self.device)

    def _packed(self, step: Step, source: Mapping[str, Tensor]) -> Packed:
        bias = source[step.bias] if step.bias else None
        return Packed(self.layers[step], source[step.weight], bias, step.input.channels)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Packed weights, and the same weights as stored in the network."""
        ours, theirs = zip(*(pair for packed in self.packed.values() for pair in packed.pairs), strict=True)
        return list(ours), list(theirs)

    @torch.no_grad()
    def load(self) -> None:
        """Copy the network's weights."""
        torch._foreach_copy_(*self._pairs())

    def forward(self) -> Iterator[Launch]:
        """The launches of a pass."""
        image = self.graph.input
        x = self.values[image]
        sizes = {"C": image.channels, "CP": x.shape[-1], "PIXELS": image.height * image.width}
        yield self._elementwise(kernels.to_channels_last, x, {"images": StepTensor.IMAGES, "x": x}, sizes)
        makers: dict[Kind, Callable[[Step], Iterator[Launch]]] = {
            Kind.CONV: self._convolution,
            Kind.BATCH_NORM: self._norm,
            Kind.MAX_POOL: self._max_pool,
            Kind.MEAN_POOL: self._mean_pool,
            Kind.SHORTCUT: self._shortcut,
        }
        for step in self.graph.steps:
            yield from makers[step.kind](step)

    def _elementwise(self, kernel: Any, over: Tensor, arguments: dict[str, Any], constants: dict[str, Any]) -> Launch:
        """A launch of a kernel that processes the elements of `over` in blocks."""
        grid = blocks(over[0].numel(), BLOCK), len(over)
        return Launch(kernel, grid, arguments | {"N": self.count}, constants | {"B": BLOCK})

    def _tile(self, layer: Layer, rows: int) -> tiles.Tile:
        # Testing must give the same bits for any number of lanes and images.
        rows = tiles.MOST if self.shared else rows * self.lanes
        return tiles.forward(rows, layer.outputs, layer.channels, layer.weights, image=layer.image)

    def _convolution(self, step: Step) -> Iterator[Launch]:
        layer = self.layers[step]
        rows = self.count * layer.out_height * layer.out_width
        tile = self._tile(layer, rows)
        shared = self.shared and step.input is self.graph.input
        arguments = self._read(step) | {"w": self.packed[step].numbers, "N": self.count}
        constants = layer.constants | tile.options | {"PRECISION": self.product, "SHARED": shared}
        grid = blocks(rows, tile.rows), blocks(layer.outputs, tile.columns), self.lanes
        yield Launch(kernels.conv_forward, grid, arguments, constants | layer_layout.epilogue(step))

    def _read(self, step: Step) -> dict[str, Tensor]:
        """Input, output and residual of a step; without a residual, another tensor takes its place and is not read."""
        y = self.values[step.output]
        residual = y if step.residual is None else self.values[step.residual]
        return {"x": self.values[step.input], "y": y, "residual": residual}

    def _norm(self, step: Step) -> Iterator[Launch]:
        """With running statistics, as in testing; overridden for training."""
        rows, c = self.count * step.input.height * step.input.width, step.input.channels
        named = {"weight": step.weight, "bias": step.bias, "running_mean": step.mean, "running_var": step.var}
        arguments = self._read(step) | {role: self.tensors[name] for role, name in named.items()}
        grid = self.lanes * blocks(rows, 128), blocks(c, 16)
        constants = {"C": c, "BM": 128, "BN": 16} | layer_layout.epilogue(step)
        yield Launch(kernels.norm_test, grid, arguments | {"R": rows, "eps": step.eps}, constants)

    def _max_pool(self, step: Step) -> Iterator[Launch]:
        y = self.values[step.output]
        self.extra[step] = y if self.shared else torch.empty(y.shape, dtype=torch.int8, device=self.device)
        arguments = {"x": self.values[step.input], "y": y, "argmax": self.extra[step]}
        yield self._elementwise(kernels.max_pool, y, arguments, layer_layout.window(step) | {"KEEP": not self.shared})

    def _mean_pool(self, step: Step) -> Iterator[Launch]:
        y = self.values[step.output]
        yield self._elementwise(kernels.mean_pool, y, {"x": self.values[step.input], "y": y}, layer_layout.window(step))

    def _shortcut(self, step: Step) -> Iterator[Launch]:
        y = self.values[step.output]
        yield self._elementwise(
            kernels.shortcut, y, {"x": self.values[step.input], "y": y}, layer_layout.channels(step)
        )
