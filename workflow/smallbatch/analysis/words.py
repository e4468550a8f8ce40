"""Plain words for settings, counts and rates, shared by figures, captions and the report."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import pandas as pd

from smallbatch.study.experiments import DEFAULT_BETAS, DEFAULT_EPS, OF_TORCH
from smallbatch.study.metrics import CROSS_ENTROPY
from smallbatch.study.rates import format_base_lr

NOTHING = "–"  # noqa: RUF001 - an en dash stands for a value that is not there
"""In tables."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_TYPESET = {r"\beta_base\b": "η̃", "<=": "≤", ">=": "≥", r"(?<=\w) \.\.\. (?=\w)": " … ", r"\blog2\b": "log₂"}
"""How texts are written -> how they are read; powers beside."""


def rate_words(base_lr: float) -> str:
    """A base learning rate to read: `2⁻⁸` where it is a power of two, else the plain number."""
    number, caret, exponent = format_base_lr(base_lr).partition("^")
    return number + exponent.translate(_RAISED) if caret else number


def typeset(text: str) -> str:
    """A text as it is read: `eta_base <= 2^-8` becomes `η̃ ≤ 2⁻⁸`, `4 ... 8` `4 … 8`, and `log2 m` `log₂ m`."""
    for written, read in _TYPESET.items():
        text = re.sub(written, read, text)
    return re.sub(r"(?<![\w.])(2|[A-Za-z]|η̃)\^(-?\d+)", lambda power: power[1] + power[2].translate(_RAISED), text)


def model_words(model: str) -> str:
    """`reduced AlexNet`, `ResNet-32`; any other name as it stands."""
    resnet = re.fullmatch(r"resnet(\d+)", model)
    return f"ResNet-{resnet[1]}" if resnet else {"alexnet": "reduced AlexNet"}.get(model, model)


def norm_words(model: str, norm: str, layers: str) -> str:
    """`no BN`, `BN`; of AlexNet, which has hidden fully connected layers, `BN on conv + FC`; `BN on conv only`."""
    if norm == "none":
        return "no BN"
    if norm == "own":
        return "own norm"
    short = {"batch": "BN", "group": "GN"}.get(norm, norm)
    if layers == "conv":
        return f"{short} on conv only"
    return f"{short} on conv + FC" if model == "alexnet" else short


class Row(Protocol):
    """A row of the table of runs: its values by column."""

    def __getitem__(self, column: str, /) -> Any: ...


def setting_words(row: Row, less: Collection[str] = ()) -> str:
    """One experiment in words from one row of its runs: `ResNet-32, BN, augmented, warm-up`.

    `less`: words of `departures` to leave out.
    """
    words = [model_words(row["model"]), norm_words(row["model"], row["norm"], row["norm_layers"])]
    if row["augment"] != "none":
        others = [part for part in row["augment"].split(" + ") if not re.match("pad |flip|resized crop", part)]
        words.append(f"augmented with {' and '.join(others)}" if others else "augmented")
    if row["warmup"] and not _warmup_words(row):
        words.append("warm-up")
    return ", ".join([*words, *(word for word in departures(row) if word not in less)])


def shared_departures(runs: pd.DataFrame) -> list[str]:
    """The words of `departures` that all of several experiments have; none of a single one, which needs its own."""
    each = [departures(row) for _, row in runs.drop_duplicates("experiment").iterrows()]
    if len(each) < 2:
        return []
    return [word for word in each[0] if all(word in words for words in each)]


def departures(row: Row) -> list[str]:
    """Settings that no experiment of the paper has, in words: `constant rate`, `momentum 0.9`, `η ∝ √m`, `bf16`."""
    words = []
    if row["lr_schedule"] != "drops":
        words.append(f"{row['lr_schedule']} schedule")
    elif not row["lr_drops"]:
        words.append("constant rate")
    if row["lr_drop_factor"] != 0.1:
        words.append(f"drops to {row['lr_drop_factor']:g} of the rate")
    words += _warmup_words(row)
    words += _optimizer_words(row)
    if row["momentum"]:
        words.append(f"momentum {row['momentum']:g}{' with scaled rate' if row['momentum_scaled'] else ''}")
    if row["lr_scaling"] != "linear":
        words.append({"sqrt": "η ∝ √m", "none": "η not scaled"}[row["lr_scaling"]])
    if row["precision"] != "float32":
        words.append(row["precision"])
    if row["selection"] == "validation":
        words.append("rate chosen on validation images")
    return words


OPTIMIZERS = {"sgd": "SGD", "nesterov": "Nesterov", "adam": "Adam", "adamw": "AdamW", "lion": "Lion"}


def optimizer_name(optimizer: str) -> str:
    """What figures call an optimiser: `AdamW`, `RMSprop(alpha=0.9)`."""
    return OPTIMIZERS.get(optimizer) or optimizer.removeprefix(OF_TORCH)


def _optimizer_words(row: Row) -> list[str]:
    """An optimiser that is not the paper's, and what else of an update and of its loss is not."""
    words = [optimizer_name(row["optimizer"])] if row["optimizer"] != "sgd" else []
    if row["betas"] and tuple(map(float, row["betas"].split())) != DEFAULT_BETAS.get(row["optimizer"]):
        words.append(f"β {' '.join(f'{float(beta):g}' for beta in row['betas'].split())}")
    if row["eps"] != DEFAULT_EPS:
        words.append(f"ε {row['eps']:g}")
    if row["weight_decay_excludes"]:
        words.append(f"no weight decay of {' and '.join(row['weight_decay_excludes'].split())}")
    if not pd.isna(row["clip_norm"]):
        words.append(f"gradients clipped to {row['clip_norm']:g}")
    if row["loss"] != CROSS_ENTROPY or not pd.isna(row["loss_function"]):
        own = None if pd.isna(row["loss_function"]) else row["loss_function"].rpartition(":")[2]
        words.append(f"loss {own or row['loss']}")
    if row["label_smoothing"]:
        words.append(f"label smoothing {row['label_smoothing']:g}")
    return words


