"""Estimates the memory of a training before it begins.

The memory kept by a forward pass for the backward pass is measured on a few examples of two lanes on the CPU; it is
proportional to examples and lanes. Everything else follows from sizes.

Beyond the memory of the process before (torch and libraries, about 600 MB), trainings of 25 kinds on the CPU used
between 44 and 86 % of the estimate: the reduced AlexNet and ResNet-8 to 32, with and without normalisation, m = 2 ...
512, b = 8 ... 512, 1 to 16 lanes, 8x8 and 32x32 pixels, torch 2.15. It has not been compared on a GPU yet.
"""

import functools
import itertools
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from smallbatch.core.errors import UserError
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.models import build
from smallbatch.study.experiments import Run
from smallbatch.training import lane_layers
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines import cached_models
from smallbatch.training.engines.engine import BLOCK_IMAGES, BLOCK_VALUES
from smallbatch.training.engines.native import engine as native
from smallbatch.training.engines.triton_kernels import engine as triton
from smallbatch.training.network import Network, halved_until_it_fits
from smallbatch.training.own_models import suitability
from smallbatch.training.resources import device as devices
from smallbatch.training.variance import bn_batch_size_for

GRADIENTS, GRADIENTS_IN_PARTS = 4, 10
"""Maximum number of tensors as large as the largest activation in a backward pass: gradients, and copies of activations
in the order preferred by kernels; and the same if batch statistics are over less than a mini-batch."""

FLOAT, PLACE = 4, 8
"""Bytes of a weight or value, and of an index into the data set."""

MARGIN, FIXED = 1.5, 70 * 10**6
"""Factor on the computed sizes, for kernels' own memory and fragmentation; and bytes for code that is loaded or
compiled on first use."""

GROWTH = 1.25
"""Factor by which the buffer of a file in memory exceeds the file while it grows."""


class _Kept(saved_tensors_hooks):
    """Records the storages that are kept for the backward pass, each once, without those of the model's own tensors.

    Attributes:
        storages: storages by address, which no other gets as long as these are held.
    """

    def __init__(self, model: nn.Module) -> None:
        of_model = _storages(model)
        self.storages: dict[int, torch.UntypedStorage] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in of_model:
                self.storages[storage._cdata] = storage
            return tensor

        super().__init__(note, lambda tensor: tensor)


