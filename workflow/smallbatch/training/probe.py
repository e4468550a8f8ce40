"""How fast this device trains: a few steps of a run on noise."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from smallbatch.data.outline import Outline
from smallbatch.data.prepared import Meta, Prepared, Split
from smallbatch.rates import BaseLr
from smallbatch.study import Run
from smallbatch.training.engine import LaneTraining

SECONDS = 0.5
"""That a measurement lasts at least, after a first step that is not counted."""


def noise(outline: Outline, images: int) -> Prepared:
    """A made data set of a given shape with `images` images in either split, in memory."""
    draws = np.random.default_rng(0)
    pixels = draws.integers(0, 256, (images, *outline.shape), dtype=np.uint8)
    split = Split(pixels, draws.integers(0, outline.classes, images))
    channels = outline.shape[0]
    classes = tuple(map(str, range(outline.classes)))
    meta = Meta("noise", classes, outline.shape, (0.5,) * channels, (0.25,) * channels, images, images, "noise")
    return Prepared(meta, split, split)


def lanes_of(run: Run, count: int) -> list[Run]:
    """`count` runs like this one that noise can be fed to: at rates that keep them finite, nothing measured of them."""
    plain = replace(
        run.setting, data="noise", train_images=None, epochs=1, augment_resized=False, variance_batch_sizes=()
    )
    return [replace(run, setting=plain, base_lr=BaseLr(2.0**-14 / run.batch_size), seed=seed) for seed in range(count)]


def training_speed(runs: Sequence[Run], data: Prepared, device: torch.device, seconds: float = SECONDS) -> float:
    """Training images/s of all lanes together.

    Args:
        runs: lanes, as `lanes_of` gives them.
        data: what they train on; at least a mini-batch.
        device: where.
        seconds: how long to measure at least.
    """
    training = LaneTraining(runs, data, device)
    plan = training.feed.plan([run.seed for run in runs], 0)
    block = training._block_end()

    def step() -> int:
        training._train_block(plan, block)
        return block * runs[0].batch_size * len(runs)

    return _rate(step, device, seconds)


def testing_speed(runs: Sequence[Run], data: Prepared, device: torch.device, seconds: float = SECONDS) -> float:
    """Test images/s of all lanes together, each of which sees every image; arguments as of `training_speed`."""
    training = LaneTraining(runs, data, device)

    def step() -> int:
        training._test(training.feed.test_batches)
        return len(data.test.labels) * len(runs)

    return _rate(step, device, seconds)


def _rate(step: Callable[[], int], device: torch.device, seconds: float) -> float:
    step()
    _wait(device)
    started, images = time.perf_counter(), 0
    while not images or time.perf_counter() - started < seconds:
        images += step()
        _wait(device)
    return images / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def weights_of(run: Run, data: Prepared) -> int:
    """How many weights a run's model has."""
    anywhere = replace(run, setting=replace(run.setting, precision="float32"))
    training = LaneTraining([anywhere], data, torch.device("cpu"))
    return sum(weights.numel() for weights in training.model.parameters())
