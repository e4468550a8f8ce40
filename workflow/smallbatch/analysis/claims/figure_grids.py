"""The grids of a study's figures that claims are checked on."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from smallbatch.analysis.grid import Grid, build_grid
from smallbatch.analysis.metric_as_accuracy import metric_of, with_metric_as_accuracy
from smallbatch.analysis.noise import Noise
from smallbatch.study.metrics import ACCURACY, LABELS
from smallbatch.study.rates import parse_base_lr


class FigureGrids:
    """Grids of a study's figures. A grid that several figures show is built once, so that its draws agree.

    figures: the study's figures, by name.
    runs: the runs that have a result.
    generator: the source of the samples.
    """

    def __init__(
        self,
        figures: Mapping[str, Mapping[str, Any]],
        runs: pd.DataFrame,
        epochs: pd.DataFrame,
        generator: np.random.Generator,
    ) -> None:
        self.figures = figures
        self.generator = generator
        self._noise = {ACCURACY: Noise(runs, generator)}
        self.runs = runs
        self._runs = dict(iter(runs.groupby("experiment")))
        self._epochs = epochs
        self._read: dict[tuple[Hashable, ...], Grid] = {}

    def name_in_study(self, figure: str) -> str:
        """What the study calls a figure of the paper: Figure 13 alone stands for its first half."""
        return "fig13" if figure == "fig13a" and figure not in self.figures else figure

    def runs_by_label(self, figure: str) -> dict[str, pd.DataFrame]:
        """The runs that the figure shows of each experiment with results, keyed by a label such as `fig05, resnet8`."""
        shown_as = self.name_in_study(figure)
        spec = self.figures.get(shown_as, {})
        names = spec.get("experiments", [])
        metric = spec.get("metric", ACCURACY)
        by = shown_as if metric == ACCURACY else f"{shown_as} by {LABELS[metric]}"
        words = {name: by if len(names) == 1 else f"{by}, {name}" for name in names}
        runs = {words[name]: _at_rate(spec, self._runs[name]) for name in names if name in self._runs}
        return {where: with_metric_as_accuracy(shown, metric) for where, shown in runs.items() if not shown.empty}

    def of(self, figure: str, each: str | None) -> list[Grid]:
        """The grids that a check takes of a figure.

        An experiment in which nothing converged can tell nothing, except on section 3.2's claim about just that.
        """
        if each in ("curve", "phase"):
            return self._curves(figure, whole=each == "curve")
        cut = partial(_slices, each=each) if each else _over_m
        return [
            self._grid(where + words, runs, sizes)
            for where, shown in self.runs_by_label(figure).items()
            if shown["converged"].any() or figure == "sec32"
            for words, runs, sizes in cut(shown)
        ]

    def _curves(self, figure: str, whole: bool) -> list[Grid]:
        return [
            replace(build_grid(averaged, self.generator), where=where + words)
            for where, shown in self.runs_by_label(figure).items()
            if shown["converged"].any()
            for words, averaged in _averaged(shown, self._epochs, whole)
        ]

    def _grid(self, where: str, runs: pd.DataFrame, sizes: str) -> Grid:
        metric = metric_of(runs)
        key = (metric, sizes, *runs.index)
        if key not in self._read:
            self._read[key] = build_grid(runs, self.generator, sizes, self._noise_of(metric))
        return replace(self._read[key], where=where)

    def _noise_of(self, metric: str) -> Noise:
        if metric not in self._noise:
            recorded = self.runs[self.runs[metric].notna()]
            self._noise[metric] = Noise(with_metric_as_accuracy(recorded, metric), self.generator)
        return self._noise[metric]


_Slice = tuple[str, pd.DataFrame, str]
"""A part of an experiment: which part, in words, its runs, and the column of its sizes."""


def _at_rate(spec: Mapping[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
    """The runs at the figure's rate, or all if it has none."""
    if "base_lr" not in spec:
        return runs
    return runs[np.isclose(runs["base_lr"], parse_base_lr(spec["base_lr"]), rtol=1e-9, atol=0)]


def _over_m(runs: pd.DataFrame) -> Iterator[_Slice]:
    """All runs; where an m was trained with several batches of BN, the largest: mostly the whole batch."""
    largest = runs.groupby("batch_size")["bn_batch_size"].transform("max")
    yield "", runs[runs["bn_batch_size"] == largest], "batch_size"


def _slices(runs: pd.DataFrame, each: str) -> Iterator[_Slice]:
    symbol, sizes = ("m", "bn_batch_size") if each == "batch_size" else ("b", "batch_size")
    for value, chosen in runs.groupby(each):
        yield f", {symbol} = {value:.0f}", chosen, sizes


def _averaged(runs: pd.DataFrame, epochs: pd.DataFrame, whole: bool) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs with their mean test accuracy over all epochs, or over those of each learning rate, and which, in words.

    A run that diverged stays at chance, as it does in its final accuracy.
    """
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, "run", "status", "lr_drops"])))
    drops = [] if whole else [float(drop) for text in runs["lr_drops"].dropna()[:1] for drop in str(text).split()]
    epochs = epochs.reindex(columns=["run", "epoch", "test_accuracy"])
    epochs = epochs[epochs["run"].isin(runs["run"])].astype({"epoch": float, "test_accuracy": float})
    last = epochs["epoch"].max()
    bounds = [0, *(round(drop * last) for drop in drops if epochs.size), last]
    for start, end in pairwise(bounds):
        within = epochs[(epochs["epoch"] > start) & (epochs["epoch"] <= end)]
        means = within.groupby("run")["test_accuracy"].mean()
        mean = runs["accuracy"].where(runs["status"] == "diverged", runs["run"].map(means))
        averaged = runs.assign(accuracy=mean, selection_accuracy=mean).dropna(subset="accuracy")
        if len(averaged) and len(means):
            yield f", epochs {start + 1:.0f} to {end:.0f}", averaged
