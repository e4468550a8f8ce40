"""The paper's claims, each judged from the tables of a study.

A claim is a list of checks; a check is a predicate over grids of figures and gives parts. A part is supported where its
whole interval lies in the region that the claim puts it in, refuted where it lies wholly outside, and undecided
otherwise. A claim is supported where all its parts are, and refuted where one is; it tells the effect that decides.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from smallbatch.analysis import predicates
from smallbatch.analysis.grid import Grid, read_grid, with_results
from smallbatch.analysis.noise import Noise
from smallbatch.analysis.predicates import VERDICTS, Part, Thresholds
from smallbatch.analysis.statistics import SAMPLES
from smallbatch.rates import parse_base_lr

COLUMNS = (
    "claim", "section", "text", "predicate", "verdict", "effect", "low", "high", "unit", "figures", "absent",
    "evidence",
)  # fmt: skip

Predicate = Callable[..., Iterator[Part]]
"""See `predicates`."""


@dataclass(frozen=True)
class Check:
    """A predicate and the figures whose grids it takes together.

    each: `batch_size` or `bn_batch_size`: the runs of each of its values make a grid of their own, over the other one.
    """

    figures: tuple[str, ...]
    predicate: Predicate
    each: str | None = None


@dataclass(frozen=True)
class Claim:
    """A claim in our words.

    name, section: its number among the claims, the paper's section.
    predicate: what is computed, in words; thresholds stand in braces by name.
    checks: none where the claim is about a measurement and no figure of the paper.
    """

    name: str
    section: str
    text: str
    predicate: str
    checks: tuple[Check, ...]

    @property
    def figures(self) -> list[str]:
        """The paper's figures that it rests on."""
        return sorted({figure for check in self.checks for figure in check.figures})


def judge(
    figures: Mapping[str, Mapping[str, Any]],
    runs: pd.DataFrame,
    variance: pd.DataFrame,
    thresholds: Thresholds,
    generator: np.random.Generator,
) -> pd.DataFrame:
    """Judge every claim by what a study has of it.

    Args:
        figures: the study's, by name.
        runs: the tidy table of runs, however much of it is there.
        variance: the table of variances of updates, however much of it is there.
        thresholds: `claims` of the configuration.
        generator: where bootstrap samples are drawn from.

    Returns:
        A row a claim, in order, with `COLUMNS`. low and high: the 95 % interval of the effect, in `unit`. absent: the
        paper's figures that the claim rests on and the study lacks, or has no result of.
    """
    views = _Views(figures, with_results(runs), generator)
    return pd.DataFrame([_judged(claim, views, variance, thresholds) for claim in CLAIMS], columns=list(COLUMNS))


def _judged(claim: Claim, views: "_Views", variance: pd.DataFrame, thresholds: Thresholds) -> dict[str, Any]:
    absent = [figure for figure in claim.figures if not views.experiments(figure)]
    told = {
        "claim": claim.name,
        "section": claim.section,
        "text": claim.text,
        "predicate": claim.predicate.format(**thresholds),
        "absent": ", ".join(absent),
    }
    found = _figures_parts(claim, views, thresholds) if claim.checks else _measured_parts(views, variance, thresholds)
    parts = [part for _, part in found]
    if not parts:
        empty = {"effect": "", "low": math.nan, "high": math.nan, "unit": "", "figures": ""}
        return told | empty | {"verdict": "not run", "evidence": _why_not_run(claim, absent)}
    decides = min(parts, key=lambda part: part.rank)
    low, high = decides.interval
    return told | {
        "verdict": decides.verdict,
        "effect": decides.words,
        "low": low,
        "high": high,
        "unit": decides.unit,
        "figures": ", ".join(sorted({name for names, _ in found for name in names})),
        "evidence": decides.told + _tally(parts),
    }


_Found = list[tuple[Sequence[str], Part]]
"""Parts, each with the study's figures that gave it."""


def _figures_parts(claim: Claim, views: "_Views", thresholds: Thresholds) -> _Found:
    found: _Found = []
    for check in claim.checks:
        names = [views.own_name(figure) for figure in check.figures]
        for grids in zip(*[views.grids(figure, check.each) for figure in check.figures], strict=False):
            parts = check.predicate(thresholds, *grids)
            found += [(names, replace(part, told=f"{grids[-1].where}: {part.told}")) for part in parts]
    unknown = np.full(1 + SAMPLES, np.nan)
    for figure in claim.figures:
        untrained = [where for where, runs in views.experiments(figure).items() if not runs["converged"].any()]
        found += [([views.own_name(figure)], Part(f"{where}: no run has converged", unknown)) for where in untrained]
    return found


def _measured_parts(views: "_Views", variance: pd.DataFrame, thresholds: Thresholds) -> _Found:
    names = [name for name, spec in views.figures.items() if spec.get("kind") == "variance"]
    return [(names, part) for part in predicates.grows_linearly(thresholds, variance, views.generator)]


