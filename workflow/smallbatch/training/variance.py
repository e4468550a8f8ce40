"""The variance of one update at fixed weights, by batch size."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from smallbatch.errors import UserError, refuse
from smallbatch.store import Variance
from smallbatch.streams import stream_seed
from smallbatch.study import Run, Setting
from smallbatch.training.feed import EpochPlan, Feed
from smallbatch.training.network import Network
from smallbatch.training.updates import Updates

POINTS = (0, 0.1, 0.5, 1)
"""Fractions of training, rounded to epochs, at which it is measured."""

DRAWS, EXAMPLES = 32, 4096
"""Mini-batches for each batch size, at least; and examples that small ones see together, of which few may have nearly
all of the gradient."""


def draws_of(size: int, images: int) -> int:
    """How many mini-batches of `size` are drawn from a training split of `images`."""
    return max(DRAWS, min(EXAMPLES, images) // size)


def epochs_measured(setting: Setting) -> set[int]:
    """Epochs after which the variance is measured; 0 stands for the initial weights."""
    return {round(point * setting.epochs) for point in POINTS} if setting.variance_batch_sizes else set()


def check(run: Run) -> None:
    """Make sure that the variance of a run's updates is defined.

    Raises:
        UserError: batch statistics would make an example's gradient depend on the others.
    """
    if run.setting.variance_batch_sizes and run.setting.norm == "batch":
        raise UserError("experiment: variance_batch_sizes: only with norm none or group: batch statistics depend on m")


def measure(updates: Updates, runs: Sequence[Run], epoch: int) -> list[list[Variance]]:
    """Measure the variance of one update of each lane, at each of `variance_batch_sizes`.

    An update is u = -eta * g of a mini-batch drawn without replacement, as SGD draws it, augmented as in training. The
    weights stand still, so weight decay is the same for all draws and drops out.

    Args:
        updates: of the lanes; the weights stay as they are.
        runs: the lanes.
        epoch: of training after which this is.

    Returns:
        For each lane a row a batch size.

    Raises:
        UserError: an epoch has fewer images than one of the batches.
        Stopped: a signal asked for it.
    """
    network, feed = updates.network, updates.feed
    sizes, images = runs[0].setting.variance_batch_sizes, feed.steps * feed.batch_size
    if max(sizes) > images:
        refuse("experiment", "variance_batch_sizes", max(sizes), f"numbers up to {images}, the images of an epoch")
    spreads = {size: _Spread(network, draws_of(size, images)) for size in sizes}
    world = network.world
    for first in range(0, max(spread.draws for spread in spreads.values()), world.size):
        world.stop_if_asked()
        draw = first + world.rank
        plan = _draw(feed, runs, epoch, draw)
        for size, spread in spreads.items():
            if draw < spread.draws:
                pixels, labels = feed.batches(plan.first(size), 0, 1)
                with updates.drawing(plan, 0):
                    spread.add(updates.gradients(pixels[0], labels[0]))
    network.model.zero_grad()
    rows: list[list[Variance]] = [[] for _ in runs]
    for size, spread in spreads.items():
        for lane, (run, trace) in enumerate(zip(runs, spread.traces(), strict=True)):
            eta = replace(run, batch_size=size).learning_rate
            rows[lane].append(Variance(epoch, size, eta**2 * trace, spread.draws))
    return rows


def _draw(feed: Feed, runs: Sequence[Run], epoch: int, draw: int) -> EpochPlan:
    """The plan of an epoch that training never sees; its first images are the draw."""
    return feed.plan([stream_seed(run.seed, f"variance/{draw}", epoch) for run in runs], epoch)


class _Spread:
    """The spread of a network's mean gradient over `draws` mini-batches, for each lane."""

    def __init__(self, network: Network, draws: int) -> None:
        self.network, self.draws = network, draws
        self.squares = torch.zeros(network.lanes, dtype=torch.float64, device=network.device)
        self.sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in network.parameters]

    def add(self, gradients: Sequence[Tensor]) -> None:
        """Count the gradients of a mini-batch, each [lanes, ...]."""
        for total, gradient in zip(self.sums, gradients, strict=True):
            exact = gradient.double()
            total += exact
            self.squares += exact.flatten(1).square().sum(1)

    def traces(self) -> list[float]:
        """Trace of the unbiased sample covariance over all processes' draws."""
        world = self.network.world
        of_the_mean = sum(world.sum(total).flatten(1).square().sum(1) for total in self.sums) / self.draws
        return ((world.sum(self.squares) - of_the_mean) / (self.draws - 1)).tolist()
