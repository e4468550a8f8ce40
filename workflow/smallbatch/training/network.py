"""A model of lanes on its device: logits, gradients of a mini-batch by micro-batches, loss and accuracy on a split."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from smallbatch.core.errors import UserError
from smallbatch.models.normalisation import BatchNorm, micro_batch_momenta
from smallbatch.training import lane_layers
from smallbatch.training.distributed import World
from smallbatch.training.losses import Loss, cross_entropy
from smallbatch.training.metrics import MetricSums, Scores

CHANNELS_LAST_FROM = 256
"""Number of pixels from which convolutions on the CPU are faster with channels last (measured: not 8x8, but 32x32)."""


class Network:
    """Forward and backward passes of some lanes.

    Args:
        model: model of lanes.
        batch_size: m, over all processes.
        bn_batch_size: b, if the model has batch normalisation; else 1: a mini-batch may then be divided anywhere.
        images_at_once: maximum examples of each lane in memory; auto: all, unless `shrink_micro_batch` reduces it.
        splittable: whether a mini-batch may be divided into micro-batches at all.
        pixels: number of pixels of an image.
        loss: loss in training.
        precision: bf16 for matrix products in bfloat16; float32 and tf32 are set for the device as a whole.
        device: device to run on.
        world: the processes that share each mini-batch.

    Attributes:
        local_batch: this process's examples of a mini-batch: m / processes.
        micro_batch, smallest_micro_batch: examples of each lane that are in memory at once, and their minimum:
            multiples of b.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batch_size: int,
        bn_batch_size: int,
        images_at_once: int | str,
        pixels: int,
        precision: str,
        device: torch.device,
        world: World,
        splittable: bool = True,
        loss: Loss | None = None,
    ) -> None:
        self.batch_size, self.device, self.world, self.loss = batch_size, device, world, loss or cross_entropy()
        self.bf16 = precision == "bf16"
        self.local_batch = batch_size // world.size
        sub_batch = min(bn_batch_size, self.local_batch)
        self.smallest_micro_batch = sub_batch if splittable else self.local_batch
        most = images_at_once if isinstance(images_at_once, int) else self.local_batch
        self.micro_batch = min(
            self.local_batch,
            max(self.smallest_micro_batch, most // self.smallest_micro_batch * self.smallest_micro_batch),
        )
        on_gpu = device.type != "cpu"
        # An unmodified model may require channels first, as `view` does.
        last = not isinstance(model, lane_layers.Alone) and (on_gpu or pixels >= CHANNELS_LAST_FROM)
        self.layout = torch.channels_last if last else torch.contiguous_format
        self.norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        for norm in self.norms:
            norm.sub_batch, norm.group = sub_batch, world.group(bn_batch_size // self.local_batch)
        self.use_model(model)

    def use_model(self, model: nn.Module) -> None:
        """Continue with this model of lanes, on the device."""
        self.model = model.to(self.device)
        self.parameters = lane_layers.parameters_of(self.model)
        self.lanes = len(self.parameters[0])
        self.distributed_model = self.model
        if self.world.size > 1:
            # Buffers are averaged, not overwritten, see `share_buffers`.
            self.distributed_model = DistributedDataParallel(
                self.model, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def select(self, keep: list[int]) -> None:
        """Keep only these lanes."""
        lane_layers.keep_lanes(self.model, keep)
        self.use_model(self.model)

    def gradients(self, images: Tensor, labels: Tensor, *, alone: bool = False) -> Tensor:
        """Compute the gradients of the mean losses and leave them in the parameters' `grad`.

        Args:
            images: this process's part of a mini-batch, [m / processes, lanes * c, h, w].
            labels: their labels, [m / processes, lanes], or targets, [m / processes, lanes, classes].
            alone: treat the images as the whole mini-batch, without the other processes.

        Returns:
            The mean losses of these images, [lanes]; the gradients are those of the whole mini-batch.
        """
        self.model.train()
        self.model.zero_grad()
        model = self.model if alone else self.distributed_model
        micro_batches = list(zip(images.split(self.micro_batch), labels.split(self.micro_batch), strict=True))
        momenta = micro_batch_momenta([len(x) for x, _ in micro_batches], self.batch_size)
        total = torch.zeros(self.lanes, device=self.device)
        for (x, y), momentum in zip(micro_batches, momenta, strict=True):
            self._set_momentum(momentum)
            with _without_sync(model) if x is not micro_batches[-1][0] else contextlib.nullcontext():
                losses = _losses(self.loss, self._logits(model, x), y).sum(0) / len(images)
                losses.sum().backward()
            total += losses.detach()
        if isinstance(self.model, lane_layers.Alone):
            self.model.pass_on()
        return total

    @contextlib.contextmanager
    def normalising(self, sub_batch: int) -> Iterator[None]:
        """Context with batch statistics over `sub_batch` examples of this process; running statistics do not change."""
        buffers, micro_batch = [buffer.clone() for buffer in self.model.buffers()], self.micro_batch
        norms = [(norm.sub_batch, norm.group) for norm in self.norms]
        if self.norms:
            self.micro_batch = max(sub_batch, micro_batch // sub_batch * sub_batch)
        for norm in self.norms:
            norm.sub_batch, norm.group = sub_batch, None
        try:
            yield
        finally:
            self.micro_batch = micro_batch
            for norm, (size, group) in zip(self.norms, norms, strict=True):
                norm.sub_batch, norm.group = size, group
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        with self._products():
            logits: Tensor = model(images.contiguous(memory_format=self.layout))
        return logits.float()

    def _products(self) -> contextlib.AbstractContextManager[object]:
        if not self.bf16:
            return contextlib.nullcontext()
        # Without a cache: a weight is used once per pass, and a recorded step has to round it each time.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def _set_momentum(self, momentum: float) -> None:
        for norm in self.norms:
            norm.momentum = momentum

    @torch.no_grad()
    def share_buffers(self) -> None:
        """Average the running statistics over processes, which gives the result of a single process."""
        self.world.average(list(self.model.buffers()))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, lanes * classes] of every lane for images [n, c, h, w], as in testing."""
        self.model.eval()
        return self._logits(self.model, images.repeat(1, self.lanes, 1, 1))

    @torch.no_grad()
    def test(
        self, batches: Iterable[tuple[Tensor, Tensor]], logits_of: Callable[[Tensor], Tensor], metric_sums: MetricSums
    ) -> Scores:
        """Test every lane on this process's part of a split.

        Args:
            batches: images [n, c, h, w], labels [n] or targets [n, classes].
            logits_of: `logits`, or an equivalent function.
            metric_sums: sums that are all 0.
        """
        before = 0
        for images, labels in batches:
            numbers = torch.arange(before, before + len(labels), device=self.device)
            logits = logits_of(images).unflatten(1, (self.lanes, -1))
            metric_sums.add(logits, labels, self.world.rank + self.world.size * numbers)
            before += len(labels)
        return metric_sums.scores(self.world.sum)

    def shrink_micro_batch(self, images: Tensor, labels: Tensor) -> None:
        """Halve `micro_batch` until forward and backward passes fit the device's memory; nothing else changes.

        Raises:
            UserError: not even b examples of each lane fit.
        """
        if any(norm.group for norm in self.norms):
            return  # a batch statistic spans all processes, each with one micro-batch: nothing can be halved
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        micro_batch = halved_until_it_fits(
            lambda size: self._try(images, labels, size), self.micro_batch, self.smallest_micro_batch
        )
        self.micro_batch = self.world.minimum(micro_batch)
        if not self.micro_batch:
            raise too_large(self.smallest_micro_batch, self.lanes)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.model.zero_grad()

    def _try(self, images: Tensor, labels: Tensor, micro_batch: int) -> None:
        self.micro_batch = micro_batch
        self.gradients(images, labels, alone=True)


def _without_sync(model: nn.Module) -> contextlib.AbstractContextManager[object]:
    """Context in which gradients are accumulated without being averaged over the processes."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else contextlib.nullcontext()


class TooLarge(UserError):
    """The device's memory cannot hold the minimum needed at once; fewer lanes may fit."""


def too_large(examples: int, lanes: int) -> TooLarge:
    """The error, with its message."""
    return TooLarge(
        f"out of memory on the device: {examples} examples of each of {lanes} lanes must be in it at once; "
        "allowed: a smaller training.lanes, precision: bf16, more training.processes, or a larger device"
    )


def halved_until_it_fits(attempt: Callable[[int], None], largest: int, smallest: int) -> int:
    """The first of largest, largest / 2, ... smallest (multiples of it) for which `attempt` has memory; else 0."""
    size = largest
    while size:
        with contextlib.suppress(torch.OutOfMemoryError):
            attempt(size)
            return size
        torch.cuda.empty_cache()
        size = max(smallest, size // 2 // smallest * smallest) if size > smallest else 0
    return 0


def _losses(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Losses [m, lanes] of logits [m, lanes * classes] by labels [m, lanes] or targets [m, lanes, classes]."""
    scores = logits.unflatten(1, (labels.shape[1], -1)).flatten(0, 1)
    return loss(scores, labels.flatten(0, 1)).view(labels.shape[:2])
