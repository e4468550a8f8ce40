"""Feeds photos: decoded and cropped by threads while the device trains on those before."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from smallbatch.data.photos import Photos
from smallbatch.data.prepared import Prepared, Split
from smallbatch.environment import processors
from smallbatch.streams import stream
from smallbatch.study import Setting
from smallbatch.training.feed import EpochPlan, Feed

Decoded = list[Future[np.ndarray]]
"""Photos that threads decode, in order."""


class PhotoFeed(Feed):
    """A feed whose images are photos of any size.

    The steps after those that are asked for are decoded ahead; so at most twice what the engine takes at a time is in
    memory. What limits it is decoding: see `benchmarks/README.md`.
    """

    def __init__(self, data: Prepared, setting: Setting, batch_size: int, device: torch.device) -> None:
        super().__init__(data, setting, batch_size, device)
        self.pool = ThreadPoolExecutor(processors(), "photos")
        self.ahead: tuple[EpochPlan, int, Decoded] | None = None

    def _split(self, split: Split) -> tuple[Photos, Tensor]:
        return split.images, torch.from_numpy(split.labels).to(self.device)

    def plan(self, seeds: list[int], epoch: int) -> EpochPlan:
        """Draw the epoch of each lane, from its seed and the epoch alone."""
        plan = super().plan(seeds, epoch)
        if not self.setting.augment_resized:
            return plan
        count = self.steps * self.batch_size
        draws = [torch.randint(2**62, (count,), generator=stream(seed, "crop", epoch)) for seed in seeds]
        return replace(plan, crops=self._by_step(draws))

    def _train_pixels(self, plan: EpochPlan, first: int, last: int) -> Tensor:
        ready = self._taken(plan, first, last)
        end = min(2 * last - first, len(plan.order))
        self.ahead = (plan, last, self._begin(plan, last, end)) if end > last else None
        return self._gathered(ready)

    def _taken(self, plan: EpochPlan, first: int, last: int) -> Decoded:
        """The photos of some steps; those that were begun ahead, where they are these."""
        wanted = plan.order[first:last].numel()
        if self.ahead and self.ahead[0] is plan and self.ahead[1] == first and len(self.ahead[2]) >= wanted:
            return self.ahead[2][:wanted]
        return self._begin(plan, first, last)

    def _begin(self, plan: EpochPlan, first: int, last: int) -> Decoded:
        places = plan.order[first:last].flatten().tolist()
        if plan.crops is None:
            return self._submit(self.train_images.centre, places)
        return self._submit(self.train_images.crop, places, plan.crops[first:last].flatten().tolist())

    def _pixels(self, images: Photos, places: Tensor) -> Tensor:
        return self._gathered(self._submit(images.centre, places.tolist()))

    def _submit(self, decode: Callable[..., np.ndarray], *arguments: Sequence[int]) -> Decoded:
        return [self.pool.submit(decode, *one) for one in zip(*arguments, strict=True)]

    def _gathered(self, photos: Decoded) -> Tensor:
        pixels = torch.from_numpy(np.stack([photo.result() for photo in photos]))
        return self._normalised(pixels.to(self.device))


def feed_of(data: Prepared, setting: Setting, batch_size: int, device: torch.device) -> Feed:
    """The feed that suits a data set."""
    kind = PhotoFeed if data.meta.root else Feed
    return kind(data, setting, batch_size, device)
