"""The cost of a study before anything is trained: runs, gradients, hours and disk space, by figure.

Hours come from a short probe of this device: a few steps of each kind of training at some batch sizes, on noise, in as
many processes as will train. Between those batch sizes, seconds per image are interpolated. The estimate includes no
decoding of photos, and assumes that no run diverges and stops early.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from smallbatch.core.environment import processors
from smallbatch.data.originals import DatasetInfo
from smallbatch.estimate.timings import Kind, Measured, Timing, Timings, images, kind_of
from smallbatch.runs.packs import lane_key
from smallbatch.study.experiments import Run, Study

PROBED = (2, 8, 32, 128, 512)
"""Batch sizes that are measured."""

PROBED_VALUES = 1 << 20
"""Mini-batches with fewer pixel values than this are measured, so that the probe stays short: 341 images of CIFAR, 6 of
ImageNet. The time per image differs little in larger batches."""

RECORD_BYTES, EPOCH_BYTES, WEIGHT_BYTES = 2000, 90, 4
"""Bytes of a run's record, of each epoch of its metrics, and of each of its weights."""


class CostClass(NamedTuple):
    """Runs that are equally fast at the same batch size.

    lanes: the largest number of them that can be trained as lanes: those that differ only in rate and seed.
    """

    kind: Kind
    lanes: int


class Probed(NamedTuple):
    """The measurements of a cost class, and the number of its model's weights."""

    measured: Measured
    weights: int


def estimate(
    study: Study, datasets: Mapping[str, DatasetInfo], *, device: str, lanes: int | str, keep_weights: str
) -> tuple[pd.DataFrame, Timings]:
    """Estimate the cost of each figure.

    Args:
        study: the study, as if none of it were trained yet.
        datasets: the facts about its data sets, by label.
        device: auto, cpu, cuda or cuda:N.
        lanes: the number of lanes, or auto.
        keep_weights: the runs whose weights are kept: all, best or none.

    Returns:
        One row per figure, charged with the runs that no earlier figure shows, and a last row for all: figure, runs,
        gradients (of single examples), hours (with every processor or the GPU at work) and megabytes (of results).
        And the timings that hours come from.
    """
    charged = first_figures(study)
    lanes_of = Counter(lane_key(run) for run in charged)
    classes = {run: CostClass(kind_of(run.setting), lanes_of[lane_key(run)]) for run in charged}
    representatives = {cost_class: run for run, cost_class in classes.items()}
    probed, (name, at_once) = _probe(representatives, datasets, device, lanes)
    per_cell = Counter(replace(run, seed=0) for run in charged)
    lines = []
    for run, figure in charged.items():
        kept = {"all": 1.0, "best": 1 / per_cell[replace(run, seed=0)], "none": 0.0}[keep_weights]
        lines.append((figure, 1, *_run_cost(run, probed[classes[run]], at_once, kept)))
    table = pd.DataFrame(lines, columns=["figure", "runs", "gradients", "hours", "megabytes"])
    shown = [*study.figures, *["none"] * ("none" in set(table["figure"]))]
    by_figure = table.groupby("figure").sum().reindex(shown, fill_value=0).reset_index()
    total = by_figure.drop(columns="figure").sum()
    table = pd.concat([by_figure, pd.DataFrame([{"figure": "all", **total}])], ignore_index=True)
    # For each kind the class with the fewest lanes, which is the slowest.
    kinds = {
        cost_class.kind: probed[cost_class].measured
        for cost_class in sorted(probed, key=lambda cost_class: -cost_class.lanes)
    }
    return table, Timings(kinds, name)


def first_figures(study: Study) -> dict[Run, str]:
    """Run -> the first figure that shows it or takes rates from it, or `none`.

    Which rate is chosen does not change the cost, so any stands in for it; runs that other experiments have too,
    whichever rate is chosen, count once.
    """
    charged: dict[Run, str] = {}
    rates = {name: study.placeholder_rates(name) for name in study.experiments}
    for figure, spec in study.figures.items():
        for name in study.sources(figure):
            for run in study.experiments[name].runs(rates[name]):
                if "base_lr" not in spec or run.base_lr == spec["base_lr"]:
                    charged.setdefault(run, figure)
    for _, run in study.planned(rates):
        charged.setdefault(run, "none")
    return charged