class _Live(TorchFunctionMode):
    """Context that counts the bytes of functions' results: each storage once, without those of the model.

    Attributes:
        live, most: current bytes, and their maximum.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known = set(_storages(model))

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        made = function(*arguments, **(options or {}))
        if isinstance(made, Tensor):
            self._count(made.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address not in self.known:
            self.known.add(address)
            self.live += size
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._drop, address, size)

    def _drop(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


def _storages(model: nn.Module) -> dict[int, torch.UntypedStorage]:
    storages = (tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers()))
    return {storage._cdata: storage for storage in storages}


@dataclass(frozen=True)
class MemoryNeed:
    """The memory of a kind of training, in bytes.

    data: for all lanes: the data set on the device; photos decoded ahead; buffers of compiled kernels.
    lane: per lane: weights, gradients, velocities, running statistics, the epoch's order.
    example: per example of a lane: activations kept for the backward pass, and the gradient of the largest; 0 if
        kernels process one lane after the other.
    tested: per image that a lane is tested on at the same time.
    image, made: per image of a block: while it is used in training, and while it is being made.
    saved: per lane while a checkpoint is written.
    measured: per lane while the variance of updates is measured.
    batch_size: m.
    at_once: maximum number of images of a block, unless it is a single step.
    """

    data: int
    lane: int
    example: int
    tested: int
    image: int
    made: int
    saved: int
    measured: int
    batch_size: int
    at_once: int

    def bytes(self, lanes: int, micro_batch: int) -> int:
        """Peak memory of `lanes` lanes, with `micro_batch` examples of each in memory at once."""
        step = lanes * self.batch_size
        block = max(step, self.at_once)
        phases = (
            block * self.made,
            block * self.image + lanes * micro_batch * self.example,
            max(lanes, self.at_once) * self.tested,
            lanes * self.saved,
            lanes * (self.measured + micro_batch * self.example) + self.at_once * self.made if self.measured else 0,
        )
        return FIXED + round(MARGIN * (self.data + lanes * self.lane + max(phases)))

    def max_lanes(self, memory: int, micro_batch: int, count: int) -> int:
        """How many of `count` lanes fit in `memory` bytes, with `micro_batch` examples of each; 0 if none does."""
        return next((lanes for lanes in range(count, 0, -1) if self.bytes(lanes, micro_batch) <= memory), 0)

    def largest_micro_batch(self, memory: int, largest: int, smallest: int) -> int:
        """The first of largest, largest / 2, ... smallest at which one lane fits in `memory` bytes; else 0."""

        def attempt(micro_batch: int) -> None:
            if self.bytes(1, micro_batch) > memory:
                raise torch.OutOfMemoryError

        return halved_until_it_fits(attempt, largest, smallest)


@dataclass(frozen=True)
class MemoryBudget:
    """The memory available to the trainings of a job.

    size: bytes, beyond those already used by the process.
    device: device to run on.
    world: the processes that share each mini-batch.
    dataset: image shape, number of classes and sizes of the data set.
    photos: whether the data are photos, which are decoded during training.
    images_at_once: maximum number of images of each lane in memory; or auto.
    """

    size: int
    device: torch.device
    world: World
    dataset: DatasetInfo
    photos: bool
    images_at_once: int | str

    def need(self, run: Run) -> MemoryNeed:
        """The memory of this process for a run."""
        return need_of(self.world.local_run(run), self.dataset, self.device, self.world, photos=self.photos)

    def lanes_that_fit(self, runs: Sequence[Run]) -> tuple[int, int | str]:
        """How many of these compatible runs fit as lanes, and how many images of each at once.

        On a GPU nothing is refused: it raises an error itself when it is full.

        Raises:
            UserError: not one run fits, even with the smallest micro-batch that its normalisation allows.
        """
        need, local = self.need(runs[0]), self.world.local_run(runs[0])
        s = local.setting
        least = local.bn_batch_size if s.norm == "batch" else 1
        if not suitability(s, self.dataset.shape, self.dataset.classes).splittable:
            least = local.batch_size
        most = max(least, self.images_at_once) if isinstance(self.images_at_once, int) else local.batch_size
        lanes = need.max_lanes(self.size, min(local.batch_size, most), len(runs))
        if lanes or self.device.type != "cpu":
            return max(1, lanes), self.images_at_once
        micro_batch = need.largest_micro_batch(self.size, min(local.batch_size, most), least)
        if not micro_batch:
            raise self._refusal(runs[0], need.bytes(1, least))
        return 1, micro_batch

    def _refusal(self, run: Run, needed: int) -> UserError:
        held = devices.current_memory()
        needed, available = (math.ceil((held + size) / 10**6) for size in (needed, self.size))
        what = f"{run.setting.model} on {run.setting.data}, m={run.batch_size}, b={run.bn_batch_size}"
        return UserError(
            f"out of memory: {what} needs up to {needed} MB, and {available} MB are available; allowed: more memory "
            f"(snakemake --set-resources train:mem_mb={needed}), a smaller m or b, or a larger machine"
        )


def free_for(device: torch.device, memory_mb: int | None, processes: int, at_work: int) -> int:
    """Bytes that a process may use beyond those that it uses now.

    Args:
        device: a GPU has its own memory, and the process may use all that is free.
        memory_mb: memory limit of the job, over all its processes; None: its share of the machine's memory.
        processes: number of processes that share the mini-batches.
        at_work: number of processors that train at the same time.
    """
    if device.type == "cuda":
        return devices.free_memory(device)
    if memory_mb is None:
        return devices.free_memory(device) // max(processes, at_work)
    # The process that starts and watches the others uses a share too.
    shares = 1 if processes == 1 else processes + 1
    return memory_mb * 10**6 // shares - devices.current_memory()


def need_of(run: Run, dataset: DatasetInfo, device: torch.device, world: World = ALONE, *, photos: bool) -> MemoryNeed:
    """The memory needed for a run.

    Args:
        run: a run, or a `local_run`.
        dataset: data set of the run.
        device: device to run on.
        world: the processes that share each mini-batch.
        photos: whether its data are photos, which are decoded during training.
    """
    s, values, on_cpu = run.setting, math.prod(dataset.shape), device.type == "cpu"
    kind = s.model, s.norm, s.norm_layers, s.precision, dataset.shape, dataset.classes
    in_lanes = suitability(s, dataset.shape, dataset.classes).lanes
    traced, arena = trace(*kind, _in_parts(run), in_lanes), _kernel_bytes(run, dataset, device, world)
    gradients = GRADIENTS_IN_PARTS if _in_parts(run) else GRADIENTS
    jittered = any(s.color_jitter.values())
    mixed = any(s.mixing.values())
    augmented = bool(s.augment_pad or s.augment_flip or s.augment_cutout or jittered or mixed)
    images = s.train_images or dataset.train
    places = 1 + 2 * bool(s.augment_pad) + 4 * s.augment_resized + 2 * bool(s.augment_cutout) + mixed
    order = PLACE * places + s.augment_flip + (FLOAT + 1) * len(s.color_jitter) * jittered
    # Bytes as in files, then floats; padding and flipping keep two or three copies of the latter at a time, changes of
    # colours and mixtures up to six; targets are as many as classes.
    copies = 6 if jittered or mixed else 3 if augmented else 1
    targets = 3 * FLOAT * dataset.classes * (mixed or dataset.targets is not None)
    image, made = FLOAT * values, (dataset.value_bytes + FLOAT * copies) * values + targets
    sizes, example = s.variance_batch_sizes, 0 if arena else traced.kept + gradients * traced.largest
    of_lane, of_example, of_tests = _triton_bytes(run, dataset, device, world)
    at_once = min(BLOCK_IMAGES, BLOCK_VALUES // values)
    return MemoryNeed(
        data=_data(dataset, photos=photos, on_cpu=on_cpu) + arena + of_tests,
        # Drawn by seed, then arranged by step.
        lane=traced.weights * (2 + s.optimizer_tensors) + traced.others + 2 * images * order + of_lane,
        # Torch first tries whether a mini-batch fits.
        example=math.ceil(max(example, of_example)),
        tested=math.ceil((0 if arena else traced.tested) + 4 * image),
        image=image,
        made=made,
        saved=round(GROWTH * traced.weights * (1 + s.optimizer_tensors)) if on_cpu else 0,
        # A sum in double precision beside the gradients; a batch; memory for its batch statistics, or a GPU's kernels,
        # which process it whole, with weights and gradients of their own.
        measured=(
            3 * traced.weights
            + max(sizes) * made
            + math.ceil(example) * _most_normalised(run)
            + (of_lane + 2 * traced.weights + max(sizes) * of_example if of_lane else 0)
            if sizes
            else 0
        ),
        batch_size=run.batch_size,
        at_once=at_once,
    )


def _kernel_bytes(run: Run, dataset: DatasetInfo, device: torch.device, world: World) -> int:
    """Bytes used by the kernels for examples, one lane after the other; 0 if the kernels are not used."""
    layout = native.layout_of(run, dataset, device, world)
    micro_batch = run.bn_batch_size + _most_normalised(run) if run.setting.norm == "batch" else native.MICRO_BATCH
    return native.memory(layout, micro_batch) if layout else 0


def _triton_bytes(run: Run, dataset: DatasetInfo, device: torch.device, world: World) -> tuple[int, int, int]:
    """Bytes used by a GPU's kernels for each lane, for each of its examples, and for tests of all lanes."""
    graph = triton.graph_of(run, dataset, device, world)
    return triton.memory(graph, run) if graph else (0, 0, 0)


