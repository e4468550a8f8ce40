"""Self-contained captions of figures, and the notes below them."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from smallbatch.analysis.metric_as_accuracy import is_accuracy, metric_label, metric_of
from smallbatch.analysis.selection import at_best_rates
from smallbatch.analysis.settings_unlike_paper import LAST_FIGURE
from smallbatch.analysis.statistics import LAST_EPOCHS
from smallbatch.analysis.words import (
    budget_words,
    counted,
    experiment_labels,
    listed,
    model_words,
    progress,
    rate_symbol,
    rate_words,
    seed_words,
    setting_words,
    shared_departures,
    sources,
)
from smallbatch.figures.accuracy_lines import shown_means, trained_floor, training_floor
from smallbatch.figures.ranges import any_range_cut_off, some_are_empty
from smallbatch.study.experiments import COMPARING
from smallbatch.study.metrics import METRICS

_DRAWN = {
    "accuracy": "Test {measure} over the base learning rate {symbol}, a line for each batch size m.",
    "convergence": "Test {measure} after each epoch at base learning rate {symbol} = {rates}, a line for each batch "
    "size m.",
    "bn-batch": "Test {measure} over the batch size b of batch normalisation, a line for each SGD batch size m, "
    "at base learning rate {symbol} = {rates}.",
    "variance": "Trace of the covariance of one weight update at fixed weights and base learning rate {symbol} = "
    "{rates} against its batch size, a line for each point of training; dashed: slope 1.",
    "example-variance": "Variance of the gradient of one example, summed over its components, over training at base "
    "learning rate {symbol} = {rates}, a line for each batch size m that is trained with; with batch normalisation it "
    "is m times that of the mean gradient of m.",
    "cost": "Best test {measure} over all base learning rates {symbol}, training images/s and peak memory of the "
    "device against the batch size m, a line for each experiment; speed and memory are of all runs trained "
    "together, medians over the runs of that m.",
    "best": "Best test {measure} over all base learning rates {symbol} against the batch size m, a line for each "
    "experiment.",
    "range": "Base learning rates {symbol} at which training converged with every seed, for each batch size m and "
    "experiment; an empty place: no rate did. A missing run counts as not converged.",
}
_OVER = ("accuracy", "convergence")  # kinds with lines at chance and at the bar of convergence, if the axis shows them
_FLOORS: dict[str, Callable[[pd.DataFrame], float | None]] = {
    "accuracy": trained_floor,
    "bn-batch": lambda runs: trained_floor(at_best_rates(runs)),
    "convergence": training_floor,
}
"""Where the accuracy axis of an experiment's own plot begins."""

_OF_BESTS = ("best", "cost")  # kinds that show the best cell of each m alone, all experiments in one plot
_IN_THE_PAPER = {
    "accuracy": "Figure 1",
    "convergence": "Figure 4",
    "bn-batch": "Figure 13",
    "best": "Figure 15",
    "range": "Figure 16",
}
_BEYOND = ("variance", "example-variance", "cost")  # kinds of which the paper has no figure
_VARIANCES = ("variance", "example-variance")  # kinds that show no accuracy
_AT_RATES = ("convergence", *_VARIANCES)  # kinds whose plots do not show at which rates runs were trained
_BANDS = ("accuracy", "convergence", "bn-batch", "best", "example-variance", "cost")  # kinds with a band over seeds
_SIDE_BY_SIDE = ("accuracy", "bn-batch", "best", "cost")  # kinds whose points stand at ticks, lines a little apart

_UNKNOWN = ", so no intervals: it does not tell how much another would differ"


def note(kind: str, runs: pd.DataFrame) -> str:
    """The small print under a figure: data, setting if there is only one, epochs, seeds, progress."""
    words = [sources(runs), *shared_departures(runs)]
    if runs["experiment"].nunique() == 1:
        words = [listed(runs["data"]), setting_words(runs.iloc[0]), budget_words(runs)]
    parts = [", ".join([*words, seed_words(runs)])]
    if kind in _AT_RATES:
        parts.append(f"{_symbol(runs)} = {_rates(kind, runs)}")
    if runs["seed"].nunique() > 1 and kind in _BANDS:
        parts.append(f"{'bands, vertical lines' if kind in _SIDE_BY_SIDE else 'bands'}: 95 % intervals")
    if _shows_chance(kind, runs):
        parts.append("dashed: chance")
    if _shows_bar(kind, runs):
        parts.append("dotted: converged above it")
    if _some_below(kind, runs):
        parts.append("hollow: below the axis")
    if kind == "range" and some_are_empty(runs):
        parts.append("empty: no rate")
    if runs["seed"].nunique() > 1 and kind == "range":
        parts.append("lighter: with a part of the seeds")
    if kind == "range" and any_range_cut_off(runs):
        parts.append("arrow: the grid ends there")
    if runs["seed"].nunique() > 1 and kind == "variance":
        parts.append("in brackets: 95 % intervals of means over seeds")
    if kind == "cost" and "device" in runs:
        parts.append(listed(runs["device"].dropna()))
    return "; ".join(filter(None, [*parts, progress(runs)]))