def _run_cost(run: Run, probed: Probed, at_once: int, kept: float) -> tuple[float, float, float]:
    """Gradients, hours of the device and megabytes of one run.

    Args:
        run: the run.
        probed: the measurements of its cost class.
        at_once: the number of processes that train at the same time.
        kept: the fraction of the weights that is kept.
    """
    measured = probed.measured
    gradients, _ = images(run.setting, run.batch_size, measured.train, measured.test)
    _, epochs = run.setting.images_and_epochs(run.batch_size, run.setting.train_images or measured.train)
    stored = RECORD_BYTES + EPOCH_BYTES * epochs + WEIGHT_BYTES * probed.weights * kept
    return gradients, measured.seconds(run.setting, run.batch_size) / at_once / 3600, stored / 1e6


def _probe(
    classes: Mapping[CostClass, Run], datasets: Mapping[str, DatasetInfo], device: str, lanes: int | str
) -> tuple[dict[CostClass, Probed], tuple[str, int]]:
    """Measure each cost class by one of its runs, with as many processes at work as will train.

    Returns:
        The measurements of each cost class; the device's name, and the number of processes.
    """
    dataset_of = {cost_class: datasets[cost_class.kind.data] for cost_class in classes}
    cells = [
        (cost_class, m)
        for cost_class in classes
        for m in PROBED
        if m == 2 or m * np.prod(dataset_of[cost_class].shape) < PROBED_VALUES
    ]
    # Forked before torch is imported here: a worker on a GPU starts with a driver of its own.
    fork = get_context("fork")
    with ProcessPoolExecutor(1, fork) as pool:
        name, at_once = pool.submit(describe, device).result()
    with ProcessPoolExecutor(at_once, fork) as pool:
        arguments = [(classes[cost_class], dataset_of[cost_class], cost_class.lanes, m) for cost_class, m in cells]
        answers = pool.map(functools.partial(measure, device=device, lanes=lanes), *zip(*arguments, strict=True))
        shown = tqdm(answers, "probing the device", len(cells), unit="", leave=False, disable=None)
        timings = dict(zip(cells, shown, strict=True))
    probed = {}
    for cost_class, dataset in dataset_of.items():
        by_size = {m: timings[other, m] for other, m in cells if other == cost_class}
        measured = Measured(dataset.train, dataset.test, {m: speed for m, (speed, _) in by_size.items()})
        probed[cost_class] = Probed(measured, next(iter(by_size.values()))[1])
    return probed, (name, at_once)


def describe(device: str) -> tuple[str, int]:
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
        lanes_of,
        random_dataset,
        testing_speed,
        training_speed,
        weights_of,
    )

    chosen, photos = devices.pick(device), run.setting.augment_resized
    run = replace(run, batch_size=m, bn_batch_size=m)
    data, at_work, most = random_dataset(dataset, max(m, 64)), processors(), max_lanes(run.setting, dataset, most)
    heap.release_unused()
    held = devices.held_memory()
    with processor_binding.bound_processor() if chosen.type == "cpu" else contextlib.nullcontext():
        best = lanes if isinstance(lanes, int) else best_lane_count(run, most, dataset, chosen, at_work)
        runs = lanes_of(run, min(most, best))
        training, testing = training_speed(runs, data, chosen), testing_speed(runs, data, chosen)
    need = need_of(run, dataset, chosen, photos=photos).bytes(len(runs), m) if chosen.type == "cpu" else 0
    return Timing(1 / training, 1 / testing, need and held + need), weights_of(runs[0], data)


def format_estimate(study: Study, table: pd.DataFrame) -> str:
    """The table of `estimate` as text for a terminal."""
    shown = table.assign(
        runs=table["runs"].map("{:,.0f}".format),
        gradients=table["gradients"].map("{:.2e}".format),
        hours=table["hours"].map("{:,.2f}".format),
        megabytes=table["megabytes"].map("{:,.1f}".format),
    )
    return f"Study {study.name}, from nothing, on this device:\n{shown.to_string(index=False)}"
