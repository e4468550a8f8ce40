"""Claims, the paper's and the user's own, each judged from the tables of a study.

A claim is a list of checks; a check is a predicate over grids of figures and gives comparisons, each an effect and the
region that the claim puts it in. `verdicts` decides on all comparisons of a claim together. A claim is refuted where
one is, and supported where all are; its effect is that which decides. Where the study shows a figure but lacks the
batch sizes that half of a claim speaks of, it cannot support the claim: that is not run, too.
"""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from smallbatch.analysis.claims.catalogue import CLAIMS
from smallbatch.analysis.claims.claim import Claim
from smallbatch.analysis.claims.evidence import evidence_of
from smallbatch.analysis.claims.figure_grids import FigureGrids
from smallbatch.analysis.noise import completed_runs
from smallbatch.analysis.predicates import Thresholds
from smallbatch.analysis.verdicts import VERDICTS, Comparison, decide, what_would_decide

COLUMNS = (
    "claim", "section", "text", "predicate", "verdict", "effect", "low", "high", "unit", "figures", "absent",
    "evidence", "seeds", "thresholds", "reading", "differences", "to_decide", "comparisons",
)  # fmt: skip


def judge(
    figures: Mapping[str, Mapping[str, Any]],
    runs: pd.DataFrame,
    epochs: pd.DataFrame,
    variance: pd.DataFrame,
    thresholds: Thresholds,
    generator: np.random.Generator,
    claims: Sequence[Claim] = CLAIMS,
) -> pd.DataFrame:
    """Judge every claim by what a study has of it.

    Args:
        figures: the study's, by name.
        runs: the tidy table of runs, however much of it is there.
        epochs: the table of epochs of runs, likewise.
        variance: the table of variances of updates, likewise.
        thresholds: `claims` of the configuration.
        generator: where samples are drawn from. For each claim of the user's own it begins anew, so that the claims and
            experiments beside it do not change its numbers, and claims of the same figures agree.
        claims: to be judged; the paper's unless given.

    Returns:
        A row a claim, in order, with `COLUMNS`. low and high: the 95 % interval of the effect, in `unit`. absent: the
        paper's figures that the claim rests on and the study lacks, or has no result of. seeds: of the cells compared,
        the fewest and the most. differences: what in their settings is not the paper's. to_decide: what would.
        comparisons: all of them, as JSON.
    """
    known, untouched = completed_runs(runs), copy.deepcopy(generator)
    shared = FigureGrids(figures, known, epochs, generator)

    def grids(claim: Claim) -> FigureGrids:
        if claim.section:
            return shared
        shown = {name for figure in claim.figures for name in figures.get(figure, {}).get("experiments", ())}
        own = known[known["experiment"].isin(shown)]
        return FigureGrids(figures, own, epochs, copy.deepcopy(untouched))

    return pd.DataFrame([_judged(claim, grids(claim), variance, thresholds) for claim in claims], columns=list(COLUMNS))


def _judged(claim: Claim, grids: FigureGrids, variance: pd.DataFrame, thresholds: Thresholds) -> dict[str, Any]:
    absent = [figure for figure in claim.figures if not grids.runs_by_label(figure)]
    row = {
        "claim": claim.name,
        "section": claim.section,
        "text": claim.text,
        "predicate": claim.predicate.format(**thresholds),
        "absent": ", ".join(absent),
        "thresholds": ", ".join(f"{name} = {thresholds[name]}" for name in claim.thresholds),
        "reading": claim.reading,
    }
    found = evidence_of(claim, grids, variance, thresholds)
    comparisons, verdicts = found.comparisons, decide(found.comparisons)
    row["comparisons"] = json.dumps([*map(_as_json, comparisons, verdicts)], ensure_ascii=False)
    if not comparisons or (found.missing_figures and "refuted" not in verdicts):
        empty = dict.fromkeys(("effect", "unit", "figures", "seeds", "differences", "to_decide"), "")
        reason = _why_not_run(claim, absent, found.missing_figures, thresholds)
        return row | empty | {"low": math.nan, "high": math.nan, "verdict": "not run", "evidence": reason}
    verdict, decides = min(zip(verdicts, comparisons, strict=True), key=_deciding)
    low, high = decides.interval
    return row | {
        "verdict": verdict,
        "effect": decides.words,
        "low": low,
        "high": high,
        "unit": decides.unit,
        "figures": ", ".join(sorted(found.figures)),
        "evidence": decides.sentence + _counts_of_verdicts(verdicts),
        "seeds": _span([comparison.seeds for comparison in comparisons if comparison.seeds]),
        "differences": "; ".join(found.differences),
        "to_decide": what_would_decide(comparisons, verdicts) if verdict == "undecided" else "",
    }


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


def _why_not_run(claim: Claim, absent: Sequence[str], missing_figures: Sequence[str], thresholds: Thresholds) -> str:
    if not claim.checks:
        return "no variance was measured at three batch sizes or more"
    if unequal := [figure for figure in missing_figures if figure not in absent]:
        lacks = f"{', '.join(unequal)}: the study lacks batch sizes that this compares"
        return f"{lacks}; large m begin at {thresholds['large_batch']}" if "large_batch" in claim.thresholds else lacks
    return f"the study has no results of {', '.join(missing_figures)}"


def _counts_of_verdicts(verdicts: Sequence[str]) -> str:
    """How many comparisons have each verdict, where there are several."""
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in reversed(VERDICTS) if verdict in verdicts]
    return f"; of {len(verdicts)} comparisons {', '.join(counts)}" if len(verdicts) > 1 else ""


def _span(seeds: Sequence[int]) -> str:
    """`5`; `1 to 5` where cells differ."""
    return " to ".join(map(str, sorted({min(seeds), max(seeds)}))) if seeds else ""