def _warmup_words(row: Row) -> list[str]:
    """A warm-up that is not the paper's."""
    start, fraction = row["warmup_start"], row["warmup_fraction"]
    return [] if (start, fraction) == (1 / 32, 0.05) else [f"warm-up from {start:g} η over {100 * fraction:g} %"]


def rate_symbol(runs: pd.DataFrame) -> str:
    """The base learning rate of these runs: `η / m`, `η / √m` or `η`; all of them where they differ."""
    symbols = {"linear": "η / m", "sqrt": "η / √m", "none": "η"}
    return " or ".join(symbols[scaling] for scaling in sorted(runs["lr_scaling"].unique()))


def experiment_labels(runs: pd.DataFrame) -> dict[str, str]:
    """Experiment -> its words, in order of appearance, without those that all have (`shared_departures`).

    Data, epochs, BN batch size or name are added only where they tell apart: two experiments never share a label.
    """
    rows = runs.drop_duplicates("experiment")
    shared = shared_departures(runs)
    labels = [setting_words(row, shared) for _, row in rows.iterrows()]
    if rows["data"].nunique() > 1:
        labels = [f"{data}: {label}" for data, label in zip(rows["data"], labels, strict=True)]
    budgets = [budget_of(row) for _, row in rows.iterrows()]
    if rows.assign(budget=budgets).groupby("data")["budget"].nunique().max() > 1:
        labels = [f"{label}, {words}" for label, words in zip(labels, budgets, strict=True)]
    names = list(rows["experiment"])
    batches = [_bn_batch_words(runs[runs["experiment"] == name]) for name in names]
    labels = [
        f"{label}, {batch}" if len(_of_equals(label, labels, batches)) > 1 else label
        for label, batch in zip(labels, batches, strict=True)
    ]
    having = Counter(labels)
    return {
        name: f"{label} ({name})" if having[label] > 1 else label for name, label in zip(names, labels, strict=True)
    }


def _of_equals(label: str, labels: Sequence[str], values: Sequence[str]) -> set[str]:
    """The values of those that have this label."""
    return {value for one, value in zip(labels, values, strict=True) if one == label}


def _bn_batch_words(runs: pd.DataFrame) -> str:
    """The BN batch size of one experiment: `b = m`, `b = 8`, `b = 2 to 512`."""
    if (runs["bn_batch_size"] == runs["batch_size"]).all():
        return "b = m"
    low, high = runs["bn_batch_size"].min(), runs["bn_batch_size"].max()
    return f"b = {low}" if low == high else f"b = {low} to {high}"


def listed(values: Iterable[Any]) -> str:
    """Each value once, in order of appearance: `82, 164`."""
    return ", ".join(dict.fromkeys(str(value) for value in values))


def sources(runs: pd.DataFrame) -> str:
    """`cifar10, 82 epochs`; `cifar10 (82 epochs), cifar100 (164 epochs)` where not all are trained for as long."""
    budgets = {str(data): budget_words(rows) for data, rows in runs.groupby("data", sort=False)}
    if len(_budgets(runs)) == 1:
        return ", ".join([*budgets, next(iter(budgets.values()))])
    return ", ".join(f"{data} ({words})" for data, words in budgets.items())


def counted(count: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def epoch_words(epochs: Iterable[int]) -> str:
    """`1 epoch`, `82 epochs`, `82, 164 epochs`."""
    numbers = listed(sorted(epochs))
    return f"{numbers} epoch" if numbers == "1" else f"{numbers} epochs"


def budget_words(runs: pd.DataFrame) -> str:
    """How long runs are trained: `82, 164 epochs`, `1,000 updates`, `50,000 images`."""
    budgets = _budgets(runs)
    epochs = [count for count, unit in budgets if unit == "epoch"]
    others = [_number_of(count, unit) for count, unit in sorted(budgets) if unit != "epoch"]
    return ", ".join([*([epoch_words(epochs)] if epochs else []), *others])


def _budgets(runs: pd.DataFrame) -> set[tuple[int, str]]:
    return {budget(row) for row in runs[["epochs", "steps", "images"]].drop_duplicates().to_dict("records")}


def budget(row: Row) -> tuple[int, str]:
    """The length of a training and its unit."""
    for column, unit in (("steps", "update"), ("images", "image")):
        if not pd.isna(row[column]):
            return int(row[column]), unit
    return row["epochs"], "epoch"


def budget_of(row: Row) -> str:
    """`1 epoch`, `1,000 updates`: how long one run is trained."""
    return _number_of(*budget(row))


def _number_of(count: int, unit: str) -> str:
    return counted(count, unit) if count == 1 or unit == "epoch" else f"{count:,} {unit}s"


def format_duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3.4 h`: in the largest unit of which there is at least one and a half."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def progress(runs: pd.DataFrame) -> str:
    """`140 of 286 runs so far`, or nothing when all are there. A run that several experiments share counts once."""
    once = runs.drop_duplicates("run")
    finished = int((once["status"] != "missing").sum())
    return "" if finished == len(once) else f"{finished} of {counted(len(once), 'run')} so far"


def seed_words(runs: pd.DataFrame) -> str:
    """How many seeds an experiment has: `3 seeds`; `1 or 2 seeds` where experiments differ."""
    counts = sorted(runs.groupby("experiment")["seed"].nunique().unique())
    return " or ".join(map(str, [*counts[:-1], counted(counts[-1], "seed")]))
