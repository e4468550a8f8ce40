"""Updates: how the steps of a block are made, from the mini-batches of a feed."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from smallbatch.core.seeds import stream_seed
from smallbatch.training.feed import Batches, EpochPlan, Feed
from smallbatch.training.network import Network
from smallbatch.training.sgd import LaneSGD

BLOCK_STEPS, BLOCK_IMAGES, BLOCK_VALUES = 32, 2048, 1024 * 3 * 32 * 32
"""Steps are served in blocks of at most so many steps, images or values of pixels: one gather, one look at losses,
clock and signals a block. So long a signal waits: for ResNet-32 on 32x32, on one core of a busy machine, up to 4 s with
the kernels and 7 s with torch; at m = 2048, a single step, 6 and 17 s."""


class Updates:
    """Updates by torch, operation by operation: on every device, for every model.

    Args:
        network: of the lanes that are updated.
        sgd: their rates and velocities.
        feed: of their mini-batches.
    """

    def __init__(self, network: Network, sgd: LaneSGD, feed: Feed) -> None:
        self.network, self.sgd, self.feed = network, sgd, feed

    @property
    def steps(self) -> int:
        """The most steps of a block. No clock is in it: lanes that diverge are dropped where a block ends."""
        return self._within(BLOCK_STEPS, BLOCK_IMAGES, BLOCK_VALUES)

    @property
    def test_images(self) -> int:
        """Images of all lanes that are tested at once."""
        return min(BLOCK_IMAGES, BLOCK_VALUES // self.feed.image_values)

    def _within(self, steps: int, images: int, values: int) -> int:
        """How many steps have at most so many steps, images and values of pixels; at least one."""
        images = min(images, values // self.feed.image_values)
        return max(1, min(steps, images // (self.network.local_batch * self.network.lanes)))

    def block(self, plan: EpochPlan, first: int, last: int, factors: Sequence[float]) -> Tensor:
        """Make the updates of steps first ... last - 1 of an epoch.

        Args:
            plan: of the epoch, this process's part of it.
            first: step.
            last: step that is not made any more.
            factors: of eta, one a step.

        Returns:
            The losses before each update, [steps, lanes].
        """
        return self.make(self.feed.batches(plan, first, last), factors)

    def make(self, batches: Batches, factors: Sequence[float]) -> Tensor:
        """Make an update of each mini-batch; returns the losses before it, [steps, lanes]."""
        losses = []
        for images, labels, factor in zip(*batches, factors, strict=True):
            losses.append(self.network.gradients(images, labels))
            self.sgd.step(factor)
        self.network.share_buffers()
        world = self.network.world
        return world.sum(torch.stack(losses)) / world.size

    def gradients(self, images: Tensor, labels: Tensor) -> list[Tensor]:
        """Gradients of the mean losses of any number of examples, by this process alone; weights stay as they are.

        A model that draws random numbers is given them by `drawing`.

        Args:
            images: [n, lanes * c, h, w].
            labels: of them, [n, lanes].

        Returns:
            Of each parameter, [lanes, ...]; overwritten by whatever comes next.
        """
        self.network.gradients(images, labels, alone=True)
        parameters = self.network.parameters
        return [torch.zeros_like(own) if own.grad is None else own.grad for own in parameters]

    def normalising(self, sub_batch: int) -> contextlib.AbstractContextManager[object]:
        """While it lasts, `gradients` take batch statistics over so many examples; running ones stay as they are."""
        return self.network.normalising(sub_batch)

    def drawing(self, plan: EpochPlan, step: int) -> contextlib.AbstractContextManager[object]:
        """While it lasts, what the model draws of random numbers is that of a step of an epoch."""
        return contextlib.nullcontext()

    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, lanes * classes] of every lane for images [n, c, h, w], as in testing."""
        return self.network.logits(images)


class DrawingUpdates(Updates):
    """Updates of a single lane whose model draws random numbers, as dropout does: from (seed, epoch, step) alone."""

    def block(self, plan: EpochPlan, first: int, last: int, factors: Sequence[float]) -> Tensor:
        """As `Updates.block`."""
        return torch.cat([self._step(plan, step, factors[step - first]) for step in range(first, last)])

    def _step(self, plan: EpochPlan, step: int, factor: float) -> Tensor:
        with self.drawing(plan, step):
            return super().block(plan, step, step + 1, [factor])

    @contextlib.contextmanager
    def drawing(self, plan: EpochPlan, step: int) -> Iterator[None]:
        """As `Updates.drawing`; torch's global generator is left as it was."""
        device, [seed] = self.network.device, plan.seeds
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(stream_seed(seed, "model", plan.epoch, step))
            yield
