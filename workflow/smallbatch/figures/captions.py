"""What a figure shows, in words that stand alone."""

import re
from typing import Any

import pandas as pd

from smallbatch.figures.words import counted, listed, progress, rate_words, setting_words

_DRAWN = {
    "accuracy": "Test accuracy over the base learning rate η/m, a line for each batch size m; dashed: chance.",
    "convergence": "Test accuracy after each epoch at base learning rate η/m = {rates}, a line for each batch size m; "
    "dashed: chance.",
    "bn-batch": "Test accuracy over the batch size b of batch normalisation, a line for each SGD batch size m, "
    "at base learning rate η/m = {rates}.",
    "best": "Best test accuracy over all base learning rates η/m against the batch size m, a line for each experiment.",
    "range": "Base learning rates η/m at which training converged with every seed, for each batch size m and "
    "experiment; an empty place: no rate did (a rate with a missing run does not count).",
}
_IN_THE_PAPER = {
    "accuracy": "Figure 1",
    "convergence": "Figure 4",
    "bn-batch": "Figure 13",
    "best": "Figure 15",
    "range": "Figure 16",
}


def caption(name: str, spec: dict[str, Any], runs: pd.DataFrame) -> str:
    """Caption of figure `name` drawn after `spec` from its `runs` (those that `select` returns)."""
    kind = spec["kind"]
    drawn = _DRAWN[kind].format(rates=listed(map(rate_words, runs["base_lr"].unique())))
    sentences = [drawn, _setting(runs), _reported(kind), _seeds(kind, runs), _incidents(kind, runs), _paper(name, kind)]
    return " ".join(filter(None, sentences))


def _setting(runs: pd.DataFrame) -> str:
    sources = zip(runs["data"], runs["train_images"], strict=True)
    data = listed(f"{name} ({images:,} training images)" for name, images in sources)
    where = f"{data}, {listed(sorted(runs['epochs'].unique()))} epochs."
    if runs["experiment"].nunique() > 1:
        return f"On {where}"
    setting = setting_words(runs.iloc[0])
    return f"{setting[0].upper()}{setting[1:]}, on {where}"


def _reported(kind: str) -> str:
    return "" if kind in ("convergence", "range") else "Accuracy is the median over the last 5 epochs."


def _seeds(kind: str, runs: pd.DataFrame) -> str:
    seeds = runs["seed"].nunique()
    if kind == "range" or seeds == 1:
        return f"{counted(seeds, 'seed')} a cell."
    return f"Line: mean of {counted(seeds, 'seed')}; band: from the lowest seed to the highest."


def _incidents(kind: str, runs: pd.DataFrame) -> str:
    there = runs[runs["status"] != "missing"].drop_duplicates("run")
    diverged = int((there["status"] == "diverged").sum())
    told = f"{diverged} of {counted(len(there), 'run')} diverged"
    told += " and count at chance level." if diverged and kind != "range" else "."
    return f"{told} Drawn from {progress(runs)}." if progress(runs) else told


def _paper(name: str, kind: str) -> str:
    number = re.match(r"fig(?:ure)?[-_ ]?0*(\d+)[-_ ]?([a-d])?(?![a-z0-9])", name)
    if number:
        return f"Corresponds to Figure {number[1]}{number[2] or ''} of the paper."
    return f"Drawn in the manner of {_IN_THE_PAPER[kind]} of the paper."
