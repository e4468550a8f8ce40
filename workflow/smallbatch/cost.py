"""What a study takes, before anything is trained: runs, gradients, hours and disk, by figure.

Hours come from a short probe of the device at hand: a few steps of each kind of training at some batch sizes, on noise,
as many at a time as will train. Between those batch sizes seconds an image are interpolated. Decoding of photos is not
in it, nor that diverged runs stop early.
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

from smallbatch.data.outline import Outline
from smallbatch.environment import processors
from smallbatch.packs import row
from smallbatch.study import HELD_OUT, Run, Study

PROBED = (2, 8, 32, 128, 512)
"""Batch sizes that are measured."""

PROBED_VALUES = 1 << 20
"""Values of pixels of a mini-batch up to which it is measured, so that the probe stays short: 341 images of CIFAR, 6 of
ImageNet. What one image takes in a larger batch differs little."""

RECORD_BYTES, EPOCH_BYTES, WEIGHT_BYTES = 2000, 90, 4
"""Of a run: its record, an epoch of its metrics, and each of its weights."""


class Kind(NamedTuple):
    """What decides about speed beside the batch size.

    lanes: the most runs that can be trained in lock-step: those that differ in rate and seed alone.
    """

    model: str
    norm: str
    norm_layers: str
    momentum: bool
    precision: str
    outline: Outline
    lanes: int


class Speed(NamedTuple):
    """Seconds an image takes in training and in testing with all at work; and the number of the model's weights."""

    training: float
    testing: float
    weights: int


def estimate(
    study: Study, outlines: Mapping[str, Outline], *, device: str, lanes: int | str, keep_weights: str
) -> pd.DataFrame:
    """What each figure takes.

    Args:
        study: what is going to be trained, from nothing.
        outlines: of its data sets, by label.
        device: auto, cpu, cuda or cuda:N.
        lanes: runs in lock-step, or auto.
        keep_weights: all, best or none.

    Returns:
        A row a figure, charged with the runs that no figure before it shows, and a last one for all: figure, runs,
        gradients (of single examples), hours (with every processor or the GPU at work) and megabytes (of results).
    """
    charged = _charged(study)
    rows = Counter(row(run) for run in charged)
    kinds = {run: _kind(run, outlines[run.setting.data], rows[row(run)]) for run in charged}
    representatives = {kind: run for run, kind in kinds.items()}
    speeds = _probe(representatives, device, lanes)
    per_cell = Counter(replace(run, seed=0) for run in charged)
    lines = []
    for run, figure in charged.items():
        kept = {"all": 1.0, "best": 1 / per_cell[replace(run, seed=0)], "none": 0.0}[keep_weights]
        lines.append((figure, 1, *_run_cost(run, kinds[run].outline, speeds[kinds[run]], kept)))
    table = pd.DataFrame(lines, columns=["figure", "runs", "gradients", "hours", "megabytes"])
    by_figure = table.groupby("figure", sort=False).sum().reset_index()
    total = by_figure.drop(columns="figure").sum()
    return pd.concat([by_figure, pd.DataFrame([{"figure": "all", **total}])], ignore_index=True)


def _charged(study: Study) -> dict[Run, str]:
    """Each run with the first figure that shows it or takes its rates from it."""
    charged: dict[Run, str] = {}
    for figure, spec in study.figures.items():
        for name in study.sources(figure):
            for run in study.experiments[name].runs():
                if "base_lr" not in spec or run.base_lr == spec["base_lr"]:
                    charged.setdefault(run, figure)
    for run in study.runs():
        charged.setdefault(run, "none")
    return charged


def _kind(run: Run, outline: Outline, lanes: int) -> Kind:
    s = run.setting
    return Kind(s.model, s.norm, s.norm_layers, s.momentum > 0, s.precision, outline, lanes)


def _run_cost(run: Run, outline: Outline, curve: Mapping[int, Speed], kept: float) -> tuple[float, float, float]:
    """Gradients, hours of the device and megabytes of one run, of which the part `kept` of the weights stays."""
    s = run.setting
    images = s.train_images or outline.train
    held_out = round(HELD_OUT * images) if s.selection == "validation" else 0
    gradients = s.epochs * (images - held_out)
    tested = s.epochs * (outline.test + held_out)
    sizes = np.log2(list(curve))
    training, testing = (
        np.interp(np.log2(run.batch_size), sizes, [getattr(speed, phase) for speed in curve.values()])
        for phase in ("training", "testing")
    )
    weights = next(iter(curve.values())).weights
    stored = RECORD_BYTES + EPOCH_BYTES * s.epochs + WEIGHT_BYTES * weights * kept
    return gradients, (gradients * training + tested * testing) / 3600, stored / 1e6


def _probe(kinds: Mapping[Kind, Run], device: str, lanes: int | str) -> dict[Kind, dict[int, Speed]]:
    """Batch size -> speed, of each kind of which there is a run, with as many processes at work as will train."""
    cells = [(kind, m) for kind in kinds for m in PROBED if m == 2 or m * np.prod(kind.outline.shape) < PROBED_VALUES]
    # Forked before torch is imported here: a worker on a GPU starts with a driver of its own.
    fork = get_context("fork")
    with ProcessPoolExecutor(1, fork) as pool:
        workers = pool.submit(_trainings_at_once, device).result()
    measure = functools.partial(_measure, device=device, lanes=lanes, parallel=workers)
    with ProcessPoolExecutor(workers, fork) as pool:
        found = pool.map(measure, [kinds[kind] for kind, _ in cells], *zip(*cells, strict=True))
        told = tqdm(found, "probing the device", len(cells), unit="", leave=False, disable=None)
        speeds = dict(zip(cells, told, strict=True))
    return {kind: {m: speeds[other, m] for other, m in cells if other == kind} for kind in kinds}


def _trainings_at_once(device: str) -> int:
    from smallbatch.training import device as devices

    return processors() if devices.pick(device).type == "cpu" else 1


def _measure(run: Run, kind: Kind, m: int, *, device: str, lanes: int | str, parallel: int) -> Speed:
    """Speed at batch size m, if each of `parallel` processes is as fast as this one."""
    from smallbatch.training import device as devices
    from smallbatch.training import processor
    from smallbatch.training.choice import lanes_for
    from smallbatch.training.probe import lanes_of, noise, testing_speed, training_speed, weights_of

    chosen, run = devices.pick(device), replace(run, batch_size=m, bn_batch_size=m)
    data, at_work = noise(kind.outline, max(m, 64)), processors()
    with processor.of_its_own() if chosen.type == "cpu" else contextlib.nullcontext():
        best = lanes if isinstance(lanes, int) else lanes_for(run, kind.lanes, kind.outline, chosen, at_work)
        runs = lanes_of(run, min(kind.lanes, best))
        training, testing = training_speed(runs, data, chosen), testing_speed(runs, data, chosen)
    return Speed(1 / training / parallel, 1 / testing / parallel, weights_of(runs[0], data))


def told(study: Study, table: pd.DataFrame) -> str:
    """What `estimate` found, as text for a terminal."""
    shown = table.assign(
        runs=table["runs"].map("{:,.0f}".format),
        gradients=table["gradients"].map("{:.2e}".format),
        hours=table["hours"].map("{:,.2f}".format),
        megabytes=table["megabytes"].map("{:,.1f}".format),
    )
    return f"Study {study.name}, from nothing, on this device:\n{shown.to_string(index=False)}"