def _why_not_run(claim: Claim, absent: Sequence[str]) -> str:
    if not claim.checks:
        return "no variance was measured at three batch sizes or more"
    if absent:
        return f"the study has no results of {', '.join(absent)}"
    return f"{', '.join(claim.figures)}: the study lacks batch sizes that this compares"


def _tally(parts: Sequence[Part]) -> str:
    """How the parts fell out, where there are several."""
    verdicts = [part.verdict for part in parts]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in reversed(VERDICTS) if verdict in verdicts]
    return f"; of {len(parts)} comparisons {', '.join(counts)}" if len(parts) > 1 else ""


class _Views:
    """Grids of a study's figures. What several figures show is read once, so that its draws agree."""

    def __init__(
        self, figures: Mapping[str, Mapping[str, Any]], runs: pd.DataFrame, generator: np.random.Generator
    ) -> None:
        self.figures = figures
        self.generator = generator
        self._noise = Noise(runs, generator)
        self._runs = dict(iter(runs.groupby("experiment")))
        self._read: dict[tuple, Grid] = {}

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
        cut = partial(_slices, each=each) if each else _over_m
        return [
            self._grid(where + words, runs, sizes)
            for where, shown in self.experiments(figure).items()
            if shown["converged"].any() or figure == "sec32"
            for words, runs, sizes in cut(shown)
        ]

    def _grid(self, where: str, runs: pd.DataFrame, sizes: str) -> Grid:
        key = (sizes, *runs.index)
        if key not in self._read:
            self._read[key] = read_grid(runs, self.generator, sizes, self._noise)
        return replace(self._read[key], where=where)


_Slice = tuple[str, pd.DataFrame, str]
"""Of an experiment: which part, in words, its runs, and the column of its sizes."""


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
    for value, part in runs.groupby(each):
        yield f", {symbol} = {value:.0f}", part, sizes


def _every(figures: Sequence[str], predicate: Predicate, each: str | None = None, **arguments: float) -> list[Check]:
    """The same check of every figure."""
    return [Check((figure,), partial(predicate, **arguments), each) for figure in figures]


def _best(figures: Sequence[str], low: int, high: int, each: str | None = None) -> list[Check]:
    return _every(figures, predicates.best_within, each, low=low, high=high)


