"""The tidy tables: one row a planned run, and one row a run and epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from smallbatch.analysis.statistics import convergence_bar, final_accuracy
from smallbatch.data.prepared import Meta, read_meta
from smallbatch.errors import UserError
from smallbatch.files import atomic
from smallbatch.store import Epoch, Record, RunStore
from smallbatch.study import Run, Study

Planned = Sequence[tuple[str, Run]]
"""Pairs of experiment and run, as `Study.planned` gives them."""


def collect(planned: Planned, store: RunStore, metas: Mapping[str, Meta]) -> dict[str, Record]:
    """Read from the store what it has of the planned runs, by run name."""
    runs = dict.fromkeys(run for _, run in planned)
    found = {
        run.name(prints): store.find(run, prints) for run in runs for prints in [metas[run.setting.data].fingerprint]
    }
    return {name: record for name, record in found.items() if record}


def runs_table(
    planned: Planned, records: Mapping[str, Record], metas: Mapping[str, Meta], threshold: float
) -> pd.DataFrame:
    """One row a planned run: all settings and what came out.

    Columns beside the settings: experiment, run (its folder), classes, augment (in words), status (finished, diverged
    or missing), accuracy (median test accuracy of the last 5 epochs, a fraction; chance where the run diverged),
    converged, diverged_at (update), seconds, images_per_second, and where it ran (versions, commit, device).

    Args:
        planned: experiment and run.
        records: what the store has, by run name.
        metas: of the data sets, by label.
        threshold: see `convergence_bar`.
    """
    rows = [_row(experiment, run, records, metas[run.setting.data]) for experiment, run in planned]
    table = pd.DataFrame(rows).astype({"diverged_at": "Int64"})
    best = table.groupby("experiment")["accuracy"].transform("max")
    bar = [convergence_bar(*pair, threshold) for pair in zip(best, table["classes"], strict=True)]
    table["converged"] = (table["status"] == "finished") & (table["accuracy"] >= bar)
    return table


def _row(experiment: str, run: Run, records: Mapping[str, Record], meta: Meta) -> dict[str, object]:
    name = run.name(meta.fingerprint)
    settings = run.settings | {
        "train_images": run.setting.train_images or meta.train,
        "lr_drops": " ".join(map(str, run.setting.lr_drops)),
        "augment": run.setting.augment,
    }
    return {
        "experiment": experiment,
        "run": name,
        "classes": len(meta.classes),
        **settings,
        **_result(records.get(name), meta),
    }


def _result(record: Record | None, meta: Meta) -> dict[str, object]:
    empty = {"accuracy": float("nan"), "diverged_at": None, "seconds": float("nan"), "images_per_second": float("nan")}
    if record is None:
        return {"status": "missing", **empty}
    outcome = record.outcome
    diverged = outcome.diverged_at is not None
    return {
        "status": "diverged" if diverged else "finished",
        "accuracy": 1 / len(meta.classes) if diverged else final_accuracy(outcome.epochs),
        "diverged_at": outcome.diverged_at,
        "seconds": outcome.seconds,
        "images_per_second": outcome.images / max(outcome.seconds, 1e-9),
        **record.environment,
    }


def epochs_table(records: Mapping[str, Record]) -> pd.DataFrame:
    """One row a run and epoch: run, and what `smallbatch.store.Epoch` holds."""
    rows = [(name, *epoch) for name, record in records.items() for epoch in record.outcome.epochs]
    return pd.DataFrame(rows, columns=["run", *Epoch._fields])


def write_tables(
    study: Study, results: Path, meta_files: Sequence[Path], threshold: float, outputs: Mapping[str, Path]
) -> None:
    """Collect a study's runs and write its tables.

    Args:
        study: whose runs.
        results: the folder with the run store `runs/`.
        meta_files: `meta.json` of its data sets.
        threshold: see `convergence_bar`.
        outputs: paths of `runs` (parquet), `csv` and `epochs` (parquet).

    Raises:
        UserError: a planned run is missing or damaged; says which.
    """
    metas = {meta.label: meta for meta in map(read_meta, meta_files)}
    store = RunStore(results / "runs")
    records = collect(study.planned(), store, metas)
    for run in study.runs():
        name = run.name(metas[run.setting.data].fingerprint)
        if name not in records:
            raise UserError(f"{store.root / name}: {store.damage(store.root / name)}; the next call trains it again")
    runs = runs_table(study.planned(), records, metas, threshold)
    with atomic(outputs["runs"]) as file:
        runs.to_parquet(file, index=False)
    with atomic(outputs["csv"], "w") as file:
        runs.to_csv(file, index=False, lineterminator="\n")
    with atomic(outputs["epochs"]) as file:
        epochs_table(records).to_parquet(file, index=False)