def axis_floor(kind: str, runs: pd.DataFrame) -> float | None:
    """The start of the accuracy axis of a figure, which its plots share, if it begins at cells that have trained."""
    if kind not in _FLOORS:
        return trained_floor(runs, of_bests=True) if kind in _OF_BESTS else None
    floors = [_FLOORS[kind](of) for _, of in runs.groupby("experiment")]
    return min(floor for floor in floors if floor is not None) if None not in floors else None


def _some_below(kind: str, runs: pd.DataFrame) -> bool:
    """Whether a point lies below an axis that begins at the cells that have trained."""
    floor = axis_floor(kind, runs)
    shown = at_best_rates(runs) if kind == "bn-batch" else runs
    return floor is not None and bool((shown_means(shown, of_bests=kind in _OF_BESTS) < floor).any())


def caption(name: str, spec: dict[str, Any], runs: pd.DataFrame, variance: pd.DataFrame) -> str:
    """Caption of figure `name`, drawn as `spec` says from `runs` (those that `select` returns) and their variances."""
    kind = spec["kind"]
    words = {"symbol": _symbol(runs), "rates": _rates(kind, runs)}
    drawn = _DRAWN[kind].format(measure=metric_label(runs), **words)
    sentences = [
        drawn, _also(kind, runs, variance), _setting(runs), _reported(kind, runs), _selection(kind, runs),
        _seeds(kind, runs), _incidents(kind, runs), _paper(name, kind),
    ]  # fmt: skip
    return " ".join(filter(None, sentences))


def _symbol(runs: pd.DataFrame) -> str:
    return rate_symbol(runs).replace(" / ", "/")


def _rates(kind: str, runs: pd.DataFrame) -> str:
    """Rates such as `2⁻⁸`; if they depend on m, `2⁻⁸ (m = 8, 32), 2⁻¹⁰ (m = 128)`, with a label per experiment."""
    rated = runs[runs["base_lr"] > 0]  # 0 stands for a rate still to be chosen
    if rated.empty:
        return "one still to be chosen"
    if kind != "bn-batch" or rated["base_lr"].nunique() == 1:
        return listed(map(rate_words, rated["base_lr"]))
    labels = experiment_labels(rated)
    listed_rates = [_rates_of_sizes(at_best_rates(rated[rated["experiment"] == name])) for name in labels]
    return (
        listed_rates[0]
        if len(listed_rates) == 1
        else "; ".join(map(": ".join, zip(labels.values(), listed_rates, strict=True)))
    )


def _rates_of_sizes(runs: pd.DataFrame) -> str:
    rates = runs.sort_values("batch_size").groupby("base_lr", sort=False)
    return ", ".join(f"{rate_words(of['base_lr'].iloc[0])} (m = {listed(of['batch_size'])})" for _, of in rates)


def _also(kind: str, runs: pd.DataFrame, variance: pd.DataFrame) -> str:
    """Sentences about lines and marks beside the data, if there are any."""
    said = {
        "Dashed: chance.": _shows_chance(kind, runs),
        "Dotted: from here on a run has converged.": _shows_bar(kind, runs),
        "Hollow: below the axis.": _some_below(kind, runs),
        "Lines lie side by side: points about one tick are of one value.": _has_neighbours(kind, runs),
        "Lighter: at which it converged with a part of the seeds.": kind == "range" and runs["seed"].nunique() > 1,
        "Arrow: the grid of rates ends there, and the range may be wider.": kind == "range" and any_range_cut_off(runs),
    }
    if any(said.values()):
        return " ".join(words for words, is_so in said.items() if is_so)
    if kind in ("variance", "example-variance") and len(variance):
        return f"Each value is estimated from {variance['draws'].min()} or more mini-batches."
    return ""


