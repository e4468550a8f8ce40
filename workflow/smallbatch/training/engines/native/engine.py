"""Updates by the kernels: a block of steps of all lanes is one call."""

import contextlib
import copy
import ctypes
import logging
import math
import mmap
from collections.abc import Iterator, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor, nn

from smallbatch.core.errors import refuse
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.models.normalisation import micro_batch_momenta
from smallbatch.study.experiments import Run
from smallbatch.training import lane_layers
from smallbatch.training.batches import Batches, BatchLoader
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines import cached_models
from smallbatch.training.engines.eager import EagerEngine
from smallbatch.training.engines.engine import BLOCK_IMAGES, BLOCK_VALUES, Engine
from smallbatch.training.engines.native import library
from smallbatch.training.engines.native.memory_layout import MemoryLayout
from smallbatch.training.engines.trace import Unsupported
from smallbatch.training.lane_optimizer import LaneOptimizer
from smallbatch.training.network import Network
from smallbatch.training.optimizers import LaneSGD
from smallbatch.training.own_models import suitability

log = logging.getLogger(__name__)

MICRO_BATCH = 16
"""Images of a mini-batch that pass forwards and backwards together unless batch statistics need more: few enough for
the caches, enough to read the weights of large layers rarely."""

CHECK_EXAMPLES, CHECK_SUB_BATCH, CHECK_LANES = 8, 4, 3
"""Examples, sub-batch and lanes with which the kernels are checked on a user's model."""

TOLERANCE = 1e-2
"""Tolerance between kernels and torch in single precision, relative to the largest value."""

MAX_PIXELS = 128 * 128
"""Maximum number of pixels of an image: photos are left to torch, whose convolutions are blocked for caches."""


