"""How much memory training takes, estimated before it begins.

What a forward pass keeps for the backward pass is measured on a few examples of two lanes on the CPU; it grows with
examples and lanes. All else follows from sizes.

Beside what the process held before (torch and all, about 600 MB), trainings of 25 kinds on the CPU took between 44 and
86 % of this: the reduced AlexNet and ResNet-8 to 32, with and without normalisation, m = 2 ... 512, b = 8
... 512, 1 to 16 lanes, 8x8 and 32x32 pixels, torch 2.15. With a GPU nobody has compared it yet.
"""

import functools
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
from smallbatch.data.originals import DatasetInfo
from smallbatch.models import build
from smallbatch.study.experiments import Run
from smallbatch.training import lanes
from smallbatch.training.distributed import ALONE, World
from smallbatch.training.engines import structure
from smallbatch.training.engines.native import updates as native
from smallbatch.training.engines.triton_kernels import updates as triton
from smallbatch.training.engines.updates import BLOCK_IMAGES, BLOCK_VALUES
from smallbatch.training.network import Network, halved_until_it_fits
from smallbatch.training.own_models import suitability
from smallbatch.training.resources import device as devices
from smallbatch.training.variance import bn_batch_size_for

GRADIENTS, GRADIENTS_IN_PARTS = 4, 10
"""Tensors as large as the largest activation that a backward pass has at one time: gradients, and copies of activations
in the order that kernels like; and where batch statistics are over less than a mini-batch."""

FLOAT, PLACE = 4, 8
"""Bytes of a weight or value, and of an index into the data set."""

MARGIN, FIXED = 1.5, 70 * 10**6
"""Factor on what sizes say, for kernels' own memory and holes between blocks; and bytes for code that is loaded or made
on first use."""

GROWTH = 1.25
"""By how much the buffer of a file in memory is larger than the file while it grows."""


class _Kept(saved_tensors_hooks):
    """Notes the storages, each once, that are kept for the backward pass; those of the model's own tensors not.

    Attributes:
        sizes: in bytes, by address.
    """

    def __init__(self, model: nn.Module) -> None:
        of_model = _addresses(model)
        self.sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in of_model:
                self.sizes[storage._cdata] = storage.nbytes()
            return tensor

        super().__init__(note, lambda tensor: tensor)


class _Live(TorchFunctionMode):
    """Counts the bytes of what functions return, while it lives: each storage once, those of the model's own not.

    Attributes:
        live, most: bytes now, and at most at one time.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.live = self.most = 0
        self.known = _addresses(model)

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


def _addresses(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}


@dataclass(frozen=True)
class Need:
    """What a kind of training takes, in bytes.

    data: for all lanes: the data set on the device; photos decoded ahead; what compiled kernels work in.
    lane: of each lane throughout: weights, gradients, velocities, running statistics, the epoch's order.
    example: of each example of a lane: activations kept for the backward pass, and the gradient of the largest; none
        where kernels work on one lane after the other.
    tested: of each image that a lane is tested on at the same time.
    image, made: of each image of a block: while it is trained on, and while it is made.
    saved: of each lane while a checkpoint is written.
    measured: of each lane while the variance of updates is measured.
    batch_size: m.
    at_once: images of a block at most, unless it is a single step.
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
        """The most that `lanes` lanes take at one time, with `micro_batch` examples of each in memory at once."""
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
        """How many of `count` lanes fit in `memory` bytes, with `micro_batch` examples of each; 0 if not even one."""
        return next((lanes for lanes in range(count, 0, -1) if self.bytes(lanes, micro_batch) <= memory), 0)

    def largest_micro_batch(self, memory: int, largest: int, smallest: int) -> int:
        """The first of largest, largest / 2, ... smallest at which one lane fits in `memory` bytes; else 0."""

        def attempt(micro_batch: int) -> None:
            if self.bytes(1, micro_batch) > memory:
                raise torch.OutOfMemoryError

        return halved_until_it_fits(attempt, largest, smallest)


