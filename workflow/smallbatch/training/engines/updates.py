"""The contract of backends: how the steps of a block are made, from the mini-batches of a loader."""

import abc
import contextlib
from collections.abc import Sequence

from torch import Tensor

from smallbatch.training.batches import Batches, BatchLoader, EpochPlan
from smallbatch.training.network import Network
from smallbatch.training.optimizers import LaneOptimizer

BLOCK_STEPS, BLOCK_IMAGES, BLOCK_VALUES = 32, 2048, 1024 * 3 * 32 * 32
"""Steps are served in blocks of at most so many steps, images or values of pixels: one gather, one look at losses,
clock and signals a block. So long a signal waits: for ResNet-32 on 32x32, on one core of a busy machine, up to 4 s with
the kernels and 7 s with torch; at m = 2048, a single step, 6 and 17 s."""


class Updates(abc.ABC):
    """What a backend does for some lanes; `backends.choose` says which one does it.

    Args:
        network: of the lanes that are updated.
        optimizer: with their rates and its state.
        loader: of their mini-batches.
    """

    def __init__(self, network: Network, optimizer: LaneOptimizer, loader: BatchLoader) -> None:
        self.network, self.optimizer, self.loader = network, optimizer, loader

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """The most steps of a block. No clock is in it: lanes that diverge are dropped where a block ends."""

    @abc.abstractmethod
    def make(self, batches: Batches, factors: Sequence[float]) -> Tensor:
        """Make an update of each mini-batch; returns the losses before it, [steps, lanes]."""

    @abc.abstractmethod
    def gradients(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Gradients of the mean losses of any number of examples, by this process alone; weights stay as they are.

        A model that draws random numbers is given them by `drawing`.

        Args:
            images: [n, lanes * c, h, w].
            labels: of them, [n, lanes].

        Returns:
            Of each parameter, [lanes, ...]; overwritten by whatever comes next.
        """

    @abc.abstractmethod
    def normalising(self, sub_batch: int) -> contextlib.AbstractContextManager[object]:
        """While it lasts, `gradients` take batch statistics over so many examples; running ones stay as they are."""

    @abc.abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, lanes * classes] of every lane for images [n, c, h, w], as in testing."""

    @property
    def test_images(self) -> int:
        """Images of all lanes that are tested at once."""
        return min(BLOCK_IMAGES, BLOCK_VALUES // self.loader.image_values)

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
        return self.make(self.loader.batches(plan, first, last), factors)

    def drawing(self, plan: EpochPlan, step: int) -> contextlib.AbstractContextManager[object]:
        """While it lasts, what the model draws of random numbers is that of a step of an epoch."""
        return contextlib.nullcontext()

    def _within(self, steps: int, images: int, values: int) -> int:
        """How many steps have at most so many steps, images and values of pixels; at least one."""
        images = min(images, values // self.loader.image_values)
        return max(1, min(steps, images // (self.network.local_batch * self.network.lanes)))
