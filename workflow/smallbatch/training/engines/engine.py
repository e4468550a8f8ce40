"""The interface of backends: how the steps of a block are made from the mini-batches of a loader."""

import abc
import contextlib
from collections.abc import Sequence

from torch import Tensor

from smallbatch.training.batches import Batches, BatchLoader, EpochPlan
from smallbatch.training.lane_optimizer import LaneOptimizer
from smallbatch.training.network import Network

BLOCK_STEPS, BLOCK_IMAGES, BLOCK_VALUES = 32, 2048, 1024 * 3 * 32 * 32
"""Maximum number of steps, images and pixel values of a block, which has one gather and one check of losses, clock and
signals. A signal has to wait for the end of a block: for ResNet-32 on 32x32, on one core of a busy machine, up to 4 s
with the kernels and 7 s with torch; at m = 2048, a single step, 6 and 17 s."""


class Engine(abc.ABC):
    """Makes the updates of some lanes; `backends.choose` decides which subclass does.

    Args:
        network: network of the lanes to be updated.
        optimizer: the lanes' optimiser, with their rates and its state.
        loader: loader of their mini-batches.
    """

    def __init__(self, network: Network, optimizer: LaneOptimizer, loader: BatchLoader) -> None:
        self.network, self.optimizer, self.loader = network, optimizer, loader

    @property
    @abc.abstractmethod
    def steps(self) -> int:
        """Maximum number of steps of a block. It depends on no clock: diverged lanes are dropped at a block's end."""

    @abc.abstractmethod
    def make(self, batches: Batches, factors: Sequence[float]) -> Tensor:
        """Make an update from each mini-batch; returns the losses before each, [steps, lanes]."""

    @abc.abstractmethod
    def gradients(self, images: Tensor, labels: Tensor) -> Sequence[Tensor]:
        """Gradients of the mean losses of any number of examples, by only this process; the weights do not change.

        Random numbers of a model are determined by `seeded_rng`.

        Args:
            images: [n, lanes * c, h, w].
            labels: labels of the images, [n, lanes]; targets if they are mixed, as in `Batches`.

        Returns:
            The gradient of each parameter, [lanes, ...]; overwritten by any following call.
        """

    @abc.abstractmethod
    def normalising(self, sub_batch: int) -> contextlib.AbstractContextManager[object]:
        """Context in which `gradients` use batch statistics over `sub_batch` examples; running ones do not change."""

    @abc.abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Logits [n, lanes * classes] of every lane for images [n, c, h, w], as in testing."""

    @property
    def test_images(self) -> int:
        """Number of images of all lanes that are tested at once."""
        return min(BLOCK_IMAGES, BLOCK_VALUES // self.loader.image_values)

    def block(self, plan: EpochPlan, first: int, last: int, factors: Sequence[float]) -> Tensor:
        """Make the updates of steps first ... last - 1 of an epoch.

        Args:
            plan: this process's part of the epoch's plan.
            first: first step.
            last: step after the last one.
            factors: factors of eta, one per step.

        Returns:
            The losses before each update, [steps, lanes].
        """
        return self.make(self.loader.batches(plan, first, last), factors)

    def seeded_rng(self, plan: EpochPlan, step: int) -> contextlib.AbstractContextManager[object]:
        """Context in which the model's random numbers are those for a given step of an epoch."""
        return contextlib.nullcontext()

    def _within(self, steps: int, images: int, values: int) -> int:
        """The largest number of steps within these numbers of steps, images and pixel values; at least one."""
        images = min(images, values // self.loader.image_values)
        return max(1, min(steps, images // (self.network.local_batch * self.network.lanes)))