@dataclass(frozen=True)
class MemoryBudget:
    """The memory that the trainings of a job may take.

    size: in bytes, beyond what the process holds before.
    device: where.
    world: the processes that share each mini-batch.
    dataset: its images, classes and sizes.
    photos: whether the data are photos, which are decoded while they are trained on.
    images_at_once: of each lane, in memory, at most; or auto.
    """

    size: int
    device: torch.device
    world: World
    dataset: DatasetInfo
    photos: bool
    images_at_once: int | str

    def need(self, run: Run) -> Need:
        """What this process takes for a run."""
        return need_of(self.world.local_run(run), self.dataset, self.device, self.world, photos=self.photos)

    def lanes_that_fit(self, runs: Sequence[Run]) -> tuple[int, int | str]:
        """How many of these compatible runs fit as lanes, and how many images of each at once.

        A GPU is not refused anything: it says itself when it is full.

        Raises:
            UserError: not one run fits, though its images be taken as few at a time as its normalisation allows.
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
        held = devices.held_memory()
        needed, available = (math.ceil((held + size) / 10**6) for size in (needed, self.size))
        what = f"{run.setting.model} on {run.setting.data}, m={run.batch_size}, b={run.bn_batch_size}"
        return UserError(
            f"out of memory: {what} needs up to {needed} MB, and {available} MB are available; allowed: more memory "
            f"(snakemake --set-resources train:mem_mb={needed}), a smaller m or b, or a larger machine"
        )


def free_for(device: torch.device, memory_mb: int | None, processes: int, at_work: int) -> int:
    """Bytes that a process may take beyond what it holds now.

    Args:
        device: a GPU has memory of its own, of which the process may take all that is free.
        memory_mb: that the job may take, in all its processes; None: its share of what the machine has.
        processes: that share the mini-batches.
        at_work: processors, each of which trains.
    """
    if device.type == "cuda":
        return devices.free_memory(device)
    if memory_mb is None:
        return devices.free_memory(device) // max(processes, at_work)
    # The process that started the others, and watches them, takes a share too.
    shares = 1 if processes == 1 else processes + 1
    return memory_mb * 10**6 // shares - devices.held_memory()


def need_of(run: Run, dataset: DatasetInfo, device: torch.device, world: World = ALONE, *, photos: bool) -> Need:
    """What a run takes.

    Args:
        run: a run, or a `local_run`.
        dataset: what it is trained on.
        device: where.
        world: the processes that share each mini-batch.
        photos: whether its data are photos, which are decoded while it trains.
    """
    s, values, on_cpu = run.setting, math.prod(dataset.shape), device.type == "cpu"
    kind = s.model, s.norm, s.norm_layers, s.precision, dataset.shape, dataset.classes
    in_lanes = suitability(s, dataset.shape, dataset.classes).lanes
    traced, arena = trace(*kind, _in_parts(run), in_lanes), _arena(run, dataset, device, world)
    gradients = GRADIENTS_IN_PARTS if _in_parts(run) else GRADIENTS
    augmented = bool(s.augment_pad or s.augment_flip)
    images = s.train_images or dataset.train
    order = PLACE * (1 + 2 * bool(s.augment_pad) + 4 * s.augment_resized) + s.augment_flip
    # Bytes as they lie in files, then numbers; padding and flipping hold two or three copies of these at one time.
    image, made = FLOAT * values, (1 + FLOAT * (3 if augmented else 1)) * values
    sizes, example = s.variance_batch_sizes, 0 if arena else traced.kept + gradients * traced.largest
    of_lane, of_example, of_tests = _of_kernels(run, dataset, device, world)
    at_once = min(BLOCK_IMAGES, BLOCK_VALUES // values)
    return Need(
        data=_data(dataset, photos=photos, on_cpu=on_cpu) + arena + of_tests,
        # Drawn by seed, then put together by step.
        lane=traced.weights * (2 + s.remembered) + traced.others + 2 * images * order + of_lane,
        # Whether a mini-batch fits is tried by torch first.
        example=math.ceil(max(example, of_example)),
        tested=math.ceil((0 if arena else traced.tested) + 4 * image),
        image=image,
        made=made,
        saved=round(GROWTH * traced.weights * (1 + s.remembered)) if on_cpu else 0,
        # A sum in double precision beside the gradients; a batch; what its batch statistics have in memory at once, or
        # a GPU's kernels, which take it whole, with weights and gradients of their own.
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


def _arena(run: Run, dataset: DatasetInfo, device: torch.device, world: World) -> int:
    """Bytes that the kernels take for the examples of all lanes, one lane after the other; 0 where there are none."""
    layout = native.layout_of(run, dataset, device, world)
    micro_batch = run.bn_batch_size + _most_normalised(run) if run.setting.norm == "batch" else native.MICRO_BATCH
    return native.memory(layout, micro_batch) if layout else 0


def _of_kernels(run: Run, dataset: DatasetInfo, device: torch.device, world: World) -> tuple[int, int, int]:
    """Bytes that a GPU's kernels take of each lane, of each of its examples, and for tests of all lanes."""
    graph = triton.graph_of(run, dataset, device, world)
    return triton.memory(graph, run) if graph else (0, 0, 0)


