"""The tidy tables: one row a planned run, and one row a run and epoch."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from smallbatch.analysis.statistics import convergence_bar, final_accuracy, final_median
from smallbatch.core import checksums
from smallbatch.core.environment import ENVIRONMENT
from smallbatch.core.errors import UserError
from smallbatch.core.files import atomic
from smallbatch.data.prepared import Meta
from smallbatch.runs.records import Epoch, Record, Variance, digest_of
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import VALIDATION_FRACTION, Run, Setting
from smallbatch.study.metrics import ACCURACY, METRICS, PRIMARY

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
    """One row a planned run: all settings and what came out. Epochs are those that the run begins.

    Columns beside the settings: experiment, run (its folder), classes, chance (accuracy of guessing), test_images,
    augment (in words), status (finished, diverged or missing), accuracy (median test accuracy of the last 5 epochs, a
    fraction; chance where the run diverged; with another loss than cross_entropy its primary metric),
    selection_accuracy (the same on the split that rates are chosen on), for each of the experiments' metrics the same
    as METRIC and selection_METRIC, with the standard errors METRIC_error and selection_METRIC_error that the images
    give, bar (from which accuracy on a run of its experiment has converged), converged, diverged_at (update), seconds,
    images_per_second (of all lanes trained with it), lanes, peak_memory_mb, ended (ISO 8601, UTC), and where it ran
    (versions, commit, device).

    Args:
        planned: experiment and run.
        records: what the store has, by run name.
        metas: of the data sets, by label.
        threshold: see `convergence_bar`.
    """
    rows = [_row(experiment, run, records, metas[run.setting.data]) for experiment, run in planned]
    table = pd.DataFrame(rows).astype({"diverged_at": "Int64"})
    bars = {name: _bar(rows, threshold) for name, rows in table.groupby("experiment")}
    table["bar"] = table["experiment"].map(bars)
    table["converged"] = (table["status"] == "finished") & (table["accuracy"] >= table["bar"])
    places = [column for column in ENVIRONMENT if column in table]  # in one order, whatever a record's is
    return table[[*table.columns.drop(places), *places]]


def _bar(runs: pd.DataFrame, threshold: float) -> float:
    """The bar of convergence of one experiment; see `convergence_bar`."""
    if not runs["accuracy"].notna().any():
        return math.nan
    best = runs.nlargest(1, "accuracy").iloc[0]
    chance, primary = float(best["chance"]), PRIMARY[str(best["loss"])]
    error = math.sqrt(chance * (1 - chance) / float(best["test_images"]))
    if primary != ACCURACY:
        error = float(best[f"{primary}_error"])
    return convergence_bar(float(best["accuracy"]), chance, threshold, error)


def _row(experiment: str, run: Run, records: Mapping[str, Record], meta: Meta) -> dict[str, object]:
    name = run.name(meta.fingerprint)
    settings = run.settings | {
        "train_images": run.setting.train_images or meta.train,
        "lr_drops": " ".join(f"{drop:g}" for drop in run.setting.lr_drops),
        "variance_batch_sizes": " ".join(map(str, run.setting.variance_batch_sizes)),
        "betas": " ".join(f"{beta:g}" for beta in run.setting.betas),
        "weight_decay_excludes": " ".join(run.setting.weight_decay_excludes),
        "metrics": " ".join(run.setting.metrics),
        "augment": run.setting.augment,
        "epochs": run.setting.images_and_epochs(run.batch_size, _trained_on(run.setting, meta))[1],
    }
    chance = _chance(run.setting, meta)
    return {
        "experiment": experiment,
        "run": name,
        "classes": len(meta.classes),
        "chance": chance,
        "test_images": meta.test,
        **settings,
        **(_result(records[name], run.setting.selection, chance) if name in records else _MISSING),
        **_metrics(records.get(name), run.setting, len(meta.classes)),
    }


def _chance(setting: Setting, meta: Meta) -> float:
    """The primary metric of the best constant prediction."""
    if setting.primary_metric != ACCURACY:
        return METRICS[setting.primary_metric].chance[setting.loss](len(meta.classes))
    return 1 / len(meta.classes)


def _metrics(record: Record | None, setting: Setting, classes: int) -> dict[str, float]:
    """The columns of a run's metrics: values and, unless it diverged, their errors; NaN if it is missing."""
    values: dict[str, float] = {}
    for metric in setting.metrics:
        columns = metric, f"{metric}_error", f"selection_{metric}", f"selection_{metric}_error"
        values |= dict.fromkeys(columns, math.nan)
        if record and record.outcome.diverged_at is not None:
            chance = METRICS[metric].chance[setting.loss](classes)
            values |= {metric: chance, f"selection_{metric}": chance}
        elif record:
            rows = [score for score in record.outcome.scores if score.metric == metric]
            test = [(score.test, score.error) for score in rows]
            held_out = [(score.validation, score.validation_error) for score in rows]
            chosen_on = held_out if setting.selection == "validation" else test
            medians = [final_median(series) for pairs in (test, chosen_on) for series in zip(*pairs, strict=True)]
            values |= dict(zip(columns, medians, strict=True))
    return values


