"""A model of lanes on its device: logits, gradients of a mini-batch taken in parts, losses and accuracy on a split."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from smallbatch.core.errors import UserError
from smallbatch.models.normalisation import BatchNorm, part_momenta
from smallbatch.training import lanes
from smallbatch.training.distributed import World

CHANNELS_LAST_FROM = 256
"""Pixels from which convolutions on the CPU are faster with channels last (measured: 8x8 loses, 32x32 gains)."""


class Network:
    """What forward and backward passes of some lanes need.

    Args:
        model: of lanes.
        batch_size: m, over all processes.
        bn_batch_size: b, where the model has batch normalisation; else 1: a mini-batch may then be cut anywhere.
        images_at_once: the most examples of each lane in memory; or auto: all of a mini-batch, until `fit` finds less.
        splits: whether a mini-batch may be taken in parts at all.
        pixels: of an image.
        precision: bf16 for matrix products in bfloat16; float32 and tf32 are set for the device as a whole.
        device: where.
        world: the processes that share each mini-batch.

    Attributes:
        least, part: examples of each lane that must be, and that are, in memory at once: multiples of b.
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
        splits: bool = True,
    ) -> None:
        self.batch_size, self.device, self.world = batch_size, device, world
        self.bf16 = precision == "bf16"
        self.share = batch_size // world.size
        sub_batch = min(bn_batch_size, self.share)
        self.least = sub_batch if splits else self.share
        most = self.share if images_at_once == "auto" else images_at_once
        self.part = min(self.share, max(self.least, most // self.least * self.least))
        on_gpu = device.type != "cpu"
        # A model as it is may ask for channels first, as `view` does.
        last = not isinstance(model, lanes.Alone) and (on_gpu or pixels >= CHANNELS_LAST_FROM)
        self.layout = torch.channels_last if last else torch.contiguous_format
        self.norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
        for norm in self.norms:
            norm.sub_batch, norm.group = sub_batch, world.group(bn_batch_size // self.share)
        self._take(model)

    def _take(self, model: nn.Module) -> None:
        self.model = model.to(self.device)
        self.parameters = lanes.parameters_of(self.model)
        self.lanes = len(self.parameters[0])
        self.whole = self.model
        if self.world.size > 1:
            # Buffers are averaged, not overwritten, see `share_buffers`.
            options = {"broadcast_buffers": False, "gradient_as_bucket_view": True}
            self.whole = DistributedDataParallel(self.model, **options)

    def select(self, keep: list[int]) -> None:
        """Keep only the lanes at these places."""
        lanes.select(self.model, keep)
        self._take(self.model)

    def gradients(self, images: Tensor, labels: Tensor, *, alone: bool = False) -> Tensor:
        """Leave the gradients of the mean losses in the parameters' `grad`.

        Args:
            images: this process's share of a mini-batch, [m / processes, lanes * c, h, w].
            labels: of them, [m / processes, lanes].
            alone: take the images for the whole mini-batch, without the other processes.

        Returns:
            The mean losses of these images, [lanes]; the gradients are those of the whole mini-batch.
        """
        self.model.train()
        self.model.zero_grad()
        model = self.model if alone else self.whole
        parts = list(zip(images.split(self.part), labels.split(self.part), strict=True))
        momenta = part_momenta([len(x) for x, _ in parts], self.batch_size)
        total = torch.zeros(self.lanes, device=self.device)
        for (x, y), momentum in zip(parts, momenta, strict=True):
            self._set_momentum(momentum)
            more_to_come = model is not self.model and x is not parts[-1][0]
            with model.no_sync() if more_to_come else contextlib.nullcontext():
                losses = _losses(self._logits(model, x), y).sum(0) / len(images)
                losses.sum().backward()
            total += losses.detach()
        if isinstance(self.model, lanes.Alone):
            self.model.pass_on()
        return total

    @contextlib.contextmanager
    def normalising(self, sub_batch: int) -> Iterator[None]:
        """While it lasts, batch statistics are over so many examples of this process; running ones stay as they are."""
        buffers, part = [buffer.clone() for buffer in self.model.buffers()], self.part
        norms = [(norm.sub_batch, norm.group) for norm in self.norms]
        if self.norms:
            self.part = max(sub_batch, part // sub_batch * sub_batch)
        for norm in self.norms:
            norm.sub_batch, norm.group = sub_batch, None
        try:
            yield
        finally:
            self.part = part
            for norm, (own, group) in zip(self.norms, norms, strict=True):
                norm.sub_batch, norm.group = own, group
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)

    def _logits(self, model: nn.Module, images: Tensor) -> Tensor:
        with self._products():
            logits = model(images.contiguous(memory_format=self.layout))
        return logits.float()

    def _products(self) -> contextlib.AbstractContextManager:
        if not self.bf16:
            return contextlib.nullcontext()
        # Without a cache: a weight is used once a pass, and a recorded step has to round it each time.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def _set_momentum(self, momentum: float) -> None:
        for norm in self.norms:
            norm.momentum = momentum

    @torch.no_grad()
    def share_buffers(self) -> None:
        """Give all processes the mean of their running statistics: that is what one process would have."""
        self.world.average(list(self.model.buffers()))

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, lanes * classes] of every lane for images [n, c, h, w], as in testing."""
        self.model.eval()
        return self._logits(self.model, images.repeat(1, self.lanes, 1, 1))

    @torch.no_grad()
    def test(self, batches: Iterable[tuple[Tensor, Tensor]], logits_of: Callable[[Tensor], Tensor]) -> "Scores":
        """Test every lane on this process's share of a split.

        Args:
            batches: images [n, c, h, w], labels [n].
            logits_of: `logits`, or what gives the same.
        """
        loss = torch.zeros(self.lanes, dtype=torch.float64, device=self.device)
        correct = torch.zeros(self.lanes, dtype=torch.float64, device=self.device)
        seen = torch.zeros((), dtype=torch.float64, device=self.device)
        for images, labels in batches:
            logits = logits_of(images)
            loss += _losses(logits, labels[:, None].expand(-1, self.lanes)).double().sum(0)
            correct += (logits.unflatten(1, (self.lanes, -1)).argmax(2) == labels[:, None]).sum(0)
            seen += len(labels)
        loss, correct, seen = map(self.world.sum, (loss, correct, seen))
        return Scores((loss / seen).tolist(), (correct / seen).tolist())

    def fit(self, images: Tensor, labels: Tensor) -> None:
        """Halve `part` until forward and backward passes fit the device's memory; all else stays as it is.

        Raises:
            UserError: even b examples of each lane do not fit.
        """
        if any(norm.group for norm in self.norms):
            return  # the parts of a batch statistic are one a process: there is nothing to halve
        buffers = [buffer.clone() for buffer in self.model.buffers()]
        part = largest_fitting(lambda part: self._try(images, labels, part), self.part, self.least)
        self.part = self.world.least(part)
        if not self.part:
            raise too_large(self.least, self.lanes)
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.model.zero_grad()

    def _try(self, images: Tensor, labels: Tensor, part: int) -> None:
        self.part = part
        self.gradients(images, labels, alone=True)


class TooLarge(UserError):
    """The device's memory does not hold what has to be in it at once; fewer lanes may fit."""


def too_large(examples: int, lanes: int) -> TooLarge:
    """What to say of it."""
    return TooLarge(
        f"out of memory on the device: {examples} examples of each of {lanes} lanes must be in it at once; "
        "allowed: a smaller training.lanes, precision: bf16, more training.processes, or a larger device"
    )


class Scores(NamedTuple):
    """Mean loss and accuracy of each lane on a split."""

    losses: list[float]
    accuracies: list[float]


def largest_fitting(attempt: Callable[[int], None], most: int, least: int) -> int:
    """The first of most, most / 2, ... least (multiples of `least`) at which `attempt` has enough memory; else 0."""
    part = most
    while part:
        with contextlib.suppress(torch.OutOfMemoryError):
            attempt(part)
            return part
        torch.cuda.empty_cache()
        part = max(least, part // 2 // least * least) if part > least else 0
    return 0


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [m, lanes * classes] against labels [m, lanes], as [m, lanes]."""
    scores = logits.unflatten(1, (labels.shape[1], -1)).flatten(0, 1)
    return F.cross_entropy(scores, labels.flatten(), reduction="none").view(labels.shape)
