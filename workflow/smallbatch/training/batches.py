"""Mini-batches for lanes: each lane has its own random order and its own augmentation."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from smallbatch.core.errors import refuse
from smallbatch.core.seeds import stream_seed
from smallbatch.data.augmentation import cutmix, cutmix_rectangles, cutout, flip, jitter, mixup, pad_crop
from smallbatch.data.prepared import Meta, Prepared
from smallbatch.study.experiments import VALIDATION_FRACTION, Setting
from smallbatch.training.resources import device as devices

if TYPE_CHECKING:
    from smallbatch.data.photos import Photos, Request


WHITE = 255
"""The largest value of a pixel."""


def random_stream(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A random generator on the CPU, whatever the training device, so that all devices use the same draws."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, epoch))


class Batches(NamedTuple):
    """Mini-batches of several steps.

    images: [steps, m, lanes * c, h, w] float32.
    labels: [steps, m, lanes] int64; of mixed images, or where the data have targets, those of all classes or outputs,
        [steps, m, lanes, classes] float32.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The examples of one epoch and their augmentation, for each lane.

    seeds: seeds of the lanes.
    epoch: number of the epoch, counted from 0.
    order: indices of training images, [steps, m, lanes] int64.
    offsets: first row and column of the crop from the padded image, [steps, m, lanes, 2] int64, or None.
    boxes: the part of the photo that is resized (top, left, height, width), [steps, m, lanes, 4] int64, or None.
    flipped: whether the image is flipped, [steps, m, lanes] bool, or None.
    factors, changes: factors of colour changes and their numbers, in the order in which they are made, [steps, m,
        lanes, 3] float32 and uint8, or None.
    centres: row and column of the centre of the square that is cut out, [steps, m, lanes, 2] int64, or None.
    partners: position in `order`'s mini-batch of the example that each is mixed with, [steps, m, lanes] int64, or None.
        Of several processes' plans, `order` and the rest also have the partners, behind this process's examples.
    kept: the part of each image that is kept where it is mixed, the same for a mini-batch, [steps, 1, lanes] float32.
    bounds: with CutMix, what is replaced: top, bottom, left and right, [steps, 1, lanes, 4] int64, or None.
    """

    seeds: tuple[int, ...]
    epoch: int
    order: Tensor
    offsets: Tensor | None
    boxes: Tensor | None
    flipped: Tensor | None
    factors: Tensor | None = None
    changes: Tensor | None = None
    centres: Tensor | None = None
    partners: Tensor | None = None
    kept: Tensor | None = None
    bounds: Tensor | None = None

    def select(self, keep: list[int]) -> "EpochPlan":
        """The plan restricted to these lanes."""
        return self._map(lambda tensor: tensor[:, :, keep], tuple(self.seeds[lane] for lane in keep))

    def local(self, rank: int, size: int) -> "EpochPlan":
        """The plan of process `rank` of `size`: the rank-th of equal contiguous parts of every mini-batch."""
        if size == 1 or self.partners is None:
            return self._map(lambda tensor: tensor.chunk(size, 1)[rank], self.seeds)
        partners = self.partners.chunk(size, 1)[rank]
        shared = replace(self, partners=None, kept=None, bounds=None)
        both = shared._map(
            lambda tensor: torch.cat([tensor.chunk(size, 1)[rank], _of_partners(partners, tensor)], 1), self.seeds
        )
        behind = torch.arange(partners.shape[1], device=partners.device).add(partners.shape[1])[:, None]
        return replace(both, partners=behind.expand_as(partners), kept=self.kept, bounds=self.bounds)

    def first(self, count: int) -> "EpochPlan":
        """A plan of one step: the first `count` examples."""
        return self._map(lambda tensor: tensor.flatten(0, 1)[None, :count], self.seeds)

    def cut(self, size: int) -> "EpochPlan":
        """The same examples in the same order, in mini-batches of `size`; an incomplete last mini-batch is left out."""
        count = self.order.shape[0] * self.order.shape[1] // size
        return self._map(lambda tensor: tensor.flatten(0, 1)[: count * size].unflatten(0, (count, size)), self.seeds)

    def at(self, steps: Tensor) -> "EpochPlan":
        """The plan restricted to these steps, a tensor [n] whose values the host need not know."""
        return self._map(lambda tensor: tensor.index_select(0, steps), self.seeds)

    def empty(self, steps: int) -> "EpochPlan":
        """An uninitialised plan with `steps` steps for the same lanes, to be filled by `fill`."""
        return self._map(lambda tensor: tensor.new_zeros(steps, *tensor.shape[1:]), self.seeds)

    def fill(self, other: "EpochPlan", first: int, last: int) -> None:
        """Copy steps first ... last - 1 of another plan to the first steps of this plan, in place."""
        for ours, theirs in zip(self._tensors, other._tensors, strict=True):
            if ours is not None and theirs is not None:
                ours[: last - first].copy_(theirs[first:last])

    @property
    def _tensors(self) -> list[Tensor | None]:
        return [getattr(self, name) for name in _TENSORS]

    def _map(self, change: Callable[[Tensor], Tensor], seeds: tuple[int, ...]) -> "EpochPlan":
        order, *others = self._tensors
        assert order is not None
        changed = (None if tensor is None else change(tensor) for tensor in others)
        return EpochPlan(seeds, self.epoch, change(order), *changed)


def _of_partners(partners: Tensor, tensor: Tensor) -> Tensor:
    """The values of a tensor [steps, m, lanes, ...] at indices [steps, n, lanes] of their step's mini-batch."""
    steps, _, lanes = (torch.arange(size, device=partners.device) for size in partners.shape)
    return tensor[steps[:, None, None], partners, lanes]


