"""Experiments of two studies side by side, from their tables of runs; records of runs tell data apart."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from smallbatch.analysis.findings import SEED, brackets, finding
from smallbatch.analysis.grid import Grid, build_grid
from smallbatch.analysis.metric_as_accuracy import metric_label, with_primary_metric
from smallbatch.analysis.noise import Noise, completed_runs
from smallbatch.analysis.table import read_tables
from smallbatch.analysis.verdicts import Comparison
from smallbatch.analysis.words import (
    NOTHING,
    counted,
    listed,
    model_words,
    norm_words,
    optimizer_name,
    rate_symbol,
    rate_words,
)
from smallbatch.core.errors import UserError, refuse
from smallbatch.runs.store import RunStore
from smallbatch.study.experiments import Setting
from smallbatch.study.yaml_validation import suggestion

Row = tuple[str, str, str]
"""What a line of the comparison is about, and what it is of either experiment."""

COLUMNS = (
    "experiment", "run", "test_images", "batch_size", "bn_batch_size", "base_lr", "seed", "accuracy",
    "selection_accuracy", "converged", "lanes", "peak_memory_mb",
)  # fmt: skip
"""Columns that a table of runs needs beside the settings."""

SAME = "none: the same runs"

SHOWN_ANYWAY = {"data", "model", "optimizer"}
"""Settings that have a line even where both experiments agree."""


def compare(first: str, second: str, results: Path) -> str:
    """Experiments of two studies side by side, as text.

    Args:
        first: a study, each of whose experiments is set beside the other's of the same name, or `STUDY:EXPERIMENT`.
        second: the other one.
        results: the folder with a folder for each study.

    Raises:
        UserError: a study or an experiment is unknown, or nothing can be compared; says why.
    """
    one, other = _read(first, results), _read(second, results)
    pairs = _pairs(first, second, list(one), list(other))
    shown, refused, doubtful = [], [], []
    for name, twin in pairs:
        studies = first.partition(":")[0], second.partition(":")[0]
        same = name == twin
        heads = (name, *studies) if same else ("", f"{studies[0]}:{name}", f"{studies[1]}:{twin}")
        both = name if same else f"{name} and {twin}"
        prints = [_fingerprint(runs, RunStore(results)) for runs in (one[name], other[twin])]
        if reason := why_not(one[name], other[twin], prints):
            refused.append(f"{both}: not compared: {reason}")
            continue
        shown.append(_text([heads, *side_by_side(one[name], other[twin])]))
        if None in prints and not set(one[name]["run"]) & set(other[twin]["run"]):  # whose names have the fingerprint
            doubtful.append(
                f"{both}: data known by label and number alone: a study without records in {results / 'runs'}"
            )
    if not shown:
        raise UserError(f"command line: {first} and {second}: {'; '.join(refused)}")
    alone = [f"{name}: only in {first}" for name in one if name not in dict(pairs)]
    alone += [f"{name}: only in {second}" for name in other if name not in dict(pairs).values()]
    left = "\n".join([*doubtful, *refused, *alone])
    return "\n\n".join([*shown, left] if left else shown)


def why_not(one: pd.DataFrame, other: pd.DataFrame, prints: Sequence[str | None]) -> str:
    """Why two experiments cannot be compared, in words; empty if they can.

    Args:
        one: the runs of an experiment.
        other: those of the other one.
        prints: fingerprints of the data of either, None where it is not known.
    """
    for column, words in (("data", "other data"), ("test_images", "other test images")):
        values = one[column].iloc[0], other[column].iloc[0]
        if values[0] != values[1]:
            return f"{words}, {values[0]} and {values[1]}"
    if None not in prints and prints[0] != prints[1]:
        known = " and ".join(str(found)[:12] for found in prints)
        return f"other data under one label, {one['data'].iloc[0]}: their fingerprints are {known}"
    if metric_label(one) != metric_label(other):
        return f"other metrics decide, {metric_label(one)} and {metric_label(other)}"
    for runs in (one, other):
        if not runs["converged"].any():
            return "nothing has converged in one of them"
        if runs.groupby("batch_size")["bn_batch_size"].nunique().max() > 1:
            return "one has several BN batch sizes for one batch size"
    sizes = [sorted(completed_runs(runs)["batch_size"].astype(int).unique()) for runs in (one, other)]
    return "" if set(sizes[0]) & set(sizes[1]) else f"no common m, {listed(sizes[0])} and {listed(sizes[1])}"


def _fingerprint(runs: pd.DataFrame, store: RunStore) -> str | None:
    """That of the data of an experiment, which all of its runs have; None if no run has a record here."""
    return next(filter(None, map(store.fingerprint, runs["run"])), None)


def side_by_side(one: pd.DataFrame, other: pd.DataFrame) -> list[Row]:
    """The lines of a comparison; the last ones are differences, of the second less the first.

    Args:
        one: the runs of an experiment.
        other: those of another one that it can be compared with, see `why_not`.
    """

    def both(first: dict[str, str], second: dict[str, str]) -> list[Row]:
        return [(what, first[what], second[what]) for what in first]

    settings = [row for row in both(_settings(one), _settings(other)) if row[1] != row[2]]
    trained = both(_trained(one), _trained(other))
    return [*trained, *settings, *both(_found(one), _found(other)), *_differences(one, other)]


def _trained(runs: pd.DataFrame) -> dict[str, str]:
    row = runs.iloc[0]
    return {
        "model": f"{model_words(row['model'])}, {norm_words(row['model'], row['norm'], row['norm_layers'])}",
        "data": f"{row['data']}: {row['train_images']:,} training, {row['test_images']:,} test images",
        "optimiser": optimizer_name(row["optimizer"]),
    }


def _found(runs: pd.DataFrame) -> dict[str, str]:
    complete = completed_runs(runs)
    found = finding(complete, 0, SEED).row
    cells = complete[complete["batch_size"] == float(found["best m"])]
    memory, lanes = cells["peak_memory_mb"].max(), cells["lanes"].max()
    return {
        "seeds": listed(sorted(complete["seed"].astype(int).unique())),
        **{name: found[name] for name in ("best m", "m not told apart from it", "best rate", "accuracy (%)")},
        "peak memory there": NOTHING if np.isnan(memory) else f"{memory:,.0f} MB, {counted(int(lanes), 'lane')}",
    }


def _settings(runs: pd.DataFrame) -> dict[str, str]:
    names = [field.name for field in fields(Setting) if field.name not in SHOWN_ANYWAY]
    return {
        **{name: _value(runs[name].iloc[0]) for name in names},
        "batch_sizes": listed(sorted(runs["batch_size"].unique())),
        "base_lrs": _rates(runs),
        "device": listed(runs["device"].dropna() if "device" in runs else ()) or NOTHING,
    }


def _rates(runs: pd.DataFrame) -> str:
    return f"{rate_symbol(runs)} = {listed(rate_words(rate) for rate in sorted(runs['base_lr'].dropna().unique()))}"


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value or NOTHING
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return NOTHING if pd.isna(value) else f"{value:g}"


def _differences(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[Row]:
    """Differences of the best accuracies, over all common m and at each, paired by the seeds that both have."""
    tables = [completed_runs(runs).assign(experiment=place) for place, runs in enumerate((one, other))]
    known, generator = pd.concat(tables, ignore_index=True), np.random.default_rng(SEED)
    noise = Noise(known, generator)
    first, second = (build_grid(known[known["experiment"] == place], generator, noise=noise) for place in (0, 1))
    common = np.intersect1d(first.sizes, second.sizes)
    seeds = sorted(set(tables[0]["seed"].astype(int)) & set(tables[1]["seed"].astype(int)))
    paired = f"paired by {counted(len(seeds), 'seed')}" if seeds else "no seed in common"
    yield f"difference (points), {paired}", "", ""
    whole = _difference(first, second, common, known)
    yield "  best of common m", "", whole
    if len(common) > 1 and whole != SAME:
        for size in common:
            yield f"  m = {size}", "", _difference(first, second, np.array([size]), known)


def _difference(first: Grid, second: Grid, sizes: np.ndarray, known: pd.DataFrame) -> str:
    shown = known[known["batch_size"].isin(sizes)]
    names = [set(rows["run"]) for _, rows in shown.groupby("experiment")]
    if names[0] == names[1]:
        return SAME
    effect = 100 * second.select_sizes(sizes).peak_difference(first.select_sizes(sizes))
    comparison = Comparison("", effect)
    low, high = comparison.interval
    interval = brackets(low, high, signed=True) or ", interval unknown: one seed"
    return f"{round(effect[0], 9) + 0.0:+.1f}{interval}"


def _pairs(first: str, second: str, one: Sequence[str], other: Sequence[str]) -> list[tuple[str, str]]:
    """The experiments to compare: those of the same name, or the only one of either."""
    if len(one) == len(other) == 1:
        return [(one[0], other[0])]
    if pairs := [(name, name) for name in one if name in other]:
        return pairs
    raise UserError(
        f"command line: {first} and {second} have no experiment of the same name; allowed: STUDY:EXPERIMENT for each, "
        f"of {', '.join(one)} and of {', '.join(other)}"
    )


def _read(asked: str, results: Path) -> dict[str, pd.DataFrame]:
    """Experiment -> its runs, of a study or, for `STUDY:EXPERIMENT`, of one experiment."""
    study, colon, experiment = asked.partition(":")
    there = sorted(path.parent.name for path in results.glob("*/runs.parquet"))
    if study not in there:
        allowed = f"a study with a table of runs, as `snakemake all` makes it: {', '.join(there) or 'none is there'}"
        refuse("command line", "STUDY", study, f"{allowed}{suggestion(study, there)}")
    path = results / study / "runs.parquet"
    runs = read_tables([path])
    needed = {*COLUMNS, *(field.name for field in fields(Setting))}
    if lacking := sorted(needed - set(runs.columns)):
        raise UserError(f"{path}: lacks {', '.join(lacking)}: of another version; snakemake makes it again")
    by_name = runs.groupby("experiment", sort=False)
    tables = {str(name): with_primary_metric(rows) for name, rows in by_name}
    if colon and experiment not in tables:
        allowed = f"{', '.join(tables)}{suggestion(experiment, list(tables))}"
        refuse("command line", "EXPERIMENT", experiment, allowed)
    return {experiment: tables[experiment]} if colon else tables


def _text(rows: Sequence[Row]) -> str:
    """Rows as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c}".rstrip() for a, b, c in rows)
