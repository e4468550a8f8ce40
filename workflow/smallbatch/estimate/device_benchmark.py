"""A short probe of this device: how fast it trains, on noise, with as many processes as will train."""

import contextlib
import functools
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from smallbatch.core.environment import processors
from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.estimate.timings import Kind, Measured, Timing
from smallbatch.study.experiments import Run

BATCH_SIZES = (2, 8, 32, 128, 512)
"""Batch sizes that are measured."""

MAX_VALUES = 1 << 20
"""Mini-batches with fewer pixel values than this are measured, so that the probe stays short: 341 images of CIFAR, 6 of
ImageNet. The time per image differs little in larger batches."""


class CostClass(NamedTuple):
    """Runs that are equally fast at the same batch size.

    lanes: the largest number of them that can be trained as lanes: those that differ only in rate and seed.
    """

    kind: Kind
    lanes: int


class ProbeResult(NamedTuple):
    """The measurements of a cost class, and the number of its model's weights."""

    measured: Measured
    weights: int


def probe(
    classes: Mapping[CostClass, Run], datasets: Mapping[str, DatasetInfo], device: str, lanes: int | str
) -> tuple[dict[CostClass, ProbeResult], tuple[str, int]]:
    """Measure each cost class by one of its runs, with as many processes at work as will train.

    Returns:
        The measurements of each cost class; the device's name, and the number of processes.
    """
    dataset_of = {cost_class: datasets[cost_class.kind.data] for cost_class in classes}
    cells = [
        (cost_class, m)
        for cost_class in classes
        for m in BATCH_SIZES
        if m == 2 or m * np.prod(dataset_of[cost_class].shape) < MAX_VALUES
    ]
    # Forked before torch is imported here: a worker on a GPU starts with a driver of its own.
    fork = get_context("fork")
    with ProcessPoolExecutor(1, fork) as pool:
        name, at_once = pool.submit(name_and_processes, device).result()
    with ProcessPoolExecutor(at_once, fork) as pool:
        arguments = [(classes[cost_class], dataset_of[cost_class], cost_class.lanes, m) for cost_class, m in cells]
        answers = pool.map(functools.partial(measure, device=device, lanes=lanes), *zip(*arguments, strict=True))
        shown = tqdm(answers, "probing the device", len(cells), unit="", leave=False, disable=None)
        timings = dict(zip(cells, shown, strict=True))
    probed = {}
    for cost_class, dataset in dataset_of.items():
        by_size = {m: timings[other, m] for other, m in cells if other == cost_class}
        measured = Measured(dataset.train, dataset.test, {m: speed for m, (speed, _) in by_size.items()})
        probed[cost_class] = ProbeResult(measured, next(iter(by_size.values()))[1])
    return probed, (name, at_once)


def name_and_processes(device: str) -> tuple[str, int]:
    """The device's name, and how many processes will train on it at the same time."""
    from smallbatch.training.resources import device as devices

    chosen = devices.pick(device)
    return devices.describe(chosen)["device"], processors() if chosen.type == "cpu" else 1


def measure(run: Run, dataset: DatasetInfo, most: int, m: int, *, device: str, lanes: int | str) -> tuple[Timing, int]:
    """The timing of a run at batch size `m`, with at most `most` lanes, and the number of its model's weights."""
    from smallbatch.training.own_models import max_lanes
    from smallbatch.training.resources import device as devices
    from smallbatch.training.resources import heap, processor_binding
    from smallbatch.training.resources.lane_count import best_lane_count
    from smallbatch.training.resources.memory import need_of
    from smallbatch.training.resources.throughput import (
        benchmark_runs,
        parameter_count,
        random_dataset,
        testing_speed,
        training_speed,
    )

    chosen, photos = devices.pick(device), run.setting.augment_resized
    run = replace(run, batch_size=m, bn_batch_size=m)
    data, at_work, most = random_dataset(dataset, max(m, 64)), processors(), max_lanes(run.setting, dataset, most)
    heap.release_unused()
    held = devices.current_memory()
    with processor_binding.bound_processor() if chosen.type == "cpu" else contextlib.nullcontext():
        best = lanes if isinstance(lanes, int) else best_lane_count(run, most, dataset, chosen, at_work)
        runs = benchmark_runs(run, min(most, best))
        training, testing = training_speed(runs, data, chosen), testing_speed(runs, data, chosen)
    need = need_of(run, dataset, chosen, photos=photos).bytes(len(runs), m) if chosen.type == "cpu" else 0
    return Timing(1 / training, 1 / testing, need and held + need), parameter_count(runs[0], data)
