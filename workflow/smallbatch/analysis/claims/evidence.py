"""What a study has of a claim: the comparisons that its figures give, and what it lacks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from smallbatch.analysis.claims.claim import Check, Claim
from smallbatch.analysis.claims.figure_grids import FigureGrids
from smallbatch.analysis.grid import Grid
from smallbatch.analysis.predicates import Predicate, Thresholds, variance_growth
from smallbatch.analysis.settings_unlike_paper import settings_unlike_paper
from smallbatch.analysis.statistics import SAMPLES
from smallbatch.analysis.update_variance import measured
from smallbatch.analysis.verdicts import Comparison


@dataclass(frozen=True)
class Evidence:
    """What a study has of a claim.

    comparisons: all comparisons of the claim.
    figures: names of the study's figures that they are made of.
    differences: settings of these figures that are not the paper's, in words.
    missing_figures: figures without which part of the claim cannot be judged, as they or their batch sizes are missing.
    """

    comparisons: list[Comparison]
    figures: set[str]
    differences: list[str]
    missing_figures: list[str]


def evidence_of(claim: Claim, grids: FigureGrids, variance: pd.DataFrame, thresholds: Thresholds) -> Evidence:
    """What a study has of a claim: of its figures, or of the variance measured where the claim has no checks."""
    return _of_figures(claim, grids, thresholds) if claim.checks else _of_variance(grids, variance, thresholds)


def _of_figures(claim: Claim, grids: FigureGrids, thresholds: Thresholds) -> Evidence:
    comparisons: list[Comparison] = []
    figures: set[str] = set()
    differing: dict[str, list[str]] = {}
    compared: set[Predicate] = set()
    absent: dict[Predicate, list[str]] = {}
    without_sizes: dict[Predicate, list[str]] = {}
    for check in claim.checks:
        runs = {figure: grids.runs_by_label(figure) for figure in check.figures}
        if not all(runs.values()):
            absent.setdefault(check.about, []).extend(figure for figure in runs if not runs[figure])
            continue
        found = [*_comparisons(check, grids, thresholds), *_untrained(runs.values())]
        if not found:
            without_sizes.setdefault(check.about, []).extend(check.figures)
            continue
        before = {comparison.sentence for comparison in comparisons}
        comparisons += [comparison for comparison in found if comparison.sentence not in before]
        compared.add(check.about)
        figures |= {grids.name_in_study(figure) for figure in runs}
        if claim.section:
            differing |= {
                grids.name_in_study(figure): settings_unlike_paper(figure, shown.values())
                for figure, shown in runs.items()
            }
    missing = (absent | without_sizes).items()
    missing_figures = [figure for about, names in missing if about not in compared for figure in names]
    return Evidence(comparisons, figures, _shared_first(differing), [*dict.fromkeys(missing_figures)])


def _of_variance(grids: FigureGrids, variance: pd.DataFrame, thresholds: Thresholds) -> Evidence:
    figures = {name for name, spec in grids.figures.items() if spec.get("kind") == "variance"}
    rows = measured(grids.runs, variance)
    return Evidence([*variance_growth.grows_linearly(thresholds, rows, grids.generator)], figures, [], [])


def _comparisons(check: Check, grids: FigureGrids, thresholds: Thresholds) -> Iterator[Comparison]:
    for compared in _partners(check, grids):
        seeds = min(int(grid.seeds[grid.seeds > 0].min()) for grid in compared)
        for comparison in check.predicate(thresholds, *compared):
            yield replace(comparison, sentence=f"{compared[-1].where}: {comparison.sentence}", seeds=seeds)


def _partners(check: Check, grids: FigureGrids) -> Iterable[tuple[Grid, ...]]:
    """The grids that a check takes together. Those of several figures are partners in the order of their experiments;
    where these are not as many, or nothing converged in one, none has a partner."""
    of_figures = [grids.of(figure, check.each) for figure in check.figures]
    shown = {len(grids.runs_by_label(figure)) for figure in check.figures}
    whole = len(shown) == 1 and shown == {len(of_figure) for of_figure in of_figures}
    return zip(*of_figures, strict=True) if len(of_figures) == 1 or whole else ()


def _untrained(figures: Iterable[Mapping[str, pd.DataFrame]]) -> list[Comparison]:
    """A comparison of unknown effect for each experiment in which no run has converged."""
    unknown = np.full(1 + SAMPLES, np.nan)
    untrained = [where for runs in figures for where, shown in runs.items() if not shown["converged"].any()]
    return [Comparison(f"{where}: no run has converged", unknown) for where in untrained]


def _shared_first(differing: Mapping[str, Sequence[str]]) -> list[str]:
    """Differences from the paper: first, without names, those common to all figures; the others prefixed with names."""
    figures_of = {
        words: [figure for figure, differs in differing.items() if words in differs]
        for every in differing.values()
        for words in every
    }
    ordered = sorted(figures_of.items(), key=lambda item: -len(item[1]))
    return [words if len(names) == len(differing) else f"{', '.join(names)}: {words}" for words, names in ordered]