class NativeEngine(Engine):
    """Updates of one lane after the other, each for all steps of a block; the weights stay in torch's memory.

    Args:
        network: network of the lanes.
        optimizer: the lanes' optimiser, with their rates and its state.
        loader: loader of their mini-batches.
        layout: layout of the model.
    """

    def __init__(self, network: Network, optimizer: LaneOptimizer, loader: BatchLoader, layout: MemoryLayout) -> None:
        super().__init__(network, optimizer, loader)
        self.layout = layout
        at_once = network.micro_batch == network.local_batch
        most = MICRO_BATCH if at_once else min(network.micro_batch, MICRO_BATCH)
        self.micro_batch = network.smallest_micro_batch if network.norms else most
        p = layout.program
        self.arena = _zeros(p.arena_floats * self.micro_batch)
        self.values = _zeros(layout.values_floats * MICRO_BATCH)
        self.scratch = _zeros(_scratch(p))

    @property
    def steps(self) -> int:
        """Maximum number of steps of a block."""
        return self._within(BLOCK_IMAGES, BLOCK_IMAGES, BLOCK_VALUES)

    def make(self, batches: Batches, factors: Sequence[float]) -> Tensor:
        """As `Updates.make`."""
        images, labels = (tensor.contiguous() for tensor in batches)
        steps, m, lanes = labels.shape[:3]
        optimizer, losses = self.optimizer, torch.empty(steps, lanes)
        negative_rates = optimizer.negative_rates(factors)
        [norm_momentum] = micro_batch_momenta([m], m)
        table = self._lanes(optimizer.means, optimizer.squares)
        done = library.loaded().smallbatch_train(
            *(ctypes.byref(self.layout.program), table, lanes, steps, m, self.micro_batch),
            *(tensor.data_ptr() for tensor in (self.arena, self.scratch, images)),
            *(*_labels_or_targets(labels), negative_rates.data_ptr()),
            *(ctypes.byref(_rule(optimizer)), optimizer.updates, norm_momentum, self.loader.setting.label_smoothing),
            losses.data_ptr(),
        )
        self._check(done, labels)
        optimizer.count(steps)
        return losses

    @cached_property
    def gradient_buffers(self) -> list[Tensor]:
        """Buffers for the results of `gradients`: allocating them each time would outlast a small mini-batch."""
        return [torch.zeros_like(parameter) for parameter in self.network.parameters]

    def gradients(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """As `Updates.gradients`."""
        images, labels = images.contiguous(), labels.contiguous()
        count, lanes = labels.shape[:2]
        done = library.loaded().smallbatch_gradients(
            *(ctypes.byref(self.layout.program), self._lanes(self.gradient_buffers), lanes, count, self.micro_batch),
            *(tensor.data_ptr() for tensor in (self.arena, self.scratch, images)),
            *_labels_or_targets(labels),
            self.loader.setting.label_smoothing,
        )
        self._check(done, labels)
        return self.gradient_buffers

    @contextlib.contextmanager
    def normalising(self, sub_batch: int) -> Iterator[None]:
        """As `Updates.normalising`."""
        micro_batch, arena = self.micro_batch, self.arena
        if self.network.norms:
            self.micro_batch, self.arena = sub_batch, _zeros(self.layout.program.arena_floats * sub_batch)
        try:
            yield
        finally:
            self.micro_batch, self.arena = micro_batch, arena

    def logits(self, images: Tensor) -> Tensor:
        """As `Updates.logits`."""
        program, table = self.layout.program, self._lanes()
        images = images.contiguous()
        logits = torch.empty(len(images), self.network.lanes * program.classes)
        library.loaded().smallbatch_logits(
            *(ctypes.byref(program), table, self.network.lanes, len(images), MICRO_BATCH),
            *(tensor.data_ptr() for tensor in (self.values, self.scratch, images, logits)),
        )
        return logits

    def _check(self, done: int, labels: Tensor) -> None:
        """Raise an error if the kernels have refused the labels."""
        if not done:
            value, largest = f"{labels.min()} to {labels.max()}", self.layout.program.classes - 1
            refuse(f"experiment on {self.loader.setting.data}", "labels", value, f"0 to {largest}, the classes")

    def _lanes(self, *remembered: Sequence[Tensor]) -> ctypes.Array[library.Lane]:
        """Addresses of each lane's tensors and, for each parameter, of the optimiser's state: means, then squares."""
        model, lanes = self.network.model, range(self.network.lanes)
        names = [name for name, _ in model.named_parameters()]
        sources = model.state_dict(), *(dict(zip(names, tensors, strict=True)) for tensors in remembered if tensors)
        self.tables = [
            _addresses([source.get(name) for name in self.layout.slots], len(lanes)) for source in sources
        ]  # kept in memory for the kernels
        pointer = ctypes.POINTER(ctypes.c_void_p)
        rows = ([table[lane].ctypes.data_as(pointer) for table in self.tables] for lane in lanes)
        return (library.Lane * len(lanes))(*(library.Lane(*row) for row in rows))


def _labels_or_targets(labels: Tensor) -> tuple[int | None, int | None]:
    """Addresses of labels and of targets, of which one is none."""
    address = labels.data_ptr()
    return (None, address) if labels.is_floating_point() else (address, None)


def _rule(optimizer: LaneOptimizer) -> library.Rule:
    """The rule by which the kernels update weights, equivalent to an optimiser."""
    undecayed = optimizer.undecayed_kinds
    return library.Rule(
        library.OPTIMIZERS.index(optimizer.name),
        *("biases" not in undecayed, "norms" not in undecayed),
        *(optimizer.weight_decay, *optimizer.betas, optimizer.eps, optimizer.clip_norm or 0.0),
    )


def _addresses(tensors: Sequence[Tensor | None], lanes: int) -> np.ndarray:
    """Addresses [lanes, tensors] of each lane's part of tensors [lanes, ...]; 0 for None."""
    starts = np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], dtype=np.uint64)
    sizes = np.array([0 if tensor is None else tensor[0].nbytes for tensor in tensors], dtype=np.uint64)
    return starts + np.arange(lanes, dtype=np.uint64)[:, None] * sizes