def _shows_chance(kind: str, runs: pd.DataFrame) -> bool:
    return kind in _OVER and is_accuracy(runs) and axis_floor(kind, runs) is None


def _shows_bar(kind: str, runs: pd.DataFrame) -> bool:
    return kind in _OVER and is_accuracy(runs) and bool(np.isfinite(runs["bar"]).any())


def _has_neighbours(kind: str, runs: pd.DataFrame) -> bool:
    """Whether a plot has several lines, which are drawn side by side."""
    if kind not in _SIDE_BY_SIDE:
        return False
    lines = "experiment" if kind in COMPARING else "batch_size"
    return bool(runs[lines].nunique() > 1)


def _setting(runs: pd.DataFrame) -> str:
    trained = runs.groupby(["data", "train_images"], sort=False)
    data = [f"{name} ({images:,} training images), {budget_words(of)}" for (name, images), of in trained]
    where = f"{'; '.join(data)}."
    if runs["experiment"].nunique() > 1:
        shared = shared_departures(runs)
        return f"All with {', '.join(shared)}, on {where}" if shared else f"On {where}"
    setting = setting_words(runs.iloc[0])
    model = runs["model"].iloc[0]
    if model_words(model) != model:  # a name stands as it is
        setting = f"{setting[0].upper()}{setting[1:]}"
    return f"{setting}, on {where}"


def _reported(kind: str, runs: pd.DataFrame) -> str:
    """What a measure is, and which tests of a run it is of: a training of so many updates may have few epochs."""
    if kind in ("convergence", "range", "variance", "example-variance"):
        return ""
    name, when = metric_label(runs), _reported_epochs(runs)
    meaning = "" if is_accuracy(runs) else f" {METRICS[metric_of(runs)].meaning}"
    return f"{name[0].upper()}{name[1:]} is {when}.{meaning}".strip()


def _reported_epochs(runs: pd.DataFrame) -> str:
    fewest, most = runs["epochs"].min(), runs["epochs"].max()
    if most == 1:
        return "that at the end of training"
    if most < LAST_EPOCHS:
        return "the median over all epochs"
    fewer = ", or over all where there are fewer" if fewest < LAST_EPOCHS else ""
    return f"the median over the last {LAST_EPOCHS} epochs{fewer}"


def _selection(kind: str, runs: pd.DataFrame) -> str:
    """The images that rates were chosen on, if a figure shows chosen rates and not all experiments hold images out."""
    if kind not in ("best", "cost") or "test" not in set(runs["selection"]):
        return ""
    but = ", but where its label says otherwise" if runs["selection"].nunique() > 1 else ""
    return f"The rate is chosen on the test set, as in the paper{but}."


def _seeds(kind: str, runs: pd.DataFrame) -> str:
    if kind == "range":
        return f"{seed_words(runs)} a cell."
    if runs["seed"].nunique() == 1:
        return f"{seed_words(runs)} a cell{_UNKNOWN if kind in _BANDS else ''}."
    if kind in _VARIANCES:
        what = "band: its 95 % interval" if kind in _BANDS else "in brackets the 95 % interval of the slope"
        return f"Line: geometric mean of {seed_words(runs)}; {what}, over seeds (Student's t)."
    line = f"Line: mean of {seed_words(runs)}"
    luck = ", less what the best of several rates owes to luck" if kind in ("best", "cost") else ""
    band = "band" if kind == "convergence" else "band or vertical line"
    return f"{line}{luck}; {band}: its 95 % interval, over seeds and test images."


def _incidents(kind: str, runs: pd.DataFrame) -> str:
    recorded = runs[runs["status"] != "missing"].drop_duplicates("run")
    diverged = int((recorded["status"] == "diverged").sum())
    sentence = f"{diverged} of {counted(len(recorded), 'run')} diverged"
    sentence += " and count at chance level." if diverged and kind not in ("range", *_VARIANCES) else "."
    return f"{sentence} Drawn from {progress(runs)}." if progress(runs) else sentence


def _paper(name: str, kind: str) -> str:
    number = re.match(r"fig(?:ure)?[-_ ]?0*(\d+)[-_ ]?([a-d])?(?![a-z0-9])", name)
    if number and 1 <= int(number[1]) <= LAST_FIGURE:
        return f"Corresponds to Figure {number[1]}{number[2] or ''} of the paper."
    if kind in _BEYOND:
        return "The paper has no such figure."
    return f"Drawn in the manner of {_IN_THE_PAPER[kind]} of the paper."