_BEST = "best accuracy at {} minus best at other batch sizes: above 0 points".format
_CONVERGING = "number of rates that converge (each counts as the share of its seeds)"
_NO_BN = ("fig01", "fig02", "fig03")
_BN = ("fig07", "fig08", "fig09")

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
        "in each figure, share of seeds that fail to converge at the largest m, at the overall best rate: above "
        "{converged_share}",
        (*_every(_NO_BN, predicates.untrainable_at_the_largest),),
    ),
    Claim(
        "C4",
        "3.2",
        "at a fixed eta_base, growing m first degrades accuracy and then makes training collapse",
        "in each figure, over the rates that train at the smallest m: accuracy there minus accuracy at the last m "
        "before training fails, on average above {margin} points; and share of seeds that fail at the largest m above "
        "{converged_share}",
        (*_every(_NO_BN, predicates.degrades_then_collapses),),
    ),
    Claim(
        "C5",
        "3.2",
        "the smallest m have the widest range of eta_base that converges",
        f"in each figure, {_CONVERGING}, the most at any m ≤ {{smallest_batch}} minus the most at any larger m: above "
        "0 rates",
        (*_every(_NO_BN, predicates.smallest_have_widest_range),),
    ),
    Claim(
        "C6",
        "3.2",
        "ResNet-32 without BN trains only for m = 2, 4, 8 (of 2 ... 2048); best about 76 %",
        "at each m and the rate where most seeds converge, share of seeds that do (m ≤ 8) or do not (m > 8): above "
        "{converged_share}; and best accuracy within {near} points of 76 %",
        (
            *_every(["sec32"], predicates.trains_only_up_to, bound=8),
            *_every(["sec32"], predicates.peaks_at, percent=76),
        ),
    ),
    Claim(
        "C7",
        "3.3",
        "at eta_base = 2^-8 the curves of 4 <= m <= 64 nearly coincide; larger m are worse",
        "final accuracy at the figure's rate: of each m in 4 ... 64 within {same} points of their mean, of each "
        "larger m more than {margin} points below it",
        (*_every(["fig04"], predicates.coincide_and_fall_beyond, low=4, high=64),),
    ),
    Claim(
        "C8",
        "3.3",
        "BN improves AlexNet over a wide range of m",
        "for both variants of BN, best accuracy with it minus without: median over m above {margin} points",
        (
            Check(("fig01", "fig05"), predicates.improves),
            Check(("fig01", "fig06"), predicates.improves),
        ),
    ),
    Claim(
        "C9",
        "3.3",
        "BN on convolutions and FC: best m in 8 ... 64; the smallest m suffer",
        _BEST("m = 8 ... 64") + "; and the best there minus the best at the smallest m: above {margin} points",
        (
            *_best(["fig05"], 8, 64),
            *_every(["fig05"], predicates.smallest_suffers, low=8, high=64),
        ),
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
        (Check(("fig05", "fig06"), predicates.same_peak),),
    ),
    Claim(
        "C12",
        "3.3",
        "ResNet-32 with BN: best at m = 4 or 8; accuracy falls as m grows",
        f"in each figure, {_BEST('m = 4 ... 8')}; and fall of the best accuracies from m = 8 to the largest, of a line "
        "over log2 m: above {margin} points",
        (
            *_best(_BN, 4, 8),
            *_every(_BN, predicates.falls_from, low=8),
        ),
    ),
    Claim(
        "C13",
        "3.3",
        "the best eta_base is usable only for m <= 16 (CIFAR-10), m <= 8 (CIFAR-100)",
        "at each m and the overall best rate, share of seeds that converge (m ≤ 16; fig09: m ≤ 8) or do not (larger "
        "m): above {converged_share}",
        (
            *_every(["fig07", "fig08"], predicates.best_rate_usable_up_to, bound=16),
            *_every(["fig09"], predicates.best_rate_usable_up_to, bound=8),
        ),
    ),
    Claim(
        "C14",
        "3.4",
        "warm-up generally helps, mostly at large m",
        "for each data set, best accuracy with warm-up minus without: mean over m above {margin} points; and mean over "
        "m > {small_batch} minus mean over smaller m above {margin} points",
        (
            Check(("fig08", "fig10"), predicates.helps_large_most),
            Check(("fig09", "fig11"), predicates.helps_large_most),
        ),
    ),
    Claim(
        "C15",
        "3.4",
        "with warm-up, CIFAR-10: best at m = 4 or 8, good results out to 128",
        _BEST("m = 4 ... 8") + "; and the best of all minus the best at each m in 16 ... 128: below {near} points",
        (
            *_best(["fig10"], 4, 8),
            *_every(["fig10"], predicates.good_out_to, low=16, high=128),
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
            Check(("fig10", "fig11"), partial(predicates.falls_more, low=16)),
        ),
    ),
    Claim(
        "C17",
        "3.4",
        "warm-up does not bring large m level with small m",
        "for each data set, mean over m ≤ {small_batch} of the best accuracies, with warm-up and without, minus mean "
        "over larger m with warm-up: above {margin} points",
        (
            *_every(["fig10", "fig11"], predicates.large_stay_below),
            Check(("fig08", "fig10"), predicates.large_stay_below),
            Check(("fig09", "fig11"), predicates.large_stay_below),
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
        "mean accuracy over m ≤ {small_batch} minus mean over larger m, at the overall best rate minus the most at any "
        "other rate: above 0 points; and at each m ≤ {small_batch} and rate where any m trains, share of seeds that "
        "converge: above {converged_share}",
        (
            *_every(["fig12"], predicates.large_degrade_most_at_best_rate),
            *_every(["fig12"], predicates.small_are_stable),
        ),
    ),
    Claim(
        "C20",
        "3.6",
        "for a fixed BN batch, a smaller SGD batch is better",
        "in each figure and for each BN batch, fall of accuracy from the smallest m to the largest, of a line over "
        "log2 m: above {margin} points",
        (*_every(["fig13a", "fig13b", "fig14"], predicates.falls_from, "bn_batch_size"),),
    ),
    Claim(
        "C21",
        "3.6",
        "CIFAR: BN batch 4 or 8 is best for every SGD batch; on CIFAR-100 the best BN batch is below the SGD batch",
        "for each SGD batch, best accuracy at BN batch 4 ... 8 minus best at others: above 0 points; and on CIFAR-100 "
        "(fig13b) best at BN batches below the SGD batch minus accuracy at the whole batch: above 0 points",
        (
            *_best(["fig13a", "fig13b"], 4, 8, "batch_size"),
            *_every(["fig13b"], predicates.best_below_whole, "batch_size"),
        ),
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
        f"for each experiment, {_BEST('m ≤ 32')}; and without BN, best accuracy at m = 2 minus best at larger m: "
        "above 0 points",
        (
            *_best(["fig15"], 1, 32),
            *_every(["fig15"], predicates.best_at_two_without_norm),
        ),
    ),
    Claim(
        "C24",
        "4",
        "the range of converging eta_base shrinks steadily as m grows",
        f"for each experiment, {_CONVERGING}: at the smallest m minus at the largest above {{rate_slack}} rates; and "
        "at each m minus at the next smaller below {rate_slack} rates",
        (*_every(["fig16"], predicates.range_shrinks),),
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
            Check(("fig17", "fig08"), predicates.longer_helps),
            Check(("fig08", "fig18"), predicates.longer_helps),
            Check(("fig17", "fig18"), predicates.longer_helps),
        ),
    ),
    Claim(
        "C26",
        "2",
        "at fixed eta_base the variance of the weight update grows linearly with m (not measured in the paper)",
        "at each epoch measured, slope of log2 trace of the update's covariance over log2 m, by least squares, mean "
        "over runs: within 1 ± {slope_tolerance}",
        (),
    ),
)
"""All claims, in order."""