def _zeros(floats: int) -> Tensor:
    """Zeros on huge pages if available: a step uses more memory than the page tables of small pages cover."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    memory = mmap.mmap(-1, floats * 4, **private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # not supported by the system
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32)


def layout_for(
    alone: nn.Module, shape: tuple[int, int, int], precision: str, device: torch.device, world: World
) -> MemoryLayout | None:
    """The layout for the kernels, if they support the model's operations, its number types and the device; else None.

    Args:
        alone: the model of one lane.
        shape: image shape: channels, height, width.
        precision: as in `Setting`.
        device: device to run on.
        world: the processes that share each mini-batch.
    """
    plain = device.type == "cpu" and world.size == 1 and precision == "float32"
    single = all(weights.dtype == torch.float32 and weights.requires_grad for weights in alone.parameters())
    if not plain or not single or math.prod(shape[1:]) > MAX_PIXELS or library.kernels() is None:
        return None
    try:
        return MemoryLayout(cached_models.graph_of(alone, shape), alone.state_dict())
    except Unsupported as reason:
        log.info("trained operation by operation, slower: of this model the kernels do not know that %s", reason)
        return None


def matches_torch(model: nn.Module, layout: MemoryLayout, loader: BatchLoader) -> bool:
    """Whether kernels and torch agree on lanes with different weights and images: losses, updates, test logits.

    Args:
        model: a model alone.
        layout: its layout.
        loader: loader of its training data.
    """
    channels, height, width = loader.shape
    draws = torch.Generator().manual_seed(0)
    images = torch.randn(1, CHECK_EXAMPLES, CHECK_LANES * channels, height, width, generator=draws)
    labels = torch.randint(layout.program.classes, (1, CHECK_EXAMPLES, CHECK_LANES), generator=draws)
    results = []
    for make in (EagerEngine, partial(NativeEngine, layout=layout)):
        network = Network(
            lane_layers.stack([lane_layers.perturbed(copy.deepcopy(model), seed) for seed in range(CHECK_LANES)]),
            batch_size=CHECK_EXAMPLES,
            bn_batch_size=CHECK_SUB_BATCH,
            images_at_once="auto",
            pixels=height * width,
            precision="float32",
            device=torch.device("cpu"),
            world=ALONE,
        )
        before = {name: tensor.clone() for name, tensor in network.model.state_dict().items()}
        optimizer = LaneSGD(network.parameters, [2.0**-7, 2.0**-6, 2.0**-5], 0.1, 0.5)
        updates = make(network, optimizer, loader)
        losses, logits = updates.make(Batches(images, labels), [1.0]), updates.logits(images[0, :, :channels])
        changes = [tensor - before[name] for name, tensor in network.model.state_dict().items()]
        results.append([losses, logits, *changes])
    return all(
        torch.allclose(ours, theirs, rtol=0.0, atol=TOLERANCE * theirs.abs().max().item())
        for theirs, ours in zip(*results, strict=True)
    )


def layout_of(run: Run, dataset: DatasetInfo, device: torch.device, world: World) -> MemoryLayout | None:
    """The layout of a run's model for the kernels, as from `layout_for`; the run may be a `local_run`."""
    s, classes = run.setting, dataset.classes
    suits = suitability(s, dataset.shape, classes)
    if not (suits.lanes and suits.splittable):
        return None
    alone = cached_models.model_of(run, dataset.shape, classes)
    return layout_for(alone, dataset.shape, s.precision, device, world)


def memory(layout: MemoryLayout, micro_batch: int) -> int:
    """Bytes that `NativeEngine` use in addition to the lanes' tensors, independent of the number of lanes."""
    p = layout.program
    return int(4 * (p.arena_floats * micro_batch + layout.values_floats * MICRO_BATCH + _scratch(p)))


def _scratch(program: library.Program) -> int:
    """Number of floats: statistics; packed weights, gradients, means and squares of one lane; transposed weights."""
    return int(program.statistics_floats + 4 * program.packed_floats + program.transposed_floats)
