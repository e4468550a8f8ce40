"""A training step as a list of launches.

Gradients are never accumulated in place: additions go to a new buffer. So weight gradients, which only the update
needs, can be computed on a second stream.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from smallbatch.models.normalisation import micro_batch_momenta
from smallbatch.training.engines.trace import Graph, Kind, Step
from smallbatch.training.engines.triton_kernels import kernels, layer_layout, tiles
from smallbatch.training.engines.triton_kernels.forward_launches import Forward
from smallbatch.training.engines.triton_kernels.launches import Launch, StepTensor, compiled
from smallbatch.training.engines.triton_kernels.layer_layout import blocks
from smallbatch.training.optimizers import LaneSGD


class Program(Forward):
    """A training step of all lanes.

    Args:
        graph: graph of the model.
        tensors: parameters and buffers by name, [lanes, ...]; `load` and `store` copy those of convolutions.
        velocities: velocities of parameters, by name; empty without momentum.
        m: number of images in a mini-batch.
        sub_batch: b of batch normalisation.
        precision: as in `Setting`.
        sgd: optimiser with weight decay and momentum.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, Tensor],
        velocities: Mapping[str, Tensor],
        *,
        m: int,
        sub_batch: int,
        precision: str,
        sgd: LaneSGD,
    ) -> None:
        super().__init__(graph, tensors, m, precision, shared=False)
        self.velocities, self.ghosts, self.sgd = velocities, m // sub_batch, sgd
        self.second = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.packed_velocities = {step: self._packed(step, velocities) for step in self.layers if velocities}
        self.launches = [*self.forward(), *self._backward()]
        compiled(self.launches, self.device)

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        ours, theirs = super()._pairs()
        pairs = [pair for packed in self.packed_velocities.values() for pair in packed.pairs]
        return [*ours, *(own for own, _ in pairs)], [*theirs, *(other for _, other in pairs)]

    @torch.no_grad()
    def store(self) -> None:
        """Copy weights and velocities back to the network."""
        ours, theirs = self._pairs()
        torch._foreach_copy_(theirs, ours)

    def step(self, images: Tensor, labels: Tensor, negative_rates: Tensor) -> Tensor:
        """Make a step.

        Args:
            images: [m, lanes * c, h, w].
            labels: [m, lanes].
            negative_rates: -eta of each lane.

        Returns:
            The losses before it, [lanes].
        """
        losses = torch.empty_like(negative_rates)
        step_tensors = {
            StepTensor.IMAGES: images.contiguous(),
            StepTensor.LABELS: labels.contiguous(),
            StepTensor.NEGATIVE_RATES: negative_rates,
            StepTensor.LOSSES: losses,
        }
        for launch in self.launches:
            if launch.beside and self.second:
                self.second.wait_stream(torch.cuda.current_stream(self.device))
                with torch.cuda.stream(self.second):
                    launch.run(step_tensors)
            else:
                launch.run(step_tensors)
        if self.second:
            torch.cuda.current_stream(self.device).wait_stream(self.second)
        return losses

    def _norm_sizes(self, step: Step) -> dict[str, int]:
        """Rows of a sub-batch, rows of a chunk, number of chunks, sub-batches per lane."""
        rows = self.count // self.ghosts * step.input.height * step.input.width
        chunks = layer_layout.norm_chunks(rows, self.lanes * self.ghosts * blocks(step.input.channels, 16))
        each = blocks(blocks(rows, chunks), layer_layout.NORM_ROWS) * layer_layout.NORM_ROWS
        return {"R": rows, "PER": each, "CHUNKS": chunks, "SUB_BATCHES": self.ghosts}

    def _norm(self, step: Step) -> Iterator[Launch]:
        c, sizes = step.input.channels, self._norm_sizes(step)
        groups, chunks = self.lanes * self.ghosts, sizes["CHUNKS"]
        saved, sums = (torch.empty(groups, n, 2, c, device=self.device) for n in (1, chunks))
        self.extra[step] = saved, sums
        arguments = self._read(step) | {
            "weight": self.tensors[step.weight],
            "bias": self.tensors[step.bias],
            "saved": saved,
            "eps": step.eps,
        }
        constants, columns = self._norm_tile(sizes["R"]) | {"C": c}, blocks(c, 16)
        if sizes["R"] <= layer_layout.FUSED_ROWS:
            arguments |= {name: sizes[name] for name in ("R", "SUB_BATCHES")}
            yield Launch(
                kernels.norm_forward_fused, (groups, columns), arguments, constants | layer_layout.epilogue(step)
            )
            return
        statistics = torch.empty(groups, chunks, 2, c, device=self.device)
        own = {"statistics": statistics} | {name: sizes[name] for name in ("R", "PER", "CHUNKS")}
        read = {"x": self.values[step.input]}
        yield Launch(kernels.norm_statistics, (groups * chunks, columns), read | own, constants)
        grid = groups * blocks(sizes["R"], constants["BM"]), columns
        arguments |= own | {"SUB_BATCHES": self.ghosts}
        epilogue = layer_layout.epilogue(step) | {"BP": _at_once(chunks)}
        yield Launch(kernels.norm_forward, grid, arguments, constants | epilogue)

    def _norm_tile(self, rows: int) -> dict[str, int]:
        """A tile for all rows of a sub-batch, or for some."""
        if rows > layer_layout.FUSED_ROWS:
            return {"BM": layer_layout.NORM_ROWS, "BN": 16}
        height = tiles.power_of_two(rows, 16, layer_layout.FUSED_ROWS)
        return {"BM": height, "BN": 16, "num_warps": 8 if height > 128 else 4}

    def _backward(self) -> Iterator[Launch]:
        logits = self.values[self.graph.logits]
        gradients = {self.graph.logits: torch.empty_like(logits)}
        yield self._loss(logits, gradients[self.graph.logits])
        makers: dict[Kind, Callable[[Step, Tensor, dict[str, Any], dict[str, bool]], Iterator[Launch]]] = {
            Kind.CONV: self._convolution_back,
            Kind.BATCH_NORM: self._norm_back,
            Kind.MAX_POOL: self._max_pool_back,
            Kind.MEAN_POOL: self._mean_pool_back,
            Kind.SHORTCUT: self._shortcut_back,
        }
        for step in reversed(self.graph.steps):
            dy = gradients.pop(step.output)
            if step.residual is not None:
                gradients[step.residual] = dy
            target, flags = {}, {}
            if step.input is not self.graph.input:
                before, active = gradients.get(step.input), self.graph.completes(step, step.input)
                dx = gradients[step.input] = self._buffer(step.input)
                x = self.values[step.input]
                target = {"dx": dx, "other": dx if before is None else before, "active": x}
                flags = {"ADD": before is not None, "MASK": active}
            yield from makers[step.kind](step, dy, target, flags)

    def _loss(self, logits: Tensor, d_logits: Tensor) -> Launch:
        classes = logits.shape[-1]
        arguments = {
            "logits": logits,
            "labels": StepTensor.LABELS,
            "d_logits": d_logits,
            "losses": StepTensor.LOSSES,
            "N": self.count,
            "L": self.lanes,
        }
        columns = tiles.power_of_two(classes, 16, 1024)
        constants = {"C": classes, "BM": tiles.power_of_two(self.count, 1, max(1, 2048 // columns)), "BN": columns}
        return Launch(kernels.loss, (self.lanes,), arguments, constants)

    @property
    def _sgd_arguments(self) -> dict[str, Any]:
        return {"rate": StepTensor.NEGATIVE_RATES, "decay": self.sgd.weight_decay, "momentum": self.sgd.momentum}

    def _convolution_back(
        self, step: Step, dy: Tensor, target: dict[str, Any], flags: dict[str, bool]
    ) -> Iterator[Launch]:
        if target:
            yield self._input_gradient(step, dy, target, flags)
        yield from self._weight_gradient(step, dy)

    def _input_gradient(self, step: Step, dy: Tensor, target: dict[str, Any], flags: dict[str, bool]) -> Launch:
        layer, s = self.layers[step], self.layers[step].stride
        rows = self.count * blocks(layer.height, s) * blocks(layer.width, s)
        depth = layer.outputs * blocks(layer.kernel[0], s) * blocks(layer.kernel[1], s)
        tile = tiles.input_gradient(rows * s * s * self.lanes, layer.channels, depth, image=layer.image)
        arguments = {"dy": dy, "w": self.packed[step].numbers, "N": self.count} | target
        grid = blocks(rows, tile.rows) * s * s, blocks(layer.channels, tile.columns), self.lanes
        constants = layer.constants | tile.options | flags | {"PRECISION": self.product}
        return Launch(kernels.conv_input_gradient, grid, arguments, constants)

    def _weight_gradient(self, step: Step, dy: Tensor) -> Iterator[Launch]:
        layer, w = self.layers[step], self.packed[step].numbers
        tile, chunks, each = layer.split(self.count, self.lanes)
        split = chunks > 1
        velocity = self.packed_velocities[step].numbers if self.velocities else w
        slabs = torch.empty(chunks, *w.shape, device=self.device) if split else w
        own = {"w": w, "velocity": velocity, "slabs": slabs} | self._sgd_arguments
        sizes = {"N": self.count, "L": self.lanes, "PER": each, "SLAB": w.numel()}
        grid = blocks(layer.rows, tile.rows), blocks(layer.outputs, tile.columns), self.lanes * chunks
        flags = {"SPLIT": split, "MOMENTUM": bool(self.velocities)}
        constants = layer.constants | tile.options | flags | {"PRECISION": self.product}
        arguments = {"dy": dy, "x": self.values[step.input]} | own | sizes
        yield Launch(kernels.conv_weight_gradient, grid, arguments, constants, beside=True)
        if split:
            size = layer.rows * layer.outputs
            sizes = {"SIZE": size, "CHUNKS": chunks, "SLAB": w.numel()}
            constants = {"MOMENTUM": bool(self.velocities), "B": 256}
            yield Launch(kernels.update, (blocks(size, 256), self.lanes), own | sizes, constants, beside=True)

    def _norm_back(self, step: Step, dy: Tensor, target: dict[str, Any], flags: dict[str, bool]) -> Iterator[Launch]:
        saved, sums = self.extra[step]
        sizes, c = self._norm_sizes(step), step.input.channels
        groups, columns = self.lanes * self.ghosts, blocks(c, 16)
        constants = self._norm_tile(sizes["R"]) | {"C": c}
        read = {"dy": dy, "x": self.values[step.input], "saved": saved, "sums": sums, "eps": step.eps}
        arguments = read | target | {"weight": self.tensors[step.weight], "R": sizes["R"], "SUB_BATCHES": self.ghosts}
        if sizes["R"] <= layer_layout.FUSED_ROWS:
            yield Launch(kernels.norm_gradient_fused, (groups, columns), arguments, constants | flags)
        else:
            own = {name: sizes[name] for name in ("R", "PER", "CHUNKS")}
            yield Launch(kernels.norm_gradient_sums, (groups * sizes["CHUNKS"], columns), read | own, constants)
            grid = groups * blocks(sizes["R"], constants["BM"]), columns
            arguments |= {"CHUNKS": sizes["CHUNKS"]}
            own = flags | {"BP": _at_once(sizes["CHUNKS"])}
            yield Launch(kernels.norm_input_gradient, grid, arguments, constants | own)
        own = {name: sizes[name] for name in ("R", "CHUNKS", "SUB_BATCHES")}
        yield self._norm_update(step, saved, sums, own)

    def _norm_update(self, step: Step, saved: Tensor, sums: Tensor, sizes: dict[str, int]) -> Launch:
        source = self.velocities or self.tensors
        [norm_momentum] = micro_batch_momenta([self.count], self.count)
        arguments = {
            "weight": self.tensors[step.weight],
            "bias": self.tensors[step.bias],
            "weight_velocity": source[step.weight],
            "bias_velocity": source[step.bias],
            "running_mean": self.tensors[step.mean],
            "running_var": self.tensors[step.var],
            "saved": saved,
            "sums": sums,
            "norm_momentum": norm_momentum,
        }
        grid = self.lanes, blocks(step.input.channels, 16)
        at_once = _at_once(sizes["CHUNKS"] * sizes["SUB_BATCHES"])
        constants = {"C": step.input.channels, "MOMENTUM": bool(self.velocities), "BN": 16, "BP": at_once}
        return Launch(kernels.norm_update, grid, arguments | self._sgd_arguments | sizes, constants, beside=True)

    def _max_pool_back(
        self, step: Step, dy: Tensor, target: dict[str, Any], flags: dict[str, bool]
    ) -> Iterator[Launch]:
        arguments = {"dy": dy, "argmax": self.extra[step]} | target
        yield self._elementwise(kernels.max_pool_gradient, target["dx"], arguments, layer_layout.window(step) | flags)

    def _mean_pool_back(
        self, step: Step, dy: Tensor, target: dict[str, Any], flags: dict[str, bool]
    ) -> Iterator[Launch]:
        yield self._elementwise(
            kernels.mean_pool_gradient, target["dx"], {"dy": dy} | target, layer_layout.window(step) | flags
        )

    def _shortcut_back(
        self, step: Step, dy: Tensor, target: dict[str, Any], flags: dict[str, bool]
    ) -> Iterator[Launch]:
        yield self._elementwise(
            kernels.shortcut_gradient, target["dx"], {"dy": dy} | target, layer_layout.channels(step) | flags
        )


def _at_once(chunks: int) -> int:
    """Number of parts of batch statistics that a program processes at once."""
    return tiles.power_of_two(chunks, 1, layer_layout.NORM_CHUNKS)
