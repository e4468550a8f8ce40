"""The cost of a study before anything is trained: runs, gradients, hours and disk space, by figure.

Hours come from a short probe of this device: a few steps of each kind of training at some batch sizes, on noise, in as
many processes as will train. Between those batch sizes, seconds per image are interpolated. The estimate includes no
decoding of photos, and assumes that no run diverges and stops early.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from smallbatch.data.public_datasets import DatasetInfo
from smallbatch.estimate.device_benchmark import CostClass, ProbeResult, probe
from smallbatch.estimate.timings import Timings, images, kind_of
from smallbatch.runs.packs import lane_key
from smallbatch.study.experiments import Run, Study

RECORD_BYTES, EPOCH_BYTES, WEIGHT_BYTES = 2000, 90, 4
"""Bytes of a run's record, of each epoch of its metrics, and of each of its weights."""


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
    charged = charged_figures(study)
    lanes_of = Counter(lane_key(run) for run in charged)
    classes = {run: CostClass(kind_of(run.setting), lanes_of[lane_key(run)]) for run in charged}
    representatives = {cost_class: run for run, cost_class in classes.items()}
    probed, (name, at_once) = probe(representatives, datasets, device, lanes)
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


def charged_figures(study: Study) -> dict[Run, str]:
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


def _run_cost(run: Run, probed: ProbeResult, at_once: int, kept: float) -> tuple[float, float, float]:
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


def format_estimate(study: Study, table: pd.DataFrame) -> str:
    """The table of `estimate` as text for a terminal."""
    shown = table.assign(
        runs=table["runs"].map("{:,.0f}".format),
        gradients=table["gradients"].map("{:.2e}".format),
        hours=table["hours"].map("{:,.2f}".format),
        megabytes=table["megabytes"].map("{:,.1f}".format),
    )
    return f"Study {study.name}, from nothing, on this device:\n{shown.to_string(index=False)}"
