"""The variance of one update at fixed weights, by batch size.

The training images of an epoch are shuffled and cut into mini-batches of size m; every m uses the same order. With G_j
the mean gradient of mini-batch j of n, and G their mean,

    V(m) = sum_j |G_j - G|^2 / (n - 1),   and the trace of the covariance of an update is eta^2 V(m).

V is half the mean squared distance between the gradients of two disjoint mini-batches. Where an example's gradient
depends on no other (norm none or group), two of M examples that are drawn without replacement have covariance
-S^2 / M, so a mini-batch's mean has variance S^2 (1/m - 1/M), two disjoint ones have covariance -S^2 / M, and

    E V(m) = S^2 (1/m - 1/M) + S^2 / M = S^2 / m,   without a term for the finite population,

with S^2 the variance of an example's gradient, summed over its components (Cochran 1977, Sampling Techniques, theorems
2.1 and 2.2; S^2 is tr(Sigma) of McCandlish et al. 2018). So eta^2 V = eta_base^2 m S^2 is arithmetic there; SGD, which
draws without replacement, has 1 - m / M of it. Every m uses each example once: the few examples that make up nearly all
of S^2 late in training then count equally at each m, while fresh draws for each m would miss some and repeat others. If
n is small, the examples are reshuffled several times and V is averaged over the orders.

With batch normalisation an example's gradient depends on the examples that share its statistics. If statistics use the
whole mini-batch (b = m), at each measured m as in the run, the derivation does not apply. With a fixed b, sub-batches
are independent of each other, so it holds with sub-batches in place of examples.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from smallbatch.core.errors import refuse
from smallbatch.core.seeds import stream_seed
from smallbatch.runs.records import Variance
from smallbatch.study.experiments import Run, Setting
from smallbatch.training.batches import EpochPlan, random_stream
from smallbatch.training.engines.engine import BLOCK_IMAGES, BLOCK_VALUES, Engine

TRAINING_FRACTIONS = (0, 0.1, 0.5, 1)
"""Fractions of training, rounded to epochs, at which the variance is measured."""

MIN_MINI_BATCHES = 32
"""Minimum number of mini-batches per batch size; if one order has fewer, more orders are added."""


def epochs_measured(setting: Setting) -> set[int]:
    """Epochs after which the variance is measured; 0 stands for the initial weights."""
    return {round(part * setting.epochs) for part in TRAINING_FRACTIONS} if setting.variance_batch_sizes else set()


def bn_batch_size_for(run: Run, size: int) -> int:
    """BN batch size for measuring mini-batches of `size`.

    `size` if the run normalises over the whole batch, else the run's `bn_batch_size`.
    """
    return size if run.bn_batch_size == run.batch_size else run.bn_batch_size


def check(run: Run) -> None:
    """Check that each of the run's `variance_batch_sizes` is compatible with its BN batch size.

    Raises:
        UserError: one is not, or images are mixed with others of a mini-batch of the run's size.
    """
    if run.setting.variance_batch_sizes and any(run.setting.mixing.values()):
        refuse("experiment", "augment", run.setting.augment, "neither mixup nor cutmix with variance_batch_sizes")
    for size in run.setting.variance_batch_sizes if run.setting.norm == "batch" else ():
        b = bn_batch_size_for(run, size)
        if size % b or size < 2:
            allowed = "numbers from 2 with norm: batch" if b == size else f"multiples of the BN batch, {b}"
            refuse("experiment", "variance_batch_sizes", size, allowed)


def measure(engine: Engine, runs: Sequence[Run], epoch: int) -> list[list[Variance]]:
    """Measure the variance of one update of each lane, at each of `variance_batch_sizes`.

    An update is u = -eta * g of a mini-batch, augmented as in training. The weights are fixed, so weight decay is the
    same for all mini-batches and cancels.

    Args:
        engine: the lanes' engine; its weights and running statistics are left unchanged.
        runs: the run of each lane.
        epoch: the epoch just finished; 0 = initial weights.

    Returns:
        For each lane, one `Variance` per batch size, with eta^2 V and the number of mini-batches used.

    Raises:
        UserError: an epoch has fewer images than two of the batches.
        Stopped: a signal requested it.
    """
    loader, sizes = engine.loader, runs[0].setting.variance_batch_sizes
    images, largest = loader.steps * loader.batch_size, max(sizes)
    if 2 * largest > images:
        refuse(
            "experiment", "variance_batch_sizes", largest, f"numbers up to {images // 2}, half the images of an epoch"
        )
    seeds = [stream_seed(run.seed, "variance", epoch) for run in runs]
    # As many as fill mini-batches of the largest m, so that each m that divides it has the same examples.
    plan = loader.plan(seeds, epoch).first(images // largest * largest)
    rows: list[list[Variance]] = [[] for _ in runs]
    for size in sizes:
        cuts = [order.cut(size) for order in _orders(plan, size, epoch)]
        with engine.normalising(bn_batch_size_for(runs[0], size)):
            of_orders = [_spreads(engine, cut) for cut in cuts]
        spreads = map(statistics.fmean, zip(*of_orders, strict=True))
        for of_lane, run, spread in zip(rows, runs, spreads, strict=True):
            eta = replace(run, batch_size=size).learning_rate
            of_lane.append(Variance(epoch, size, eta**2 * spread, sum(len(cut.order) for cut in cuts)))
    engine.network.model.zero_grad()
    return rows


def _orders(plan: EpochPlan, size: int, epoch: int) -> Iterator[EpochPlan]:
    """The examples of a plan in as many orders as needed for `MIN_MINI_BATCHES` of a size."""
    yield plan
    single = plan.cut(1)
    for number in range(1, -(-MIN_MINI_BATCHES // (len(single.order) // size))):
        # The same permutation for each lane, whose order is already random.
        order = torch.randperm(len(single.order), generator=random_stream(0, f"variance/{number}", epoch))
        yield single.at(order.to(plan.order.device))


def _spreads(engine: Engine, plan: EpochPlan) -> list[float]:
    """V per lane: trace of the sample covariance of the mini-batch gradients, which are divided among the processes."""
    network, world, count = engine.network, engine.network.world, len(plan.order)
    squares = torch.zeros(network.lanes, dtype=torch.float64, device=network.device)
    sums = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in network.parameters]
    for gradients in _gradients(engine, plan):
        for total, gradient in zip(sums, gradients, strict=True):
            total += gradient
            squares += torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64).square()
    of_the_mean = sum(world.sum(total).flatten(1).square().sum(1) for total in sums) / count
    return ((world.sum(squares) - of_the_mean) / (count - 1)).tolist()


def _gradients(engine: Engine, plan: EpochPlan) -> Iterator[Sequence[Tensor]]:
    """Mean gradients of this process's part of a plan's mini-batches, each [lanes, ...], overwritten by the next.

    Raises:
        Stopped: a signal asked for it; several processes stop together.
    """
    world, (count, size, lanes) = engine.network.world, plan.order.shape
    local = plan.at(torch.arange(world.rank, count, world.size, device=plan.order.device))
    at_once = max(1, min(BLOCK_IMAGES, BLOCK_VALUES // engine.loader.image_values) // (size * lanes))
    for first in range(0, -(-count // world.size), at_once):
        world.stop_if_asked()
        last = min(first + at_once, len(local.order))
        if first < last:
            for step, (images, labels) in enumerate(
                zip(*engine.loader.batches(local, first, last), strict=True), first
            ):
                with engine.seeded_rng(plan, world.rank + step * world.size):
                    yield engine.gradients(images, labels)