def _most_normalised(run: Run) -> int:
    """Maximum sub-batch of batch normalisation while the variance of updates is measured; 0 without it."""
    sizes = run.setting.variance_batch_sizes if run.setting.norm == "batch" else ()
    return max((bn_batch_size_for(run, size) for size in sizes), default=0)


def _in_parts(run: Run) -> bool:
    """Whether batch statistics are over less than a mini-batch, which needs other operations."""
    return run.setting.norm == "batch" and run.bn_batch_size < run.batch_size


def _data(dataset: DatasetInfo, *, photos: bool, on_cpu: bool) -> int:
    values = math.prod(dataset.shape)
    if photos:
        from smallbatch.data.photos import AHEAD

        return AHEAD * values if on_cpu else 0
    # On the CPU, arrays are mapped files, which the system drops if memory is short.
    return 0 if on_cpu else (dataset.train + dataset.test) * values * dataset.value_bytes


class Trace(NamedTuple):
    """Bytes of a model of one lane: weights; buffers and everything else that does not depend on the number of
    examples; and per example: kept, largest and tested, as in `MemoryNeed`."""

    weights: int
    others: int
    kept: float
    largest: float
    tested: float


@functools.cache
def trace(
    model: str,
    norm: str,
    norm_layers: str,
    precision: str,
    shape: tuple[int, int, int],
    classes: int,
    in_parts: bool,
    in_lanes: bool = True,
) -> Trace:
    """Measure the memory of a few examples, and twice as many, of two lanes (or a single one) passed through a model.

    Args:
        model: as in `Setting`.
        norm: as in `Setting`.
        norm_layers: as in `Setting`.
        precision: as in `Setting`.
        shape: image shape: channels, height, width.
        classes: number of classes.
        in_parts: whether batch statistics are over less than a mini-batch.
        in_lanes: whether the model can be trained in lanes.
    """
    count, examples = 2 if in_lanes else 1, 4 if in_parts else 2
    alone = cached_models.build(model, norm, norm_layers, shape, classes, 2)
    network = Network(
        lane_layers.stack([alone] * count)
        if in_lanes
        else lane_layers.Alone(_unshared(model, norm, norm_layers, shape, classes)),
        batch_size=examples,
        bn_batch_size=2,
        images_at_once="auto",
        pixels=shape[1] * shape[2],
        precision=precision,
        device=torch.device("cpu"),
        world=ALONE,
    )
    few, many = (torch.zeros(number, count * shape[0], *shape[1:]) for number in (examples, 2 * examples))
    kept_few, kept_many = (_kept(network, images, 2 if in_parts else len(images)) for images in (few, many))
    # With more examples a model may compute otherwise, and keep others.
    pairs = itertools.zip_longest(kept_few, kept_many, fillvalue=0)
    grown = [(more - less) / examples / count for less, more in pairs]
    tested = (_tested(network, many) - _tested(network, few)) / examples / count
    weights, buffers = (sum(tensor.nbytes for tensor in own) for own in (alone.parameters(), alone.buffers()))
    constant = sum(kept_few) // count - round(sum(grown) * examples)
    return Trace(weights, buffers + constant, sum(grown), max(grown), tested)


def _unshared(model: str, norm: str, norm_layers: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A new model, which passes may change."""
    return build(model, shape, classes, norm=norm, norm_layers=norm_layers, bn_batch_size=2)


def _kept(network: Network, images: Tensor, sub_batch: int) -> list[int]:
    """Bytes of each storage that a forward pass keeps, with batch statistics over `sub_batch` examples."""
    kept = _Kept(network.model.train())
    for norm in network.norms:
        norm.sub_batch = sub_batch
    with kept:
        network._logits(network.model, images)
    return [storage.nbytes() for storage in kept.storages.values()]


def _tested(network: Network, images: Tensor) -> int:
    """Peak bytes of a forward pass that keeps nothing."""
    live = _Live(network.model.eval())
    with torch.no_grad(), live:
        network._logits(network.model, images)
    return live.most
