"""The paper's claims, each judged from the tables of a study.

A claim is a list of checks; a check is a predicate over grids of figures and gives comparisons, each an effect and the
region that the claim puts it in. `verdicts` decides on all comparisons of a claim together. A claim is refuted where
one is, and supported where all are; its effect is that which decides. Where the study shows a figure but lacks the
batch sizes that half of a claim speaks of, it cannot support the claim: that is not run, too.
"""

import json
import math
import string
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from smallbatch.analysis.grid import Grid, read_grid
from smallbatch.analysis.noise import Noise, with_results
from smallbatch.analysis.paper import differences
from smallbatch.analysis.predicates import (
    Predicate,
    Thresholds,
    best,
    convergence,
    curves,
    falls,
    gains,
    growth,
    large_batches,
    ranges,
)
from smallbatch.analysis.statistics import SAMPLES
from smallbatch.analysis.update_variance import measured
from smallbatch.analysis.verdicts import VERDICTS, Comparison, decide, what_would_decide
from smallbatch.study.rates import parse_base_lr

COLUMNS = (
    "claim", "section", "text", "predicate", "verdict", "effect", "low", "high", "unit", "figures", "absent",
    "evidence", "seeds", "thresholds", "reading", "differences", "to_decide", "comparisons",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """A predicate and the figures whose grids it takes together.

    each: `batch_size` or `bn_batch_size`: the runs of each of its values make a grid of their own, over the other one.
        `curve` or `phase`: a run's accuracy is its mean over all epochs, or over each stretch of one learning rate.
    """

    figures: tuple[str, ...]
    predicate: Predicate
    each: str | None = None

    @property
    def about(self) -> Predicate:
        """What it checks, be it of which figures and with which arguments."""
        return self.predicate.func if isinstance(self.predicate, partial) else self.predicate


@dataclass(frozen=True)
class Claim:
    """A claim in our words.

    name, section: its number among the claims, the paper's section.
    predicate: what is computed, in words; thresholds stand in braces by name.
    checks: none where the claim is about a measurement and no figure of the paper.
    reading: where the text leaves room, how it is read here.
    """

    name: str
    section: str
    text: str
    predicate: str
    checks: tuple[Check, ...]
    reading: str = ""

    @property
    def figures(self) -> list[str]:
        """The paper's figures that it rests on."""
        return sorted({figure for check in self.checks for figure in check.figures})

    @property
    def thresholds(self) -> list[str]:
        """Names of the thresholds that it uses."""
        return list(dict.fromkeys(name for _, name, _, _ in string.Formatter().parse(self.predicate) if name))


def judge(
    figures: Mapping[str, Mapping[str, Any]],
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    variance: pd.DataFrame,
    thresholds: Thresholds,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Judge every claim by what a study has of it.

    Args:
        figures: the study's, by name.
        runs: the tidy table of runs, however much of it is there.
        epochs: the table of epochs of runs, likewise.
        variance: the table of variances of updates, likewise.
        thresholds: `claims` of the configuration.
        generator: where samples are drawn from.

    Returns:
        A row a claim, in order, with `COLUMNS`. low and high: the 95 % interval of the effect, in `unit`. absent: the
        paper's figures that the claim rests on and the study lacks, or has no result of. seeds: of the cells compared,
        the fewest and the most. differences: what in their settings is not the paper's. to_decide: what would.
        comparisons: all of them, as JSON.
    """
    views = _Views(figures, with_results(runs), epochs, generator)
    return pd.DataFrame([_judged(claim, views, variance, thresholds) for claim in CLAIMS], columns=list(COLUMNS))


def _judged(claim: Claim, views: "_Views", variance: pd.DataFrame, thresholds: Thresholds) -> dict[str, Any]:
    absent = [figure for figure in claim.figures if not views.experiments(figure)]
    row = {
        "claim": claim.name,
        "section": claim.section,
        "text": claim.text,
        "predicate": claim.predicate.format(**thresholds),
        "absent": ", ".join(absent),
        "thresholds": ", ".join(f"{name} = {thresholds[name]:g}" for name in claim.thresholds),
        "reading": claim.reading,
    }
    found = (
        _figures_comparisons(claim, views, thresholds)
        if claim.checks
        else _measured_comparisons(views, variance, thresholds)
    )
    comparisons, verdicts = found.comparisons, decide(found.comparisons)
    row["comparisons"] = json.dumps([*map(_as_json, comparisons, verdicts)], ensure_ascii=False)
    if not comparisons or (found.lacking and "refuted" not in verdicts):
        empty = dict.fromkeys(("effect", "unit", "figures", "seeds", "differences", "to_decide"), "")
        evidence = _why_not_run(claim, absent, found.lacking, thresholds)
        return row | empty | {"low": math.nan, "high": math.nan, "verdict": "not run", "evidence": evidence}
    verdict, decides = min(zip(verdicts, comparisons, strict=True), key=_deciding)
    low, high = decides.interval
    return row | {
        "verdict": verdict,
        "effect": decides.words,
        "low": low,
        "high": high,
        "unit": decides.unit,
        "figures": ", ".join(sorted(found.names)),
        "evidence": decides.sentence + _tally(verdicts),
        "seeds": _span([comparison.seeds for comparison in comparisons if comparison.seeds]),
        "differences": "; ".join(found.differences),
        "to_decide": what_would_decide(comparisons, verdicts) if verdict == "undecided" else "",
    }


@dataclass(frozen=True)
class _Found:
    """What a study has of a claim.

    comparisons: all of them.
    names: the study's figures that gave them.
    differences: what in their settings is not the paper's.
    lacking: figures of some half of the claim that nothing tells of, for they or their batch sizes are not there.
    """

    comparisons: list[Comparison]
    names: set[str]
    differences: list[str]
    lacking: list[str]


def _deciding(judged: tuple[str, Comparison]) -> tuple[int, float]:
    """That which decides a claim has the lowest: by verdict, then by how deep in its region the effect lies."""
    verdict, comparison = judged
    return VERDICTS.index(verdict), float(np.nan_to_num(comparison.depth))


def _as_json(comparison: Comparison, verdict: str) -> dict[str, Any]:
    low, high = comparison.interval
    numbers = {
        "effect": float(comparison.effect[0]),
        "low": low,
        "high": high,
        "at_least": comparison.at_least,
        "at_most": comparison.at_most,
    }
    known = {name: round(value, 6) if math.isfinite(value) else None for name, value in numbers.items()}
    return {
        "comparison": comparison.sentence,
        "verdict": verdict,
        **known,
        "unit": comparison.unit,
        "seeds": comparison.seeds,
    }


def _figures_comparisons(claim: Claim, views: "_Views", thresholds: Thresholds) -> _Found:
    comparisons: list[Comparison] = []
    names: set[str] = set()
    differing: dict[str, list[str]] = {}
    compared: set[Predicate] = set()
    silent: dict[Predicate, list[str]] = {}
    unmade: dict[Predicate, list[str]] = {}
    for check in claim.checks:
        shown = [views.experiments(figure) for figure in check.figures]
        if not all(shown):
            gone = [figure for figure, runs in zip(check.figures, shown, strict=True) if not runs]
            unmade.setdefault(check.about, []).extend(gone)
            continue
        own = [*_check_comparisons(check, views, thresholds), *_untrained(shown)]
        comparisons += [
            comparison for comparison in own if comparison.sentence not in {other.sentence for other in comparisons}
        ]
        if not own:
            silent.setdefault(check.about, []).extend(check.figures)
            continue
        compared.add(check.about)
        names |= {views.own_name(figure) for figure in check.figures}
        differing |= {
            views.own_name(figure): differences(figure, runs.values())
            for figure, runs in zip(check.figures, shown, strict=True)
        }
    lacking = [figure for about, figures in (unmade | silent).items() if about not in compared for figure in figures]
    return _Found(comparisons, names, _shared_first(differing), [*dict.fromkeys(lacking)])


def _shared_first(differing: Mapping[str, Sequence[str]]) -> list[str]:
    """How figures differ from the paper's: in words alone what is so of all of them, else with the figures' names."""
    of = {
        words: [figure for figure, own in differing.items() if words in own]
        for own in differing.values()
        for words in own
    }
    ordered = sorted(of.items(), key=lambda item: -len(item[1]))
    return [words if len(names) == len(differing) else f"{', '.join(names)}: {words}" for words, names in ordered]


def _check_comparisons(check: Check, views: "_Views", thresholds: Thresholds) -> Iterator[Comparison]:
    for grids in zip(*[views.grids(figure, check.each) for figure in check.figures], strict=False):
        seeds = min(int(grid.seeds[grid.seeds > 0].min()) for grid in grids)
        for comparison in check.predicate(thresholds, *grids):
            yield replace(comparison, sentence=f"{grids[-1].where}: {comparison.sentence}", seeds=seeds)


def _untrained(shown: Iterable[Mapping[str, pd.DataFrame]]) -> list[Comparison]:
    unknown = np.full(1 + SAMPLES, np.nan)
    untrained = [where for runs in shown for where, those in runs.items() if not those["converged"].any()]
    return [Comparison(f"{where}: no run has converged", unknown) for where in untrained]


def _measured_comparisons(views: "_Views", variance: pd.DataFrame, thresholds: Thresholds) -> _Found:
    names = {name for name, spec in views.figures.items() if spec.get("kind") == "variance"}
    rows = measured(views.runs, variance)
    return _Found([*growth.grows_linearly(thresholds, rows, views.generator)], names, [], [])


def _why_not_run(claim: Claim, absent: Sequence[str], lacking: Sequence[str], thresholds: Thresholds) -> str:
    if not claim.checks:
        return "no variance was measured at three batch sizes or more"
    if there := [figure for figure in lacking if figure not in absent]:
        lacks = f"{', '.join(there)}: the study lacks batch sizes that this compares"
        return f"{lacks}; large m begin at {thresholds['large_batch']}" if "large_batch" in claim.thresholds else lacks
    return f"the study has no results of {', '.join(lacking or absent)}"


def _tally(verdicts: Sequence[str]) -> str:
    """How the comparisons fell out, where there are several."""
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in reversed(VERDICTS) if verdict in verdicts]
    return f"; of {len(verdicts)} comparisons {', '.join(counts)}" if len(verdicts) > 1 else ""


def _span(seeds: Sequence[int]) -> str:
    """`5`; `1 to 5` where cells differ."""
    return " to ".join(map(str, sorted({min(seeds), max(seeds)}))) if seeds else ""


class _Views:
    """Grids of a study's figures. What several figures show is read once, so that its draws agree."""

    def __init__(
        self,
        figures: Mapping[str, Mapping[str, Any]],
        runs: pd.DataFrame,
        epochs: pd.DataFrame,
        generator: np.random.Generator,
    ) -> None:
        self.figures = figures
        self.generator = generator
        self._noise = Noise(runs, generator)
        self.runs = runs
        self._runs = dict(iter(runs.groupby("experiment")))
        self._epochs = epochs
        self._read: dict[tuple[Hashable, ...], Grid] = {}

    def own_name(self, figure: str) -> str:
        """What the study calls a figure of the paper: Figure 13 alone stands for its first half."""
        return "fig13" if figure == "fig13a" and figure not in self.figures else figure

    def experiments(self, figure: str) -> dict[str, pd.DataFrame]:
        """The runs that the figure shows of each experiment that has results, by where it stands in words."""
        own = self.own_name(figure)
        spec = self.figures.get(own, {})
        names = spec.get("experiments", [])
        words = {name: own if len(names) == 1 else f"{own}, {name}" for name in names}
        runs = {words[name]: _at_rate(spec, self._runs[name]) for name in names if name in self._runs}
        return {where: those for where, those in runs.items() if not those.empty}

    def grids(self, figure: str, each: str | None) -> list[Grid]:
        """The grids that a check takes of a figure.

        An experiment in which nothing converged can tell nothing, except on section 3.2's claim about just that.
        """
        if each in ("curve", "phase"):
            return self._curves(figure, whole=each == "curve")
        cut = partial(_slices, each=each) if each else _over_m
        return [
            self._grid(where + words, runs, sizes)
            for where, shown in self.experiments(figure).items()
            if shown["converged"].any() or figure == "sec32"
            for words, runs, sizes in cut(shown)
        ]

    def _curves(self, figure: str, whole: bool) -> list[Grid]:
        return [
            replace(read_grid(averaged, self.generator), where=where + words)
            for where, shown in self.experiments(figure).items()
            if shown["converged"].any()
            for words, averaged in _averaged(shown, self._epochs, whole)
        ]

    def _grid(self, where: str, runs: pd.DataFrame, sizes: str) -> Grid:
        key = (sizes, *runs.index)
        if key not in self._read:
            self._read[key] = read_grid(runs, self.generator, sizes, self._noise)
        return replace(self._read[key], where=where)


_Slice = tuple[str, pd.DataFrame, str]
"""Of an experiment: which of them, in words, its runs, and the column of its sizes."""


def _at_rate(spec: Mapping[str, Any], runs: pd.DataFrame) -> pd.DataFrame:
    """Those at the figure's rate, where it has one."""
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
    own = epochs.reindex(columns=["run", "epoch", "test_accuracy"])
    own = own[own["run"].isin(runs["run"])].astype({"epoch": float, "test_accuracy": float})
    last = own["epoch"].max()
    bounds = [0, *(round(drop * last) for drop in drops if own.size), last]
    for start, end in pairwise(bounds):
        means = own[(own["epoch"] > start) & (own["epoch"] <= end)].groupby("run")["test_accuracy"].mean()
        mean = runs["accuracy"].where(runs["status"] == "diverged", runs["run"].map(means))
        averaged = runs.assign(accuracy=mean, selection_accuracy=mean).dropna(subset="accuracy")
        if len(averaged) and len(means):
            yield f", epochs {start + 1:.0f} to {end:.0f}", averaged


def _every(figures: Sequence[str], predicate: Predicate, each: str | None = None, **arguments: Any) -> list[Check]:
    """The same check of every figure."""
    return [Check((figure,), partial(predicate, **arguments), each) for figure in figures]


def _best(figures: Sequence[str], low: int, high: int, each: str | None = None) -> list[Check]:
    return _every(figures, best.best_within, each, low=low, high=high)


_BEST = "best accuracy at {} minus best at other batch sizes: above 0 points".format
_CONVERGING = "number of rates that converge (each counts as the share of its seeds)"
_NO_BN = ("fig01", "fig02", "fig03")
_BN = ("fig07", "fig08", "fig09")
_WARMED = (("fig08", "fig10"), ("fig09", "fig11"))
_LONGER = (("fig17", "fig08"), ("fig08", "fig18"), ("fig17", "fig18"))

CLAIMS = (
    Claim(
        "C1",
        "3.2",
        "reduced AlexNet without BN: best accuracy at some m <= 8",
        _BEST("m ≤ 8"),
        (*_best(["fig01"], 1, 8),),
    ),
    Claim(
        "C2",
        "3.2",
        "ResNet-8 and ResNet-20 without BN: best accuracy at m = 2 or 4",
        "in each figure, " + _BEST("m = 2 ... 4"),
        (*_best(["fig02", "fig03"], 2, 4),),
    ),
    Claim(
        "C3",
        "3.2",
        "there is an m above which the overall best eta_base no longer trains stably",
        "in each figure, share of seeds that fail to converge at the largest m ({large_batch} or more), at the overall "
        "best rate: above {converged_share}",
        (*_every(_NO_BN, convergence.untrainable_at_the_largest),),
        "a study that stops before large m cannot tell: that nothing has failed so far refutes nothing",
    ),
    Claim(
        "C4",
        "3.2",
        "at a fixed eta_base, growing m first degrades accuracy and then makes training collapse",
        "in each figure that reaches m = {large_batch}, over the rates that train at the smallest m: accuracy there "
        "minus accuracy at the last m at which every seed trains, on average above {margin} points; and share of seeds "
        "that fail at the largest m above {converged_share}",
        (
            *_every(_NO_BN, falls.degrades_before_collapse),
            *_every(_NO_BN, convergence.collapses),
        ),
        "degrading is judged where no seed fails: otherwise collapse would pass for it",
    ),
    Claim(
        "C5",
        "3.2",
        "the smallest m have the widest range of eta_base that converges",
        f"in each figure, {_CONVERGING}: the mean over m ≤ {{smallest_batch}} minus that at each larger m: above 0 "
        "rates",
        (*_every(_NO_BN, ranges.smallest_have_widest_range),),
        "the smallest m together, against each other m: the widest of several is too wide by chance",
    ),
    Claim(
        "C6",
        "3.2",
        "ResNet-32 without BN trains only for m = 2, 4, 8 (of 2 ... 2048); best about 76 %",
        "at each m and the rate where most seeds converge, share of seeds that do (m ≤ 8) or do not (m > 8, out to "
        "{large_batch} or more): above {converged_share}; and best accuracy within {near} points of 76 %",
        (
            *_every(["sec32"], convergence.trains_only_up_to, bound=8),
            *_every(["sec32"], best.peaks_at, percent=76),
        ),
    ),
    Claim(
        "C7",
        "3.3",
        "at eta_base = 2^-8 the curves of 4 <= m <= 64 nearly coincide; larger m are worse",
        "test accuracy at the figure's rate, mean over the epochs of each learning rate: of each m in 4 ... 64 within "
        "{same} points of their mean; and mean over all epochs: of each larger m more than {margin} points below that",
        (
            *_every(["fig04"], curves.coincide, "phase", low=4, high=64),
            *_every(["fig04"], curves.worse_beyond, "curve", low=4, high=64),
        ),
        "curves coincide where they do so before, between and after the drops of the learning rate",
    ),
    Claim(
        "C8",
        "3.3",
        "BN improves AlexNet over a wide range of m",
        "for both variants of BN, best accuracy with it minus without: median over m above {margin} points",
        (
            Check(("fig01", "fig05"), gains.improves),
            Check(("fig01", "fig06"), gains.improves),
        ),
    ),
    Claim(
        "C9",
        "3.3",
        "BN on convolutions and FC: best m in 8 ... 64; the smallest m suffer",
        _BEST("m = 8 ... 64") + "; and the best there minus the best at the smallest m: above {margin} points",
        (
            *_best(["fig05"], 8, 64),
            *_every(["fig05"], best.smallest_suffers, low=8, high=64),
        ),
        "the smallest m suffer in accuracy; of their range of rates C24 speaks, which leaves them out with BN",
    ),
    Claim(
        "C10",
        "3.3",
        "BN on convolutions only: best m in 4 ... 32",
        _BEST("m = 4 ... 32"),
        (*_best(["fig06"], 4, 32),),
    ),
    Claim(
        "C11",
        "3.3",
        "both BN variants reach about the same best accuracy",
        "difference of the best accuracies: within ±{same} points",
        (Check(("fig05", "fig06"), best.same_peak),),
    ),
    Claim(
        "C12",
        "3.3",
        "ResNet-32 with BN: best at m = 4 or 8; accuracy falls as m grows",
        f"in each figure, {_BEST('m = 4 ... 8')}; and fall of the best accuracies from m = 8 to the largest "
        "({large_batch} or more), of a line over log2 m: above {margin} points",
        (
            *_best(_BN, 4, 8),
            *_every(_BN, falls.falls_to_large, low=8),
        ),
        "accuracy falls on the whole, not at every step",
    ),
    Claim(
        "C13",
        "3.3",
        "the best eta_base is usable only for m <= 16 (CIFAR-10), m <= 8 (CIFAR-100)",
        "at each m and the overall best rate, share of seeds that converge (m ≤ 16; fig09: m ≤ 8) or do not (larger "
        "m, out to {large_batch} or more): above {converged_share}",
        (
            *_every(["fig07", "fig08"], convergence.best_rate_usable_up_to, bound=16),
            *_every(["fig09"], convergence.best_rate_usable_up_to, bound=8),
        ),
        "the best rate is the one that is best in the study; it is usable where more than that share of seeds converge",
    ),
    Claim(
        "C14",
        "3.4",
        "warm-up generally helps, mostly at large m",
        "for each data set, best accuracy with warm-up minus without: mean over m above {margin} points; and mean over "
        "m > {small_batch} minus mean over smaller m above {margin} points",
        (
            *[Check(figures, gains.helps) for figures in _WARMED],
            *[Check(figures, gains.helps_large_most) for figures in _WARMED],
        ),
        "helping generally is helping on average over m",
    ),
    Claim(
        "C15",
        "3.4",
        "with warm-up, CIFAR-10: best at m = 4 or 8, good results out to 128",
        _BEST("m = 4 ... 8")
        + "; and mean of the best at those minus the best at each m in 16 ... 128: below {near} points",
        (
            *_best(["fig10"], 4, 8),
            *_every(["fig10"], best.good_out_to, best=(4, 8), low=16, high=128),
        ),
    ),
    Claim(
        "C16",
        "3.4",
        "with warm-up, CIFAR-100: best at m in 4 ... 16, steeper fall beyond",
        _BEST("m = 4 ... 16") + "; and fall of the best accuracies from m = 16 to the largest, of a line over log2 m, "
        "minus that on CIFAR-10 (fig10): above {margin} points",
        (
            *_best(["fig11"], 4, 16),
            Check(("fig10", "fig11"), partial(falls.falls_more, low=16)),
        ),
    ),
    Claim(
        "C17",
        "3.4",
        "warm-up does not bring large m level with small m",
        "for each data set, mean over m ≤ {small_batch} of the best accuracies, with warm-up and without, minus mean "
        "over larger m with warm-up: above {margin} points",
        (
            *_every(["fig10", "fig11"], large_batches.large_stay_below),
            *[Check(figures, large_batches.large_stay_below) for figures in _WARMED],
        ),
    ),
    Claim(
        "C18",
        "3.5",
        "ImageNet: best at m in 16 ... 64",
        _BEST("m = 16 ... 64"),
        (*_best(["fig12"], 16, 64),),
    ),
    Claim(
        "C19",
        "3.5",
        "ImageNet: large m degrade most just where eta_base is best overall; m <= 32 are stable over the range",
        "mean accuracy over m ≤ {small_batch} minus mean over larger m, at the overall best rate minus that at each "
        "other rate: above 0 points; and at each m ≤ {small_batch} and rate where any m trains, share of seeds that "
        "converge: above {converged_share}",
        (
            *_every(["fig12"], large_batches.large_degrade_most_at_best_rate),
            *_every(["fig12"], convergence.small_are_stable),
        ),
    ),
    Claim(
        "C20",
        "3.6",
        "for a fixed BN batch, a smaller SGD batch is better",
        "in each figure and for each BN batch, fall of accuracy from the smallest m to the largest, of a line over "
        "log2 m: above {margin} points",
        (*_every(["fig13a", "fig13b", "fig14"], falls.falls_from, "bn_batch_size"),),
    ),
    Claim(
        "C21",
        "3.6",
        "CIFAR: BN batch 4 or 8 is best for every SGD batch; on CIFAR-100 the best BN batch is below the SGD batch",
        "for each SGD batch, best accuracy at BN batch 4 ... 8 minus best at others: above 0 points; and on CIFAR-100 "
        "(fig13b), for each SGD batch above 8, best at BN batches below it minus accuracy at the whole batch: above 0 "
        "points",
        (
            *_best(["fig13a", "fig13b"], 4, 8, "batch_size"),
            *_every(["fig13b"], best.best_below_whole, "batch_size", above=8),
        ),
        "at SGD batches of 4 and 8 the whole batch is itself a BN batch of 4 or 8, so the second half speaks of larger "
        "ones; rates were chosen by runs with the whole batch, which is so favoured a little",
    ),
    Claim(
        "C22",
        "3.6",
        "ImageNet: BN batch in 16 ... 64 is best for every SGD batch",
        "for each SGD batch, best accuracy at BN batch 16 ... 64 minus best at others: above 0 points",
        (*_best(["fig14"], 16, 64, "batch_size"),),
    ),
    Claim(
        "C23",
        "4",
        "best accuracy is always at m <= 32; without BN it keeps improving down to m = 2",
        f"for each experiment, {_BEST('m ≤ 32')}; and without BN, fall of the best accuracies from m = 2 to "
        "{small_batch}, of a line over log2 m: above 0 points",
        (
            *_best(["fig15"], 1, 32),
            *_every(["fig15"], falls.improves_down_to_two_without_norm),
        ),
        "it keeps improving on the whole, not at every step; which m is best C1 and C2 say",
    ),
    Claim(
        "C24",
        "4",
        "the range of converging eta_base shrinks steadily as m grows",
        f"for each experiment, {_CONVERGING}: fall from the smallest m to the largest ({{large_batch}} or more), of a "
        "line over log2 m: above 0 rates; with BN from m = {smallest_batch} on",
        (*_every(["fig16"], ranges.range_shrinks),),
        "steadily is a trend, not every step; with BN the smallest m suffer (C9), so their trend starts after them",
    ),
    Claim(
        "C25",
        "A",
        "longer training helps; at the best eta_base it helps large m most; large m still stay below small m",
        "for each two lengths of training, accuracy after the longer minus after the shorter: of the best, mean over m "
        "above {margin} points; at the overall best rate of the shorter, mean over m > {small_batch} minus mean over "
        "smaller m above {margin} points; and after the longer, mean over m ≤ {small_batch} of the best minus mean "
        "over larger m above {margin} points",
        (
            *[Check(figures, gains.helps) for figures in _LONGER],
            *[Check(figures, gains.longer_helps_large_most) for figures in _LONGER],
            *[Check(figures, large_batches.large_still_below) for figures in _LONGER],
        ),
    ),
    Claim(
        "C26",
        "2",
        "at fixed eta_base the variance of the weight update grows linearly with m (not measured in the paper)",
        "for each experiment whose batch statistics, if any, are of sub-batches, at each epoch measured: slope of log2 "
        "trace of the update's covariance over log2 m, by least squares, mean over seeds: within 1 ± {slope_tolerance}",
        (),
        "where an example's gradient depends on no other, the trace is eta_base^2 m S^2 by arithmetic (S^2: the "
        "variance of an example's gradient), so this tests the measurement. What is learnt is S^2 over training and "
        "over the m that is trained with, and how far the trace is from linear with BN over the whole mini-batch, of "
        "which the paper's theory does not speak: figures of kind variance and example-variance",
    ),
)
"""All claims, in order."""