_TENSORS = tuple(field.name for field in fields(EpochPlan))[2:]
"""The tensors of a plan."""


class BatchLoader:
    """The data of one setting on one device, in mini-batches of m.

    Images that do not fill the last mini-batch of an epoch are left out of that epoch; each epoch has a new order.
    """

    def __init__(self, data: Prepared, setting: Setting, batch_size: int, device: torch.device) -> None:
        self.setting, self.batch_size, self.device, self.shape = setting, batch_size, device, data.meta.shape
        _check_augment(data, setting)
        self.train_images, self.test_images = (_images(split.images, device) for split in (data.train, data.test))
        self.train_labels, self.test_labels = (
            torch.from_numpy(split.labels).to(device) for split in (data.train, data.test)
        )
        self.subset = _subset(len(self.train_labels), setting.train_images)
        self.held_out = self.subset[:0]
        if setting.selection == "validation":
            self.held_out, self.subset = _hold_out(self.subset)
            _check_held_out(data.meta, self.train_labels[self.held_out.to(device)])
        self.steps = len(self.subset) // batch_size
        if not self.steps:
            allowed = f"numbers up to {len(self.subset)}, the training images"
            refuse(f"experiment on {data.meta.label}", "batch_sizes", batch_size, allowed)
        self.classes = len(data.meta.classes)
        self.jitter = tuple(setting.color_jitter.values())
        self.image_values = math.prod(data.meta.shape)
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=device).mul(1 if data.meta.dtype else WHITE).view(-1, 1, 1)
            for values in (data.meta.mean, [value or 1 for value in data.meta.std])
        )

    def plan(self, seeds: Sequence[int], epoch: int) -> EpochPlan:
        """Draw one epoch for each lane, from only its seed and the epoch's number."""
        drawn = {seed: self._draw(seed, epoch) for seed in dict.fromkeys(seeds)}
        names = list(next(iter(drawn.values())))
        by_step = {name: self._by_step([drawn[seed][name] for seed in seeds]) for name in names}
        return EpochPlan(tuple(seeds), epoch, by_step["order"], *(by_step.get(name) for name in _TENSORS[1:]))

    def _draw(self, seed: int, epoch: int) -> dict[str, Tensor]:
        """What is random in an epoch for one seed: those tensors of its plan that are used, [steps * m, ...]."""
        count = self.steps * self.batch_size
        order = self.subset[torch.randperm(len(self.subset), generator=random_stream(seed, "order", epoch))[:count]]
        draws = random_stream(seed, "augmentation", epoch)
        offsets = torch.randint(2 * self.setting.augment_pad + 1, (count, 2), generator=draws)
        photos = self.train_images if isinstance(self.train_images, _Photos) else None
        boxes = photos.crop_boxes(order, draws) if photos and self.setting.augment_resized else None
        flips = torch.randint(2, (count,), generator=draws).bool()
        found = {"order": order, "boxes": boxes}
        found |= {"offsets": offsets} if self.setting.augment_pad else {}
        found |= {"flipped": flips} if self.setting.augment_flip else {}
        found |= self._draw_jitter(count, random_stream(seed, "jitter", epoch)) if any(self.jitter) else {}
        found |= self._draw_centres(count, random_stream(seed, "cutout", epoch)) if self.setting.augment_cutout else {}
        found |= self._draw_mixing(seed, epoch) if any(self.setting.mixing.values()) else {}
        return {name: values for name, values in found.items() if values is not None}

    def _draw_jitter(self, count: int, draws: torch.Generator) -> dict[str, Tensor]:
        low, high = (torch.tensor([max(0.0, 1 + sign * value) for value in self.jitter]) for sign in (-1, 1))
        factors = low + (high - low) * torch.rand(count, len(self.jitter), generator=draws)
        changes = torch.rand(count, len(self.jitter), generator=draws).argsort(dim=1, stable=True)
        return {"factors": factors.gather(1, changes), "changes": changes.to(torch.uint8)}

    def _draw_centres(self, count: int, draws: torch.Generator) -> dict[str, Tensor]:
        return {"centres": self._pixels(count, draws)}

    def _pixels(self, count: int, draws: torch.Generator) -> Tensor:
        return torch.stack([torch.randint(size, (count,), generator=draws) for size in self.shape[1:]], 1)

    def _draw_mixing(self, seed: int, epoch: int) -> dict[str, Tensor]:
        draws = random_stream(seed, "partners", epoch)
        order = torch.rand(self.steps, self.batch_size, generator=draws, dtype=torch.float64)
        found = {"partners": order.argsort(dim=1, stable=True).flatten()}
        [alpha] = filter(None, self.setting.mixing.values())
        numbers = np.random.default_rng(stream_seed(seed, "mixing", epoch))
        kept = torch.from_numpy(numbers.beta(alpha, alpha, self.steps))
        if self.setting.augment_cutmix:
            centres = self._pixels(self.steps, random_stream(seed, "patches", epoch))
            found["bounds"], kept = cutmix_rectangles(kept, centres, *self.shape[1:])
        return found | {"kept": kept.float()}

    def _by_step(self, lanes: Sequence[Tensor]) -> Tensor:
        """The lanes' values [steps * m, ...] as one tensor [steps, m, lanes, ...] on the device that reads images.

        Values of whole mini-batches are [steps, ...], and [steps, 1, lanes, ...] then.
        """
        sent = {
            id(values): devices.copy_to_device(values, self.train_images.read_on) for values in lanes
        }  # lanes share seeds
        by_step: Tensor = torch.stack([sent[id(values)] for values in lanes], 1).unflatten(0, (self.steps, -1))
        return by_step

    def batches(self, plan: EpochPlan, first: int, last: int) -> Batches:
        """Load, normalise and augment the mini-batches of steps first ... last - 1 of an epoch."""
        order = plan.order[first:last]
        images = self.train_images.steps(plan, first, last)
        if plan.factors is not None and plan.changes is not None:
            factors, changes = (
                values[first:last].flatten(0, 2).to(self.device) for values in (plan.factors, plan.changes)
            )
            images = jitter(images.float(), factors, changes, WHITE)
        images = self._normalised(images)
        if plan.offsets is not None:
            images = pad_crop(images, self.setting.augment_pad, plan.offsets[first:last].flatten(0, 2))
        if plan.flipped is not None:
            images = flip(images, plan.flipped[first:last].flatten().to(self.device))
        if plan.centres is not None:
            centres = plan.centres[first:last].flatten(0, 2).to(self.device)
            images = cutout(images, self.setting.augment_cutout, centres)
        images, labels = images.unflatten(0, order.shape), self.train_labels[order.to(self.device)]
        if plan.partners is not None and plan.kept is not None:
            bounds = None if plan.bounds is None else plan.bounds[first:last].to(self.device)
            partners, kept = (values[first:last].to(self.device) for values in (plan.partners, plan.kept))
            images, labels = self._mixed(images, labels, partners, kept, bounds)
        return Batches(images.flatten(2, 3), labels)

    def _mixed(
        self, images: Tensor, labels: Tensor, partners: Tensor, kept: Tensor, bounds: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Images [steps, m, lanes, c, h, w] mixed with their partners, and the targets [steps, m, lanes, classes]."""
        count, shape = partners.shape[1], partners.shape
        if not labels.is_floating_point():
            labels = (labels[..., None] == torch.arange(self.classes, device=self.device)).float()
        others, other_targets = _of_partners(partners, images).flatten(0, 2), _of_partners(partners, labels)
        images, targets = images[:, :count].flatten(0, 2), labels[:, :count]
        if bounds is None:
            images = mixup(images, others, kept.expand(shape).flatten())
        else:
            images = cutmix(images, others, bounds.expand(*shape, -1).flatten(0, 2))
        kept = kept[..., None]
        return images.unflatten(0, shape), kept * targets + (1 - kept) * other_targets

    def test_batches(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The test split in order: images [n, c, h, w] float32, and labels [n] or targets [n, classes]; n up to `size`.

        Args:
            size: number of images in a batch.
            rank: this process's rank; it gets every `processes`-th image.
            processes: number of processes that share the split.
        """
        return self._in_order(
            self.test_images, self.test_labels, torch.arange(len(self.test_labels))[rank::processes], size
        )

    def validation_batches(self, size: int, rank: int = 0, processes: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out training images, in batches as from `test_batches`."""
        return self._in_order(self.train_images, self.train_labels, self.held_out[rank::processes], size)

    def _in_order(
        self, images: "_Arrays | _Photos", labels: Tensor, indices: Tensor, size: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        batches = indices.split(size) if len(indices) else ()
        for batch, pixels in zip(batches, images.in_order(batches), strict=True):
            yield self._normalised(pixels), labels[batch.to(self.device)]

    def _normalised(self, images: Tensor) -> Tensor:
        return images.float().sub_(self.mean).div_(self.std)


def _images(images: "np.ndarray | Photos", device: torch.device) -> "_Arrays | _Photos":
    return _Arrays(images, device) if isinstance(images, np.ndarray) else _Photos(images, device)


class _Arrays:
    """Images of one size, stored on the device; returned as [n, c, h, w] uint8 or float32."""

    def __init__(self, images: np.ndarray, device: torch.device) -> None:
        self.images, self.read_on = torch.from_numpy(images).to(device), device

    def steps(self, plan: EpochPlan, first: int, last: int) -> Tensor:
        """The images of steps first ... last - 1."""
        return self.images[plan.order[first:last].flatten()]

    def in_order(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images of each batch of indices."""
        return (self.images[batch.to(self.read_on)] for batch in batches)


class _Photos:
    """Photos, decoded ahead of use while the device computes; returned on the device as [n, 3, 224, 224] uint8."""

    read_on = torch.device("cpu")  # reading a plan on the device would wait for all its queued work

    def __init__(self, photos: "Photos", device: torch.device) -> None:
        self.photos, self.device = photos, device
        self.coming: tuple[EpochPlan, int, int] | None = None

    def crop_boxes(self, order: Tensor, draws: torch.Generator) -> Tensor:
        """The part of each photo that is resized, [n, 4] int64."""
        from smallbatch.data.photos import resized_crops

        return resized_crops(self.photos.sizes[order], draws)

    def steps(self, plan: EpochPlan, first: int, last: int) -> Tensor:
        """The photos of steps first ... last - 1; the same number of following steps is being decoded ahead."""
        seeds = list(dict.fromkeys(plan.seeds))
        if self.coming != (plan, first, last):
            # Lanes with the same seed use the same photos, which are decoded once.
            distinct = plan.select([plan.seeds.index(seed) for seed in seeds])
            self.ahead = self._decoded(_requests(distinct, first, last - first))
        self.coming = plan, last, min(2 * last - first, len(plan.order))
        pixels = next(self.ahead)
        if len(seeds) == len(plan.seeds):
            return pixels
        of_lanes: Tensor = pixels.unflatten(0, (-1, len(seeds)))[:, [seeds.index(seed) for seed in plan.seeds]]
        return of_lanes.flatten(0, 1)

    def in_order(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The centre squares of the photos of each batch of indices."""
        return self._decoded((batch, None) for batch in batches)

    def _decoded(self, requests: Iterable["Request"]) -> Iterator[Tensor]:
        for block in self.photos.blocks(requests, pinned=self.device.type == "cuda"):
            yield block.to(self.device, non_blocking=True)


def _requests(plan: EpochPlan, first: int, steps: int) -> Iterator["Request"]:
    """Requests for the photos from step `first` to the epoch's end, `steps` steps at a time."""
    for start in range(first, len(plan.order), steps):
        part = slice(start, start + steps)
        yield plan.order[part].flatten(), None if plan.boxes is None else plan.boxes[part].flatten(0, 2)


def _check_augment(data: Prepared, setting: Setting) -> None:
    """Apply the checks of `data.check_augment` to settings that were not read from a study."""
    photos = data.meta.photos is not None
    if setting.augment_pad if photos else setting.augment_resized:
        allowed = "resized_crop and flip on photos" if photos else "pad and flip on images of one size"
        refuse(f"experiment on {data.meta.label}", "augment", setting.augment, allowed)
    if data.meta.dtype and any(setting.color_jitter.values()):
        allowed = "none of brightness, contrast and saturation on floats, whose black and white are not known"
        refuse(f"experiment on {data.meta.label}", "augment", setting.augment, allowed)


def _check_held_out(meta: Meta, labels: Tensor) -> None:
    """Refuse numbers of which R2 is unknown on the images that are held out."""
    if meta.targets == "numbers" and len(labels):
        constant = (labels.amax(0) == labels.amin(0)).nonzero().flatten().tolist()
        if constant:
            allowed = f"test: output {constant[0]} is the same for all {len(labels)} images that would be held out"
            refuse(f"experiment on {meta.label}", "selection", "validation", allowed)


def _subset(available: int, count: int | None) -> Tensor:
    """Indices of the training images used: all, or a random subset that is the same for every run."""
    if count is None or count == available:
        return torch.arange(available)
    if count > available:
        refuse("experiment", "train_images", count, f"numbers up to {available}, the training images")
    return torch.randperm(available, generator=random_stream(0, "subset"))[:count].sort().values


def _hold_out(subset: Tensor) -> tuple[Tensor, Tensor]:
    """A tenth of the training images, the same for every run, and the remaining ones."""
    mixed = subset[torch.randperm(len(subset), generator=random_stream(0, "validation"))]
    held_out, rest = mixed.tensor_split([round(VALIDATION_FRACTION * len(subset))])
    return held_out.sort().values, rest.sort().values