def _most_normalised(run: Run) -> int:
    """The most examples of a batch statistic while the variance of updates is measured; 0 where there is none."""
    sizes = run.setting.variance_batch_sizes if run.setting.norm == "batch" else ()
    return max((bn_batch_size_for(run, size) for size in sizes), default=0)


def _in_parts(run: Run) -> bool:
    """Whether batch statistics are over less than a mini-batch, which takes other operations."""
    return run.setting.norm == "batch" and run.bn_batch_size < run.batch_size


def _data(dataset: DatasetInfo, *, photos: bool, on_cpu: bool) -> int:
    values = math.prod(dataset.shape)
    if photos:
        from smallbatch.data.photos import AHEAD

        return AHEAD * values if on_cpu else 0
    # On the CPU arrays are mapped files, which the system drops where memory gets short.
    return 0 if on_cpu else (dataset.train + dataset.test) * values


class Trace(NamedTuple):
    """Bytes of a model of one lane: weights; buffers and whatever else is kept, however many the examples; and of each
    example: kept, largest and tested, as `Need` has them."""

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
    """Pass a few examples, and twice as many, of two lanes (or the only one) through a model, and see what that takes.

    Args:
        model: as a setting has it.
        norm: as a setting has it.
        norm_layers: as a setting has it.
        precision: as a setting has it.
        shape: of an image: channels, height, width.
        classes: number of classes.
        in_parts: whether batch statistics are over less than a mini-batch.
        in_lanes: whether the model can be trained in lanes.
    """
    count, examples = 2 if in_lanes else 1, 4 if in_parts else 2
    alone = structure.build(model, norm, norm_layers, shape, classes, 2)
    network = Network(
        lanes.stack([alone] * count) if in_lanes else lanes.Alone(_unshared(model, norm, norm_layers, shape, classes)),
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
    grown = [(more - less) / examples / count for less, more in zip(kept_few, kept_many, strict=True)]
    tested = (_tested(network, many) - _tested(network, few)) / examples / count
    weights, buffers = (sum(tensor.nbytes for tensor in own) for own in (alone.parameters(), alone.buffers()))
    constant = sum(kept_few) // count - round(sum(grown) * examples)
    return Trace(weights, buffers + constant, sum(grown), max(grown), tested)


def _unshared(model: str, norm: str, norm_layers: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A model that passes may change."""
    return build(model, shape, classes, norm=norm, norm_layers=norm_layers, bn_batch_size=2)


def _kept(network: Network, images: Tensor, sub_batch: int) -> list[int]:
    """Bytes of each storage that a forward pass keeps, with batch statistics over `sub_batch` examples."""
    kept = _Kept(network.model.train())
    for norm in network.norms:
        norm.sub_batch = sub_batch
    with kept:
        network._logits(network.model, images)
    return list(kept.sizes.values())


def _tested(network: Network, images: Tensor) -> int:
    """Bytes that a forward pass takes where nothing is kept."""
    live = _Live(network.model.eval())
    with torch.no_grad(), live:
        network._logits(network.model, images)
    return live.most