def _trained_on(setting: Setting, meta: Meta) -> int:
    """The number of images of an epoch."""
    used = setting.train_images or meta.train
    return used - (round(VALIDATION_FRACTION * used) if setting.selection == "validation" else 0)


_NUMBERS = ("accuracy", "selection_accuracy", "seconds", "images_per_second", "lanes", "peak_memory_mb")
_MISSING = {"status": "missing", "diverged_at": None, **dict.fromkeys(_NUMBERS, float("nan"))}


def _result(record: Record, selection: str, chance: float) -> dict[str, object]:
    outcome = record.outcome
    diverged = outcome.diverged_at is not None
    return {
        "status": "diverged" if diverged else "finished",
        "accuracy": chance if diverged else final_accuracy(outcome.epochs),
        "selection_accuracy": chance if diverged else final_accuracy(outcome.epochs, selection),
        "diverged_at": outcome.diverged_at,
        "seconds": outcome.seconds,
        "images_per_second": outcome.images / max(outcome.seconds, 1e-9),
        "lanes": outcome.lanes,
        "peak_memory_mb": outcome.peak_memory / 2**20,
        "ended": record.ended,
        **record.environment,
    }


def by_environment(runs: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """Each device, system and set of versions that trained, with the rows of its runs, each run once.

    Args:
        runs: as `runs_table` gives them.
    """
    recorded = runs[runs["status"] != "missing"].drop_duplicates("run")
    columns = [column for column in ENVIRONMENT if column in recorded]
    if not recorded.empty:
        for _, rows in recorded.groupby(columns, dropna=False, sort=False):
            environment = rows[columns].iloc[0].dropna()
            yield {column: environment[column] for column in environment.index}, rows


def epochs_table(records: Mapping[str, Record]) -> pd.DataFrame:
    """One row a run and epoch: run, and what `runs.records.Epoch` holds."""
    rows = [(name, *epoch) for name, record in records.items() for epoch in record.outcome.epochs]
    return pd.DataFrame(rows, columns=["run", *Epoch._fields])


def variance_table(records: Mapping[str, Record]) -> pd.DataFrame:
    """One row a measurement: run, and what `runs.records.Variance` holds; no row where nothing is measured."""
    rows = [(name, *one) for name, record in records.items() for one in record.outcome.variance]
    types = {"run": "str"} | {name: kind.__name__ for name, kind in Variance.__annotations__.items()}
    return pd.DataFrame(rows, columns=list(types)).astype(types)


def write_tables(
    planned: Planned,
    store: RunStore,
    meta: Meta,
    threshold: float,
    outputs: Mapping[str, Path],
    made_by: str,
) -> None:
    """Collect the runs of one experiment and write its tables.

    Args:
        planned: experiment and run.
        store: the runs.
        meta: of their data set.
        threshold: see `convergence_bar`.
        outputs: paths of `runs`, `epochs` and `variance` (parquet), and of their `checksums`.
        made_by: of settings and code, as `checksums.write` notes it.

    Raises:
        UserError: a planned run is missing or damaged; says which.
    """
    metas = {meta.label: meta}
    records = collect(planned, store, metas)
    for _, run in planned:
        name = run.name(meta.fingerprint)
        if name not in records:
            what = store.clear(run, meta.fingerprint) or f"{store.root / name}: missing"
            raise UserError(f"{what}; the next call trains it again")
    tables = {
        "runs": runs_table(planned, records, metas, threshold),
        "epochs": epochs_table(records),
        "variance": variance_table(records),
    }
    for name, table in tables.items():
        write_table(table, outputs[name])
    shown = digest_of(record.digest for record in records.values())
    checksums.write(outputs["checksums"], outputs.values(), shown, made_by=made_by)


def read_tables(paths: Iterable[Path]) -> pd.DataFrame:
    """Tables of one kind as one.

    Raises:
        UserError: one is missing or damaged.
    """
    tables = []
    for path in map(Path, paths):
        try:
            tables.append(pd.read_parquet(path))
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be read ({reason}); delete it: it is made again") from error
    return pd.concat(tables, ignore_index=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as its path ends: .parquet or .csv."""
    with atomic(path) as file:
        if Path(path).suffix == ".csv":
            table.to_csv(file, index=False, lineterminator="\n")
        else:
            table.to_parquet(file, index=False)
