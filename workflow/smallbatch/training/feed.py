"""Feeds lanes with mini-batches: each lane in its own random order, with its own augmentation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from smallbatch.data.augmentation import flip, pad_crop
from smallbatch.data.prepared import Prepared
from smallbatch.errors import refuse
from smallbatch.streams import stream
from smallbatch.study import HELD_OUT, Setting


class Batches(NamedTuple):
    """Some steps' mini-batches: images [steps, m, lanes * c, h, w] float32, labels [steps, m, lanes] int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class EpochPlan:
    """What the lanes see in one epoch.

    order: training image at each place, [steps, m, lanes] int64.
    offsets: where its crop begins, [steps, m, lanes, 2] int64, or none.
    flipped: whether it is flipped, [steps, m, lanes] bool, or none.
    crops: what its random resized crop is drawn from, [steps, m, lanes] int64, or none.
    """

    order: Tensor
    offsets: Tensor | None
    flipped: Tensor | None
    crops: Tensor | None = None

    def select(self, keep: list[int]) -> "EpochPlan":
        """The plan of only the lanes at these places."""
        return self._map(lambda part: part[:, :, keep])

    def share(self, rank: int, size: int) -> "EpochPlan":
        """The rank-th of `size` equal contiguous shares of every mini-batch."""
        return self._map(lambda part: part.chunk(size, 1)[rank])

    def first(self, count: int) -> "EpochPlan":
        """A plan of one step: the first `count` examples."""
        return self._map(lambda part: part.flatten(0, 1)[None, :count])

    def _map(self, change: Callable[[Tensor], Tensor]) -> "EpochPlan":
        parts = (self.order, self.offsets, self.flipped, self.crops)
        return EpochPlan(*(None if part is None else change(part) for part in parts))


class Feed:
    """The data of one setting on one device, served in mini-batches of m.

    Images of an epoch that do not fill a last mini-batch are left out of it; each epoch has a new order.
    """

    def __init__(self, data: Prepared, setting: Setting, batch_size: int, device: torch.device) -> None:
        self.setting, self.batch_size, self.device = setting, batch_size, device
        self.train_images, self.train_labels = self._split(data.train)
        self.test_images, self.test_labels = self._split(data.test)
        self.subset = _subset(len(self.train_labels), setting.train_images)
        self.held_out = self.subset[:0]
        if setting.selection == "validation":
            self.held_out, self.subset = _hold_out(self.subset)
        self.steps = len(self.subset) // batch_size
        if not self.steps:
            allowed = f"numbers up to {len(self.subset)}, the training images"
            refuse(f"experiment on {data.meta.label}", "batch_sizes", batch_size, allowed)
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32, device=device).mul(255).view(-1, 1, 1)
            for values in (data.meta.mean, [value or 1 for value in data.meta.std])
        )

    def _split(self, split) -> tuple[Tensor, Tensor]:
        return tuple(torch.from_numpy(array).to(self.device) for array in (split.images, split.labels))

    def plan(self, seeds: list[int], epoch: int) -> EpochPlan:
        """Draw the epoch of each lane, from its seed and the epoch alone."""
        count = self.steps * self.batch_size
        orders, offsets, flips = [], [], []
        for seed in seeds:
            orders.append(self.subset[torch.randperm(len(self.subset), generator=stream(seed, "order", epoch))[:count]])
            draws = stream(seed, "augmentation", epoch)
            offsets.append(torch.randint(2 * self.setting.augment_pad + 1, (count, 2), generator=draws))
            flips.append(torch.randint(2, (count,), generator=draws).bool())
        return EpochPlan(
            self._by_step(orders),
            self._by_step(offsets) if self.setting.augment_pad else None,
            self._by_step(flips) if self.setting.augment_flip else None,
        )

    def _by_step(self, lanes: list[Tensor]) -> Tensor:
        return torch.stack(lanes, 1).unflatten(0, (self.steps, self.batch_size)).to(self.device)

    def batches(self, plan: EpochPlan, first: int, last: int) -> Batches:
        """Gather, normalise and augment the mini-batches of steps first ... last - 1 of an epoch."""
        order = plan.order[first:last]
        images = self._train_pixels(plan, first, last)
        if plan.offsets is not None:
            images = pad_crop(images, self.setting.augment_pad, plan.offsets[first:last].flatten(0, 2))
        if plan.flipped is not None:
            images = flip(images, plan.flipped[first:last].flatten())
        return Batches(images.unflatten(0, order.shape).flatten(2, 3), self.train_labels[order])

    def _train_pixels(self, plan: EpochPlan, first: int, last: int) -> Tensor:
        """The training images of some steps, normalised, [steps * m * lanes, c, h, w] float32."""
        return self._pixels(self.train_images, plan.order[first:last].flatten())

    def _pixels(self, images: Tensor, places: Tensor) -> Tensor:
        """Images of a split, normalised, [n, c, h, w] float32."""
        return self._normalised(images[places.to(self.device)])

    def test_batches(self, size: int, rank: int = 0, of: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The test split in order: images [up to size, c, h, w] float32, labels [up to size].

        Args:
            size: images of a batch.
            rank: of a process; it gets every `of`-th image.
            of: processes that share the split.
        """
        for places in torch.arange(len(self.test_labels))[rank::of].split(size):
            yield self._pixels(self.test_images, places), self.test_labels[places.to(self.device)]

    def validation_batches(self, size: int, rank: int = 0, of: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """The training images that were held out, as `test_batches` has the test split."""
        for places in self.held_out[rank::of].split(size):
            yield self._pixels(self.train_images, places), self.train_labels[places.to(self.device)]

    def _normalised(self, images: Tensor) -> Tensor:
        return images.float().sub_(self.mean).div_(self.std)


def _subset(available: int, wanted: int | None) -> Tensor:
    """Places of the training images in use: all, or a random part that is the same for every run."""
    if wanted is None or wanted == available:
        return torch.arange(available)
    if wanted > available:
        refuse("experiment", "train_images", wanted, f"numbers up to {available}, the training images")
    return torch.randperm(available, generator=stream(0, "subset"))[:wanted].sort().values


def _hold_out(subset: Tensor) -> tuple[Tensor, Tensor]:
    """A tenth of the training images, the same for every run, and the rest."""
    mixed = subset[torch.randperm(len(subset), generator=stream(0, "validation"))]
    held_out, rest = mixed.tensor_split([round(HELD_OUT * len(subset))])
    return held_out.sort().values, rest.sort().values
