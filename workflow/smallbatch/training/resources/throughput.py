"""Measures the training speed of a device: a few steps of a run on random data."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from smallbatch.data.prepared import Meta, Prepared, Split
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.study.experiments import Run
from smallbatch.study.rates import BaseLr
from smallbatch.training.trainer import LaneTrainer

SECONDS = 0.5
"""Minimum duration of a measurement, after a first step that is not counted, in seconds."""

Clock = Callable[[], float]

PIECE = 0.02
"""Target duration of a piece of a measurement, in seconds; a step may take longer."""


def random_dataset(dataset: DatasetInfo, images: int) -> Prepared:
    """An artificial data set of a given shape with `images` random images in either split, in memory."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (images, *dataset.shape), dtype=np.uint8)
    targets = draws.integers(0, 2, (images, dataset.classes)).astype(np.float32)
    split = Split(pixels, targets if dataset.targets else draws.integers(0, dataset.classes, images))
    channels = dataset.shape[0]
    classes = tuple(map(str, range(dataset.classes)))
    meta = Meta("noise", classes, dataset.shape, (0.5,) * channels, (0.25,) * channels, images, images, "noise")
    return Prepared(replace(meta, targets=dataset.targets), split, split)


def benchmark_runs(run: Run, count: int) -> list[Run]:
    """`count` runs like this one on all of a `random_dataset`: at a rate that keeps them finite, without variance."""
    plain = replace(
        run.setting,
        data="noise",
        train_images=None,
        epochs=1,
        steps=None,
        images=None,
        augment_resized=False,
        selection="test",
        variance_batch_sizes=(),
    )
    return [replace(run, setting=plain, base_lr=BaseLr(2.0**-14 / run.batch_size))] * count


def training_speed(runs: Sequence[Run], data: Prepared, device: torch.device, seconds: float = SECONDS) -> float:
    """Training images/s of all lanes together.

    Args:
        runs: lanes, as from `benchmark_runs`.
        data: training data; at least one mini-batch.
        device: device to run on.
        seconds: minimum duration of the measurement.
    """
    return _mean(_training_pieces(runs, data, device, seconds))


def best_training_speed(runs: Sequence[Run], data: Prepared, device: torch.device, seconds: float) -> float:
    """The fastest of several short pieces, which is the least disturbed by other programs; else as `training_speed`.

    On the CPU, processor time is measured: time in which other processes have the processor does not count.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    return max(images / took for images, took in _training_pieces(runs, data, device, seconds, clock))


def testing_speed(runs: Sequence[Run], data: Prepared, device: torch.device, seconds: float = SECONDS) -> float:
    """Test images/s of all lanes together, each tested on every image; arguments as for `training_speed`."""
    training = LaneTrainer(runs, data, device)

    def whole_split(_: int) -> int:
        training.test_split(training.loader.test_batches)
        return len(data.test.labels) * len(runs)

    return _mean(_pieces(whole_split, 1, device, seconds))


def _training_pieces(
    runs: Sequence[Run], data: Prepared, device: torch.device, seconds: float, clock: Clock = time.perf_counter
) -> list[tuple[int, float]]:
    training = LaneTrainer(runs, data, device)
    plan = training.loader.plan([run.seed for run in runs], 0)

    def steps(count: int) -> int:
        training.train_block(plan, count)
        return count * runs[0].batch_size * len(runs)

    return _pieces(steps, training.block_end(), device, seconds, clock)


def _pieces(
    work: Callable[[int], int], most: int, device: torch.device, seconds: float, clock: Clock = time.perf_counter
) -> list[tuple[int, float]]:
    """Images and seconds of pieces of work that take `seconds` together, after one that is not counted.

    Args:
        work: makes a given number of steps; returns the number of images used in them.
        most: maximum number of steps at once.
        device: device to run on.
        seconds: minimum duration of the measurement.
        clock: returns the time in seconds.
    """
    _timed(work, 1, device, clock)
    count = 1
    pieces: list[tuple[int, float]] = []
    while sum(took for _, took in pieces) < seconds:
        pieces.append(_timed(work, count, device, clock))
        count = max(1, min(most, int(PIECE * count / pieces[-1][1])))
    return pieces


def _timed(work: Callable[[int], int], count: int, device: torch.device, clock: Clock) -> tuple[int, float]:
    started = clock()
    images = work(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return images, max(clock() - started, 1e-6)


def _mean(pieces: Sequence[tuple[int, float]]) -> float:
    images, took = map(sum, zip(*pieces, strict=True))
    return images / took


def parameter_count(run: Run, data: Prepared) -> int:
    """Number of weights of a run's model."""
    anywhere = replace(run, setting=replace(run.setting, precision="float32"))
    training = LaneTrainer([anywhere], data, torch.device("cpu"))
    return sum(weights.numel() for weights in training.state.model.parameters())
